// One row of a packed matrix back to floats, exactly as the format defines its values. For embeddings and tests.
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

template <class L>
int code_at(const uint8_t* base, int output, int k) {
    const int half = output / 16, lane = 4 * (output % 16) + k % 4, quad = k / 4;
    if constexpr (L::base_bits == 8) return base[512 * half + 64 * quad + lane];
    int code = base[256 * half + 64 * (quad / 2) + lane] >> (4 * (quad % 2)) & 15;
    const uint8_t* high = base + L::base_bytes;
    if constexpr (L::high_bits == 1) code |= (high[64 * half + lane] >> quad & 1) << 4;
    if constexpr (L::high_bits == 2) code |= (high[128 * half + 64 * (quad / 4) + lane] >> (2 * (quad % 4)) & 3) << 4;
    return code;
}

template <Format F>
void unpack_quantised(const PackedMatrix& matrix, int64_t row, float factor, float* out) {
    using L = Layout<F>;
    const int output = static_cast<int>(row % kPanel);
    const uint8_t* record = matrix.data + row / kPanel * matrix.panel_bytes;
    const int64_t num_records = matrix.columns / (kGroup * L::groups_per_record);
    for (int64_t r = 0; r < num_records; ++r, record += L::record_bytes) {
        const float d = half_to_float(record + 2 * output);
        for (int g = 0; g < L::groups_per_record; ++g) {
            const uint8_t* base = record + L::header_bytes + g * L::group_bytes;
            float scale = d, minimum = 0.0f, second_scale = d;
            if constexpr (L::simple && L::has_minimum) minimum = half_to_float(record + 64 + 2 * output);
            if constexpr (L::pairs) {
                const uint8_t* pairs = record + 128 + 48 * g;
                const int tops = pairs[32 + output % 16] >> (output < 16 ? 0 : 4);
                scale = d * static_cast<float>((pairs[output] & 15) | (tops & 3) << 4);
                minimum = -(half_to_float(record + 64 + 2 * output) *
                            static_cast<float>(pairs[output] >> 4 | (tops >> 2 & 3) << 4));
            }
            if constexpr (L::subs) {
                const auto* subs = reinterpret_cast<const int8_t*>(record + 64);
                scale = d * static_cast<float>(subs[32 * (2 * g) + output]);
                second_scale = d * static_cast<float>(subs[32 * (2 * g + 1) + output]);
            }
            for (int k = 0; k < kGroup; ++k) {
                const float s = L::subs && k >= 16 ? second_scale : scale;
                const float value = s * static_cast<float>(code_at<L>(base, output, k) - L::zero_point);
                *out++ = (L::has_minimum ? value + minimum : value) * factor;
            }
        }
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
        case Format::Q4_0:
            return unpack_quantised<Format::Q4_0>(matrix, row, factor, out);
        case Format::Q4_1:
            return unpack_quantised<Format::Q4_1>(matrix, row, factor, out);
        case Format::Q5_0:
            return unpack_quantised<Format::Q5_0>(matrix, row, factor, out);
        case Format::Q5_1:
            return unpack_quantised<Format::Q5_1>(matrix, row, factor, out);
        case Format::Q8_0:
            return unpack_quantised<Format::Q8_0>(matrix, row, factor, out);
        case Format::Q4_K:
            return unpack_quantised<Format::Q4_K>(matrix, row, factor, out);
        case Format::Q5_K:
            return unpack_quantised<Format::Q5_K>(matrix, row, factor, out);
        case Format::Q6_K:
            return unpack_quantised<Format::Q6_K>(matrix, row, factor, out);
    }
}

bool unpack_source_row(Format format, const uint8_t* source, int64_t columns, float scale, uint8_t* scratch,
                       float* out) {
    const bool finite = pack_panels(format, source, 1, columns, 0, 1, scratch);
    unpack_row({scratch, packed_panel_bytes(format, columns), 1, columns, format}, 0, scale, out);
    return finite;
}

}  // namespace abaci
