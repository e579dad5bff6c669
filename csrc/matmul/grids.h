// The points of the grids that IQ2 and IQ3 formats index: magnitudes of 8 or 4 neighbouring weights (ggml-common.h).
//
// IQ2: entry i of 8 is bits 2i.. of a number, an index into Iq2Table. IQ3: hexadecimal digit i of 4, likewise.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace abaci {

extern const uint16_t kIq2XxsGrid[256];
extern const uint16_t kIq2XsGrid[512];
extern const uint16_t kIq2SGrid[1024];
extern const uint16_t kIq3XxsGrid[256];
extern const uint16_t kIq3SGrid[512];

// That of a format by its name; empty where it has none.
std::span<const uint16_t> grid_of(std::string_view format);

}  // namespace abaci
