// Everything that works on one row: norms, rotation, gates, quantisation of activations, exponentials for sampling.
#pragma once

#include "kernel_table.h"
#include "math-inl.h"

namespace abaci {
namespace {

// Calls step(index, lanes) over n elements in sixteens; lanes < 16 only at the end.
template <class Step>
ABACI_INLINE void for_sixteens(int64_t n, Step step) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) step(i, 16);
    if (i < n) step(i, static_cast<int>(n - i));
}
ABACI_INLINE F32x16 load_lanes(const float* p, int lanes) {
    return lanes == 16 ? load(p) : load_first(p, lanes);
}
ABACI_INLINE void store_lanes(float* p, F32x16 a, int lanes) {
    if (lanes == 16) {
        store(p, a);
    } else {
        store_first(p, a, lanes);
    }
}

// Below this a group counts as zero: its scale's inverse must stay finite.
constexpr float kSmallestMaximum = 1e-30f;
// What a group's values reach: with a 4-bit code added they still fit 8 bits, as crossed products need.
constexpr float kMostBelow = 127.0f, kMostAbove = 113.0f;
// What the positive values of a group may sum to, and the negative ones: its dot product with 4-bit codes, 15 times
// that at most, fits 16 bits. Values of at most kFewLevels cannot exceed it.
constexpr int kLargestOneSidedSum = 2184;
constexpr float kFewLevels = kLargestOneSidedSum / kGroup;

struct QuantisedGroup {
    I32x16 low, high;
    int32_t first, sum;  // of the first 16 values, of all
    float scale;

    ABACI_INLINE QuantisedGroup(F32x16 x, F32x16 y, float scale_of_all, float below, float above)
        : scale(scale_of_all) {
        const F32x16 inverse = splat(scale != 0.0f ? 1.0f / scale : 0.0f);
        const auto round = [&](F32x16 values) __attribute__((always_inline)) {
            return round_to_int(min(max(mul(values, inverse), splat(-below)), splat(above)));
        };
        low = round(x);
        high = round(y);
        first = reduce_add(low);
        sum = first + reduce_add(high);
    }
    ABACI_INLINE bool is_one_sided() const {
        const int32_t excess = sum < 0 ? -sum : sum;
        if (excess <= 2 * kLargestOneSidedSum - 127 * kGroup) return false;
        const F32x16 magnitudes = add(absolute(to_floats(low)), absolute(to_floats(high)));
        return static_cast<int32_t>(reduce_add(magnitudes)) + excess > 2 * kLargestOneSidedSum;
    }
};

// One group of 32: value = x / scale to nearest even. The scale's sign makes the x of the largest magnitude the least
// value. |scale| is that magnitude / 127, or the largest one of the other sign / 113, whichever is more; where nearly
// all are large and of one sign, the largest magnitude / kFewLevels. Not a number becomes the least value.
ABACI_INLINE QuantisedGroup quantise_group(F32x16 low, F32x16 high) {
    const float above = reduce_max(max(low, high)), below = reduce_max(max(sub(zeros(), low), sub(zeros(), high)));
    const bool is_turned = above > below;
    const float largest = is_turned ? above : below;
    const auto scale_of = [&](float magnitude) __attribute__((always_inline)) {
        return largest > kSmallestMaximum ? is_turned ? -magnitude : magnitude : 0.0f;
    };
    const float of_largest = largest * (1.0f / kMostBelow),
                of_others = (is_turned ? below : above) * (1.0f / kMostAbove);
    const QuantisedGroup group(low, high, scale_of(of_others > of_largest ? of_others : of_largest), kMostBelow,
                               kMostAbove);
    if (!group.is_one_sided()) return group;
    return QuantisedGroup(low, high, scale_of(largest * (1.0f / kFewLevels)), kFewLevels, kFewLevels);
}

void quantise_row(const float* x, int64_t columns, const QuantiseTarget& out) {
    const int64_t num_groups = columns / kGroup;
    for (int64_t g = 0; g < num_groups; ++g) {
        const QuantisedGroup group = quantise_group(load(x + g * kGroup), load(x + g * kGroup + 16));
        store_low_bytes(out.values + g * kGroup, group.low);
        store_low_bytes(out.values + g * kGroup + 16, group.high);
        out.scales[g] = group.scale;
        const auto put = [&](GroupSum kind, int32_t sum) {
            out.sums[static_cast<int>(kind) * out.row_groups + g] = sum;
        };
        put(GroupSum::Whole, group.sum);
        put(GroupSum::First, group.first);
    }
}

void rms_norm(const NormTask& task) {
    F32x16 squares = zeros();
    for_sixteens(task.columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const F32x16 x = load_lanes(task.input + i, lanes);
        squares = fma(x, x, squares);
    });
    const float mean = reduce_add(squares) / static_cast<float>(task.columns);
    const F32x16 factor = splat(1.0f / __builtin_sqrtf(mean + task.epsilon));
    for_sixteens(task.columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const F32x16 x = mul(load_lanes(task.input + i, lanes), factor);
        store_lanes(task.output + i, mul(x, load_lanes(task.weight + i, lanes)), lanes);
    });
    if (task.quantised.values) quantise_row(task.output, task.columns, task.quantised);
}

void rope(const RopeTask& task) {
    const int half = task.dim / 2;
    float* head = task.head;
    if (!task.interleaved) {
        for_sixteens(half, [&](int64_t i, int lanes) __attribute__((always_inline)) {
            const F32x16 a = load_lanes(head + i, lanes), b = load_lanes(head + half + i, lanes);
            const F32x16 c = load_lanes(task.cosines + i, lanes), s = load_lanes(task.sines + i, lanes);
            store_lanes(head + i, sub(mul(a, c), mul(b, s)), lanes);
            store_lanes(head + half + i, add(mul(b, c), mul(a, s)), lanes);
        });
        return;
    }
    for (int i = 0; i < half; ++i) {
        const float a = head[2 * i], b = head[2 * i + 1], c = task.cosines[i], s = task.sines[i];
        head[2 * i] = a * c - b * s;
        head[2 * i + 1] = b * c + a * s;
    }
}

// Each stage adds and subtracts the two halves and interleaves the results, so that the next one finds its pairs in the
// halves again; after as many stages as the size has bits every value is where it began.
void mix(float* x, int64_t count, int32_t size) {
    float other[kMaxHeadDim];
    const float factor = 1.0f / __builtin_sqrtf(static_cast<float>(size));
    for (float* const end = x + count; x < end; x += size) {
        for (int32_t stage = 1; stage < size; stage *= 2) {
            for (int32_t i = 0; i < size / 2; ++i) {
                const float a = x[i], b = x[i + size / 2];
                other[2 * i] = a + b;
                other[2 * i + 1] = a - b;
            }
            std::memcpy(x, other, size * sizeof *x);
        }
        for (int32_t i = 0; i < size; ++i) x[i] *= factor;
    }
}

// x * sigmoid(x).
ABACI_INLINE F32x16 silu(F32x16 x) {
    return div(x, add(splat(1.0f), exp(sub(zeros(), x))));
}

// The tanh form of GELU (Hendrycks & Gimpel 2016): with u = sqrt(2/pi) (x + 0.044715 x^3), x (1 + tanh u) / 2 = x
// sigmoid(2u).
ABACI_INLINE F32x16 gelu_tanh(F32x16 x) {
    const F32x16 cubic = fma(mul(mul(x, x), x), splat(0.044715f), x);
    return div(x, add(splat(1.0f), exp(mul(cubic, splat(-1.59576912f)))));
}

ABACI_INLINE F32x16 sigmoid(F32x16 x) {
    return div(splat(1.0f), add(splat(1.0f), exp(sub(zeros(), x))));
}

ABACI_INLINE F32x16 gate_silu(F32x16 gate, F32x16 up) {
    return mul(silu(gate), up);
}
ABACI_INLINE F32x16 gate_gelu_tanh(F32x16 gate, F32x16 up) {
    return mul(gelu_tanh(gate), up);
}
ABACI_INLINE F32x16 gate_sigmoid(F32x16 gate, F32x16 up) {
    return mul(sigmoid(gate), up);
}
ABACI_INLINE F32x16 gate_clamped_swiglu(F32x16 gate, F32x16 up) {
    const F32x16 g = min(gate, splat(7.0f)), u = min(max(up, splat(-7.0f)), splat(7.0f));
    return mul(mul(g, sigmoid(mul(g, splat(1.702f)))), add(u, splat(1.0f)));
}

template <F32x16 (*Gate)(F32x16, F32x16)>
ABACI_INLINE void gate_row(const float* gate, const float* up, int64_t columns, float* out) {
    for_sixteens(columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_lanes(out + i, Gate(load_lanes(gate + i, lanes), load_lanes(up + i, lanes)), lanes);
    });
}

void gated(const float* gate, const float* up, int64_t columns, ActivationKind kind, float* out) {
    switch (kind) {
        case ActivationKind::Silu:
            return gate_row<gate_silu>(gate, up, columns, out);
        case ActivationKind::GeluTanh:
            return gate_row<gate_gelu_tanh>(gate, up, columns, out);
        case ActivationKind::Sigmoid:
            return gate_row<gate_sigmoid>(gate, up, columns, out);
        case ActivationKind::ClampedSwiglu:
            return gate_row<gate_clamped_swiglu>(gate, up, columns, out);
    }
}

void add_scaled(const float* x, const float* y, float scale, int64_t columns, float* out) {
    for_sixteens(columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_lanes(out + i, add(load_lanes(x + i, lanes), mul(load_lanes(y + i, lanes), splat(scale))), lanes);
    });
}

void unit(const float* x, int64_t columns, float epsilon, float scale, float* out) {
    F32x16 squares = zeros();
    for_sixteens(columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const F32x16 v = load_lanes(x + i, lanes);
        squares = fma(v, v, squares);
    });
    const F32x16 factor = splat(scale / __builtin_sqrtf(reduce_add(squares) + epsilon));
    for_sixteens(columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_lanes(out + i, mul(load_lanes(x + i, lanes), factor), lanes);
    });
}

void add_rows(const float* x, const float* y, int64_t columns, float* out) {
    for_sixteens(columns, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_lanes(out + i, add(load_lanes(x + i, lanes), load_lanes(y + i, lanes)), lanes);
    });
}

float row_max(const float* x, int64_t n) {
    F32x16 largest = splat(-__builtin_inff());
    for_sixteens(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const F32x16 v = select_lanes(0, lanes, load_lanes(x + i, lanes), splat(-__builtin_inff()));
        largest = max(v, largest);
    });
    return reduce_max(largest);
}

void block_maxima(const float* x, int64_t n, float* maxima) {
    for (int64_t begin = 0; begin < n; begin += kMaxBlock)
        maxima[begin / kMaxBlock] = row_max(x + begin, n - begin < kMaxBlock ? n - begin : kMaxBlock);
}

void exp_values(const float* x, int64_t n, float shift, float scale, float* out) {
    for_sixteens(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store_lanes(out + i, exp(mul(sub(load_lanes(x + i, lanes), splat(shift)), splat(scale))), lanes);
    });
}

void exp_sums(const float* x, int64_t n, float shift, float scale, float* block_sums) {
    for (int64_t begin = 0; begin < n; begin += kSumBlock) {
        const int64_t length = n - begin < kSumBlock ? n - begin : kSumBlock;
        F32x16 sum = zeros();
        for_sixteens(length, [&](int64_t i, int lanes) __attribute__((always_inline)) {
            const F32x16 value = exp(mul(sub(load_lanes(x + begin + i, lanes), splat(shift)), splat(scale)));
            sum = add(sum, select_lanes(0, lanes, value, zeros()));
        });
        block_sums[begin / kSumBlock] = reduce_add(sum);
    }
}

}  // namespace
}  // namespace abaci
