// The packed layout of a weight matrix, version 3. Exactly the file's integers and scales, in another order.
//
// A panel is 32 outputs and all inputs. It is one sequential stream of 64-byte aligned records: scales, then the
// integers of one or several groups of 32 inputs. What the scales are:
//
//   Half         float16 d[32]                                       Q4_0, Q5_0, Q8_0, IQ4_NL
//   HalfMinimum  float16 d[32], minimum[32]                          Q5_1
//   HalfZero     float16 d[32]; uint8 zero[32]; 32 bytes of nothing  INT4 (a record is 32 inputs), INT4_128 (128)
//   Float        float32 d[32]                                       INT8
//   Exponent     uint8 e[2][32], a record is 64 inputs               MXFP4
//   PairedHalf   see below                                           Q4_1
//   PairedSixBit see below                                           Q4_K
//   SixBitPairs  float16 d[32], dmin[32]; 8 x 48 bytes               Q5_K
//   Bytes16      float16 d[32]; int8[16][32], one per 16 inputs      Q3_K, Q6_K, IQ2
//   Bytes32      float16 d[32]; int8[8][32], one per 32 inputs       IQ3, IQ4_XS
//   NibblePairs  float16 d[32], dmin[32]; uint8[16][32]              Q2_K
//
// Two-level kinds have records of 256 inputs. A 6-bit pair of a group: byte o of 32 = scale's low nibble | minimum's
// low nibble << 4; then 16 bytes, byte o % 16: (scale >> 4 | minimum >> 4 << 2) in the low nibble for o < 16, in the
// high nibble for o >= 16. A nibble pair: scale | minimum << 4.
//
// The integers of a group: a base plane of 512 (4 bits), 256 (2 bits) or 1,024 bytes (8 bits), then a high plane of 128
// (1 bit) or 256 bytes (2 bits). A quad is four inputs, 4q to 4q + 3; byte 4 * o + i of any register of 64 bytes
// belongs to output o of its half (outputs 0..15 or 16..31) and to input i of a quad, so that a 4-byte lane meets 4
// broadcast activations:
//
//   base, 4 bits  registers [half][j]: quad 2j in the low nibble, 2j + 1 in the high nibble
//   base, 8 bits  registers [half][quad], two's complement with its top bit flipped
//   1 bit         registers [half]: bit q for quad q
//   2 bits        registers [half][part]: bits 2(q % 4).. for quad q, part = q / 4
//
//   float formats: element [input][32 outputs]
//
// Paired: a record is two halves of 16 outputs. Groups come in pairs, so that the dot products of an output with both
// stand beside each other. A pair's integers are
//
//   registers [j][part]: quad 2j in the low nibble, 2j + 1 in the high nibble; 8 bytes per output, four of each group;
//     outputs of part p: 4i + 2p and 4i + 2p + 1 for i = 0..3
//
// and a half of a record
//
//   PairedHalf    for each pair int16 d[16][2], minimum[16][2], which count powers of two; then all pairs' integers.
//                 The record begins with those powers, for each half uint8 of_d[16], of_minimum[16], 2^(e - 127). Where
//                 an output has numbers too far apart to be counted exactly, they are 0, and the half has float16
//                 d[2][16], minimum[2][16] instead.
//   PairedSixBit  float16 d[16], dmin[16]; uint32[3][16], which output o's lane j shares between scales (s) and
//                 minimums (m): s[2j] | m[2j] << 6 | s[2j + 1] << 16 | m[2j + 1] << 22, and in the 4 bits above each 12
//                 of groups 6 and 7: j = 0: low nibbles of s; j = 1: low nibbles of m; j = 2: s >> 4 | (m >> 4) << 2;
//                 then all pairs' integers.
//
// Rows beyond the matrix in its last panel are zero in every field, as are groups beyond the last in its last record.
// Of PairedHalf the last record ends with the last pair.
#pragma once

#include "kernel_table.h"
#include "matmul/code_tables.h"

namespace abaci {

enum class Scales {
    Half,
    HalfMinimum,
    HalfZero,
    Float,
    Exponent,
    PairedHalf,
    PairedSixBit,
    SixBitPairs,
    Bytes16,
    Bytes32,
    NibblePairs
};

constexpr bool is_two_level(Scales scales) {
    return scales >= Scales::PairedSixBit;
}

constexpr size_t header_bytes_of(Scales scales) {
    switch (scales) {
        case Scales::Half:
        case Scales::Exponent:
            return 64;
        case Scales::HalfMinimum:
        case Scales::HalfZero:
        case Scales::Float:
            return 128;
        case Scales::PairedHalf:
            return 64 + 8 * 128;
        case Scales::PairedSixBit:
        case Scales::SixBitPairs:
            return 128 + 8 * 48;
        case Scales::Bytes16:
            return 64 + 16 * 32;
        case Scales::Bytes32:
            return 64 + 8 * 32;
        case Scales::NibblePairs:
            return 128 + 16 * 32;
    }
    return 0;
}

// A code of Base + High bits stands for code - Zero, or for an entry of Table.
template <int Base, int High, int Zero, Scales Kind, class Table = NoTable, int GroupsPerRecord = 1>
struct LayoutOf {
    using CodeTable = Table;
    static constexpr int base_bits = Base;
    static constexpr int high_bits = High;
    static constexpr Scales scales = Kind;
    // What is subtracted from what the dot products take: value = scale * (taken - zero_point) [+ minimum].
    static constexpr int zero_point = Zero;
    static constexpr bool has_table = Table::num_values > 0;
    // Whether the dot products take numbers above 127.
    static constexpr bool is_wide = Zero == 128;
    // Whether each half of a group has a scale of its own, or all of it a minimum, or each half.
    static constexpr bool splits = Kind == Scales::Bytes16 || Kind == Scales::NibblePairs;
    static constexpr bool is_paired = Kind == Scales::PairedHalf || Kind == Scales::PairedSixBit;
    static constexpr bool has_minimum =
        Kind == Scales::HalfMinimum || Kind == Scales::SixBitPairs || is_paired || Kind == Scales::NibblePairs;
    static constexpr bool has_zeros = Kind == Scales::HalfZero;
    static constexpr int groups_per_record = is_two_level(Kind) || is_paired ? 8 : GroupsPerRecord;
    // Whether a panel's last record ends with its last pair of groups.
    static constexpr bool ends_early = Kind == Scales::PairedHalf;
    static constexpr size_t base_bytes = Base * 128;
    static constexpr size_t high_bytes = High * 128;
    static constexpr size_t group_bytes = base_bytes + high_bytes;
    static constexpr size_t header_bytes = header_bytes_of(Kind);
    static constexpr size_t record_bytes = header_bytes + groups_per_record * group_bytes;
};

template <Format>
struct LayoutFor;
template <>
struct LayoutFor<Format::Q4_0> {
    using Type = LayoutOf<4, 0, 8, Scales::Half>;
};
template <>
struct LayoutFor<Format::Q4_1> {
    using Type = LayoutOf<4, 0, 0, Scales::PairedHalf>;
};
template <>
struct LayoutFor<Format::Q5_0> {
    using Type = LayoutOf<4, 1, 16, Scales::Half>;
};
template <>
struct LayoutFor<Format::Q5_1> {
    using Type = LayoutOf<4, 1, 0, Scales::HalfMinimum>;
};
template <>
struct LayoutFor<Format::Q8_0> {
    using Type = LayoutOf<8, 0, 128, Scales::Half>;
};
template <>
struct LayoutFor<Format::Q4_K> {
    using Type = LayoutOf<4, 0, 0, Scales::PairedSixBit>;
};
template <>
struct LayoutFor<Format::Q5_K> {
    using Type = LayoutOf<4, 1, 0, Scales::SixBitPairs>;
};
template <>
struct LayoutFor<Format::Q6_K> {
    using Type = LayoutOf<4, 2, 32, Scales::Bytes16>;
};
template <>
struct LayoutFor<Format::Q2_K> {
    using Type = LayoutOf<2, 0, 0, Scales::NibblePairs>;
};
template <>
struct LayoutFor<Format::Q3_K> {
    using Type = LayoutOf<2, 1, 4, Scales::Bytes16>;
};
template <>
struct LayoutFor<Format::IQ4_NL> {
    using Type = LayoutOf<4, 0, 128, Scales::Half, Iq4Table>;
};
template <>
struct LayoutFor<Format::IQ4_XS> {
    using Type = LayoutOf<4, 0, 128, Scales::Bytes32, Iq4Table>;
};
template <>
struct LayoutFor<Format::IQ3_S> {
    using Type = LayoutOf<4, 0, 16, Scales::Bytes32, Iq3STable>;
};
template <>
struct LayoutFor<Format::IQ3_XXS> {
    using Type = LayoutOf<4, 0, 64, Scales::Bytes32, Iq3XxsTable>;
};
template <>
struct LayoutFor<Format::IQ2_S> {
    using Type = LayoutOf<2, 1, 64, Scales::Bytes16, Iq2Table>;
};
template <>
struct LayoutFor<Format::IQ2_XS> {
    using Type = LayoutFor<Format::IQ2_S>::Type;
};
template <>
struct LayoutFor<Format::IQ2_XXS> {  // one scale per 32 inputs, here given to both halves
    using Type = LayoutFor<Format::IQ2_S>::Type;
};
template <>
struct LayoutFor<Format::MXFP4> {
    using Type = LayoutOf<4, 0, 16, Scales::Exponent, E2M1Table, 2>;
};
template <>
struct LayoutFor<Format::INT4> {
    using Type = LayoutOf<4, 0, 0, Scales::HalfZero>;
};
template <>
struct LayoutFor<Format::INT4_128> {
    using Type = LayoutOf<4, 0, 0, Scales::HalfZero, NoTable, 4>;
};
template <>
struct LayoutFor<Format::INT8> {
    using Type = LayoutOf<8, 0, 128, Scales::Float>;
};

template <Format F>
using Layout = typename LayoutFor<F>::Type;

template <Format F>
struct FormatTag {
    static constexpr Format value = F;
};

// visit(FormatTag<F>()) for a quantised format that is known only at run time.
template <class Visit>
auto visit_quantised(Format format, Visit visit) {
    switch (format) {
        case Format::F32:
        case Format::F16:
        case Format::BF16:
        case Format::Q4_0:
            break;
        case Format::Q4_1:
            return visit(FormatTag<Format::Q4_1>());
        case Format::Q5_0:
            return visit(FormatTag<Format::Q5_0>());
        case Format::Q5_1:
            return visit(FormatTag<Format::Q5_1>());
        case Format::Q8_0:
            return visit(FormatTag<Format::Q8_0>());
        case Format::Q4_K:
            return visit(FormatTag<Format::Q4_K>());
        case Format::Q5_K:
            return visit(FormatTag<Format::Q5_K>());
        case Format::Q6_K:
            return visit(FormatTag<Format::Q6_K>());
        case Format::Q2_K:
            return visit(FormatTag<Format::Q2_K>());
        case Format::Q3_K:
            return visit(FormatTag<Format::Q3_K>());
        case Format::IQ4_NL:
            return visit(FormatTag<Format::IQ4_NL>());
        case Format::IQ4_XS:
            return visit(FormatTag<Format::IQ4_XS>());
        case Format::IQ3_S:
            return visit(FormatTag<Format::IQ3_S>());
        case Format::IQ3_XXS:
            return visit(FormatTag<Format::IQ3_XXS>());
        case Format::IQ2_S:
            return visit(FormatTag<Format::IQ2_S>());
        case Format::IQ2_XS:
            return visit(FormatTag<Format::IQ2_XS>());
        case Format::IQ2_XXS:
            return visit(FormatTag<Format::IQ2_XXS>());
        case Format::MXFP4:
            return visit(FormatTag<Format::MXFP4>());
        case Format::INT4:
            return visit(FormatTag<Format::INT4>());
        case Format::INT4_128:
            return visit(FormatTag<Format::INT4_128>());
        case Format::INT8:
            return visit(FormatTag<Format::INT8>());
    }
    return visit(FormatTag<Format::Q4_0>());
}

// One half of a PairedSixBit record.
inline constexpr size_t kSixBitPairsAt = 64;
// Where a counted scale of PairedHalf lies, and one that is a float16; the minimums 64 bytes later.
constexpr size_t counted_scale_at(int group, int output) {
    return 128 * (group / 2) + 4 * output + 2 * (group % 2);
}
constexpr size_t half_scale_at(int group, int output) {
    return 128 * (group / 2) + 32 * (group % 2) + 2 * output;
}
// A paired record of some pairs of groups, a half of it, and where in that their integers begin, 512 bytes each.
template <class L>
constexpr size_t kPairedStart = L::scales == Scales::PairedHalf ? 64 : 0;
template <class L>
constexpr size_t paired_half_bytes(int num_pairs) {
    return (L::record_bytes - kPairedStart<L>) / L::groups_per_record * num_pairs;
}
template <class L>
constexpr size_t paired_half_at(int half, int num_pairs) {
    return kPairedStart<L> + half * paired_half_bytes<L>(num_pairs);
}
template <class L>
constexpr size_t paired_record_bytes(int num_pairs) {
    return paired_half_at<L>(2, num_pairs);
}
template <class L>
constexpr size_t paired_codes_at(int num_pairs) {
    return (L::header_bytes - kPairedStart<L>) / L::groups_per_record * num_pairs;
}
// Where in them the four codes of a quad lie, for output 0..15 of the half; those of odd quads in the high nibbles.
constexpr size_t paired_quad_at(int group, int quad, int output) {
    const int part = output % 4 / 2, place = 2 * (output / 4) + output % 2;
    return 512 * (group / 2) + 128 * (quad / 2) + 64 * part + 8 * place + 4 * (group % 2);
}

inline constexpr uint32_t kLayoutVersion = 3;

// A block of a format as files store it: how many inputs of one row, in how many bytes.
struct SourceBlock {
    int values;
    int bytes;
};
SourceBlock source_block(Format format);

size_t packed_panel_bytes(Format format, int64_t columns);

// Bytes of one row in the file. Columns are a multiple of the format's block.
size_t source_row_bytes(Format format, int64_t columns);

// Packs panels [panel_begin, panel_end) from rows as files store them. Returns false where a scale is not finite, or is
// a power of two that no finite sum can hold.
bool pack_panels(Format format, const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin,
                 int64_t panel_end, uint8_t* packed);

}  // namespace abaci
