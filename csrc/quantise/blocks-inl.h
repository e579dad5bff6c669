// Weights into the blocks of GGUF (https://github.com/ggml-org/ggml: ggml-common.h draws them). What the blocks mean is
// defined by kernels/dequantise.py.
#pragma once

#include "kernel_table.h"
#include "quantise/levels-inl.h"

namespace abaci {
namespace {

// No format's scales reach beyond; also refuses what is not finite.
constexpr float kLargestWeight = 1e8f;

ABACI_INLINE void put_u16(uint8_t* p, uint16_t bits) {
    std::memcpy(p, &bits, 2);
}

// The nearest codes of 16 V values, as small integers.
template <int V, class Codes>
ABACI_INLINE void put_codes(const Group<V>& g, float scale, float offset, Codes codes, int8_t* out) {
    const float inverse = inverse_of(scale);
    for (int v = 0; v < V; ++v)
        store_low_bytes(out + 16 * v, round_to_int(codes.nearest(mul(sub(g.x[v], splat(offset)), splat(inverse)))));
}

// 2 n codes of four bits: the first n in the low halves.
ABACI_INLINE void put_nibbles(const uint8_t* codes, int n, uint8_t* out) {
    for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + n] & 15) << 4);
}

// Blocks of 32

template <int Bits>
ABACI_INLINE bool put_symmetric(const Group<2>& g, uint8_t* out) {
    constexpr int half = 1 << (Bits - 1);
    const Uniform codes = {-half, half - 1};
    const Half scale = to_half(fit_scale(g, codes, {-half - 0.9f, 0.1f, 19}, {half - 1.9f, 0.1f, 19}).scale);
    int8_t fitted[32];
    uint8_t shifted[32];
    put_codes(g, scale.value, 0.0f, codes, fitted);
    uint32_t fifth_bits = 0;
    for (int i = 0; i < 32; ++i) {
        shifted[i] = static_cast<uint8_t>(fitted[i] + half);
        fifth_bits |= static_cast<uint32_t>(shifted[i] >> 4 & 1) << i;
    }
    put_u16(out, scale.bits);
    if (Bits == 5) std::memcpy(out + 2, &fifth_bits, 4);
    put_nibbles(shifted, 16, out + (Bits == 5 ? 6 : 2));
    return is_finite(scale);
}

template <int Bits>
ABACI_INLINE bool put_line(const Group<2>& g, uint8_t* out) {
    constexpr int highest = (1 << Bits) - 1;
    const LineFit fit = fit_line(g, highest, false, {highest - 0.9f, 0.1f, 19});
    const Half scale = to_half(fit.scale);
    // A scale too small for float16 leaves a constant; a line begins near its lowest value, which is a poor one.
    const Half offset = to_half(scale.value > 0.0f ? fit.offset : mean_of(g));
    int8_t codes[32];
    uint32_t fifth_bits = 0;
    put_codes(g, scale.value, offset.value, Uniform{0.0f, highest}, codes);
    for (int i = 0; i < 32; ++i) fifth_bits |= static_cast<uint32_t>(codes[i] >> 4 & 1) << i;
    put_u16(out, scale.bits);
    put_u16(out + 2, offset.bits);
    if (Bits == 5) std::memcpy(out + 4, &fifth_bits, 4);
    put_nibbles(reinterpret_cast<const uint8_t*>(codes), 16, out + (Bits == 5 ? 8 : 4));
    return is_finite(scale) && is_finite(offset);
}

// Eight bits leave nothing to search for: the largest value becomes 127.
ABACI_INLINE bool put_q8_0(const Group<2>& g, uint8_t* out) {
    const float largest = reduce_max(max(absolute(g.x[0]), absolute(g.x[1])));
    const Half scale = to_half(largest / 127.0f);
    const float inverse = inverse_of(largest / 127.0f);
    for (int v = 0; v < 2; ++v)
        store_low_bytes(reinterpret_cast<int8_t*>(out + 2 + 16 * v),
                        round_to_int(Uniform{-127.0f, 127.0f}.nearest(mul(g.x[v], splat(inverse)))));
    put_u16(out, scale.bits);
    return is_finite(scale);
}

// Codes are places in a table

constexpr int8_t kFourBitValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kTinyFloats[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12};  // E2M1, doubled

struct Places {
    uint8_t of[256];
};
constexpr Places places_of_four_bits() {
    Places places = {};
    for (int i = 0; i < 16; ++i) places.of[static_cast<uint8_t>(kFourBitValues[i])] = static_cast<uint8_t>(i);
    return places;
}
constexpr Places places_of_tiny_floats() {
    Places places = {};
    for (int i = 0; i < 8; ++i) {
        places.of[static_cast<uint8_t>(kTinyFloats[15 - i])] = static_cast<uint8_t>(7 - i);
        if (i < 7) places.of[static_cast<uint8_t>(kTinyFloats[i])] = static_cast<uint8_t>(15 - i);
    }
    return places;
}
constexpr Places kFourBitPlaces = places_of_four_bits(), kTinyFloatPlaces = places_of_tiny_floats();

ABACI_INLINE void put_places(const Group<2>& g, float scale, const int8_t* table, const Places& places, uint8_t* out) {
    int8_t values[32];
    uint8_t codes[32];
    put_codes(g, scale, 0.0f, Table{table}, values);
    for (int i = 0; i < 32; ++i) codes[i] = places.of[static_cast<uint8_t>(values[i])];
    put_nibbles(codes, 16, out);
}

// The extreme of a group to the ends of the table and a little beyond.
constexpr Targets kTableEnds = {-140.0f, 3.0f, 15}, kTableTops = {95.0f, 3.0f, 13};

ABACI_INLINE bool put_iq4_nl(const Group<2>& g, uint8_t* out) {
    const Half scale = to_half(fit_scale(g, Table{kFourBitValues}, kTableEnds, kTableTops).scale);
    put_u16(out, scale.bits);
    put_places(g, scale.value, kFourBitValues, kFourBitPlaces, out + 2);
    return is_finite(scale);
}

// The scale is a power of two: the three that bring the largest value near the table's end are compared.
ABACI_INLINE bool put_mxfp4(const Group<2>& g, uint8_t* out) {
    const float largest = reduce_max(max(absolute(g.x[0]), absolute(g.x[1])));
    uint32_t bits;
    std::memcpy(&bits, &largest, 4);
    const int exponent = static_cast<int>(bits >> 23);  // of `largest`, biased; the table ends at 12 = 1.5 * 2^3
    double least = -1.0;
    int best = 0;
    for (int e = exponent - 4; e <= exponent - 2; ++e) {
        if (e < 1) continue;
        const uint32_t power = static_cast<uint32_t>(e) << 23;
        float scale;
        std::memcpy(&scale, &power, 4);
        const double error = error_of(g, scale, 0.0f, Table{kTinyFloats});
        if (least < 0.0 || error < least) least = error, best = e;
    }
    const uint32_t power = static_cast<uint32_t>(best) << 23;
    float scale;
    std::memcpy(&scale, &power, 4);
    out[0] = static_cast<uint8_t>(best + 1);  // the stored exponent is that of twice the scale
    put_places(g, best == 0 ? 0.0f : scale, kTinyFloats, kTinyFloatPlaces, out + 1);
    return true;
}

// Blocks of 256

template <int G, class Codes>
ABACI_INLINE void put_block_codes(const Group<16 / G>* groups, const SignedLevels<G>& levels, Codes codes,
                                  int8_t* out) {
    for (int i = 0; i < G; ++i)
        put_codes(groups[i], levels.scale.value * levels.sub[i], 0.0f, codes, out + kBlockValues / G * i);
}

template <int G>
ABACI_INLINE void put_block_codes(const Group<16 / G>* groups, const PairLevels<G>& levels, Uniform codes,
                                  int8_t* out) {
    for (int i = 0; i < G; ++i)
        put_codes(groups[i], levels.scale.value * levels.sub[i], -levels.minimum.value * levels.low[i], codes,
                  out + kBlockValues / G * i);
}

// 16 bytes of scale and minimum, 64 of bit pairs, two float16.
ABACI_INLINE bool put_q2_k(const Group<1>* groups, uint8_t* out) {
    PairLevels<16> levels;
    int8_t codes[kBlockValues];
    if (!fit_pairs<16>(groups, 15, 3, {2.1f, 0.1f, 19}, levels)) return false;
    put_block_codes<16>(groups, levels, Uniform{0.0f, 3.0f}, codes);
    for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(levels.sub[i] | levels.low[i] << 4);
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 32; ++i) {
            const int8_t* c = codes + 128 * half + i;
            out[16 + 32 * half + i] = static_cast<uint8_t>(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
    put_u16(out + 80, levels.scale.bits);
    put_u16(out + 82, levels.minimum.bits);
    return true;
}

// 32 bytes of third bits, 64 of bit pairs, 12 of six-bit scales, float16.
ABACI_INLINE bool put_q3_k(const Group<1>* groups, uint8_t* out) {
    SignedLevels<16> levels;
    int8_t codes[kBlockValues];
    const Uniform three_bits = {-4.0f, 3.0f};
    if (!fit_signed<16>(groups, -32, 31, three_bits, {-4.9f, 0.1f, 19}, {2.1f, 0.1f, 15}, levels)) return false;
    put_block_codes<16>(groups, levels, three_bits, codes);
    std::memset(out, 0, 32);
    std::memset(out + 96, 0, 12);
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 32; ++i) {
            uint8_t pairs = 0;
            for (int part = 0; part < 4; ++part) {
                const int code = codes[128 * half + 32 * part + i] + 4;
                pairs = static_cast<uint8_t>(pairs | (code & 3) << 2 * part);
                out[i] = static_cast<uint8_t>(out[i] | code >> 2 << (4 * half + part));
            }
            out[32 + 32 * half + i] = pairs;
        }
    for (int i = 0; i < 16; ++i) {
        const int sub = levels.sub[i] + 32;
        out[96 + i % 8] = static_cast<uint8_t>(out[96 + i % 8] | (sub & 15) << 4 * (i / 8));
        out[104 + i % 4] = static_cast<uint8_t>(out[104 + i % 4] | sub >> 4 << 2 * (i / 4));
    }
    put_u16(out + 108, levels.scale.bits);
    return true;
}

// Two float16, 12 bytes of six-bit scales and minimums, for five bits 32 bytes of fifth bits, 128 of nibbles.
template <int Bits>
ABACI_INLINE bool put_pairs(const Group<2>* groups, uint8_t* out) {
    constexpr int highest = (1 << Bits) - 1;
    PairLevels<8> levels;
    int8_t codes[kBlockValues];
    if (!fit_pairs<8>(groups, 63, highest, {highest - 0.9f, 0.1f, 19}, levels)) return false;
    put_block_codes<8>(groups, levels, Uniform{0.0f, highest}, codes);
    put_u16(out, levels.scale.bits);
    put_u16(out + 2, levels.minimum.bits);
    for (int i = 0; i < 4; ++i) {
        const int sub = levels.sub[i + 4], low = levels.low[i + 4];
        out[4 + i] = static_cast<uint8_t>(levels.sub[i] | sub >> 4 << 6);
        out[8 + i] = static_cast<uint8_t>(levels.low[i] | low >> 4 << 6);
        out[12 + i] = static_cast<uint8_t>((sub & 15) | (low & 15) << 4);
    }
    if (Bits == 5) {
        for (int i = 0; i < 32; ++i) {
            uint8_t fifth_bits = 0;
            for (int group = 0; group < 8; ++group)
                fifth_bits = static_cast<uint8_t>(fifth_bits | codes[32 * group + i] >> 4 << group);
            out[16 + i] = fifth_bits;
        }
    }
    for (int run = 0; run < 4; ++run)
        put_nibbles(reinterpret_cast<const uint8_t*>(codes + 64 * run), 32, out + (Bits == 5 ? 48 : 16) + 32 * run);
    return true;
}

// 128 bytes of nibbles, 64 of bit pairs, 16 int8 scales, float16.
ABACI_INLINE bool put_q6_k(const Group<1>* groups, uint8_t* out) {
    SignedLevels<16> levels;
    int8_t codes[kBlockValues];
    const Uniform six_bits = {-32.0f, 31.0f};
    if (!fit_signed<16>(groups, -128, 127, six_bits, {-32.9f, 0.1f, 19}, {30.1f, 0.2f, 10}, levels)) return false;
    put_block_codes<16>(groups, levels, six_bits, codes);
    for (int half = 0; half < 2; ++half) {
        uint8_t shifted[128];
        for (int i = 0; i < 128; ++i) shifted[i] = static_cast<uint8_t>(codes[128 * half + i] + 32);
        put_nibbles(shifted, 64, out + 64 * half);
        for (int i = 0; i < 32; ++i)
            out[128 + 32 * half + i] = static_cast<uint8_t>(shifted[i] >> 4 | shifted[i + 32] >> 4 << 2 |
                                                            shifted[i + 64] >> 4 << 4 | shifted[i + 96] >> 4 << 6);
    }
    for (int i = 0; i < 16; ++i) out[192 + i] = static_cast<uint8_t>(levels.sub[i]);
    put_u16(out + 208, levels.scale.bits);
    return true;
}

// float16, 16 bits of upper and 4 bytes of lower parts of six-bit scales, 128 of nibbles.
ABACI_INLINE bool put_iq4_xs(const Group<2>* groups, uint8_t* out) {
    SignedLevels<8> levels;
    if (!fit_signed<8>(groups, -32, 31, Table{kFourBitValues}, kTableEnds, kTableTops, levels)) return false;
    uint32_t upper = 0;
    std::memset(out + 4, 0, 4);
    for (int i = 0; i < 8; ++i) {
        const int sub = levels.sub[i] + 32;
        upper |= static_cast<uint32_t>(sub >> 4) << 2 * i;
        out[4 + i / 2] = static_cast<uint8_t>(out[4 + i / 2] | (sub & 15) << 4 * (i % 2));
        put_places(groups[i], levels.scale.value * levels.sub[i], kFourBitValues, kFourBitPlaces, out + 8 + 16 * i);
    }
    put_u16(out, levels.scale.bits);
    put_u16(out + 2, static_cast<uint16_t>(upper));
    return true;
}

// How much an error of each value counts: its column's importance, and more for a value that stands out of its block,
// as models lean on those (docs/quantize.md has what it gains). False for values that no format holds.
ABACI_INLINE bool weigh(const float* x, const float* importance, int64_t n, float* weights) {
    F32x16 sum = zeros(), squares = zeros(), largest = zeros();
    for (int64_t i = 0; i < n; i += 16) {
        const F32x16 v = load(x + i);
        sum = add(sum, v);
        squares = add(squares, mul(v, v));
        largest = max(largest, absolute(v));
    }
    const F32x16 inverse = splat(inverse_of(__builtin_sqrtf(reduce_add(squares) / static_cast<float>(n))));
    for (int64_t i = 0; i < n; i += 16) {
        const F32x16 weight = add(splat(1.0f), mul(absolute(load(x + i)), inverse));
        store(weights + i, importance ? mul(weight, load(importance + i)) : weight);
    }
    const float total = reduce_add(sum);  // a maximum may lose what is not a number, a sum does not
    return total == total && reduce_max(largest) <= kLargestWeight;
}

template <int V, class Put>
ABACI_INLINE bool put_blocks(const float* x, const float* importance, int64_t columns, int64_t bytes, uint8_t* out,
                             Put put) {
    constexpr int num_groups = kBlockValues / (16 * V);
    constexpr int num_values = 16 * V * num_groups;
    float weights[num_values];
    for (int64_t i = 0; i < columns; i += num_values, out += bytes) {
        if (!weigh(x + i, importance ? importance + i : nullptr, num_values, weights)) return false;
        Group<V> groups[num_groups];
        for (int g = 0; g < num_groups; ++g) groups[g] = load_group<V>(x + i + 16 * V * g, weights + 16 * V * g);
        if (!put(groups, out)) return false;
    }
    return true;
}

template <class Put>
ABACI_INLINE bool put_small_blocks(const float* x, const float* importance, int64_t columns, int64_t bytes,
                                   uint8_t* out, Put put) {
    float weights[32];
    for (int64_t i = 0; i < columns; i += 32, out += bytes) {
        if (!weigh(x + i, importance ? importance + i : nullptr, 32, weights)) return false;
        if (!put(load_group<2>(x + i, weights), out)) return false;
    }
    return true;
}

bool quantise_weights(BlockFormat format, const float* x, const float* importance, int64_t columns, uint8_t* out) {
    switch (format) {
        case BlockFormat::Q4_0:
            return put_small_blocks(x, importance, columns, 18, out, put_symmetric<4>);
        case BlockFormat::Q4_1:
            return put_small_blocks(x, importance, columns, 20, out, put_line<4>);
        case BlockFormat::Q5_0:
            return put_small_blocks(x, importance, columns, 22, out, put_symmetric<5>);
        case BlockFormat::Q5_1:
            return put_small_blocks(x, importance, columns, 24, out, put_line<5>);
        case BlockFormat::Q8_0:
            return put_small_blocks(x, importance, columns, 34, out, put_q8_0);
        case BlockFormat::Q2_K:
            return put_blocks<1>(x, importance, columns, 84, out, put_q2_k);
        case BlockFormat::Q3_K:
            return put_blocks<1>(x, importance, columns, 110, out, put_q3_k);
        case BlockFormat::Q4_K:
            return put_blocks<2>(x, importance, columns, 144, out, put_pairs<4>);
        case BlockFormat::Q5_K:
            return put_blocks<2>(x, importance, columns, 176, out, put_pairs<5>);
        case BlockFormat::Q6_K:
            return put_blocks<1>(x, importance, columns, 210, out, put_q6_k);
        case BlockFormat::IQ4_NL:
            return put_small_blocks(x, importance, columns, 18, out, put_iq4_nl);
        case BlockFormat::IQ4_XS:
            return put_blocks<2>(x, importance, columns, 136, out, put_iq4_xs);
        case BlockFormat::MXFP4:
            return put_small_blocks(x, importance, columns, 17, out, put_mxfp4);
    }
    return false;
}

}  // namespace
}  // namespace abaci
