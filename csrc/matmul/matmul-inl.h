// The matrix product, once for all instruction sets and formats: outputs = activations x packed weights.
//
// Each output is computed in one order, whatever the number of rows:
//   sum = start (0, bias or what was there)
//   for every group of 32 inputs: sum = fma(exact integer dot * weight scale, activation scale, sum)
//                                 with a minimum: sum = fma(minimum, activation scale * sum of activations, sum)
// Where the two halves of a group have scales of their own, (dot * scale) is fma(second dot, second scale, first dot *
// first scale), and the second half's minimum follows the first's.
// An integer dot becomes a float without a conversion: the accumulator starts at the bits of 1.5 * 2^23, so that its
// bits read as the float 1.5 * 2^23 + dot. fma(that, scale, -1.5 * 2^23 * scale) rounds exactly dot * scale once,
// because the product of the constant and a weight scale (at most 18 significant bits) is exact. Scales that are
// float32 in the file have more, and there the dot is converted.
//
// Up to kTileRows rows ("direct"): codes are unpacked in registers.
// More rows ("tiled"): the first pass over a block of kBlockGroups groups keeps the bytes it unpacks in the first-level
// cache, for the passes over the other rows. What rows bring to a block is made once for several panels, which take
// turns, block by block; between blocks the sums wait side by side, wherever the output's rows lie.
// Both ask for the weights that come next a few lines at a time: requests in a burst fill the queue to memory, and then
// the products wait with them.
// Many rows and plain codes of 4 bits are multiplied by crossed products where these are faster (crossed-inl.h).
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "matmul/crossed-inl.h"
#include "matmul/layout.h"
#include "runs-inl.h"

namespace abaci {
namespace {

constexpr int kBlockGroups = 16;
constexpr int32_t kMagicBits = 0x4B400000;
constexpr float kMagic = 12582912.0f;
// What comes next is asked for twice: far ahead into the second-level cache, which waits for more lines at once, and
// later into the first.
constexpr int kNearBytes = 2048;
constexpr int kFarBytes = 16384;
// Panels whose sums wait together in the second-level cache, 17 KB each; more where a block's rows take longer to
// prepare.
constexpr int kPanelsTogether = 8, kManyPanelsTogether = 25;
// Bytes of weights that come from memory in the time in which one row is multiplied with a group of a panel.
constexpr int kBytesPerRow = 48;
// Rows of a pass that leaves registers for factors beside sums and integer dots.
constexpr int kRoomyRows = 6;
// Rows of one tiled pass. Of eight, a few sums live in memory; with scales for half a group twice as many integer dots
// are alive.
template <class L>
ABACI_INLINE int tiled_pass_rows() {
    return kTileRows > kRoomyRows && (L::splits || has_slow_stores()) ? kRoomyRows : kTileRows;
}

// Bytes of each of `num_parts` parts in whole cache lines; the parts may reach a little past the end.
constexpr int64_t even_lines(int64_t num_bytes, int64_t num_parts) {
    return (num_bytes / 64 + num_parts - 1) / num_parts * 64;
}

// Bytes that will be needed soon, asked for evenly over a number of calls of fetch().
class Ahead {
  public:
    Ahead(const uint8_t* begin, int64_t num_bytes, int64_t num_calls)
        : at_(begin), bytes_per_call_(even_lines(num_bytes, num_calls)) {}
    ABACI_INLINE void fetch() {
        for (const uint8_t* end = at_ + bytes_per_call_; at_ < end; at_ += 64) {
            prefetch(at_);
            prefetch_far(at_ + kFarBytes);
        }
    }

  private:
    const uint8_t* at_;
    int64_t bytes_per_call_;
};

// Scales of one group for 16 outputs, or of its two halves.
template <class L>
struct GroupScales {
    struct Nothing {};
    F32x16 scale[L::splits ? 2 : 1];
    F32x16 correction;  // of scale[0] times the magic
    F32x16 minimum[L::splits ? 2 : 1];
    [[no_unique_address]] std::conditional_t<L::has_zeros, I32x16, Nothing> zero;
};

template <class L>
ABACI_INLINE GroupScales<L> read_scales(const uint8_t* record, int group, int half) {
    const auto f16 = [&](size_t offset) {
        return load_f16(reinterpret_cast<const uint16_t*>(record + offset) + 16 * half);
    };
    constexpr float unit = L::CodeTable::unit;
    GroupScales<L> out;
    if constexpr (L::scales == Scales::Exponent) {
        out.scale[0] = mul(as_floats(shift_left<23>(load_u8(record + 32 * group + 16 * half))), splat(unit));
    } else if constexpr (L::scales == Scales::Float) {
        out.scale[0] = load(reinterpret_cast<const float*>(record) + 16 * half);
    } else if constexpr (L::scales == Scales::SixBitPairs) {
        const uint8_t* pairs = record + 128 + 48 * group;
        const I32x16 low = load_u8(pairs + 16 * half), both_tops = load_u8(pairs + 32);
        const I32x16 tops = half == 0 ? both_tops : shift_right<4>(both_tops);
        const I32x16 scale = bit_or(bit_and(low, splat(15)), shift_left<4>(bit_and(tops, splat(3))));
        const I32x16 minimum = bit_or(shift_right<4>(low), shift_left<2>(bit_and(tops, splat(12))));
        out.scale[0] = mul(f16(0), to_floats(scale));
        out.minimum[0] = sub(zeros(), mul(f16(64), to_floats(minimum)));
    } else if constexpr (L::scales == Scales::NibblePairs) {
        const F32x16 d = f16(0), minus_dmin = sub(zeros(), f16(64));
        for (int part = 0; part < 2; ++part) {
            const I32x16 pair = load_u8(record + 128 + 32 * (2 * group + part) + 16 * half);
            out.scale[part] = mul(d, to_floats(bit_and(pair, splat(15))));
            out.minimum[part] = mul(minus_dmin, to_floats(shift_right<4>(pair)));
        }
    } else if constexpr (is_two_level(L::scales)) {
        constexpr int parts = L::splits ? 2 : 1;
        const F32x16 d = unit == 1.0f ? f16(0) : mul(f16(0), splat(unit));
        for (int part = 0; part < parts; ++part)
            out.scale[part] = mul(d, to_floats(load_i8(record + 64 + 32 * (parts * group + part) + 16 * half)));
    } else {
        out.scale[0] = f16(0);
        if constexpr (L::scales == Scales::HalfMinimum) out.minimum[0] = f16(64);
        if constexpr (L::has_zeros) out.zero = load_u8(record + 64 + 16 * half);
    }
    out.correction = mul(out.scale[0], splat(-kMagic));
    return out;
}

constexpr int log2_of(int x) {
    return x <= 1 ? 0 : 1 + log2_of(x / 2);
}

// What the instruction set leaves to subtract, times the sum of the activations.
template <class L>
constexpr int kBias = L::is_wide ? L::zero_point - kWideBias : L::zero_point;
template <class L>
constexpr int32_t kFirstBits = L::scales == Scales::Float ? 0 : kMagicBits;

// Whether products may be crossed: codes of 4 bits that no table turns into others.
template <class L>
constexpr bool kMayCross = kHasCrossedProducts && L::base_bits == 4 && L::high_bits == 0 && !L::has_table && !L::splits;

// What a row brings to each group of a block.
template <class L, bool IsCrossed = false>
struct RowFactors {
    template <class T>
    struct alignas(64) Each {
        T of[kBlockGroups];
    };
    struct Nothing {};
    template <bool IsThere, class T>
    using If = std::conditional_t<IsThere, Each<T>, Nothing>;
    static constexpr bool has_starts = L::has_zeros || kBias<L> != 0;
    struct Moved {
        alignas(64) int8_t of[kBlockGroups * kGroup];
    };

    Each<float> scale;
    // Where integer sums start (has_zeros: minus the sum of the activations), and those of the second 16 inputs,
    // without the magic.
    [[no_unique_address]] If<has_starts, int32_t> start;
    [[no_unique_address]] If<has_starts && L::splits, int32_t> second_start;
    // Factors of the minimum.
    [[no_unique_address]] If<L::has_minimum, float> offset;
    [[no_unique_address]] If<L::has_minimum && L::splits, float> second_offset;
    // For crossed products: values, of which some are moved, and where sums start.
    [[no_unique_address]] std::conditional_t<IsCrossed, Moved, Nothing> values;
    [[no_unique_address]] If<IsCrossed, int32_t> crossed_start;
};

// Scales and sums of activations are padded, so that reading a whole block past a row's end is harmless.
template <class L, bool IsCrossed>
ABACI_INLINE void prepare_row(const Activations& in, int64_t row, int64_t group, int num_groups,
                              RowFactors<L, IsCrossed>& out) {
    constexpr int bias = kBias<L>;
    constexpr int shift = log2_of(bias);
    const F32x16 scale = load(in.scales + row * (in.columns / kGroup) + group);
    store(out.scale.of, scale);
    const I32x16 whole = load(in.group_sums(row, GroupSum::Whole, group));
    if constexpr (L::has_zeros) {
        store(out.start.of, sub(splat(0), whole));
    } else if constexpr (L::splits) {
        const I32x16 first = load(in.group_sums(row, GroupSum::First, group)), second = sub(whole, first);
        if constexpr (bias != 0) {
            store(out.start.of, sub(splat(kFirstBits<L>), shift_left<shift>(first)));
            store(out.second_start.of, sub(splat(0), shift_left<shift>(second)));
        }
        if constexpr (L::has_minimum) {
            store(out.offset.of, mul(scale, to_floats(first)));
            store(out.second_offset.of, mul(scale, to_floats(second)));
        }
    } else {
        if constexpr (bias != 0) store(out.start.of, sub(splat(kFirstBits<L>), shift_left<shift>(whole)));
        if constexpr (L::has_minimum) store(out.offset.of, mul(scale, to_floats(whole)));
    }
    if constexpr (IsCrossed) {
        const int8_t* values = in.values + row * in.columns + group * kGroup;
        for (int g = 0; g < num_groups; ++g)
            out.crossed_start.of[g] = move_crossed_quads(values + kGroup * g, out.values.of + kGroup * g);
        const I32x16 start = L::has_zeros ? splat(kFirstBits<L>) : load(out.start.of);
        store(out.crossed_start.of, add(start, load(out.crossed_start.of)));
    }
    (void)shift;
    (void)num_groups;
}

// The values of a pass's rows from a block's first group.
template <int Rows>
struct RowBlock {
    const int8_t* values[Rows];

    ABACI_INLINE RowBlock(const Activations& in, int64_t row, int64_t group) {
        for (int r = 0; r < Rows; ++r) values[r] = in.values + (row + r) * in.columns + group * kGroup;
    }
};

// The factors of one group. One address serves all rows and kinds: the compiler would make one for each.
template <class L, bool IsCrossed = false>
class GroupFactors {
    using Row = RowFactors<L, IsCrossed>;

  public:
    ABACI_INLINE GroupFactors(const Row* rows, int group)
        : at_(opaque(reinterpret_cast<const uint8_t*>(rows) + sizeof(float) * group)) {}
    ABACI_INLINE F32x16 scale(int r) const { return get<float>(r, offsetof(Row, scale)); }
    ABACI_INLINE F32x16 offset(int r) const { return get<float>(r, offsetof(Row, offset)); }
    ABACI_INLINE F32x16 second_offset(int r) const { return get<float>(r, offsetof(Row, second_offset)); }
    ABACI_INLINE I32x16 minus_sum(int r) const { return get<int32_t>(r, offsetof(Row, start)); }
    ABACI_INLINE I32x16 start(int r) const {
        if constexpr (IsCrossed) return get<int32_t>(r, offsetof(Row, crossed_start));
        if constexpr (kBias<L> == 0) return splat(kFirstBits<L>);
        return get<int32_t>(r, offsetof(Row, start));
    }
    ABACI_INLINE I32x16 second_start(int r) const {
        if constexpr (kBias<L> == 0) return splat(0);
        return get<int32_t>(r, offsetof(Row, second_start));
    }

  private:
    template <class T>
    ABACI_INLINE auto get(int r, size_t offset) const {
        T value;
        std::memcpy(&value, at_ + r * sizeof(Row) + offset, sizeof value);
        return splat(value);
    }

    const uint8_t* at_;
};

template <class L>
ABACI_INLINE I32x16 dot_codes(I32x16 sum, U8x64 codes, Quad a) {
    if constexpr (L::is_wide) return dot_wide(sum, codes, a);
    return dot(sum, codes, a);
}

template <class L, int Rows, int Halves>
struct Accumulators {
    F32x16 sum[Rows][Halves];

    // `scales` of each half panel.
    template <class Factors>
    ABACI_INLINE void add_group(const I32x16 (&first)[Rows][Halves], const I32x16 (&second)[Rows][Halves],
                                const GroupScales<L>* scales, const Factors& factors) {
#pragma GCC unroll 8
        for (int h = 0; h < Halves; ++h) {
            if constexpr (Rows > kRoomyRows && L::has_minimum) forget_memory();
            const GroupScales<L>& of = scales[h];
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                F32x16 product;
                if constexpr (L::scales == Scales::Float) {
                    product = mul(to_floats(first[r][h]), of.scale[0]);
                } else if constexpr (L::has_zeros) {
                    const I32x16 dot = add_pair_products(first[r][h], of.zero, factors.minus_sum(r));
                    product = fma(as_floats(dot), of.scale[0], of.correction);
                } else {
                    product = fma(as_floats(first[r][h]), of.scale[0], of.correction);
                }
                if constexpr (L::splits) product = fma(to_floats(second[r][h]), of.scale[1], product);
                sum[r][h] = fma(product, factors.scale(r), sum[r][h]);
                if constexpr (L::has_minimum) {
                    sum[r][h] = fma(of.minimum[0], factors.offset(r), sum[r][h]);
                    if constexpr (L::splits) sum[r][h] = fma(of.minimum[1], factors.second_offset(r), sum[r][h]);
                }
            }
        }
    }

    ABACI_INLINE void begin(const MatmulTask& task, int64_t row, int64_t output) {
        if (task.accumulate) {
            resume(task.output + row * task.output_stride + output, task.output_stride);
        } else {
            resume(task.bias ? task.bias + output : no_bias, 0);
        }
    }

    ABACI_INLINE void end(const MatmulTask& task, int64_t row, int64_t output) {
        suspend(task.output + row * task.output_stride + output, task.output_stride);
    }

    ABACI_INLINE void resume(const float* from, int64_t stride) {
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int h = 0; h < Halves; ++h) sum[r][h] = load(from + r * stride + 16 * h);
    }

    ABACI_INLINE void suspend(float* to, int64_t stride) {
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int h = 0; h < Halves; ++h) store(to + r * stride + 16 * h, sum[r][h]);
    }

  private:
    alignas(64) static constexpr float no_bias[16 * Halves] = {};
};

// Sums of a task's rows for one panel, between blocks of inputs.
struct PanelSums {
    alignas(64) float values[kMaxTaskRows][kPanel];

    template <class Sums>
    ABACI_INLINE void begin_block(Sums& sums, const MatmulTask& task, int64_t row, int64_t output, bool is_first) {
        if (is_first) {
            sums.begin(task, row, output);
        } else {
            sums.resume(at(task, row, output), kPanel);
        }
    }

    template <class Sums>
    ABACI_INLINE void end_block(Sums& sums, const MatmulTask& task, int64_t row, int64_t output, bool is_last) {
        if (is_last) {
            sums.end(task, row, output);
        } else {
            sums.suspend(at(task, row, output), kPanel);
        }
    }

  private:
    float* at(const MatmulTask& task, int64_t row, int64_t output) {
        return values[row - task.row_begin] + output % kPanel;
    }
};

// Codes of quad `QuadIndex` (0..7) of one half of a group, from the packed planes, as the dot products take them.
template <class L, int QuadIndex>
ABACI_INLINE U8x64 unpack_quad(const uint8_t* base, int half) {
    if constexpr (L::base_bits == 8) {
        return load_bytes(base + 512 * half + 64 * QuadIndex);
    } else {
        constexpr int pair_at = 64 * (QuadIndex / 4), pair_bit = 2 * (QuadIndex % 4);
        U8x64 codes;
        if constexpr (L::base_bits == 4) {
            const U8x64 pair = load_bytes(base + 256 * half + 64 * (QuadIndex / 2));
            codes = QuadIndex % 2 == 0 ? low_nibbles(pair) : high_nibbles(pair);
        } else {
            codes = bits_of<pair_bit, 2>(load_bytes(base + 128 * half + pair_at));
        }
        const uint8_t* high = base + L::base_bytes;
        if constexpr (L::high_bits == 1)
            codes = merge_bits<QuadIndex, L::base_bits, 1>(codes, load_bytes(high + 64 * half));
        if constexpr (L::high_bits == 2)
            codes = merge_bits<pair_bit, L::base_bits, 2>(codes, load_bytes(high + 128 * half + pair_at));
        if constexpr (L::has_table) {
            static constexpr TakenValues<typename L::CodeTable, L::zero_point> table;
            codes = look_up(table.values, codes);
        }
        return codes;
    }
}

template <class L, int QuadIndex, bool InHalves, int Rows, int Halves>
ABACI_INLINE void add_quad(const U8x64 (&codes)[Halves], const RowBlock<Rows>& block, int group,
                           I32x16 (&dots)[Rows][Halves]) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        const Quad a = broadcast_quad(block.values[r] + kGroup * group + 4 * QuadIndex);
#pragma GCC unroll 2
        for (int h = 0; h < Halves; ++h) {
            if constexpr (InHalves) {
                dots[r][h] = dot_in_halves(dots[r][h], codes[h], a);
            } else {
                dots[r][h] = dot_codes<L>(dots[r][h], codes[h], a);
            }
        }
    }
}

// The integer dots of one group; get(Index, half) yields codes.
template <class L, int Rows, int Halves, class Get>
ABACI_INLINE void dot_group(const RowBlock<Rows>& block, int group, Get get, const GroupFactors<L>& factors,
                            I32x16 (&first)[Rows][Halves], I32x16 (&second)[Rows][Halves]) {
    constexpr int code_bits = L::has_table ? 8 : L::base_bits + L::high_bits;
    constexpr bool in_halves = code_bits <= kHalfSumBits;
    const auto into = [&](I32x16(&dots)[Rows][Halves]) __attribute__((always_inline)) {
        return [&](auto index) __attribute__((always_inline)) {
            U8x64 codes[Halves];
#pragma GCC unroll 2
            for (int h = 0; h < Halves; ++h) codes[h] = get(index, h);
            add_quad<L, decltype(index)::value, in_halves>(codes, block, group, dots);
        };
    };
    const auto add_four = [&](auto from, I32x16(&dots)[Rows][Halves]) __attribute__((always_inline)) {
        constexpr int quad = decltype(from)::value;
        if constexpr (in_halves) {
            I32x16 halves[Rows][Halves];
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
                for (int h = 0; h < Halves; ++h) halves[r][h] = splat(0);
            four_quads<quad>(into(halves));
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
                for (int h = 0; h < Halves; ++h) dots[r][h] = add(dots[r][h], add_halves(halves[r][h]));
        } else {
            four_quads<quad>(into(dots));
        }
    };
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
        for (int h = 0; h < Halves; ++h) first[r][h] = factors.start(r);
    if constexpr (L::splits) {
        add_four(Index<0>(), first);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int h = 0; h < Halves; ++h) second[r][h] = factors.second_start(r);
        add_four(Index<4>(), second);
    } else {
        add_four(Index<0>(), first);
        add_four(Index<4>(), first);
    }
}

template <class L, int Rows, bool AsksAhead>
void direct_pass(const MatmulTask& task, int64_t panel, int64_t row) {
    constexpr int halves = kTileHalves;
    const int64_t num_groups = task.matrix.columns / kGroup;
    for (int first_half = 0; first_half < 2; first_half += halves) {
        const int64_t output = panel * kPanel + 16 * first_half;
        Accumulators<L, Rows, halves> sums;
        sums.begin(task, row, output);
        const uint8_t* record = task.matrix.data + panel * task.matrix.panel_bytes;
        RowFactors<L> of_rows[Rows];
        for (int64_t at = 0; at < num_groups; at += kBlockGroups) {
            const int count = static_cast<int>(num_groups - at < kBlockGroups ? num_groups - at : kBlockGroups);
            for (int r = 0; r < Rows; ++r) prepare_row<L>(task.input, row + r, at, count, of_rows[r]);
            const RowBlock<Rows> block(task.input, row, at);
            for (int begin = 0; begin < count; begin += L::groups_per_record, record += L::record_bytes) {
                // Only records whose groups do not divide a block's inputs can be cut off by the end of a row.
                const int end = L::groups_per_record == 2 && count - begin < 2 ? 1 : L::groups_per_record;
                for (int g = 0; g < end; ++g) {
                    const uint8_t* base = record + L::header_bytes + g * L::group_bytes;
                    constexpr size_t share = L::record_bytes / L::groups_per_record;
                    constexpr int lines = (share + 63) / 64;
                    const uint8_t* from = record + g * share;
#pragma GCC unroll 32
                    for (int line = 0; AsksAhead && line < lines; ++line) {
                        prefetch(from + kNearBytes + 64 * line);
                        prefetch_far(from + kFarBytes + 64 * line);
                    }
                    const GroupFactors<L> factors(of_rows, begin + g);
                    I32x16 first[Rows][halves], second[Rows][halves];
                    dot_group<L, Rows, halves>(
                        block, begin + g,
                        [&](auto index, int h) __attribute__((always_inline)) {
                            return unpack_quad<L, decltype(index)::value>(base, first_half + h);
                        },
                        factors, first, second);
                    GroupScales<L> scales[halves];
#pragma GCC unroll 2
                    for (int h = 0; h < halves; ++h) scales[h] = read_scales<L>(record, g, first_half + h);
                    sums.add_group(first, second, scales, factors);
                }
            }
        }
        sums.end(task, row, output);
    }
}

// A block of groups of one panel, unpacked: codes [group][quad][half], scales beside them. Codes of eight bits are read
// where they are packed. For crossed products also [group][half] those of a row of zeros.
template <class L, bool IsCrossed = false>
struct CodeTile {
    static constexpr bool has_codes = L::base_bits < 8;
    alignas(64) uint8_t codes[has_codes ? kBlockGroups : 1][8][2][64];
    alignas(64) int32_t of_zeros[IsCrossed ? kBlockGroups : 1][2][16];
    GroupScales<L> scales[kBlockGroups][2];
};

// Asks for the lines of rows [begin, end), as far as the task has them, that a pass will read or write. Of a wide
// output, or of many rows, none is near: sums would wait for their start, and stores for each other.
template <int Halves>
ABACI_INLINE void ask_for_output(const MatmulTask& task, int64_t begin, int64_t end, int64_t output) {
    for (int64_t row = begin; row < end && row < task.row_end; ++row)
#pragma GCC unroll 2
        for (int h = 0; h < Halves; ++h) prefetch_to_write(task.output + row * task.output_stride + output + 16 * h);
}

// One pass over `count` groups of a panel, from `group`; the first one over a block fills the tile.
template <class L, int Rows, bool FillsTile, bool IsCrossed>
void tile_pass(const MatmulTask& task, int64_t panel, int64_t row, int64_t group, int count,
               CodeTile<L, IsCrossed>& tile, const RowFactors<L, IsCrossed>* of_rows, PanelSums& kept, Ahead ahead) {
    constexpr int halves = kTileHalves;
    const uint8_t* packed = task.matrix.data + panel * task.matrix.panel_bytes;
    const RowBlock<Rows> block(task.input, row, group);
    for (int first_half = 0; first_half < 2; first_half += halves) {
        const int64_t output = panel * kPanel + 16 * first_half;
        Accumulators<L, Rows, halves> sums;
        const bool is_last = (group + count) * kGroup == task.matrix.columns;
        if (group == 0 && task.accumulate) ask_for_output<halves>(task, row + Rows, row + 2 * Rows, output);
        if (is_last) ask_for_output<halves>(task, row, row + Rows, output);
        kept.begin_block(sums, task, row, output, group == 0);
        for (int g = 0; g < count; ++g) {
            const int in_record = static_cast<int>((group + g) % L::groups_per_record);
            const uint8_t* record = packed + (group + g) / L::groups_per_record * L::record_bytes;
            const uint8_t* base = record + L::header_bytes + in_record * L::group_bytes;
            if (first_half == 0) ahead.fetch();
            const GroupFactors<L, IsCrossed> factors(of_rows, g);
            I32x16 first[Rows][halves], second[Rows][halves];
            const auto codes_of = [&](auto index, int h) __attribute__((always_inline)) {
                constexpr int quad = decltype(index)::value;
                const int half = first_half + h;
                if constexpr (!CodeTile<L>::has_codes) {
                    return unpack_quad<L, quad>(base, half);
                } else if constexpr (FillsTile && !IsCrossed) {
                    const U8x64 codes = unpack_quad<L, quad>(base, half);
                    store_bytes(tile.codes[g][quad][half], codes);
                    return codes;
                } else {
                    return load_bytes(tile.codes[g][quad][half]);
                }
            };
            if constexpr (IsCrossed) {
#pragma GCC unroll 2
                for (int h = 0; h < halves; ++h) {
                    const int half = first_half + h;
                    if constexpr (FillsTile) {
                        unpack_crossed(tile.codes[g], tile.of_zeros[g], half,
                                       [&](auto quad) __attribute__((always_inline)) {
                                           return unpack_quad<L, decltype(quad)::value>(base, half);
                                       });
                    }
                    const I32x16 of_zeros = load(tile.of_zeros[g][half]);
#pragma GCC unroll 8
                    for (int r = 0; r < Rows; ++r) first[r][h] = sub(factors.start(r), of_zeros);
                }
                const int8_t* values = opaque(of_rows->values.of + kGroup * g);
                add_crossed_quads(first, codes_of, [&](auto quad, int r) __attribute__((always_inline)) {
                    return broadcast_quad(values + r * sizeof *of_rows + 4 * decltype(quad)::value);
                });
            } else {
                dot_group<L, Rows, halves>(block, g, codes_of, factors, first, second);
            }
            GroupScales<L>* scales = tile.scales[g] + first_half;
            if constexpr (FillsTile) {
#pragma GCC unroll 2
                for (int h = 0; h < halves; ++h) scales[h] = read_scales<L>(record, in_record, first_half + h);
            }
            sums.add_group(first, second, scales, factors);
        }
        kept.end_block(sums, task, row, output, is_last);
    }
}

// Panels only take turns where rows are many enough: memory is read faster in one go.
template <class L>
ABACI_INLINE bool has_time_for_turns(const MatmulTask& task) {
    constexpr int64_t group_bytes = L::record_bytes / L::groups_per_record;
    return (task.row_end - task.row_begin) * kBytesPerRow >= group_bytes;
}

// Panels in turns, block by block: calls prepare(group, num_groups) for each block of inputs, and then for each panel
// pass(Index<rows>, row, panel, group, num_groups, sums, ahead) for all rows, at most `most` at once.
template <class L, int Together, class Prepare, class Pass>
ABACI_INLINE void for_turns(const MatmulTask& task, int most, bool take_turns, Prepare prepare, Pass pass) {
    const int64_t num_rows = task.row_end - task.row_begin;
    const int64_t num_groups = task.matrix.columns / kGroup;
    constexpr int64_t block_bytes = kBlockGroups / L::groups_per_record * L::record_bytes;
    const int64_t together = take_turns ? Together : 1;
    const int64_t share = even_lines(block_bytes, (num_rows + most - 1) / most);
    PanelSums kept[Together];
    for (int64_t begin = task.panel_begin; begin < task.panel_end; begin += together) {
        const int64_t end = task.panel_end - begin < together ? task.panel_end : begin + together;
        for (int64_t group = 0; group < num_groups; group += kBlockGroups) {
            const int count = static_cast<int>(num_groups - group < kBlockGroups ? num_groups - group : kBlockGroups);
            prepare(group, count);
            for (int64_t panel = begin; panel < end; ++panel) {
                // Each pass asks for its share of the next block: the next panel's, or, where all have had their turn,
                // the first one's next, or the start of the panels that follow.
                const bool is_turn_over = panel + 1 == end, is_done = group + count == num_groups;
                const int64_t next_panel = is_turn_over && !is_done ? begin : panel + 1;
                const int64_t next_group = !is_turn_over ? group : is_done ? 0 : group + count;
                const uint8_t* next = task.matrix.data + next_panel * task.matrix.panel_bytes +
                                      next_group / L::groups_per_record * L::record_bytes;
                const auto ask_and_pass = [&](auto rows, int64_t row) {
                    const Ahead ahead(next, share, count);
                    next += share;
                    pass(rows, row, panel, group, count, kept[panel - begin], ahead);
                };
                for_runs<kTileRows, (kTileRows + 1) / 2>(task.row_begin, task.row_end, ask_and_pass, most);
            }
        }
    }
}

template <class L, bool IsCrossed>
void matmul_tiled(const MatmulTask& task) {
    CodeTile<L, IsCrossed> tile;
    RowFactors<L, IsCrossed> of_rows[kMaxTaskRows];
    const auto prepare = [&](int64_t group, int num_groups) {
        for (int64_t row = task.row_begin; row < task.row_end; ++row)
            prepare_row<L>(task.input, row, group, num_groups, of_rows[row - task.row_begin]);
    };
    const auto pass = [&](auto rows, int64_t row, int64_t panel, int64_t group, int count, PanelSums& sums,
                          const Ahead& ahead) {
        constexpr int num_rows = decltype(rows)::value;
        const RowFactors<L, IsCrossed>* of = of_rows + (row - task.row_begin);
        if (row == task.row_begin) {
            tile_pass<L, num_rows, true>(task, panel, row, group, count, tile, of, sums, ahead);
        } else {
            tile_pass<L, num_rows, false>(task, panel, row, group, count, tile, of, sums, ahead);
        }
    };
    for_turns<L, IsCrossed ? kManyPanelsTogether : kPanelsTogether>(task, tiled_pass_rows<L>(),
                                                                    has_time_for_turns<L>(task), prepare, pass);
}

template <class L>
void matmul_quantised(const MatmulTask& task) {
    const int64_t num_rows = task.row_end - task.row_begin;
    if constexpr (kMayCross<L>) {
        if (is_worth_crossing(num_rows)) return matmul_tiled<L, true>(task);
    }
    if (num_rows > kTileRows) return matmul_tiled<L, false>(task);
    for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
        const auto pass = [&](auto rows, int64_t row) {
            constexpr int num_rows = decltype(rows)::value;
            if constexpr (num_rows == 1 && L::base_bits == 4 && L::high_bits == 0) {
                if (follows_streams()) return direct_pass<L, num_rows, false>(task, panel, row);
            }
            direct_pass<L, num_rows, true>(task, panel, row);
        };
        for_runs<kTileRows>(task.row_begin, task.row_end, pass);
    }
}

struct ReadF32 {
    using Stored = float;
    static ABACI_INLINE F32x16 read(const float* p) { return load(p); }
};
struct ReadF16 {
    using Stored = uint16_t;
    static ABACI_INLINE F32x16 read(const uint16_t* p) { return load_f16(p); }
};
struct ReadBF16 {
    using Stored = uint16_t;
    static ABACI_INLINE F32x16 read(const uint16_t* p) { return load_bf16(p); }
};

// Float weights that serve all rows while they are in the first-level cache, and how often the next ones are asked for.
constexpr int64_t kFloatBlockBytes = 16384;
constexpr int kInputsPerFetch = 8;

// Float weights times float activations: sum = fma(weight, activation, sum) over inputs in order; inputs [begin, end)
// of them here.
template <class Read, int Rows>
void float_pass(const MatmulTask& task, int64_t panel, int64_t row, int64_t begin, int64_t end, PanelSums& kept,
                Ahead ahead) {
    constexpr int halves = kTileHalves;
    using Stored = typename Read::Stored;
    for (int first_half = 0; first_half < 2; first_half += halves) {
        const int64_t output = panel * kPanel + 16 * first_half;
        const auto* weights = reinterpret_cast<const Stored*>(task.matrix.data + panel * task.matrix.panel_bytes);
        weights += 16 * first_half;
        Accumulators<Layout<Format::Q4_0>, Rows, halves> sums;
        kept.begin_block(sums, task, row, output, begin == 0);
        const float* x = task.input.floats + row * task.input.float_stride;
        for (int64_t k = begin; k < end; ++k) {
            if (first_half == 0 && k % kInputsPerFetch == 0) ahead.fetch();
            F32x16 w[halves];
#pragma GCC unroll 2
            for (int h = 0; h < halves; ++h) w[h] = Read::read(weights + k * kPanel + 16 * h);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const F32x16 a = splat(x[r * task.input.float_stride + k]);
#pragma GCC unroll 2
                for (int h = 0; h < halves; ++h) sums.sum[r][h] = fma(w[h], a, sums.sum[r][h]);
            }
        }
        kept.end_block(sums, task, row, output, end == task.matrix.columns);
    }
}

template <class Read>
void matmul_floats(const MatmulTask& task) {
    constexpr int64_t input_bytes = kPanel * sizeof(typename Read::Stored);
    constexpr int64_t block = kFloatBlockBytes / input_bytes;
    const int64_t num_passes = (task.row_end - task.row_begin + kTileRows - 1) / kTileRows;
    const int64_t columns = task.matrix.columns;
    PanelSums kept;
    for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
        const uint8_t* packed = task.matrix.data + panel * task.matrix.panel_bytes;
        for (int64_t begin = 0; begin < columns; begin += block) {
            const int64_t end = columns - begin < block ? columns : begin + block;
            const uint8_t* next = packed + end * input_bytes;
            const int64_t share = even_lines(kFloatBlockBytes, num_passes);
            for_runs<kTileRows>(task.row_begin, task.row_end, [&](auto rows, int64_t row) {
                const Ahead ahead(next, share, block / kInputsPerFetch);
                next += share;
                float_pass<Read, decltype(rows)::value>(task, panel, row, begin, end, kept, ahead);
            });
        }
    }
}

}  // namespace
}  // namespace abaci
