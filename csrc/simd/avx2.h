// Sixteen lanes as two registers of eight on AVX2 with FMA and F16C. Included once, by targets/avx2.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/inline.h"

namespace abaci {
namespace {

struct F32x16 {
    __m256 a, b;
};
struct I32x16 {
    __m256i a, b;
};
struct U8x64 {
    __m256i a, b;
};
struct Quad {
    __m256i v;
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
constexpr int kQueryRows = 3;

ABACI_INLINE F32x16 load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
ABACI_INLINE void store(float* p, F32x16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
ABACI_INLINE F32x16 load_first(const float* p, int n) {
    alignas(32) float lanes[16] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
ABACI_INLINE void store_first(float* p, F32x16 x, int n) {
    alignas(32) float lanes[16];
    store(lanes, x);
    std::memcpy(p, lanes, n * sizeof(float));
}
ABACI_INLINE F32x16 splat(float x) {
    return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
ABACI_INLINE F32x16 zeros() {
    return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
ABACI_INLINE F32x16 add(F32x16 x, F32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 sub(F32x16 x, F32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 mul(F32x16 x, F32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 div(F32x16 x, F32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
ABACI_INLINE F32x16 max(F32x16 x, F32x16 y) {
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 min(F32x16 x, F32x16 y) {
    return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
ABACI_INLINE F32x16 absolute(F32x16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
ABACI_INLINE F32x16 select_less(F32x16 p, F32x16 q, F32x16 x, F32x16 y) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}
ABACI_INLINE F32x16 select_lanes(int begin, int end, F32x16 x, F32x16 y) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i upper = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
    const __m256i first = _mm256_set1_epi32(begin - 1), last = _mm256_set1_epi32(end);
    const auto inside = [&](__m256i i) {
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(i, first), _mm256_cmpgt_epi32(last, i)));
    };
    return {_mm256_blendv_ps(y.a, x.a, inside(lanes)), _mm256_blendv_ps(y.b, x.b, inside(upper))};
}

ABACI_INLINE F32x16 load_f16(const uint16_t* p) {
    const auto* h = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
ABACI_INLINE void store_f16(uint16_t* p, F32x16 x) {
    auto* h = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(h, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(h + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
ABACI_INLINE F32x16 load_bf16(const uint16_t* p) {
    const auto widen = [](const uint16_t* q) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    };
    return {widen(p), widen(p + 8)};
}
ABACI_INLINE I32x16 load_i8(const uint8_t* p) {
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
ABACI_INLINE I32x16 load_u8(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}

ABACI_INLINE I32x16 load(const int32_t* p) {
    const auto* v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
ABACI_INLINE void store(int32_t* p, I32x16 x) {
    auto* v = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(v, x.a);
    _mm256_storeu_si256(v + 1, x.b);
}
ABACI_INLINE I32x16 splat(int32_t x) {
    return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
ABACI_INLINE I32x16 add(I32x16 x, I32x16 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
ABACI_INLINE I32x16 sub(I32x16 x, I32x16 y) {
    return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
ABACI_INLINE I32x16 bit_and(I32x16 x, I32x16 y) {
    return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
ABACI_INLINE I32x16 bit_or(I32x16 x, I32x16 y) {
    return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
template <int N>
ABACI_INLINE I32x16 shift_left(I32x16 x) {
    return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
ABACI_INLINE I32x16 shift_right(I32x16 x) {
    return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)};
}
ABACI_INLINE F32x16 to_floats(I32x16 x) {
    return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
ABACI_INLINE I32x16 round_to_int(F32x16 x) {
    return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
ABACI_INLINE F32x16 as_floats(I32x16 x) {
    return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
ABACI_INLINE I32x16 as_ints(F32x16 x) {
    return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
ABACI_INLINE void store_low_halves(int16_t* p, I32x16 x) {
    alignas(32) int32_t lanes[16];
    store(lanes, x);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int16_t>(lanes[i]);
}
ABACI_INLINE void store_low_bytes(int8_t* p, I32x16 x) {
    alignas(32) int32_t lanes[16];
    store(lanes, x);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}

ABACI_INLINE float reduce_add(F32x16 x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ABACI_INLINE float reduce_max(F32x16 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
ABACI_INLINE int32_t reduce_add(I32x16 x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    return _mm_cvtsi128_si32(four);
}

ABACI_INLINE __m256 largest_of(__m256 x) {
    const __m256 two = _mm256_max_ps(x, _mm256_permute2f128_ps(x, x, 1));
    const __m256 four = _mm256_max_ps(two, _mm256_permute_ps(two, 0x4E));
    return _mm256_max_ps(four, _mm256_permute_ps(four, 0xB1));
}
ABACI_INLINE F32x16 largest_of_eight(F32x16 x) {
    return {largest_of(x.a), largest_of(x.b)};
}

ABACI_INLINE U8x64 load_bytes(const uint8_t* p) {
    const auto* v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_load_si256(v), _mm256_load_si256(v + 1)};
}
ABACI_INLINE void store_bytes(uint8_t* p, U8x64 x) {
    auto* v = reinterpret_cast<__m256i*>(p);
    _mm256_store_si256(v, x.a);
    _mm256_store_si256(v + 1, x.b);
}
ABACI_INLINE U8x64 low_nibbles(U8x64 x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
ABACI_INLINE U8x64 high_nibbles(U8x64 x) {
    return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
template <int From, int To>
ABACI_INLINE __m256i move_bits(__m256i x) {
    if constexpr (From < To) return _mm256_slli_epi16(x, To - From);
    if constexpr (From > To) return _mm256_srli_epi16(x, From - To);
    return x;
}
template <int From, int Count>
ABACI_INLINE U8x64 bits_of(U8x64 plane) {
    const __m256i mask = _mm256_set1_epi8((1 << Count) - 1);
    return {_mm256_and_si256(move_bits<From, 0>(plane.a), mask), _mm256_and_si256(move_bits<From, 0>(plane.b), mask)};
}
template <int From, int To, int Count>
ABACI_INLINE U8x64 merge_bits(U8x64 code, U8x64 plane) {
    const __m256i mask = _mm256_set1_epi8(((1 << Count) - 1) << To);
    return {_mm256_or_si256(code.a, _mm256_and_si256(move_bits<From, To>(plane.a), mask)),
            _mm256_or_si256(code.b, _mm256_and_si256(move_bits<From, To>(plane.b), mask))};
}
ABACI_INLINE U8x64 look_up(const uint8_t* table, U8x64 codes) {
    const __m256i entries = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, codes.a), _mm256_shuffle_epi8(entries, codes.b)};
}

ABACI_INLINE Quad broadcast_quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return {_mm256_set1_epi32(four)};
}
ABACI_INLINE Quad broadcast_quads(const int8_t* p) {
    int64_t eight;
    std::memcpy(&eight, p, 8);
    return {_mm256_set1_epi64x(eight)};
}
ABACI_INLINE void interleave_quads(const int8_t* from, int8_t* to) {
    const auto* v = reinterpret_cast<const __m256i*>(from);
    const __m256i a = _mm256_loadu_si256(v), b = _mm256_loadu_si256(v + 1);
    const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
    auto* out = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low, high, 0x31));
}
// Codes of at most 7 bits: 2 * 127 * 127 fits the 16-bit pairs of maddubs.
ABACI_INLINE I32x16 dot(I32x16 sum, U8x64 codes, Quad a) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.a, a.v), ones)),
            _mm256_add_epi32(sum.b, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.b, a.v), ones))};
}
// The same of few small codes, faster: a lane's sum stays in two halves of 16 bits until add_halves(). Of each quad two
// products go to a half: eight products with codes of 5 bits fit, or sixteen with codes of 4.
constexpr int kHalfSumBits = 5;
ABACI_INLINE I32x16 dot_in_halves(I32x16 halves, U8x64 codes, Quad a) {
    return {_mm256_add_epi16(halves.a, _mm256_maddubs_epi16(codes.a, a.v)),
            _mm256_add_epi16(halves.b, _mm256_maddubs_epi16(codes.b, a.v))};
}
ABACI_INLINE I32x16 add_halves(I32x16 halves) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(halves.a, ones), _mm256_madd_epi16(halves.b, ones)};
}
// 8-bit codes would saturate: back to signed, then |code| * sign(code) a. 2 * 128 * 127 fits.
constexpr int kWideBias = 128;
ABACI_INLINE I32x16 dot_wide(I32x16 sum, U8x64 codes, Quad a) {
    const __m256i flip = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
    const auto half = [&](__m256i acc, __m256i code) {
        const __m256i w = _mm256_xor_si256(code, flip);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a.v, w));
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones));
    };
    return {half(sum.a, codes.a), half(sum.b, codes.b)};
}

ABACI_INLINE I32x16 pack_pairs(I32x16 x, I32x16 y) {
    return {_mm256_packs_epi32(x.a, y.a), _mm256_packs_epi32(x.b, y.b)};
}
ABACI_INLINE I32x16 round_pair_products(I32x16 x, I32x16 y) {
    return {_mm256_mulhrs_epi16(x.a, y.a), _mm256_mulhrs_epi16(x.b, y.b)};
}
ABACI_INLINE I32x16 add_pair_products(I32x16 sum, I32x16 a, I32x16 b) {
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(a.a, b.a)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(a.b, b.b))};
}

ABACI_INLINE void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}
ABACI_INLINE void prefetch_far(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}
ABACI_INLINE void prefetch_to_write(const float* p) {
    _m_prefetchw(const_cast<float*>(p));
}
ABACI_INLINE void set_float_modes() {
    _mm_setcsr(0x9FC0);
}

}  // namespace
}  // namespace abaci
