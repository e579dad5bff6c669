// Sixteen lanes in plain C++: runs anywhere, and says what the others must do. Included once, by targets/portable.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "simd/inline.h"

namespace abaci {
namespace {

#define ABACI_LANES for (int i = 0; i < 16; ++i)

// The compiler's own vectors: lowered to whatever registers the processor has.
typedef float FloatLanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef uint32_t UnsignedLanes __attribute__((vector_size(64)));
struct F32x16 {
    FloatLanes v;
};
struct I32x16 {
    IntLanes v;
};
struct U8x64 {
    uint8_t v[64];
};
struct Quad {
    int8_t v[8];
};

constexpr int kTileRows = 1;
constexpr int kTileHalves = 1;
constexpr bool has_slow_stores() {
    return false;
}
constexpr bool follows_streams() {
    return false;
}
constexpr bool kHasCrossedProducts = false;
constexpr bool prefers_crossed_products() {
    return false;
}
// Queries that one pass of attention keeps in registers.
constexpr int kQueryRows = 1;

// Denormals count as zero, in and out, as on the other targets; the flags of a processor do it where it has them.
ABACI_INLINE FloatLanes flush(FloatLanes x) {
#if !defined(__SSE__) && !defined(__aarch64__)
    const FloatLanes magnitude = (FloatLanes)((IntLanes)x & 0x7FFFFFFF);
    return magnitude < 1.17549435e-38f ? (FloatLanes)((IntLanes)x & INT32_MIN) : x;
#endif
    return x;
}

ABACI_INLINE F32x16 load(const float* p) {
    F32x16 r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
}
ABACI_INLINE void store(float* p, const F32x16& a) {
    std::memcpy(p, &a.v, sizeof a.v);
}
ABACI_INLINE F32x16 load_first(const float* p, int n) {
    F32x16 r = {};
    std::memcpy(&r.v, p, n * sizeof(float));
    return r;
}
ABACI_INLINE void store_first(float* p, const F32x16& a, int n) {
    std::memcpy(p, &a.v, n * sizeof(float));
}
ABACI_INLINE F32x16 splat(float x) {
    return {FloatLanes{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}};
}
ABACI_INLINE F32x16 zeros() {
    return splat(0.0f);
}
ABACI_INLINE F32x16 add(const F32x16& a, const F32x16& b) {
    return {flush(a.v + b.v)};
}
ABACI_INLINE F32x16 sub(const F32x16& a, const F32x16& b) {
    return {flush(a.v - b.v)};
}
ABACI_INLINE F32x16 mul(const F32x16& a, const F32x16& b) {
    return {flush(a.v * b.v)};
}
ABACI_INLINE F32x16 div(const F32x16& a, const F32x16& b) {
    return {flush(a.v / b.v)};
}
ABACI_INLINE F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
    F32x16 r;
    ABACI_LANES r.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
    return {flush(r.v)};
}
ABACI_INLINE F32x16 max(const F32x16& a, const F32x16& b) {
    return {a.v > b.v ? a.v : b.v};
}
ABACI_INLINE F32x16 min(const F32x16& a, const F32x16& b) {
    return {a.v < b.v ? a.v : b.v};
}
ABACI_INLINE F32x16 absolute(const F32x16& a) {
    F32x16 r;
    ABACI_LANES r.v[i] = std::fabs(a.v[i]);
    return r;
}
ABACI_INLINE F32x16 select_less(const F32x16& a, const F32x16& b, const F32x16& x, const F32x16& y) {
    return {a.v < b.v ? x.v : y.v};
}
ABACI_INLINE F32x16 select_lanes(int begin, int end, const F32x16& a, const F32x16& b) {
    F32x16 r;
    ABACI_LANES r.v[i] = i >= begin && i < end ? a.v[i] : b.v[i];
    return r;
}

ABACI_INLINE float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
ABACI_INLINE uint32_t float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
ABACI_INLINE float f16_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    if (exponent == 31) return bits_to_float(sign | 0x7F800000 | mantissa << 13);
    if (exponent != 0) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-08f;  // 2^-24
    return sign ? -magnitude : magnitude;
}
// Round to nearest even, denormal results kept, as the F16C instruction does.
ABACI_INLINE uint16_t float_to_f16(float x) {
    const uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
    if (magnitude >= 0x38800000) {
        const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
        return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
    }
    if (magnitude < 0x33000000) return static_cast<uint16_t>(sign);
    const uint32_t exponent = magnitude >> 23, shift = 126 - exponent;
    const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
    const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
}

ABACI_INLINE F32x16 load_f16(const uint16_t* p) {
    F32x16 r;
    ABACI_LANES r.v[i] = f16_to_float(p[i]);
    return r;
}
ABACI_INLINE void store_f16(uint16_t* p, const F32x16& a) {
    ABACI_LANES p[i] = float_to_f16(a.v[i]);
}
ABACI_INLINE F32x16 load_bf16(const uint16_t* p) {
    F32x16 r;
    ABACI_LANES r.v[i] = bits_to_float(uint32_t(p[i]) << 16);
    return r;
}
ABACI_INLINE I32x16 load_i8(const uint8_t* p) {
    I32x16 r;
    ABACI_LANES r.v[i] = static_cast<int8_t>(p[i]);
    return r;
}
ABACI_INLINE I32x16 load_u8(const uint8_t* p) {
    I32x16 r;
    ABACI_LANES r.v[i] = p[i];
    return r;
}

ABACI_INLINE I32x16 load(const int32_t* p) {
    I32x16 r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
}
ABACI_INLINE void store(int32_t* p, const I32x16& a) {
    std::memcpy(p, &a.v, sizeof a.v);
}
ABACI_INLINE I32x16 splat(int32_t x) {
    return {IntLanes{} + x};
}
ABACI_INLINE I32x16 add(const I32x16& a, const I32x16& b) {
    return {a.v + b.v};
}
ABACI_INLINE I32x16 sub(const I32x16& a, const I32x16& b) {
    return {a.v - b.v};
}
ABACI_INLINE I32x16 bit_and(const I32x16& a, const I32x16& b) {
    return {a.v & b.v};
}
ABACI_INLINE I32x16 bit_or(const I32x16& a, const I32x16& b) {
    return {a.v | b.v};
}
template <int N>
ABACI_INLINE I32x16 shift_left(const I32x16& a) {
    return {(IntLanes)((UnsignedLanes)a.v << N)};
}
template <int N>
ABACI_INLINE I32x16 shift_right(const I32x16& a) {
    return {(IntLanes)((UnsignedLanes)a.v >> N)};
}
ABACI_INLINE F32x16 to_floats(const I32x16& a) {
    return {__builtin_convertvector(a.v, FloatLanes)};
}
// To nearest even; values outside int32 and NaN give INT32_MIN.
ABACI_INLINE I32x16 round_to_int(const F32x16& a) {
    I32x16 r;
    ABACI_LANES r.v[i] = std::fabs(a.v[i]) < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(a.v[i])) : INT32_MIN;
    return r;
}
ABACI_INLINE F32x16 as_floats(const I32x16& a) {
    return {(FloatLanes)a.v};
}
ABACI_INLINE I32x16 as_ints(const F32x16& a) {
    return {(IntLanes)a.v};
}
ABACI_INLINE void store_low_halves(int16_t* p, const I32x16& a) {
    ABACI_LANES p[i] = static_cast<int16_t>(a.v[i]);
}
ABACI_INLINE void store_low_bytes(int8_t* p, const I32x16& a) {
    ABACI_LANES p[i] = static_cast<int8_t>(a.v[i]);
}

ABACI_INLINE float reduce_add(F32x16 a) {
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) a.v[i] = a.v[i] + a.v[i + step];
    return a.v[0];
}
ABACI_INLINE float reduce_max(F32x16 a) {
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
    return a.v[0];
}
ABACI_INLINE int32_t reduce_add(const I32x16& a) {
    int32_t sum = 0;
    ABACI_LANES sum += a.v[i];
    return sum;
}

ABACI_INLINE F32x16 largest_of_eight(F32x16 a) {
    for (int step = 4; step > 0; step /= 2)
        for (int i = 0; i < step; ++i)
            for (int j = i; j < 16; j += 8) a.v[j] = a.v[j] > a.v[j + step] ? a.v[j] : a.v[j + step];
    F32x16 r;
    ABACI_LANES r.v[i] = a.v[i / 8 * 8];
    return r;
}

ABACI_INLINE U8x64 load_bytes(const uint8_t* p) {
    U8x64 r;
    std::memcpy(r.v, p, 64);
    return r;
}
ABACI_INLINE void store_bytes(uint8_t* p, const U8x64& a) {
    std::memcpy(p, a.v, 64);
}
ABACI_INLINE U8x64 low_nibbles(const U8x64& a) {
    U8x64 r;
    for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] & 15;
    return r;
}
ABACI_INLINE U8x64 high_nibbles(const U8x64& a) {
    U8x64 r;
    for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] >> 4;
    return r;
}
template <int From, int Count>
ABACI_INLINE U8x64 bits_of(const U8x64& plane) {
    U8x64 r;
    for (int i = 0; i < 64; ++i) r.v[i] = (plane.v[i] >> From) & ((1 << Count) - 1);
    return r;
}
template <int From, int To, int Count>
ABACI_INLINE U8x64 merge_bits(const U8x64& code, const U8x64& plane) {
    U8x64 r;
    for (int i = 0; i < 64; ++i) r.v[i] = code.v[i] | ((plane.v[i] >> From) & ((1 << Count) - 1)) << To;
    return r;
}
ABACI_INLINE U8x64 look_up(const uint8_t* table, const U8x64& codes) {
    U8x64 r;
    for (int i = 0; i < 64; ++i) r.v[i] = table[codes.v[i]];
    return r;
}

ABACI_INLINE Quad broadcast_quad(const int8_t* p) {
    Quad r;
    std::memcpy(r.v, p, 4);
    std::memcpy(r.v + 4, p, 4);
    return r;
}
ABACI_INLINE Quad broadcast_quads(const int8_t* p) {
    Quad r;
    std::memcpy(r.v, p, 8);
    return r;
}
ABACI_INLINE void interleave_quads(const int8_t* from, int8_t* to) {
    for (int i = 0; i < 8; ++i)
        for (int part = 0; part < 2; ++part) std::memcpy(to + 8 * i + 4 * part, from + 32 * part + 4 * i, 4);
}
ABACI_INLINE I32x16 dot(const I32x16& sum, const U8x64& codes, const Quad& a) {
    I32x16 r;
    ABACI_LANES {
        const uint8_t* of = codes.v + 4 * i;
        const int8_t* by = a.v + 4 * (i % 2);
        r.v[i] = sum.v[i] + of[0] * by[0] + of[1] * by[1] + of[2] * by[2] + of[3] * by[3];
    }
    return r;
}
// No codes: one instruction adds to whole lanes here. See simd/avx2.h.
constexpr int kHalfSumBits = 0;
ABACI_INLINE I32x16 dot_in_halves(const I32x16& sum, const U8x64& codes, const Quad& a) {
    return dot(sum, codes, a);
}
ABACI_INLINE I32x16 add_halves(const I32x16& sum) {
    return sum;
}
constexpr int kWideBias = 0;
ABACI_INLINE I32x16 dot_wide(const I32x16& sum, const U8x64& codes, const Quad& a) {
    return dot(sum, codes, a);
}

ABACI_INLINE int32_t low_half(int32_t lane) {
    return static_cast<int16_t>(lane & 0xFFFF);
}
ABACI_INLINE int32_t high_half(int32_t lane) {
    return lane >> 16;
}
ABACI_INLINE int32_t two_halves(int32_t low, int32_t high) {
    return static_cast<int32_t>((low & 0xFFFF) | static_cast<uint32_t>(high) << 16);
}
ABACI_INLINE int32_t saturated_half(int32_t x) {
    return x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x;
}
ABACI_INLINE I32x16 pack_pairs(const I32x16& a, const I32x16& b) {
    I32x16 r;
    ABACI_LANES {
        const IntLanes& from = i % 4 < 2 ? a.v : b.v;
        const int at = i / 4 * 4 + 2 * (i % 2);
        r.v[i] = two_halves(saturated_half(from[at]), saturated_half(from[at + 1]));
    }
    return r;
}
ABACI_INLINE int32_t round_product(int32_t a, int32_t b) {
    return (a * b + (1 << 14)) >> 15;
}
ABACI_INLINE I32x16 round_pair_products(const I32x16& a, const I32x16& b) {
    I32x16 r;
    ABACI_LANES r.v[i] = two_halves(round_product(low_half(a.v[i]), low_half(b.v[i])),
                                    round_product(high_half(a.v[i]), high_half(b.v[i])));
    return r;
}
ABACI_INLINE I32x16 add_pair_products(const I32x16& sum, const I32x16& a, const I32x16& b) {
    I32x16 r;
    ABACI_LANES r.v[i] = sum.v[i] + low_half(a.v[i]) * low_half(b.v[i]) + high_half(a.v[i]) * high_half(b.v[i]);
    return r;
}

ABACI_INLINE void prefetch(const uint8_t*) {}
ABACI_INLINE void prefetch_far(const uint8_t*) {}
ABACI_INLINE void prefetch_to_write(const float*) {}
ABACI_INLINE void set_float_modes() {
#if defined(__SSE__)
    _mm_setcsr(0x9FC0);
#elif defined(__aarch64__)
    __builtin_aarch64_set_fpcr(1u << 24);
#endif
}

}  // namespace
}  // namespace abaci
