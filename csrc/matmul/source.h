// Blocks of weights as files store them: their codes and scales. Layouts are those of GGUF (ggml-quants.c), but for the
// last three, which integer checkpoints are brought into:
//
//   INT4      float16 scale, uint8 zero point 0..16, 16 bytes of nibbles as in Q4_0
//   INT4_128  float16 scale, uint8 zero point 0..16, four times 16 bytes of nibbles as in Q4_0
//   INT8      float32 scale, 32 int8
//
// Included by pack.cpp alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "matmul/grids.h"
#include "matmul/layout.h"

namespace abaci {
namespace {

template <class T>
T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

template <class T>
void store(uint8_t* p, T value) {
    std::memcpy(p, &value, sizeof value);
}

template <Format>
constexpr SourceBlock kSourceBlock = {};
template <>
constexpr SourceBlock kSourceBlock<Format::Q4_0> = {32, 18};
template <>
constexpr SourceBlock kSourceBlock<Format::Q4_1> = {32, 20};
template <>
constexpr SourceBlock kSourceBlock<Format::Q5_0> = {32, 22};
template <>
constexpr SourceBlock kSourceBlock<Format::Q5_1> = {32, 24};
template <>
constexpr SourceBlock kSourceBlock<Format::Q8_0> = {32, 34};
template <>
constexpr SourceBlock kSourceBlock<Format::Q4_K> = {256, 144};
template <>
constexpr SourceBlock kSourceBlock<Format::Q5_K> = {256, 176};
template <>
constexpr SourceBlock kSourceBlock<Format::Q6_K> = {256, 210};
template <>
constexpr SourceBlock kSourceBlock<Format::Q2_K> = {256, 84};
template <>
constexpr SourceBlock kSourceBlock<Format::Q3_K> = {256, 110};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ4_NL> = {32, 18};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ4_XS> = {256, 136};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ3_S> = {256, 110};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ3_XXS> = {256, 98};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ2_S> = {256, 82};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ2_XS> = {256, 74};
template <>
constexpr SourceBlock kSourceBlock<Format::IQ2_XXS> = {256, 66};
template <>
constexpr SourceBlock kSourceBlock<Format::MXFP4> = {32, 17};
template <>
constexpr SourceBlock kSourceBlock<Format::INT4> = {32, 19};
template <>
constexpr SourceBlock kSourceBlock<Format::INT4_128> = {128, 67};
template <>
constexpr SourceBlock kSourceBlock<Format::INT8> = {32, 36};

constexpr uint64_t kLowNibbles = 0x0F0F0F0F0F0F0F0F;

// Bits 0..3 of a byte to bit 0 of four bytes, bits 4..7 to bit 1: two quads of a 1-bit plane.
struct BitPlane {
    uint32_t words[256];
    constexpr BitPlane() : words{} {
        for (int b = 0; b < 256; ++b)
            for (int i = 0; i < 4; ++i) words[b] |= ((b >> i & 1) | (b >> (4 + i) & 1) << 1) << (8 * i);
    }
};
constexpr BitPlane kBitPlane;

// The codes of one group of 32 inputs of one row, in order; Q5_0 and Q5_1 hold the fifth bits apart, as in layout.h.
struct Codes {
    uint64_t eights[4];
    uint32_t fifth_bits = 0;
};

// Nibbles as Q4_0 keeps them: inputs 0..15 in the low halves of 16 bytes, 16..31 in the high halves.
inline Codes split_nibbles(const uint8_t* p) {
    const uint64_t a = load<uint64_t>(p), b = load<uint64_t>(p + 8);
    return {{a & kLowNibbles, b & kLowNibbles, (a >> 4) & kLowNibbles, (b >> 4) & kLowNibbles}, 0};
}

// Bits `shift`.. under `mask` of 32 bytes, moved up by `up`.
inline Codes bits_of_32(const uint8_t* p, int shift, uint64_t mask, int up = 0) {
    Codes codes;
    for (int i = 0; i < 4; ++i) codes.eights[i] = ((load<uint64_t>(p + 8 * i) >> shift) & mask) << up;
    return codes;
}

inline Codes operator|(Codes a, const Codes& b) {
    for (int i = 0; i < 4; ++i) a.eights[i] |= b.eights[i];
    return a;
}

constexpr uint64_t kOnes = 0x0101010101010101;

// From 32 bits in order of input.
inline uint32_t fifth_bits(const uint8_t* bits) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word |= kBitPlane.words[bits[i]] << (2 * i);
    return word;
}

// Eight bits to eight bytes.
inline uint64_t spread_bits(uint64_t x) {
    x = (x | x << 28) & 0x0000000F0000000F;
    x = (x | x << 14) & 0x0003000300030003;
    return (x | x << 7) & kOnes;
}
// Eight pairs of bits to eight bytes.
inline uint64_t spread_pairs(uint64_t x) {
    x = (x | x << 24) & 0x000000FF000000FF;
    x = (x | x << 12) & 0x000F000F000F000F;
    return (x | x << 6) & 0x0303030303030303;
}
// Four nibbles to four bytes.
inline uint64_t spread_nibbles(uint64_t x) {
    x = (x | x << 8) & 0x00FF00FF;
    return (x | x << 4) & 0x0F0F0F0F;
}
// Seven stored signs; the eighth makes their number even.
inline uint64_t eight_signs(uint32_t seven) {
    return seven | static_cast<uint32_t>(__builtin_parity(seven)) << 7;
}

// Eight codes of Iq2Table: magnitudes from a grid, signs one bit each.
inline uint64_t iq2_codes(uint16_t grid, uint64_t signs) {
    return spread_pairs(grid) | spread_bits(signs) << 2;
}
// Eight codes of Iq3XxsTable or Iq3STable.
inline uint64_t iq3_codes(uint16_t first, uint16_t second, uint64_t signs) {
    return spread_nibbles(first) | spread_nibbles(second) << 32 | spread_bits(signs) << 3;
}

// The codes of group `group` (of those in a block) of a source block.
template <Format F>
Codes read_codes(const uint8_t* block, int group) {
    Codes codes{};
    if constexpr (F == Format::Q4_0 || F == Format::IQ4_NL) {
        return split_nibbles(block + 2);
    } else if constexpr (F == Format::Q4_1) {
        return split_nibbles(block + 4);
    } else if constexpr (F == Format::Q5_0) {
        codes = split_nibbles(block + 6);
        codes.fifth_bits = fifth_bits(block + 2);
    } else if constexpr (F == Format::Q5_1) {
        codes = split_nibbles(block + 8);
        codes.fifth_bits = fifth_bits(block + 4);
    } else if constexpr (F == Format::Q8_0) {
        for (int i = 0; i < 4; ++i) codes.eights[i] = load<uint64_t>(block + 2 + 8 * i) ^ 0x8080808080808080;
    } else if constexpr (F == Format::Q4_K) {
        return bits_of_32(block + 16 + 32 * (group / 2), 4 * (group % 2), kLowNibbles);
    } else if constexpr (F == Format::Q5_K) {
        return bits_of_32(block + 48 + 32 * (group / 2), 4 * (group % 2), kLowNibbles) |
               bits_of_32(block + 16, group, kOnes, 4);
    } else if constexpr (F == Format::Q6_K) {
        const int half = group / 4, part = group % 4;
        return bits_of_32(block + 64 * half + 32 * (part % 2), 4 * (part / 2), kLowNibbles) |
               bits_of_32(block + 128 + 32 * half, 2 * part, 3 * kOnes, 4);
    } else if constexpr (F == Format::Q2_K) {
        return bits_of_32(block + 16 + 32 * (group / 4), 2 * (group % 4), 3 * kOnes);
    } else if constexpr (F == Format::Q3_K) {
        return bits_of_32(block + 32 + 32 * (group / 4), 2 * (group % 4), 3 * kOnes) |
               bits_of_32(block, group, kOnes, 2);
    } else if constexpr (F == Format::IQ4_XS) {
        return split_nibbles(block + 8 + 16 * group);
    } else if constexpr (F == Format::IQ3_S) {
        const uint8_t *low = block + 2 + 8 * group, *signs = block + 74 + 4 * group;
        const uint32_t high = block[66 + group];
        const auto grid = [&](int l) { return kIq3SGrid[low[l] | (high >> l & 1) << 8]; };
        for (int i = 0; i < 4; ++i) codes.eights[i] = iq3_codes(grid(2 * i), grid(2 * i + 1), signs[i]);
    } else if constexpr (F == Format::IQ3_XXS) {
        const uint8_t* index = block + 2 + 8 * group;
        const uint32_t signs = load<uint32_t>(block + 66 + 4 * group);
        for (int i = 0; i < 4; ++i)
            codes.eights[i] = iq3_codes(kIq3XxsGrid[index[2 * i]], kIq3XxsGrid[index[2 * i + 1]],
                                        eight_signs(signs >> (7 * i) & 127));
    } else if constexpr (F == Format::IQ2_S) {
        const uint8_t *low = block + 2 + 4 * group, *signs = block + 34 + 4 * group;
        const uint32_t high = block[66 + group];
        for (int i = 0; i < 4; ++i)
            codes.eights[i] = iq2_codes(kIq2SGrid[low[i] | (high >> (2 * i) & 3) << 8], signs[i]);
    } else if constexpr (F == Format::IQ2_XS) {
        for (int i = 0; i < 4; ++i) {
            const uint32_t index = load<uint16_t>(block + 2 + 8 * group + 2 * i);
            codes.eights[i] = iq2_codes(kIq2XsGrid[index & 511], eight_signs(index >> 9));
        }
    } else if constexpr (F == Format::IQ2_XXS) {
        const uint8_t* index = block + 2 + 8 * group;
        const uint32_t signs = load<uint32_t>(index + 4);
        for (int i = 0; i < 4; ++i)
            codes.eights[i] = iq2_codes(kIq2XxsGrid[index[i]], eight_signs(signs >> (7 * i) & 127));
    } else if constexpr (F == Format::MXFP4) {
        return split_nibbles(block + 1);
    } else if constexpr (F == Format::INT4 || F == Format::INT4_128) {
        return split_nibbles(block + 3 + 16 * group);
    } else {
        static_assert(F == Format::INT8);
        for (int i = 0; i < 4; ++i) codes.eights[i] = load<uint64_t>(block + 4 + 8 * i) ^ 0x8080808080808080;
    }
    return codes;
}

// Where a block holds its float16 scale; a float16 minimum follows.
template <Format F>
constexpr int kHalfAt = F == Format::Q6_K   ? 208
                        : F == Format::Q2_K ? 80
                        : F == Format::Q3_K ? 108
                                            : 0;

// Eight 6-bit scales and minimums from the 12 bytes of Q4_K and Q5_K.
inline void read_pairs(const uint8_t* q, uint8_t scales[8], uint8_t minimums[8]) {
    for (int i = 0; i < 4; ++i) {
        scales[i] = q[i] & 63;
        minimums[i] = q[i + 4] & 63;
        scales[i + 4] = (q[i + 8] & 15) | (q[i] >> 6) << 4;
        minimums[i + 4] = (q[i + 8] >> 4) | (q[i + 4] >> 6) << 4;
    }
}

// The second level of a block's scales, as Bytes16, Bytes32 and NibblePairs have it: part i of 16 or 32 inputs.
template <Format F>
int read_part_scale(const uint8_t* block, int i) {
    const auto nibble = [&](int offset) { return block[offset + i / 2] >> (4 * (i % 2)) & 15; };
    if constexpr (F == Format::Q6_K) return static_cast<int8_t>(block[192 + i]);
    if constexpr (F == Format::Q2_K) return block[i];
    if constexpr (F == Format::Q3_K)
        return ((block[96 + i % 8] >> (4 * (i / 8)) & 15) | (block[104 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
    if constexpr (F == Format::IQ4_XS) return (nibble(4) | (load<uint16_t>(block + 2) >> (2 * i) & 3) << 4) - 32;
    if constexpr (F == Format::IQ3_S) return 2 * nibble(106) + 1;
    if constexpr (F == Format::IQ3_XXS) return 2 * (block[69 + 4 * i] >> 4) + 1;
    if constexpr (F == Format::IQ2_S || F == Format::IQ2_XS) return 2 * nibble(F == Format::IQ2_S ? 74 : 66) + 1;
    if constexpr (F == Format::IQ2_XXS) return 2 * (block[9 + 8 * (i / 2)] >> 4) + 1;
}

}  // namespace
}  // namespace abaci
