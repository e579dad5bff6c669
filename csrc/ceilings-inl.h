// What one core can do at best: integer products in registers, and reading memory. For benchmarks.
#pragma once

#include "kernel_table.h"

namespace abaci {
namespace {

// Runs `rounds` rounds of independent dots; returns the operations done (a multiplication and an addition count as
// two).
int64_t int8_peak(int64_t rounds, int32_t* sink) {
    constexpr int chains = 12;
    alignas(64) uint8_t bytes[64];
    int8_t quad[4] = {1, -2, 3, -4};
    for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>((*sink + i) & 15);
    const U8x64 codes = load_bytes(bytes);
    const Quad a = broadcast_quad(quad);
    I32x16 sums[chains];
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sums[i] = splat(i);
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) sums[i] = dot(sums[i], codes, a);
    }
    int32_t total = 0;
    for (int i = 0; i < chains; ++i) total ^= reduce_add(sums[i]);
    *sink = total;
    return rounds * chains * 128;
}

// Reads `num_bytes` (a multiple of 512) in order.
int32_t read_memory(const uint8_t* p, int64_t num_bytes) {
    I32x16 sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = splat(0);
    for (int64_t at = 0; at < num_bytes; at += 512) {
        prefetch(p + at + 4096);
        prefetch(p + at + 4096 + 256);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) sums[i] = bit_or(sums[i], load(reinterpret_cast<const int32_t*>(p + at + 64 * i)));
    }
    int32_t total = 0;
    for (int i = 0; i < 8; ++i) total ^= reduce_add(sums[i]);
    return total;
}

}  // namespace
}  // namespace abaci
