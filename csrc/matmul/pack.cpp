// From rows as files store them to packed panels (layout.h). Runs once at load; the same code on every processor.
#include <algorithm>
#include <bit>
#include <cmath>

#include "matmul/source.h"

namespace abaci {
namespace {

bool is_finite_f16(const uint8_t* p) {
    return (load<uint16_t>(p) & 0x7C00) != 0x7C00;
}

// A record of so many groups.
template <class L>
size_t record_bytes(int num_groups) {
    if constexpr (L::ends_early) return paired_record_bytes<L>((num_groups + 1) / 2);
    return L::record_bytes;
}

// The kernels multiply scales by 1.5 * 2^23: 2^(e - 128) with e above this would leave the floats. 255 means NaN.
constexpr uint8_t kLargestExponent = 231;

// Writes one row's codes of a group into the base and high planes.
template <class L>
void place_codes(const Codes& codes, int output, uint8_t* base) {
    uint32_t quads[8];
    std::memcpy(quads, codes.eights, sizeof quads);
    const int half = output / 16, lane = 4 * (output % 16);
    const auto place_pairs = [&](int shift, uint8_t* plane) {
        for (int part = 0; part < 2; ++part) {
            uint32_t bits = 0;
            for (int q = 0; q < 4; ++q) bits |= ((quads[4 * part + q] >> shift) & 0x03030303) << (2 * q);
            store(plane + 128 * half + 64 * part + lane, bits);
        }
    };
    if constexpr (L::base_bits == 8) {
        for (int q = 0; q < 8; ++q) store(base + 512 * half + 64 * q + lane, quads[q]);
    } else if constexpr (L::base_bits == 4) {
        for (int j = 0; j < 4; ++j) {
            const uint32_t low = quads[2 * j] & 0x0F0F0F0F, high = quads[2 * j + 1] & 0x0F0F0F0F;
            store(base + 256 * half + 64 * j + lane, low | high << 4);
        }
    } else {
        place_pairs(0, base);
    }
    if constexpr (L::high_bits == 1) {
        uint32_t bits = codes.fifth_bits;
        if constexpr (is_two_level(L::scales))
            for (int q = 0; q < 8; ++q) bits |= ((quads[q] >> L::base_bits) & 0x01010101) << q;
        store(base + L::base_bytes + 64 * half + lane, bits);
    }
    if constexpr (L::high_bits == 2) place_pairs(L::base_bits, base + L::base_bytes);
}

void place_six_bit_pair(uint8_t scale, uint8_t minimum, int output, uint8_t* pairs) {
    pairs[output] = (scale & 15) | (minimum & 15) << 4;
    pairs[32 + output % 16] |= ((scale >> 4) | (minimum >> 4) << 2) << (output < 16 ? 0 : 4);
}

void place_paired_six_bits(const uint8_t* block, int output, uint8_t* half) {
    store(half + 2 * output, load<uint16_t>(block));
    store(half + 32 + 2 * output, load<uint16_t>(block + 2));
    uint8_t s[8], m[8];
    read_pairs(block + 4, s, m);
    const int shared[3][2] = {
        {s[6] & 15, s[7] & 15}, {m[6] & 15, m[7] & 15}, {s[6] >> 4 | (m[6] >> 4) << 2, s[7] >> 4 | (m[7] >> 4) << 2}};
    for (int j = 0; j < 3; ++j) {
        uint32_t word = 0;
        for (int i = 0; i < 2; ++i)
            word |= static_cast<uint32_t>(s[2 * j + i] | m[2 * j + i] << 6 | shared[j][i] << 12) << (16 * i);
        store(half + kSixBitPairsAt + 64 * j + 4 * output, word);
    }
}

// A float16 is significand * 2^(exponent - 25).
struct HalfParts {
    int significand, exponent;
};
HalfParts parts_of(uint16_t half) {
    const int exponent = half >> 10 & 31, significand = half & 0x3FF;
    return exponent == 0 ? HalfParts{significand, 1} : HalfParts{significand | 0x400, exponent};
}

// The float16 numbers of an output, [group], as multiples of 2^-14 of the largest power of two that is not above the
// largest of them. Returns the exponent of the unit, as a float has it, or 0 where one is no such multiple.
uint8_t count_exactly(const uint16_t* halves, int num_groups, int16_t* counts) {
    int largest = 0;
    for (int g = 0; g < num_groups; ++g) largest = std::max(largest, halves[g] & 0x7FFF);
    const HalfParts most = parts_of(static_cast<uint16_t>(largest));
    const int width = std::bit_width(static_cast<unsigned>(most.significand));
    for (int g = 0; g < num_groups; ++g) {
        const HalfParts parts = parts_of(halves[g]);
        const int shift = parts.exponent - most.exponent + 15 - width;
        const int lost = std::clamp(-shift, 0, 15), count = parts.significand << std::max(shift, 0) >> lost;
        if (count << lost >> std::max(shift, 0) != parts.significand) return 0;
        counts[g] = static_cast<int16_t>(halves[g] & 0x8000 ? -count : count);
    }
    return static_cast<uint8_t>(width + most.exponent + 87);
}

// From float16 scales and minimums of all outputs to counted ones, where all can be.
void count_scales(uint8_t* half, int num_groups, uint8_t* exponents) {
    int16_t counts[2][16][8] = {};
    uint8_t units[2][16];
    for (int kind = 0; kind < 2; ++kind) {
        for (int output = 0; output < 16; ++output) {
            uint16_t halves[8];
            for (int g = 0; g < num_groups; ++g)
                halves[g] = load<uint16_t>(half + half_scale_at(g, output) + 64 * kind);
            units[kind][output] = count_exactly(halves, num_groups, counts[kind][output]);
            if (units[kind][output] == 0) return;
        }
    }
    std::memcpy(exponents, units, sizeof units);
    for (int kind = 0; kind < 2; ++kind)
        for (int output = 0; output < 16; ++output)
            for (int g = 0; g < (num_groups + 1) / 2 * 2; ++g)
                store(half + counted_scale_at(g, output) + 64 * kind, counts[kind][output][g]);
}

// One row's part of a paired record, from the block it begins with. False where a scale is not finite.
template <Format F>
bool place_paired(const uint8_t* block, int num_groups, int output, uint8_t* record) {
    using L = Layout<F>;
    static_assert(kHalfAt<F> == 0);
    constexpr int groups_per_block = kSourceBlock<F>.values / kGroup;
    const int num_pairs = (num_groups + 1) / 2;
    uint8_t* half = record + paired_half_at<L>(output / 16, num_pairs);
    uint8_t* integers = half + paired_codes_at<L>(num_pairs);
    output %= 16;
    bool finite = true;
    for (int group = 0; group < num_groups; ++group) {
        const int in_block = group % groups_per_block;
        if (in_block == 0) finite &= is_finite_f16(block) && is_finite_f16(block + 2);
        if constexpr (L::scales == Scales::PairedHalf) {
            store(half + half_scale_at(group, output), load<uint16_t>(block));
            store(half + half_scale_at(group, output) + 64, load<uint16_t>(block + 2));
        } else if (in_block == 0) {
            place_paired_six_bits(block, output, half);
        }
        uint32_t quads[8];
        const Codes codes = read_codes<F>(block, in_block);
        std::memcpy(quads, codes.eights, sizeof quads);
        for (int q = 0; q < 8; q += 2) store(integers + paired_quad_at(group, q, output), quads[q] | quads[q + 1] << 4);
        if (in_block == groups_per_block - 1) block += kSourceBlock<F>.bytes;
    }
    return finite;
}

// Writes one row's scales of a block into its record; `group` is the block's first of the record. False where one is
// not finite.
template <Format F>
bool place_scales(const uint8_t* block, int output, int group, uint8_t* record) {
    using L = Layout<F>;
    if constexpr (L::scales == Scales::Exponent) {
        record[32 * group + output] = block[0];
        return block[0] <= kLargestExponent;
    } else if constexpr (L::scales == Scales::Float) {
        store(record + 4 * output, load<uint32_t>(block));
        return std::isfinite(load<float>(block));
    } else {
        const uint8_t* half = block + kHalfAt<F>;
        store(record + 2 * output, load<uint16_t>(half));
        if constexpr (L::has_minimum) store(record + 64 + 2 * output, load<uint16_t>(half + 2));
        if constexpr (L::has_zeros) record[64 + output] = block[2];
        if constexpr (L::scales == Scales::SixBitPairs) {
            uint8_t scales[8], minimums[8];
            read_pairs(block + 4, scales, minimums);
            for (int g = 0; g < 8; ++g) place_six_bit_pair(scales[g], minimums[g], output, record + 128 + 48 * g);
        } else if constexpr (is_two_level(L::scales)) {
            constexpr int num_parts = L::scales == Scales::Bytes32 ? 8 : 16;
            uint8_t* parts = record + (L::has_minimum ? 128 : 64);
            for (int i = 0; i < num_parts; ++i)
                parts[32 * i + output] = static_cast<uint8_t>(read_part_scale<F>(block, i));
        }
        return is_finite_f16(half) && (!L::has_minimum || is_finite_f16(half + 2)) && (!L::has_zeros || block[2] <= 16);
    }
}

template <Format F>
bool pack_quantised(const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin, int64_t panel_end,
                    uint8_t* packed) {
    using L = Layout<F>;
    constexpr SourceBlock block = kSourceBlock<F>;
    constexpr int groups_per_block = block.values / kGroup;
    const int64_t num_groups = columns / kGroup;
    const size_t row_bytes = source_row_bytes(F, columns), panel_bytes = packed_panel_bytes(F, columns);
    bool finite = true;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        const int64_t first = panel * kPanel;
        const int64_t used = rows - first < kPanel ? rows - first : kPanel;
        uint8_t* record = packed + panel * panel_bytes;
        for (int64_t at = 0; at < num_groups; at += L::groups_per_record, record += L::record_bytes) {
            const bool is_whole = used == kPanel && at + L::groups_per_record <= num_groups;
            const int count =
                static_cast<int>(num_groups - at < L::groups_per_record ? num_groups - at : L::groups_per_record);
            if (!is_whole) {
                std::memset(record, 0, record_bytes<L>(count));
            } else if (L::scales == Scales::SixBitPairs || L::has_zeros) {
                std::memset(record, 0, L::header_bytes);
            } else if (L::scales == Scales::PairedHalf) {
                std::memset(record, 0, kPairedStart<L>);
            }
            for (int64_t output = 0; output < used; ++output) {
                const uint8_t* from = source + (first + output) * row_bytes + at / groups_per_block * block.bytes;
                if constexpr (L::is_paired) {
                    finite &= place_paired<F>(from, count, static_cast<int>(output), record);
                    continue;
                }
                for (int g = 0; g < count; ++g) {
                    const int in_block = g % groups_per_block;
                    if (in_block == 0) finite &= place_scales<F>(from, output, g, record);
                    place_codes<L>(read_codes<F>(from, in_block), output,
                                   record + L::header_bytes + g * L::group_bytes);
                    if (in_block == groups_per_block - 1) from += block.bytes;
                }
            }
            if constexpr (L::scales == Scales::PairedHalf) {
                for (int half = 0; half < 2; ++half)
                    count_scales(record + paired_half_at<L>(half, (count + 1) / 2), count, record + 32 * half);
            }
        }
    }
    return finite;
}

template <class T>
bool pack_floats(const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin, int64_t panel_end,
                 uint8_t* packed, T exponent_mask) {
    bool finite = true;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
        uint8_t* out = packed + panel * columns * kPanel * sizeof(T);
        for (int64_t output = 0; output < kPanel; ++output) {
            const int64_t row = panel * kPanel + output;
            for (int64_t k = 0; k < columns; ++k) {
                const T value = row < rows ? load<T>(source + (row * columns + k) * sizeof(T)) : T(0);
                finite &= (value & exponent_mask) != exponent_mask;
                store(out + (k * kPanel + output) * sizeof(T), value);
            }
        }
    }
    return finite;
}

}  // namespace

SourceBlock source_block(Format format) {
    if (!is_quantised(format)) return {1, format == Format::F32 ? 4 : 2};
    return visit_quantised(format, [](auto tag) { return kSourceBlock<decltype(tag)::value>; });
}

size_t source_row_bytes(Format format, int64_t columns) {
    const SourceBlock block = source_block(format);
    return columns / block.values * block.bytes;
}

size_t packed_panel_bytes(Format format, int64_t columns) {
    if (!is_quantised(format)) return columns * kPanel * source_block(format).bytes;
    return visit_quantised(format, [&](auto tag) {
        using L = Layout<decltype(tag)::value>;
        const int64_t num_groups = columns / kGroup;
        const auto at_end = static_cast<int>(num_groups % L::groups_per_record);
        return num_groups / L::groups_per_record * L::record_bytes + (at_end > 0 ? record_bytes<L>(at_end) : 0);
    });
}

bool pack_panels(Format format, const uint8_t* source, int64_t rows, int64_t columns, int64_t panel_begin,
                 int64_t panel_end, uint8_t* packed) {
    switch (format) {
        case Format::F32:
            return pack_floats<uint32_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7F800000);
        case Format::F16:
            return pack_floats<uint16_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7C00);
        case Format::BF16:
            return pack_floats<uint16_t>(source, rows, columns, panel_begin, panel_end, packed, 0x7F80);
        default:
            return visit_quantised(format, [&](auto tag) {
                return pack_quantised<decltype(tag)::value>(source, rows, columns, panel_begin, panel_end, packed);
            });
    }
}

}  // namespace abaci
