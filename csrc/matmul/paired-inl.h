// The matrix product for paired layouts: formats of 4-bit codes with a scale and a minimum per group. Those of a record
// of eight groups are small integers times a float; float16 ones (PairedHalf) are brought to integers first. All but
// the last step of a record is then in integers:
//
//   PairedHalf:   count = float16 scale in units of 2^-14 of the largest power of two that is not above the record's
//                         largest scale, to nearest even: exact down to a sixteenth of that power
//                 scale = (count + 2) >> 2, and d is four units
//                 minimum = (count + 1) >> 1, counted in the same way, and -dmin is two units
//   PairedSixBit: scale = 128 times the format's, and d a 128th
//
//   unit   = the largest power of two that is not above the largest magnitude of the record's activation scales
//   factor = activation scale in units of 2^-14 unit, to nearest even, at most 32,767
//   both   = (scale * factor + 2^14) >> 15, the product of both scales in units of 2 unit * d
//   sum    = fma(sum of integer dot * both over the record, as a float, * 2 unit, d, sum)
//   offset = activation scale * sum of activations, in units of 2^-13 (PairedSixBit: 2^-12) of the record's largest
//            one's power of two, to nearest even
//   sum    = fma(sum of minimum * offset over the record, as a float, * that unit, -dmin, sum)
//
// A dot product of activations with codes of 4 bits fits 16 bits, as they are quantised (see quantise_group). Two
// groups are packed so that an output's two dot products lie beside each other: packed to 16 bits, one instruction adds
// both products with what another has made of both scales. Scales have 13 bits, so that a record's sum fits 32. It is
// the scales' product that is rounded, not the group's part: most dot products are far from the largest.
//
// A record in which an activation scale has a magnitude of 2^90 or more, or is not a number, makes outputs that are not
// numbers.
#pragma once

#include "matmul/matmul-inl.h"

namespace abaci {
namespace {

constexpr int kBlockRecords = kBlockGroups / 8;

// What a row brings to a block of inputs.
template <bool IsCrossed>
struct alignas(64) PairedRow {
    struct Nothing {};
    struct Crossed {
        int32_t starts[kBlockGroups];
    };
    // Of each pair of groups, a quad of the first and one of the second in turn; moved for crossed products.
    int8_t values[kBlockGroups * kGroup];
    [[no_unique_address]] std::conditional_t<IsCrossed, Crossed, Nothing> crossed;
    int16_t factors[kBlockGroups];
    int16_t offsets[kBlockGroups];
    // Of a record, at every place of its groups: 2 unit, and the bits of the unit of offsets; or, where a record's sums
    // of minimums are below 2^22, of 1.5 * 2^23 in that unit, which then counts them in its bits.
    float unit[kBlockGroups];
    int32_t offset_unit[kBlockGroups];
};
template <class L>
constexpr bool kCountsInBits = L::scales == Scales::PairedSixBit;
template <class L>
constexpr int kOffsetBits = kCountsInBits<L> ? 12 : 13;

// Scales below the least belong to groups of zeros. Offsets are below 2^12 times the largest scale that is finite.
constexpr float kLeastUnit = 0x1p-110f;
constexpr float kInfiniteUnit = 0x1p90f;
constexpr float kMostUnit = 0x1p103f;
constexpr int32_t kExponentBits = 0x7F800000;
constexpr int32_t kNotANumber = 0x7FC00000;

constexpr int32_t exponent_bits(int exponent) {
    return exponent << 23;
}

// x in units of 2^-Bits of a power of two, exactly.
template <int Bits>
ABACI_INLINE F32x16 in_units(F32x16 x, I32x16 unit) {
    return mul(x, as_floats(sub(splat(exponent_bits(254)), sub(unit, splat(exponent_bits(Bits))))));
}
// The largest power of two that is not above x, which is not negative.
ABACI_INLINE I32x16 power_below(F32x16 x) {
    const F32x16 in_range = min(max(x, splat(kLeastUnit)), splat(kMostUnit));
    return bit_and(as_ints(in_range), splat(kExponentBits));
}

// Reads 16 scales and sums, whatever the number of groups: see Activations. Groups beyond count as zero.
template <class L, bool IsCrossed>
ABACI_INLINE void prepare_row(const Activations& in, int64_t row, int64_t group, int num_groups,
                              PairedRow<IsCrossed>& out) {
    const auto interleave = [&](const int8_t* from, int at) {
        if constexpr (IsCrossed) {
            interleave_crossed_quads(from, out.values + at, out.crossed.starts + at / kGroup);
        } else {
            interleave_quads(from, out.values + at);
        }
    };
    const int8_t* values = in.values + row * in.columns + group * kGroup;
    const int end = num_groups * kGroup;
    for (int at = 0; at + 2 * kGroup <= end; at += 2 * kGroup) interleave(values + at, at);
    if (num_groups % 2 != 0) {
        int8_t last[2 * kGroup] = {};
        std::memcpy(last, values + end - kGroup, kGroup);
        interleave(last, end - kGroup);
    }
    const F32x16 scale = select_lanes(0, num_groups, load(in.scales + row * (in.columns / kGroup) + group), zeros());
    const I32x16 unit = power_below(largest_of_eight(absolute(scale)));
    store_low_halves(out.factors, round_to_int(min(in_units<14>(scale, unit), splat(32767.0f))));
    store(out.unit, add(as_floats(unit), as_floats(unit)));
    const F32x16 offset = mul(scale, to_floats(load(in.group_sums(row, GroupSum::Whole, group))));
    const I32x16 power = power_below(largest_of_eight(absolute(offset)));
    store_low_halves(out.offsets, round_to_int(in_units<kOffsetBits<L>>(offset, power)));
    const int32_t counted_from = kCountsInBits<L> ? kMagicBits - exponent_bits(127) : 0;
    const I32x16 offset_unit = add(power, splat(counted_from - exponent_bits(kOffsetBits<L>)));
    store(reinterpret_cast<float*>(out.offset_unit),
          select_less(as_floats(unit), splat(kInfiniteUnit), as_floats(offset_unit), as_floats(splat(kNotANumber))));
}

// What 16 outputs have for the pairs of a record: two int16 in each lane.
struct PairedScales {
    I32x16 scales[4], minimums[4];
    F32x16 d, of_minimum;  // the latter is added
};

// Half a record in memory.
template <class L>
struct PackedHalf {
    const uint8_t *exponents, *scales, *integers;
    int num_pairs;

    ABACI_INLINE PackedHalf(const uint8_t* record, int half, int pairs)
        : exponents(record + 32 * half),
          scales(record + paired_half_at<L>(half, pairs)),
          integers(scales + paired_codes_at<L>(pairs)),
          num_pairs(pairs) {}
};

// Float16 numbers of a record's groups as integers, two int16 in each lane, and what these count.
ABACI_INLINE I32x16 count_halves(const uint8_t* halves, int num_pairs, I32x16 (&pairs)[4]) {
    const auto number = [&](int group) {
        if (group >= 2 * num_pairs) return zeros();
        return load_f16(reinterpret_cast<const uint16_t*>(halves + half_scale_at(group, 0)));
    };
    F32x16 largest = zeros();
    for (int g = 0; g < 8; ++g) largest = max(largest, absolute(number(g)));
    const I32x16 power = power_below(largest);
    for (int j = 0; j < 4; ++j) {
        const I32x16 first = round_to_int(in_units<14>(number(2 * j), power));
        const I32x16 second = round_to_int(in_units<14>(number(2 * j + 1), power));
        pairs[j] = bit_or(bit_and(first, splat(0xFFFF)), shift_left<16>(second));
    }
    return sub(power, splat(exponent_bits(14)));
}

// Rare.
__attribute__((noinline, cold)) void count_scales(const uint8_t* halves, int num_pairs, PairedScales& out, I32x16& d,
                                                  I32x16& of_minimum) {
    d = count_halves(halves, num_pairs, out.scales);
    of_minimum = count_halves(halves + 64, num_pairs, out.minimums);
}

template <class L>
ABACI_INLINE PairedScales read_paired_scales(const PackedHalf<L>& half) {
    PairedScales out;
    if constexpr (L::scales == Scales::PairedHalf) {
        I32x16 d, of_minimum;
        if (half.exponents[0] == 0) {
            count_scales(half.scales, half.num_pairs, out, d, of_minimum);
        } else {
            d = shift_left<23>(load_u8(half.exponents));
            of_minimum = shift_left<23>(load_u8(half.exponents + 16));
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const auto* counted = reinterpret_cast<const int32_t*>(half.scales + counted_scale_at(2 * j, 0));
                out.scales[j] = j < half.num_pairs ? load(counted) : splat(0);
                out.minimums[j] = j < half.num_pairs ? load(counted + 16) : splat(0);
            }
        }
        // (scale + 2) >> 2, (minimum + 1) >> 1
        for (int j = 0; j < 4; ++j) {
            out.scales[j] = round_pair_products(out.scales[j], splat(0x20002000));
            out.minimums[j] = round_pair_products(out.minimums[j], splat(0x40004000));
        }
        out.d = as_floats(add(d, splat(exponent_bits(2))));
        out.of_minimum = as_floats(add(of_minimum, splat(exponent_bits(1))));
        return out;
    }
    const auto word = [&](int j) {
        return load(reinterpret_cast<const int32_t*>(half.scales + kSixBitPairsAt) + 16 * j);
    };
    const I32x16 words[3] = {word(0), word(1), word(2)};
    const I32x16 six_bits = splat(0x003F003F), low = splat(0x000F000F), high = splat(0x00300030);
    for (int j = 0; j < 3; ++j) {
        out.scales[j] = bit_and(words[j], six_bits);
        out.minimums[j] = bit_and(shift_right<6>(words[j]), six_bits);
    }
    out.scales[3] = bit_or(bit_and(shift_right<12>(words[0]), low), bit_and(shift_right<8>(words[2]), high));
    out.minimums[3] = bit_or(bit_and(shift_right<12>(words[1]), low), bit_and(shift_right<10>(words[2]), high));
    for (int j = 0; j < 4; ++j) out.scales[j] = shift_left<7>(out.scales[j]);
    const auto* halves = reinterpret_cast<const uint16_t*>(half.scales);
    out.d = mul(load_f16(halves), splat(0x1p-7f));
    out.of_minimum = sub(zeros(), load_f16(halves + 16));
    return out;
}

// Codes of a pair's quads, of outputs in part 0 or 1.
template <int QuadIndex>
ABACI_INLINE U8x64 unpack_paired_quad(const uint8_t* pair, int part) {
    const U8x64 two = load_bytes(pair + 128 * (QuadIndex / 2) + 64 * part);
    return QuadIndex % 2 == 0 ? low_nibbles(two) : high_nibbles(two);
}

template <class T>
ABACI_INLINE T value_at(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

// Dot products of 16 outputs and a pair of a block with rows, as add_record takes them; get(Index, part) yields codes.
template <int Rows, class Get>
ABACI_INLINE void dot_pair(I32x16 (&both)[Rows], const PairedRow<false>* rows, int pair, Get get) {
    I32x16 dots[Rows][2];
    const int8_t* values = opaque(rows->values + 64 * pair);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) dots[r][0] = dots[r][1] = splat(0);
    const auto add_quads = [&](auto index) __attribute__((always_inline)) {
        constexpr int quad = decltype(index)::value;
        const U8x64 codes[2] = {get(index, 0), get(index, 1)};
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const Quad a = broadcast_quads(values + r * sizeof *rows + 8 * quad);
            dots[r][0] = dot_in_halves(dots[r][0], codes[0], a);
            dots[r][1] = dot_in_halves(dots[r][1], codes[1], a);
        }
    };
    four_quads<0>(add_quads);
    four_quads<4>(add_quads);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) both[r] = pack_pairs(add_halves(dots[r][0]), add_halves(dots[r][1]));
}

// The same, most of it by crossed products; products_of_zeros: those of a row of zeros, of each part.
template <int Rows, class Get>
ABACI_INLINE void dot_crossed_pair(I32x16 (&both)[Rows], const PairedRow<true>* rows, int pair,
                                   const int32_t (&products_of_zeros)[2][16], Get get) {
    using Row = PairedRow<true>;
    const auto* at = opaque(reinterpret_cast<const uint8_t*>(rows) + 8 * pair);
    I32x16 dots[Rows][2];
    const I32x16 of_zeros[2] = {load(products_of_zeros[0]), load(products_of_zeros[1])};
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        const size_t offset = r * sizeof(Row) + offsetof(Row, crossed.starts);
        start_crossed(dots[r], reinterpret_cast<const int32_t*>(at + offset), of_zeros);
    }
    const int8_t* values = opaque(rows->values + 64 * pair);
    add_crossed_quads(dots, get, [&](auto quad, int r) __attribute__((always_inline)) {
        return broadcast_quads(values + r * sizeof(Row) + 8 * decltype(quad)::value);
    });
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) both[r] = pack_pairs(dots[r][0], dots[r][1]);
}

// One record of 16 outputs; dot(pair, dots) yields the dot products of a pair of groups, two int16 in each lane.
template <class L, int Rows, bool IsCrossed, class Dot>
ABACI_INLINE void add_record(F32x16 (&sum)[Rows][1], const PairedScales& of, const PairedRow<IsCrossed>* rows,
                             int record, int num_pairs, Dot dot) {
    using Row = PairedRow<IsCrossed>;
    // One address serves all rows and kinds: the compiler would make one for each.
    const auto* at = reinterpret_cast<const uint8_t*>(rows);
    const auto factor = [&](size_t offset, int r) { return splat(value_at<int32_t>(at + offset + r * sizeof(Row))); };
    I32x16 total[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) total[r] = splat(0);
#pragma GCC unroll 1
    for (int pair = 0; pair < num_pairs; ++pair) {
        I32x16 dots[Rows];
        dot(pair, dots);
        at = opaque(reinterpret_cast<const uint8_t*>(rows) + 16 * record + 4 * pair);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const I32x16 both_scales = round_pair_products(of.scales[pair], factor(offsetof(Row, factors), r));
            total[r] = add_pair_products(total[r], dots[r], both_scales);
        }
    }
    at = opaque(reinterpret_cast<const uint8_t*>(rows) + 32 * record);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        const I32x16 offset_unit = factor(offsetof(Row, offset_unit), r);
        I32x16 minimums = kCountsInBits<L> ? offset_unit : splat(0);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair)
            minimums = add_pair_products(minimums, of.minimums[pair],
                                         factor(offsetof(Row, offsets) + 4 * pair - 16 * record, r));
        const F32x16 scaled = mul(to_floats(total[r]), as_floats(factor(offsetof(Row, unit), r)));
        sum[r][0] = fma(scaled, of.d, sum[r][0]);
        const F32x16 added = kCountsInBits<L> ? sub(as_floats(minimums), as_floats(offset_unit))
                                              : mul(to_floats(minimums), as_floats(offset_unit));
        sum[r][0] = fma(added, of.of_minimum, sum[r][0]);
    }
}

struct PairedTile {
    struct Pair {
        alignas(64) uint8_t codes[8][2][64];  // [quad][part]
        alignas(64) int32_t of_zeros[2][16];  // for crossed products: those of a row of zeros
    };
    Pair pairs[2][kBlockGroups / 2];  // [half][pair]
    PairedScales scales[2][kBlockRecords];
};

// Sums of some rows for 16 outputs, from their start, or from what another pass left, to there.
template <class L, int Rows>
using PairedSums = Accumulators<L, Rows, 1>;

// Of a record, if so many groups are left.
template <class L>
ABACI_INLINE int pairs_of(int64_t num_groups) {
    return !L::ends_early || num_groups >= 8 ? 4 : static_cast<int>(num_groups + 1) / 2;
}

// Up to kTileRows rows: codes are unpacked in registers. `rows`: [block][row].
template <class L, int Rows, bool AsksAhead>
void paired_direct_pass(const MatmulTask& task, int64_t panel, int64_t group, int64_t num_groups,
                        const PairedRow<false>* rows) {
    const int64_t output = panel * kPanel;
    constexpr size_t pair_bytes = paired_half_bytes<L>(1);
    const uint8_t* record = task.matrix.data + panel * task.matrix.panel_bytes + group / 8 * L::record_bytes;
    PairedSums<L, Rows> sums[2];
    for (int half = 0; half < 2; ++half) {
        if (group == 0) {
            sums[half].begin(task, task.row_begin, output + 16 * half);
        } else {
            sums[half].resume(task.output + task.row_begin * task.output_stride + output + 16 * half,
                              task.output_stride);
        }
    }
    for (int64_t at = 0; at < num_groups; at += 8, record += L::record_bytes) {
        const PairedRow<false>* of_rows = rows + at / kBlockGroups * Rows;
        const int in_block = static_cast<int>(at % kBlockGroups / 8), num_pairs = pairs_of<L>(num_groups - at);
        const auto ask_lines = [](const uint8_t* from, size_t num_bytes) __attribute__((always_inline)) {
#pragma GCC unroll 10
            for (size_t line = 0; AsksAhead && line < num_bytes; line += 64) {
                prefetch(from + kNearBytes + line);
                prefetch_far(from + kFarBytes + line);
            }
        };
        ask_lines(record, kPairedStart<L>);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const PackedHalf<L> packed(record, half, num_pairs);
            const auto dot = [&](int pair, I32x16(&dots)[Rows]) __attribute__((always_inline)) {
                ask_lines(packed.scales + pair_bytes * pair, pair_bytes);
                dot_pair(dots, of_rows, 4 * in_block + pair, [&](auto index, int part) __attribute__((always_inline)) {
                    return unpack_paired_quad<decltype(index)::value>(packed.integers + 512 * pair, part);
                });
            };
            const PairedScales scales = read_paired_scales(packed);
            add_record<L>(sums[half].sum, scales, of_rows, in_block, num_pairs, dot);
        }
    }
    for (int half = 0; half < 2; ++half) sums[half].end(task, task.row_begin, output + 16 * half);
}

// One pass over `num_groups` groups of a panel, from `group`; the first one over a block fills the tile.
template <class L, int Rows, bool FillsTile, bool IsCrossed>
void paired_tile_pass(const MatmulTask& task, int64_t panel, int64_t row, int64_t group, int num_groups,
                      PairedTile& tile, const PairedRow<IsCrossed>* rows, PanelSums& kept, Ahead ahead) {
    const uint8_t* records = task.matrix.data + panel * task.matrix.panel_bytes + group / 8 * L::record_bytes;
    const int64_t output = panel * kPanel;
    const bool is_first = group == 0, is_last = (group + num_groups) * kGroup == task.matrix.columns;
    if (is_first && task.accumulate) ask_for_output<2>(task, row + Rows, row + 2 * Rows, output);
    if (is_last) ask_for_output<2>(task, row, row + Rows, output);
    for (int half = 0; half < 2; ++half) {
        PairedSums<L, Rows> sums;
        kept.begin_block(sums, task, row, output + 16 * half, is_first);
        for (int record = 0; 8 * record < num_groups; ++record) {
            const int num_pairs = pairs_of<L>(num_groups - 8 * record);
            const PackedHalf<L> packed(records + record * L::record_bytes, half, num_pairs);
            const auto dot = [&](int in_record, I32x16(&dots)[Rows]) __attribute__((always_inline)) {
                ahead.fetch();
                const int pair = 4 * record + in_record;
                PairedTile::Pair& unpacked = tile.pairs[half][pair];
                const uint8_t* integers = packed.integers + 512 * in_record;
                if constexpr (IsCrossed) {
                    if constexpr (FillsTile) {
                        for (int part = 0; part < 2; ++part)
                            unpack_crossed(unpacked.codes, unpacked.of_zeros, part,
                                           [&](auto quad) __attribute__((always_inline)) {
                                               return unpack_paired_quad<decltype(quad)::value>(integers, part);
                                           });
                    }
                    dot_crossed_pair(dots, rows, pair, unpacked.of_zeros,
                                     [&](auto index, int part) __attribute__((always_inline)) {
                                         return load_bytes(unpacked.codes[decltype(index)::value][part]);
                                     });
                } else {
                    dot_pair(dots, rows, pair, [&](auto index, int part) __attribute__((always_inline)) {
                        constexpr int quad = decltype(index)::value;
                        if constexpr (!FillsTile) return load_bytes(unpacked.codes[quad][part]);
                        const U8x64 codes = unpack_paired_quad<quad>(integers, part);
                        store_bytes(unpacked.codes[quad][part], codes);
                        return codes;
                    });
                }
            };
            PairedScales& scales = tile.scales[half][record];
            if constexpr (FillsTile) scales = read_paired_scales(packed);
            add_record<L>(sums.sum, scales, rows, record, num_pairs, dot);
        }
        kept.end_block(sums, task, row, output + 16 * half, is_last);
    }
}

// Rows of a task, prepared for as many blocks as there is room for: mostly all of them, and then once for all panels.
template <class L, bool IsCrossed>
class PreparedRows {
  public:
    using Row = PairedRow<IsCrossed>;

    explicit PreparedRows(const MatmulTask& task)
        : task_(task), num_rows_(task.row_end - task.row_begin), num_groups_(task.matrix.columns / kGroup) {
        const int64_t room = kMaxTaskRows / num_rows_ * kBlockGroups;
        groups_at_once_ = num_groups_ < room ? num_groups_ : room;
    }
    int64_t groups_at_once() const { return groups_at_once_; }
    bool holds_all() const { return groups_at_once_ == num_groups_; }

    // All rows of the block from `group`; those of the next block follow, while they are among groups_at_once().
    const Row* block(int64_t group) {
        const int64_t begin = group / groups_at_once_ * groups_at_once_;
        if (begin != begin_) prepare(begin);
        return rows_ + (group - begin) / kBlockGroups * num_rows_;
    }

  private:
    void prepare(int64_t begin) {
        begin_ = begin;
        const int64_t end = num_groups_ - begin < groups_at_once_ ? num_groups_ : begin + groups_at_once_;
        Row* out = rows_;
        for (int64_t group = begin; group < end; group += kBlockGroups) {
            const int count = static_cast<int>(end - group < kBlockGroups ? end - group : kBlockGroups);
            for (int64_t row = task_.row_begin; row < task_.row_end; ++row)
                prepare_row<L, IsCrossed>(task_.input, row, group, count, *out++);
        }
    }

    const MatmulTask& task_;
    const int64_t num_rows_, num_groups_;
    int64_t groups_at_once_, begin_ = -1;
    Row rows_[kMaxTaskRows];
};

template <class L>
void paired_direct(const MatmulTask& task) {
    PreparedRows<L, false> prepared(task);
    const int64_t num_groups = task.matrix.columns / kGroup, at_once = prepared.groups_at_once();
    for (int64_t group = 0; group < num_groups; group += at_once) {
        const int64_t count = num_groups - group < at_once ? num_groups - group : at_once;
        const PairedRow<false>* of_rows = prepared.block(group);
        const auto pass = [&](auto rows, int64_t) {
            constexpr int num_rows = decltype(rows)::value;
            for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
                if constexpr (num_rows == 1) {
                    if (follows_streams()) {
                        paired_direct_pass<L, num_rows, false>(task, panel, group, count, of_rows);
                        continue;
                    }
                }
                paired_direct_pass<L, num_rows, true>(task, panel, group, count, of_rows);
            }
        };
        for_runs<kTileRows>(task.row_begin, task.row_end, pass);
    }
}

template <class L, bool IsCrossed>
void paired_tiled(const MatmulTask& task) {
    PreparedRows<L, IsCrossed> prepared(task);
    PairedTile tile;
    const PairedRow<IsCrossed>* of_rows;
    const auto prepare = [&](int64_t group, int) { of_rows = prepared.block(group); };
    const auto pass = [&](auto rows, int64_t row, int64_t panel, int64_t group, int count, PanelSums& sums,
                          const Ahead& ahead) {
        constexpr int num_rows = decltype(rows)::value;
        const PairedRow<IsCrossed>* of = of_rows + (row - task.row_begin);
        if (row == task.row_begin) {
            paired_tile_pass<L, num_rows, true>(task, panel, row, group, count, tile, of, sums, ahead);
        } else {
            paired_tile_pass<L, num_rows, false>(task, panel, row, group, count, tile, of, sums, ahead);
        }
    };
    const bool take_turns = has_time_for_turns<L>(task) || !prepared.holds_all();
    for_turns<L, kManyPanelsTogether>(task, kTileRows, take_turns, prepare, pass);
}

template <class L>
void matmul_paired(const MatmulTask& task) {
    const int64_t num_rows = task.row_end - task.row_begin;
    if (num_rows <= kTileRows) return paired_direct<L>(task);
    if constexpr (kHasCrossedProducts) {
        if (is_worth_crossing(num_rows)) return paired_tiled<L, true>(task);
    }
    paired_tiled<L, false>(task);
}

}  // namespace
}  // namespace abaci
