// The packed layout of a weight matrix, version 1. Exactly the file's integers and scales, in another order.
//
// A panel is 32 outputs and all inputs. It is one sequential stream of records, each 64-byte aligned:
//
//   simple formats, one record per group of 32 inputs
//     scales   float16[32]
//     minimums float16[32]             Q4_1, Q5_1
//     base     512 bytes (4 bits) or 1,024 (8 bits)
//     high     128 bytes (1 bit)       Q5_0, Q5_1
//   K formats, one record per 256 inputs
//     d        float16[32]
//     dmin     float16[32]             Q4_K, Q5_K
//     scales   8 x 48 bytes of packed 6-bit scale and minimum (Q4_K, Q5_K), or int8[16][32] (Q6_K)
//     8 x { base 512 bytes, high 0, 128 or 256 bytes }
//   float formats: element [input][32 outputs]
//
// Base, 4 bits: registers [half][j], half = outputs 0..15 or 16..31, j = 0..3. Byte 4 * o + i of a register holds
// output o: input 8j + i in its low nibble, input 8j + 4 + i in its high nibble. A 4-byte lane thus meets 4 broadcast
// activations. Base, 8 bits: registers [half][quad], quad = 0..7; byte 4 * o + i is input 4 * quad + i, plus 128. High,
// 1 bit: registers [half]; bit q of byte 4 * o + i belongs to input 4q + i. High, 2 bits: registers [half][part]; bits
// 2(q % 4).. of byte 4 * o + i belong to input 4q + i with part = q / 4. 6-bit pairs of a group: byte o of 32 = scale's
// low nibble | minimum's low nibble << 4; then 16 bytes, byte o % 16: (scale >> 4 | minimum >> 4 << 2) in the low
// nibble for o < 16, in the high nibble for o >= 16.
//
// Rows beyond the matrix in its last panel are zero in every field.
#pragma once

#include "kernel_table.h"

namespace abaci {

struct SimpleScales {};
struct PairScales {};  // 6-bit scale and minimum, two-level
struct SubScales {};   // int8 scale per 16 inputs, two-level

template <Format>
struct Layout;

template <int Base, int High, bool Minimum, int Zero, class ScaleKind>
struct LayoutOf {
    static constexpr int base_bits = Base;
    static constexpr int high_bits = High;
    static constexpr bool has_minimum = Minimum;
    static constexpr int zero_point = Zero;  // value = scale * (code - zero_point) [+ minimum]
    static constexpr bool simple = __is_same(ScaleKind, SimpleScales);
    static constexpr bool pairs = __is_same(ScaleKind, PairScales);
    static constexpr bool subs = __is_same(ScaleKind, SubScales);
    static constexpr int groups_per_record = simple ? 1 : 8;
    static constexpr size_t base_bytes = Base * 128;
    static constexpr size_t high_bytes = High * 128;
    static constexpr size_t group_bytes = base_bytes + high_bytes;
    static constexpr size_t header_bytes = simple ? (Minimum ? 128 : 64) : pairs ? 128 + 8 * 48 : 64 + 16 * 32;
    static constexpr size_t record_bytes = header_bytes + groups_per_record * group_bytes;
};

template <>
struct Layout<Format::Q4_0> : LayoutOf<4, 0, false, 8, SimpleScales> {};
template <>
struct Layout<Format::Q4_1> : LayoutOf<4, 0, true, 0, SimpleScales> {};
template <>
struct Layout<Format::Q5_0> : LayoutOf<4, 1, false, 16, SimpleScales> {};
template <>
struct Layout<Format::Q5_1> : LayoutOf<4, 1, true, 0, SimpleScales> {};
template <>
struct Layout<Format::Q8_0> : LayoutOf<8, 0, false, 128, SimpleScales> {};
template <>
struct Layout<Format::Q4_K> : LayoutOf<4, 0, true, 0, PairScales> {};
template <>
struct Layout<Format::Q5_K> : LayoutOf<4, 1, true, 0, PairScales> {};
template <>
struct Layout<Format::Q6_K> : LayoutOf<4, 2, false, 32, SubScales> {};

inline constexpr uint32_t kLayoutVersion = 1;

size_t packed_panel_bytes(Format format, int64_t columns);

// Bytes of one row in the file. Columns are a multiple of the format's block.
size_t source_row_bytes(Format format, int64_t columns);

// Packs panels [panel_begin, panel_end) from rows as stored in GGUF. Returns false where a scale is not finite.
bool pack_panels(Format format, const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin,
                 int64_t panel_end, uint8_t* packed);

}  // namespace abaci
