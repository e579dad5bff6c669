// The convolution and the recurrence of a gated delta net (Yang et al. 2024), token by token.
//
// Lanes are value columns, and every sum runs over the keys in order, so a state depends on nothing but its tokens.
#pragma once

#include "elementwise-inl.h"

namespace abaci {
namespace {

void convolve(const ConvolutionTask& task) {
    for_sixteens(task.channels, [&](int64_t c, int lanes) __attribute__((always_inline)) {
        F32x16 sum = zeros();
        for (int32_t i = 0; i < task.kernel_size; ++i)
            sum =
                fma(load_lanes(task.inputs[i] + c, lanes), load_lanes(task.kernel + i * task.channels + c, lanes), sum);
        store_lanes(task.output + c, silu(sum), lanes);
    });
}

// Columns [begin, begin + 16 * Blocks) of the state, of which the last sixteen may be fewer, `lanes`.
template <int Blocks>
ABACI_INLINE void delta_columns(const DeltaTask& task, int32_t token, int32_t begin, int lanes) {
    const float* query = task.query + token * task.stride;
    const float* key = task.key + token * task.stride;
    const F32x16 decay = splat(task.decay[token * task.factor_stride]);
    const F32x16 share = splat(task.share[token * task.factor_stride]);
    const auto width = [&](int b) __attribute__((always_inline)) { return b + 1 < Blocks ? 16 : lanes; };
    F32x16 known[Blocks], read[Blocks];
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; ++b) known[b] = read[b] = zeros();
    float* state = task.state + begin;
    for (int32_t k = 0; k < task.key_dim; ++k, state += task.value_dim) {
        const F32x16 at = splat(key[k]);
#pragma GCC unroll 4
        for (int b = 0; b < Blocks; ++b) {
            const F32x16 kept = mul(load_lanes(state + 16 * b, width(b)), decay);
            store_lanes(state + 16 * b, kept, width(b));
            known[b] = fma(kept, at, known[b]);
        }
    }
    F32x16 correction[Blocks];
    const float* value = task.value + token * task.stride + begin;
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; ++b) correction[b] = mul(sub(load_lanes(value + 16 * b, width(b)), known[b]), share);
    state = task.state + begin;
    for (int32_t k = 0; k < task.key_dim; ++k, state += task.value_dim) {
        const F32x16 at = splat(key[k]), asked = splat(query[k]);
#pragma GCC unroll 4
        for (int b = 0; b < Blocks; ++b) {
            const F32x16 next = fma(at, correction[b], load_lanes(state + 16 * b, width(b)));
            store_lanes(state + 16 * b, next, width(b));
            read[b] = fma(next, asked, read[b]);
        }
    }
    float* out = task.output + token * task.output_stride + begin;
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; ++b) store_lanes(out + 16 * b, read[b], width(b));
}

void delta_rule(const DeltaTask& task) {
    for (int32_t token = 0; token < task.num_tokens; ++token) {
        int32_t begin = 0;
        for (; begin + 64 <= task.value_dim; begin += 64) delta_columns<4>(task, token, begin, 16);
        for (; begin < task.value_dim; begin += 16) {
            const int32_t left = task.value_dim - begin;
            delta_columns<1>(task, token, begin, left < 16 ? left : 16);
        }
    }
}

}  // namespace
}  // namespace abaci
