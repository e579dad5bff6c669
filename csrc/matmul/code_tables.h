// What the codes of some formats stand for: entries of a table, in units of `unit`, which scales are multiplied by.
#pragma once

#include <cstdint>

namespace abaci {

struct NoTable {
    static constexpr int num_values = 0;
    static constexpr float unit = 1.0f;
};

// IQ4_NL and IQ4_XS.
struct Iq4Table {
    static constexpr int num_values = 16;
    static constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static constexpr float unit = 1.0f;
};

// A 4-bit float, E2M1, in halves (OCP Microscaling Formats 1.0).
struct E2M1Table {
    static constexpr int num_values = 16;
    static constexpr int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static constexpr float unit = 0.5f;
};

// Magnitudes of the IQ2 grids, the sign in the top bit of the code; scales 2s + 1 are in eighths of d.
struct Iq2Table {
    static constexpr int num_values = 8;
    static constexpr int8_t values[8] = {8, 25, 43, 0, -8, -25, -43, 0};
    static constexpr float unit = 0.125f;
};

struct Iq3XxsTable {
    static constexpr int num_values = 16;
    static constexpr int8_t values[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
    static constexpr float unit = 0.25f;
};

struct Iq3STable {
    static constexpr int num_values = 16;
    static constexpr int8_t values[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
    static constexpr float unit = 1.0f;
};

// A table as the dot products take it: unsigned, and as many bytes as a shuffle takes.
template <class Table, int Zero>
struct TakenValues {
    alignas(16) uint8_t values[16];
    constexpr TakenValues() : values{} {
        for (int i = 0; i < Table::num_values; ++i) values[i] = static_cast<uint8_t>(Table::values[i] + Zero);
    }
};

}  // namespace abaci
