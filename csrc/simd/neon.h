// Sixteen lanes as four registers of four on ARMv8.2 with dot products. Included once, by targets/neon_dotprod.cpp.
//
// Two results differ from those of x86. What is smaller than the least normal number becomes zero before it is rounded,
// there afterwards: what rounding would bring to that number (from within 2^-25 of it) is zero here. And what is not a
// number has the other sign.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "simd/inline.h"

namespace abaci {
namespace {

struct F32x16 {
    float32x4_t a, b, c, d;
};
struct I32x16 {
    int32x4_t a, b, c, d;
};
struct U8x64 {
    uint8x16_t a, b, c, d;
};
struct Quad {
    int8x16_t v;
};

constexpr int kTileRows = 2;
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
constexpr int kQueryRows = 2;

// The same for each register.
template <class Lanes, class Step, class... Operands>
ABACI_INLINE Lanes each(Step step, const Operands&... x) {
    return {step(x.a...), step(x.b...), step(x.c...), step(x.d...)};
}

ABACI_INLINE F32x16 load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
ABACI_INLINE void store(float* p, F32x16 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
ABACI_INLINE F32x16 load_first(const float* p, int n) {
    float lanes[16] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
ABACI_INLINE void store_first(float* p, F32x16 x, int n) {
    float lanes[16];
    store(lanes, x);
    std::memcpy(p, lanes, n * sizeof(float));
}
ABACI_INLINE F32x16 splat(float x) {
    const float32x4_t four = vdupq_n_f32(x);
    return {four, four, four, four};
}
ABACI_INLINE F32x16 zeros() {
    return splat(0.0f);
}
ABACI_INLINE F32x16 add(F32x16 x, F32x16 y) {
    return each<F32x16>(vaddq_f32, x, y);
}
ABACI_INLINE F32x16 sub(F32x16 x, F32x16 y) {
    return each<F32x16>(vsubq_f32, x, y);
}
ABACI_INLINE F32x16 mul(F32x16 x, F32x16 y) {
    return each<F32x16>(vmulq_f32, x, y);
}
ABACI_INLINE F32x16 div(F32x16 x, F32x16 y) {
    return each<F32x16>(vdivq_f32, x, y);
}
ABACI_INLINE F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
    return each<F32x16>(vfmaq_f32, z, x, y);
}
// The instructions for these would give what is not a number.
ABACI_INLINE float32x4_t max_of_four(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
ABACI_INLINE F32x16 max(F32x16 x, F32x16 y) {
    return each<F32x16>(max_of_four, x, y);
}
ABACI_INLINE float32x4_t min_of_four(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcltq_f32(x, y), x, y);
}
ABACI_INLINE F32x16 min(F32x16 x, F32x16 y) {
    return each<F32x16>(min_of_four, x, y);
}
ABACI_INLINE F32x16 absolute(F32x16 x) {
    return each<F32x16>(vabsq_f32, x);
}
ABACI_INLINE F32x16 select_less(F32x16 p, F32x16 q, F32x16 x, F32x16 y) {
    const auto choose = [](float32x4_t i, float32x4_t j, float32x4_t k, float32x4_t l)
                            __attribute__((always_inline)) { return vbslq_f32(vcltq_f32(i, j), k, l); };
    return each<F32x16>(choose, p, q, x, y);
}
ABACI_INLINE F32x16 select_lanes(int begin, int end, F32x16 x, F32x16 y) {
    static constexpr int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const I32x16 lanes = {vld1q_s32(numbers), vld1q_s32(numbers + 4), vld1q_s32(numbers + 8), vld1q_s32(numbers + 12)};
    const int32x4_t first = vdupq_n_s32(begin), last = vdupq_n_s32(end);
    const auto choose = [&](int32x4_t i, float32x4_t k, float32x4_t l) __attribute__((always_inline)) {
        return vbslq_f32(vandq_u32(vcgeq_s32(i, first), vcltq_s32(i, last)), k, l);
    };
    return each<F32x16>(choose, lanes, x, y);
}

// Conversions of float16 keep its denormals: neither flush mode reaches them.
ABACI_INLINE F32x16 load_f16(const uint16_t* p) {
    const auto widen = [](const uint16_t* q)
                           __attribute__((always_inline)) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(q))); };
    return {widen(p), widen(p + 4), widen(p + 8), widen(p + 12)};
}
ABACI_INLINE void store_f16(uint16_t* p, F32x16 x) {
    const auto narrow = [](float32x4_t four)
                            __attribute__((always_inline)) { return vreinterpret_u16_f16(vcvt_f16_f32(four)); };
    vst1_u16(p, narrow(x.a));
    vst1_u16(p + 4, narrow(x.b));
    vst1_u16(p + 8, narrow(x.c));
    vst1_u16(p + 12, narrow(x.d));
}
ABACI_INLINE F32x16 load_bf16(const uint16_t* p) {
    const auto widen = [](const uint16_t* q) __attribute__((always_inline)) {
        return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(q), 16));
    };
    return {widen(p), widen(p + 4), widen(p + 8), widen(p + 12)};
}
ABACI_INLINE I32x16 load_i8(const uint8_t* p) {
    const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
}
ABACI_INLINE I32x16 load_u8(const uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
}

ABACI_INLINE I32x16 load(const int32_t* p) {
    return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
ABACI_INLINE void store(int32_t* p, I32x16 x) {
    vst1q_s32(p, x.a);
    vst1q_s32(p + 4, x.b);
    vst1q_s32(p + 8, x.c);
    vst1q_s32(p + 12, x.d);
}
ABACI_INLINE I32x16 splat(int32_t x) {
    const int32x4_t four = vdupq_n_s32(x);
    return {four, four, four, four};
}
ABACI_INLINE I32x16 add(I32x16 x, I32x16 y) {
    return each<I32x16>(vaddq_s32, x, y);
}
ABACI_INLINE I32x16 sub(I32x16 x, I32x16 y) {
    return each<I32x16>(vsubq_s32, x, y);
}
ABACI_INLINE I32x16 bit_and(I32x16 x, I32x16 y) {
    return each<I32x16>(vandq_s32, x, y);
}
ABACI_INLINE I32x16 bit_or(I32x16 x, I32x16 y) {
    return each<I32x16>(vorrq_s32, x, y);
}
template <int N>
ABACI_INLINE I32x16 shift_left(I32x16 x) {
    return {vshlq_n_s32(x.a, N), vshlq_n_s32(x.b, N), vshlq_n_s32(x.c, N), vshlq_n_s32(x.d, N)};
}
template <int N>
ABACI_INLINE I32x16 shift_right(I32x16 x) {
    const auto shift = [](int32x4_t four) __attribute__((always_inline)) {
        return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(four), N));
    };
    return each<I32x16>(shift, x);
}
ABACI_INLINE F32x16 to_floats(I32x16 x) {
    return each<F32x16>(vcvtq_f32_s32, x);
}
// The conversion saturates, and makes zero of what is not a number; both must become INT32_MIN.
ABACI_INLINE I32x16 round_to_int(F32x16 x) {
    const float32x4_t bound = vdupq_n_f32(2147483648.0f);
    const int32x4_t outside = vdupq_n_s32(INT32_MIN);
    const auto round = [&](float32x4_t four) __attribute__((always_inline)) {
        return vbslq_s32(vcaltq_f32(four, bound), vcvtnq_s32_f32(four), outside);
    };
    return each<I32x16>(round, x);
}
ABACI_INLINE F32x16 as_floats(I32x16 x) {
    return each<F32x16>(vreinterpretq_f32_s32, x);
}
ABACI_INLINE I32x16 as_ints(F32x16 x) {
    return each<I32x16>(vreinterpretq_s32_f32, x);
}
ABACI_INLINE void store_low_halves(int16_t* p, I32x16 x) {
    vst1q_s16(p, vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)));
    vst1q_s16(p + 8, vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d)));
}
ABACI_INLINE void store_low_bytes(int8_t* p, I32x16 x) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b));
    const int16x8_t high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

ABACI_INLINE float reduce_add(F32x16 x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
ABACI_INLINE float reduce_max(F32x16 x) {
    const float32x4_t four = max_of_four(max_of_four(x.a, x.c), max_of_four(x.b, x.d));
    const float32x4_t two = max_of_four(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(max_of_four(two, vdupq_laneq_f32(two, 1)), 0);
}
ABACI_INLINE int32_t reduce_add(I32x16 x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d)));
}

ABACI_INLINE F32x16 largest_of_eight(F32x16 x) {
    const float32x4_t low = vdupq_n_f32(vmaxvq_f32(max_of_four(x.a, x.b)));
    const float32x4_t high = vdupq_n_f32(vmaxvq_f32(max_of_four(x.c, x.d)));
    return {low, low, high, high};
}

ABACI_INLINE U8x64 load_bytes(const uint8_t* p) {
    return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
ABACI_INLINE void store_bytes(uint8_t* p, U8x64 x) {
    vst1q_u8(p, x.a);
    vst1q_u8(p + 16, x.b);
    vst1q_u8(p + 32, x.c);
    vst1q_u8(p + 48, x.d);
}
template <int From, int To>
ABACI_INLINE uint8x16_t move_bits(uint8x16_t x) {
    if constexpr (From < To) return vshlq_n_u8(x, To - From);
    if constexpr (From > To) return vshrq_n_u8(x, From - To);
    return x;
}
template <int From, int Count>
ABACI_INLINE U8x64 bits_of(U8x64 plane) {
    const uint8x16_t mask = vdupq_n_u8((1 << Count) - 1);
    const auto take = [&](uint8x16_t x)
                          __attribute__((always_inline)) { return vandq_u8(move_bits<From, 0>(x), mask); };
    return each<U8x64>(take, plane);
}
template <int From, int To, int Count>
ABACI_INLINE U8x64 merge_bits(U8x64 code, U8x64 plane) {
    const uint8x16_t mask = vdupq_n_u8(((1 << Count) - 1) << To);
    const auto merge = [&](uint8x16_t x, uint8x16_t y) __attribute__((always_inline)) {
        return vorrq_u8(x, vandq_u8(move_bits<From, To>(y), mask));
    };
    return each<U8x64>(merge, code, plane);
}
ABACI_INLINE U8x64 low_nibbles(U8x64 x) {
    return bits_of<0, 4>(x);
}
ABACI_INLINE U8x64 high_nibbles(U8x64 x) {
    return bits_of<4, 4>(x);
}
ABACI_INLINE U8x64 look_up(const uint8_t* table, U8x64 codes) {
    const uint8x16_t entries = vld1q_u8(table);
    return {vqtbl1q_u8(entries, codes.a), vqtbl1q_u8(entries, codes.b), vqtbl1q_u8(entries, codes.c),
            vqtbl1q_u8(entries, codes.d)};
}

ABACI_INLINE Quad broadcast_quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
ABACI_INLINE Quad broadcast_quads(const int8_t* p) {
    const int8x8_t eight = vld1_s8(p);
    return {vcombine_s8(eight, eight)};
}
ABACI_INLINE void interleave_quads(const int8_t* from, int8_t* to) {
    const auto quads = [&](int at) __attribute__((always_inline)) { return vreinterpretq_s32_s8(vld1q_s8(from + at)); };
    const int32x4x2_t low = vzipq_s32(quads(0), quads(32)), high = vzipq_s32(quads(16), quads(48));
    const int32x4_t out[4] = {low.val[0], low.val[1], high.val[0], high.val[1]};
    for (int i = 0; i < 4; ++i) vst1q_s8(to + 16 * i, vreinterpretq_s8_s32(out[i]));
}
// Both factors are signed here. Codes of at most 7 bits are the same either way.
ABACI_INLINE I32x16 dot(I32x16 sum, U8x64 codes, Quad a) {
    const auto step = [&](int32x4_t acc, uint8x16_t code)
                          __attribute__((always_inline)) { return vdotq_s32(acc, vreinterpretq_s8_u8(code), a.v); };
    return each<I32x16>(step, sum, codes);
}
// No codes: one instruction adds to whole lanes here. See simd/avx2.h.
constexpr int kHalfSumBits = 0;
ABACI_INLINE I32x16 dot_in_halves(I32x16 sum, U8x64 codes, Quad a) {
    return dot(sum, codes, a);
}
ABACI_INLINE I32x16 add_halves(I32x16 sum) {
    return sum;
}
// 8-bit codes are not: with the top bit flipped they are code - 128.
constexpr int kWideBias = 128;
ABACI_INLINE I32x16 dot_wide(I32x16 sum, U8x64 codes, Quad a) {
    const uint8x16_t top = vdupq_n_u8(128);
    const auto flip = [&](uint8x16_t code) __attribute__((always_inline)) { return veorq_u8(code, top); };
    return dot(sum, each<U8x64>(flip, codes), a);
}

ABACI_INLINE I32x16 pack_pairs(I32x16 x, I32x16 y) {
    const auto pack = [](int32x4_t a, int32x4_t b) __attribute__((always_inline)) {
        return vreinterpretq_s32_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)));
    };
    return each<I32x16>(pack, x, y);
}
ABACI_INLINE I32x16 round_pair_products(I32x16 x, I32x16 y) {
    const auto multiply = [](int32x4_t a, int32x4_t b) __attribute__((always_inline)) {
        return vreinterpretq_s32_s16(vqrdmulhq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
    };
    return each<I32x16>(multiply, x, y);
}
ABACI_INLINE I32x16 add_pair_products(I32x16 sum, I32x16 x, I32x16 y) {
    const auto step = [](int32x4_t acc, int32x4_t a, int32x4_t b) __attribute__((always_inline)) {
        const int16x8_t p = vreinterpretq_s16_s32(a), q = vreinterpretq_s16_s32(b);
        const int32x4_t low = vmull_s16(vget_low_s16(p), vget_low_s16(q)), high = vmull_high_s16(p, q);
        return vaddq_s32(acc, vpaddq_s32(low, high));
    };
    return each<I32x16>(step, sum, x, y);
}

ABACI_INLINE void prefetch(const uint8_t* p) {
    __builtin_prefetch(p);
}
ABACI_INLINE void prefetch_far(const uint8_t* p) {
    __builtin_prefetch(p, 0, 2);
}
ABACI_INLINE void prefetch_to_write(const float* p) {
    __builtin_prefetch(p, 1);
}
// FPCR: round to nearest even; denormals are zero, in and out.
ABACI_INLINE void set_float_modes() {
    __builtin_aarch64_set_fpcr(1u << 24);
}

}  // namespace
}  // namespace abaci
