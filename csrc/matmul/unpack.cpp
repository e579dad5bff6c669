// One row of a packed matrix back to floats, exactly as the format defines its values. For embeddings and tests.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "weights.h"

namespace abaci {
namespace {

float half_to_float(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7F800000 : (exponent + 112) << 23) | mantissa << 13;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The integer that input k of an output stands for.
template <class L>
int value_at(const uint8_t* base, int output, int k) {
    const int half = output / 16, lane = 4 * (output % 16) + k % 4, quad = k / 4;
    const auto pair_at = [&](const uint8_t* plane) {
        return plane[128 * half + 64 * (quad / 4) + lane] >> (2 * (quad % 4)) & 3;
    };
    if constexpr (L::base_bits == 8) return base[512 * half + 64 * quad + lane] - L::zero_point;
    int code;
    if constexpr (L::base_bits == 4) {
        code = base[256 * half + 64 * (quad / 2) + lane] >> (4 * (quad % 2)) & 15;
    } else {
        code = pair_at(base);
    }
    const uint8_t* high = base + L::base_bytes;
    if constexpr (L::high_bits == 1) code |= (high[64 * half + lane] >> quad & 1) << L::base_bits;
    if constexpr (L::high_bits == 2) code |= pair_at(high) << L::base_bits;
    if constexpr (L::has_table) return L::CodeTable::values[code];
    return code - L::zero_point;
}

struct ScaleAndMinimum {
    float scale, minimum;
};

// A number of a PairedHalf record that is not a float16.
float read_counted(const uint8_t* count, uint8_t exponent) {
    int16_t number;
    std::memcpy(&number, count, 2);
    return std::ldexp(static_cast<float>(number), exponent - 127);
}

template <class L>
ScaleAndMinimum paired_scale_of(const uint8_t* record, int half_index, int num_pairs, int group, int output) {
    const uint8_t* half = record + paired_half_at<L>(half_index, num_pairs);
    if constexpr (L::scales == Scales::PairedHalf) {
        const uint8_t* exponents = record + 32 * half_index;
        if (exponents[0] == 0) {
            const uint8_t* scale = half + half_scale_at(group, output);
            return {half_to_float(scale), half_to_float(scale + 64)};
        }
        const uint8_t* scale = half + counted_scale_at(group, output);
        return {read_counted(scale, exponents[output]), read_counted(scale + 64, exponents[16 + output])};
    }
    uint32_t words[3];
    for (int j = 0; j < 3; ++j) std::memcpy(words + j, half + kSixBitPairsAt + 64 * j + 4 * output, 4);
    for (uint32_t& word : words) word >>= 16 * (group % 2);
    uint32_t scale, minimum;
    if (group < 6) {
        scale = words[group / 2] & 63;
        minimum = words[group / 2] >> 6 & 63;
    } else {
        scale = (words[0] >> 12 & 15) | (words[2] >> 12 & 3) << 4;
        minimum = (words[1] >> 12 & 15) | (words[2] >> 14 & 3) << 4;
    }
    return {half_to_float(half + 2 * output) * static_cast<float>(scale),
            -(half_to_float(half + 32 + 2 * output) * static_cast<float>(minimum))};
}

template <class L>
void unpack_paired(const PackedMatrix& matrix, int64_t row, float factor, float* out) {
    const int output = static_cast<int>(row % 16), half = static_cast<int>(row % kPanel / 16);
    const uint8_t* record = matrix.data + row / kPanel * matrix.panel_bytes;
    const int64_t num_groups = matrix.columns / kGroup;
    for (int64_t at = 0; at < num_groups; at += L::groups_per_record, record += L::record_bytes) {
        const int count = static_cast<int>(std::min<int64_t>(num_groups - at, L::groups_per_record));
        const int num_pairs = (count + 1) / 2;
        const uint8_t* integers = record + paired_half_at<L>(half, num_pairs) + paired_codes_at<L>(num_pairs);
        for (int group = 0; group < count; ++group) {
            const ScaleAndMinimum of = paired_scale_of<L>(record, half, num_pairs, group, output);
            for (int k = 0; k < kGroup; ++k) {
                const int code = integers[paired_quad_at(group, k / 4, output) + k % 4] >> (4 * (k / 4 % 2)) & 15;
                *out++ = (of.scale * static_cast<float>(code) + of.minimum) * factor;
            }
        }
    }
}

// Of group `group` of a record, its first or second half.
template <class L>
ScaleAndMinimum scale_of(const uint8_t* record, int group, int half, int output) {
    const auto f16 = [&](size_t offset) { return half_to_float(record + offset + 2 * output); };
    if constexpr (L::scales == Scales::Exponent) {
        return {std::ldexp(1.0f, record[32 * group + output] - 127), 0.0f};
    } else if constexpr (L::scales == Scales::Float) {
        float scale;
        std::memcpy(&scale, record + 4 * output, 4);
        return {scale, 0.0f};
    } else if constexpr (L::scales == Scales::HalfMinimum) {
        return {f16(0), f16(64)};
    } else if constexpr (L::scales == Scales::SixBitPairs) {
        const uint8_t* pairs = record + 128 + 48 * group;
        const int tops = pairs[32 + output % 16] >> (output < 16 ? 0 : 4);
        return {f16(0) * static_cast<float>((pairs[output] & 15) | (tops & 3) << 4),
                -(f16(64) * static_cast<float>(pairs[output] >> 4 | (tops >> 2 & 3) << 4))};
    } else if constexpr (L::scales == Scales::NibblePairs) {
        const int pair = record[128 + 32 * (2 * group + half) + output];
        return {f16(0) * static_cast<float>(pair & 15), -(f16(64) * static_cast<float>(pair >> 4))};
    } else if constexpr (is_two_level(L::scales)) {
        const int part = L::splits ? 2 * group + half : group;
        return {f16(0) * static_cast<float>(static_cast<int8_t>(record[64 + 32 * part + output])), 0.0f};
    } else {
        return {f16(0), 0.0f};
    }
}

template <class L>
void unpack_quantised(const PackedMatrix& matrix, int64_t row, float factor, float* out) {
    const int output = static_cast<int>(row % kPanel);
    const uint8_t* record = matrix.data + row / kPanel * matrix.panel_bytes;
    const int64_t num_groups = matrix.columns / kGroup;
    for (int64_t i = 0; i < num_groups; ++i) {
        const int group = static_cast<int>(i % L::groups_per_record);
        const uint8_t* base = record + L::header_bytes + group * L::group_bytes;
        int zero = 0;
        if constexpr (L::has_zeros) zero = record[64 + output];
        for (int half = 0; half < 2; ++half) {
            const ScaleAndMinimum of = scale_of<L>(record, group, half, output);
            const float scale = of.scale * L::CodeTable::unit;
            for (int k = 16 * half; k < 16 * half + 16; ++k) {
                const float value = scale * static_cast<float>(value_at<L>(base, output, k) - zero);
                *out++ = (L::has_minimum ? value + of.minimum : value) * factor;
            }
        }
        if (group == L::groups_per_record - 1) record += L::record_bytes;
    }
}

}  // namespace

void unpack_row(const PackedMatrix& matrix, int64_t row, float factor, float* out) {
    const uint8_t* panel = matrix.data + row / kPanel * matrix.panel_bytes;
    const int64_t output = row % kPanel;
    switch (matrix.format) {
        case Format::F32:
            for (int64_t k = 0; k < matrix.columns; ++k) {
                std::memcpy(out + k, panel + 4 * (k * kPanel + output), 4);
                out[k] *= factor;
            }
            return;
        case Format::F16:
            for (int64_t k = 0; k < matrix.columns; ++k)
                out[k] = half_to_float(panel + 2 * (k * kPanel + output)) * factor;
            return;
        case Format::BF16:
            for (int64_t k = 0; k < matrix.columns; ++k) {
                uint16_t half;
                std::memcpy(&half, panel + 2 * (k * kPanel + output), 2);
                const uint32_t bits = uint32_t{half} << 16;
                std::memcpy(out + k, &bits, 4);
                out[k] *= factor;
            }
            return;
        default:
            visit_quantised(matrix.format, [&](auto tag) {
                using L = Layout<decltype(tag)::value>;
                if constexpr (L::is_paired) {
                    unpack_paired<L>(matrix, row, factor, out);
                } else {
                    unpack_quantised<L>(matrix, row, factor, out);
                }
            });
    }
}

bool unpack_source_row(Format format, const uint8_t* source, int64_t columns, float scale, uint8_t* scratch,
                       float* out) {
    const bool finite = pack_panels(format, source, 1, columns, 0, 1, scratch);
    unpack_row({scratch, packed_panel_bytes(format, columns), 1, columns, format}, 0, scale, out);
    return finite;
}

}  // namespace abaci
