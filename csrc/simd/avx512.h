// Sixteen lanes on AVX-512. Included once, by targets/avx512_vnni.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/inline.h"

namespace abaci {
namespace {

struct F32x16 {
    __m512 v;
};
struct I32x16 {
    __m512i v;
};
struct U8x64 {
    __m512i v;
};
struct Quad {  // four activations in every 32-bit lane, or eight in every 64 bits
    __m512i v;
};

// Rows and half-panels that one pass of the matrix kernel keeps in registers.
#if defined(ABACI_SANITIZE)
constexpr int kTileRows = 2;  // checks multiply the code that eight would unroll
#else
constexpr int kTileRows = 8;
#endif
constexpr int kTileHalves = 2;
// Whether a store of sixteen lanes takes the time of more than one product, as on AMD's processors (Zen 4: one and a
// half).
inline bool has_slow_stores() {
    return __builtin_cpu_is("amd");
}
// Whether the processor's own prefetchers bring plain 4-bit codes for one row sooner than requests would, as on AMD's:
// those wait for places in the first-level cache's queue. Of more rows, or wider codes, they lose track.
inline bool follows_streams() {
    return __builtin_cpu_is("amd");
}
// Whether crossed products are faster than plain ones, as on AMD's processors, which add bytes on four units and
// multiply them on two. Results are the same; under sanitizers every processor runs them. See matmul/crossed-inl.h.
constexpr bool kHasCrossedProducts = true;
inline bool prefers_crossed_products() {
#if defined(ABACI_SANITIZE)
    return true;
#else
    return __builtin_cpu_is("amd");
#endif
}
// Queries that one pass of attention keeps in registers.
constexpr int kQueryRows = 8;

ABACI_INLINE F32x16 load(const float* p) {
    return {_mm512_loadu_ps(p)};
}
ABACI_INLINE void store(float* p, F32x16 a) {
    _mm512_storeu_ps(p, a.v);
}
ABACI_INLINE F32x16 load_first(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)};
}
ABACI_INLINE void store_first(float* p, F32x16 a, int n) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v);
}
ABACI_INLINE F32x16 splat(float x) {
    return {_mm512_set1_ps(x)};
}
ABACI_INLINE F32x16 zeros() {
    return {_mm512_setzero_ps()};
}
ABACI_INLINE F32x16 add(F32x16 a, F32x16 b) {
    return {_mm512_add_ps(a.v, b.v)};
}
ABACI_INLINE F32x16 sub(F32x16 a, F32x16 b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
ABACI_INLINE F32x16 mul(F32x16 a, F32x16 b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
ABACI_INLINE F32x16 div(F32x16 a, F32x16 b) {
    return {_mm512_div_ps(a.v, b.v)};
}
// a * b + c, rounded once.
ABACI_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// b where the comparison fails or an operand is NaN.
ABACI_INLINE F32x16 max(F32x16 a, F32x16 b) {
    return {_mm512_max_ps(a.v, b.v)};
}
ABACI_INLINE F32x16 min(F32x16 a, F32x16 b) {
    return {_mm512_min_ps(a.v, b.v)};
}
ABACI_INLINE F32x16 absolute(F32x16 a) {
    return {_mm512_abs_ps(a.v)};
}
// x where a < b, else y.
ABACI_INLINE F32x16 select_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// Lanes [begin, end) of a, elsewhere of b.
ABACI_INLINE F32x16 select_lanes(int begin, int end, F32x16 a, F32x16 b) {
    const uint32_t mask = ((1u << end) - 1) & ~((1u << begin) - 1);
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(mask), b.v, a.v)};
}

ABACI_INLINE F32x16 load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
ABACI_INLINE void store_f16(uint16_t* p, F32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
ABACI_INLINE F32x16 load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
// Sixteen signed or unsigned bytes.
ABACI_INLINE I32x16 load_i8(const uint8_t* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
ABACI_INLINE I32x16 load_u8(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

ABACI_INLINE I32x16 load(const int32_t* p) {
    return {_mm512_loadu_si512(p)};
}
ABACI_INLINE void store(int32_t* p, I32x16 a) {
    _mm512_storeu_si512(p, a.v);
}
ABACI_INLINE I32x16 splat(int32_t x) {
    return {_mm512_set1_epi32(x)};
}
ABACI_INLINE I32x16 add(I32x16 a, I32x16 b) {
    return {_mm512_add_epi32(a.v, b.v)};
}
ABACI_INLINE I32x16 sub(I32x16 a, I32x16 b) {
    return {_mm512_sub_epi32(a.v, b.v)};
}
ABACI_INLINE I32x16 bit_and(I32x16 a, I32x16 b) {
    return {_mm512_and_si512(a.v, b.v)};
}
ABACI_INLINE I32x16 bit_or(I32x16 a, I32x16 b) {
    return {_mm512_or_si512(a.v, b.v)};
}
template <int N>
ABACI_INLINE I32x16 shift_left(I32x16 a) {
    return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
ABACI_INLINE I32x16 shift_right(I32x16 a) {
    return {_mm512_srli_epi32(a.v, N)};
}
ABACI_INLINE F32x16 to_floats(I32x16 a) {
    return {_mm512_cvtepi32_ps(a.v)};
}
ABACI_INLINE I32x16 round_to_int(F32x16 a) {
    return {_mm512_cvtps_epi32(a.v)};
}
ABACI_INLINE F32x16 as_floats(I32x16 a) {
    return {_mm512_castsi512_ps(a.v)};
}
ABACI_INLINE I32x16 as_ints(F32x16 a) {
    return {_mm512_castps_si512(a.v)};
}
ABACI_INLINE void store_low_halves(int16_t* p, I32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}
ABACI_INLINE void store_low_bytes(int8_t* p, I32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

// Lanes i, i + 8, then i + 4, i + 2, i + 1: the one order in which lanes are added.
ABACI_INLINE float reduce_add(F32x16 a) {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ABACI_INLINE float reduce_max(F32x16 a) {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
ABACI_INLINE int32_t reduce_add(I32x16 a) {
    return _mm512_reduce_add_epi32(a.v);
}
// In every lane the largest of lanes 0..7, or of 8..15, whichever it belongs to.
ABACI_INLINE F32x16 largest_of_eight(F32x16 a) {
    const __m512 two = _mm512_max_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0xB1));
    const __m512 four = _mm512_max_ps(two, _mm512_permute_ps(two, 0x4E));
    return {_mm512_max_ps(four, _mm512_permute_ps(four, 0xB1))};
}

ABACI_INLINE U8x64 load_bytes(const uint8_t* p) {
    return {_mm512_load_si512(p)};
}
ABACI_INLINE void store_bytes(uint8_t* p, U8x64 a) {
    _mm512_store_si512(p, a.v);
}
ABACI_INLINE U8x64 low_nibbles(U8x64 a) {
    return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))};
}
ABACI_INLINE U8x64 high_nibbles(U8x64 a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
template <int From, int To>
ABACI_INLINE __m512i move_bits(__m512i a) {
    if constexpr (From < To) return _mm512_slli_epi16(a, To - From);
    if constexpr (From > To) return _mm512_srli_epi16(a, From - To);
    return a;
}
// Bits From.. of each byte, Count of them.
template <int From, int Count>
ABACI_INLINE U8x64 bits_of(U8x64 plane) {
    return {_mm512_and_si512(move_bits<From, 0>(plane.v), _mm512_set1_epi8((1 << Count) - 1))};
}
// code | (plane's bits From.., Count of them, moved to bit To).
template <int From, int To, int Count>
ABACI_INLINE U8x64 merge_bits(U8x64 code, U8x64 plane) {
    const __m512i mask = _mm512_set1_epi8(((1 << Count) - 1) << To);
    const __m512i moved = move_bits<From, To>(plane.v);
    return {_mm512_ternarylogic_epi32(code.v, moved, mask, 0xF8)};  // code | (moved & mask)
}
// Entry `code` of a table of 16 bytes, 16-byte aligned; codes are below 16.
ABACI_INLINE U8x64 look_up(const uint8_t* table, U8x64 codes) {
    const __m128i entries = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), codes.v)};
}

ABACI_INLINE Quad broadcast_quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return {_mm512_set1_epi32(four)};
}
// Eight activations: the first four in even lanes, the others in odd ones.
ABACI_INLINE Quad broadcast_quads(const int8_t* p) {
    int64_t eight;
    std::memcpy(&eight, p, 8);
    return {_mm512_set1_epi64(eight)};
}
// 64 bytes of which the first and the second 32 take turns, four by four.
ABACI_INLINE __m512i interleaved_quads(const int8_t* from) {
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm512_permutexvar_epi32(order, _mm512_loadu_si512(from));
}
ABACI_INLINE void interleave_quads(const int8_t* from, int8_t* to) {
    _mm512_storeu_si512(to, interleaved_quads(from));
}
// The same with three quads of each half moved as crossed products take them, and the sums that those of each 32 start
// from. See matmul/crossed-inl.h.
constexpr int8_t kCrossedFirst = 127, kCrossedSecond = -1;
ABACI_INLINE void interleave_crossed_quads(const int8_t* from, int8_t* to, int32_t* starts) {
    constexpr uint64_t each = 0x0101010101010101;
    constexpr auto first = static_cast<int64_t>(each * static_cast<uint8_t>(kCrossedFirst));
    constexpr auto second = static_cast<int64_t>(each * static_cast<uint8_t>(kCrossedSecond));
    const __m512i moves = _mm512_setr_epi64(first, first, first, 0, second, second, second, 0);
    const __m512i moved = _mm512_add_epi8(interleaved_quads(from), moves);
    _mm512_storeu_si512(to, moved);
    const __m256i x = _mm256_maskz_mov_epi64(7, _mm512_castsi512_si256(moved)), y = _mm512_extracti64x4_epi64(moved, 1);
    const __m256i products = _mm256_dpbusd_epi32(_mm256_setzero_si256(), x, y);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(products), _mm256_extracti128_si256(products, 1));
    const __m128i sums = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    const __m128i of_zeros = _mm_set1_epi32(12 * kCrossedFirst * kCrossedSecond);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(starts), _mm_sub_epi32(of_zeros, sums));
}
// 32 values, three quads of each half moved; where their crossed products start.
ABACI_INLINE int32_t move_crossed_quads(const int8_t* from, int8_t* to) {
    constexpr int32_t each = 0x01010101, first = kCrossedFirst * each, second = -1;
    static_assert(kCrossedSecond == -1);
    const __m256i moves = _mm256_setr_epi32(first, first, first, 0, second, second, second, 0);
    const __m256i moved = _mm256_add_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), moves);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), moved);
    const __m128i x = _mm_maskz_mov_epi32(7, _mm256_castsi256_si128(moved)), y = _mm256_extracti128_si256(moved, 1);
    const __m128i products = _mm_dpbusd_epi32(_mm_setzero_si128(), x, y);
    const __m128i two = _mm_add_epi32(products, _mm_unpackhi_epi64(products, products));
    return 12 * kCrossedFirst * kCrossedSecond - _mm_cvtsi128_si32(two) - _mm_extract_epi32(two, 1);
}
// Adds the dot product of each lane's four codes with the quad. Codes of at most 7 bits.
ABACI_INLINE I32x16 dot(I32x16 sum, U8x64 codes, Quad a) {
    return {_mm512_dpbusd_epi32(sum.v, codes.v, a.v)};
}
// No codes: one instruction adds to whole lanes here. See simd/avx2.h.
constexpr int kHalfSumBits = 0;
ABACI_INLINE I32x16 dot_in_halves(I32x16 sum, U8x64 codes, Quad a) {
    return dot(sum, codes, a);
}
ABACI_INLINE I32x16 add_halves(I32x16 sum) {
    return sum;
}
// Where crossed products of two groups begin: `starts` of a row, `of_zeros` of the outputs of each part.
ABACI_INLINE void start_crossed(I32x16 (&sums)[2], const int32_t* starts, const I32x16 (&of_zeros)[2]) {
    int64_t two;
    std::memcpy(&two, starts, 8);
    const I32x16 start = {_mm512_set1_epi64(two)};
    sums[0] = sub(start, of_zeros[0]);
    sums[1] = sub(start, of_zeros[1]);
}
// Adds the crossed products of each lane's four codes of two quads with four values of each.
ABACI_INLINE I32x16 dot_crossed(I32x16 sum, U8x64 first_codes, U8x64 second_codes, Quad first, Quad second) {
    const __m512i not_negative = _mm512_add_epi8(second_codes.v, first.v);
    return {_mm512_dpbusd_epi32(sum.v, not_negative, _mm512_add_epi8(first_codes.v, second.v))};
}
// The same with a row of zeros.
ABACI_INLINE I32x16 dot_crossed_zeros(I32x16 sum, U8x64 first_codes, U8x64 second_codes) {
    return dot_crossed(sum, first_codes, second_codes, {_mm512_set1_epi8(kCrossedFirst)},
                       {_mm512_set1_epi8(kCrossedSecond)});
}
// dot() of 8-bit codes, of which kWideBias has been subtracted.
constexpr int kWideBias = 0;
ABACI_INLINE I32x16 dot_wide(I32x16 sum, U8x64 codes, Quad a) {
    return dot(sum, codes, a);
}

// Lanes as two int16 each, saturated: of every four lanes, lanes 0, 1 of a as the first lane, 2, 3 of a as the second,
// then those of b.
ABACI_INLINE I32x16 pack_pairs(I32x16 a, I32x16 b) {
    return {_mm512_packs_epi32(a.v, b.v)};
}
// (a * b + 2^14) >> 15 of each int16.
ABACI_INLINE I32x16 round_pair_products(I32x16 a, I32x16 b) {
    return {_mm512_mulhrs_epi16(a.v, b.v)};
}
// sum + the dot product of each lane's two int16.
ABACI_INLINE I32x16 add_pair_products(I32x16 sum, I32x16 a, I32x16 b) {
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
}

ABACI_INLINE void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}
// Into the second-level cache.
ABACI_INLINE void prefetch_far(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}
ABACI_INLINE void prefetch_to_write(const float* p) {
    _m_prefetchw(const_cast<float*>(p));
}
// Round to nearest even; denormals are zero, in and out.
ABACI_INLINE void set_float_modes() {
    _mm_setcsr(0x9FC0);
}

}  // namespace
}  // namespace abaci
