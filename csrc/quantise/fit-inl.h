// Fits codes, a scale and perhaps an offset to a few dozen values, by weighted least squares.
//
// For given codes the best scale and offset have a closed form; for a given scale and offset the best codes are the
// nearest ones. So: round with each of a series of scales, solve for the best scale of those codes, keep the codes with
// the least error, and repeat rounding and solving from there while it helps. Errors are compared through moments of
// the codes, formed in one pass: with the best scale q x / q q the squared error is x x - (q x)^2 / q q (sums
// weighted).
#pragma once

namespace abaci {
namespace {

// What counts as zero: the inverse of a scale must stay finite.
constexpr float kSmallestScale = 1e-30f;

// 16 V values with their weights.
template <int V>
struct Group {
    F32x16 x[V], w[V];
};

template <int V>
ABACI_INLINE Group<V> load_group(const float* x, const float* w) {
    Group<V> g;
    for (int v = 0; v < V; ++v) g.x[v] = load(x + 16 * v), g.w[v] = load(w + 16 * v);
    return g;
}

// Whole numbers from `lowest` to `highest`.
struct Uniform {
    float lowest, highest;
    ABACI_INLINE F32x16 nearest(F32x16 y) const {
        return to_floats(round_to_int(min(max(y, splat(lowest)), splat(highest))));
    }
};

// The values of a table of sixteen, growing.
struct Table {
    const int8_t* values;
    ABACI_INLINE F32x16 nearest(F32x16 y) const {
        F32x16 nearest = splat(static_cast<float>(values[0]));
        for (int i = 1; i < 16; ++i) {
            const float low = values[i - 1], high = values[i];
            nearest = select_less(splat((low + high) / 2), y, splat(high), nearest);
        }
        return nearest;
    }
};

// Sums over a group, weighted: of codes, their squares, their products with the values.
struct Moments {
    double q, qq, qx;
};

template <int V, class Codes>
ABACI_INLINE Moments moments_of(const Group<V>& g, float inverse, float offset, Codes codes) {
    F32x16 sum = zeros(), squares = zeros(), products = zeros();
    for (int v = 0; v < V; ++v) {
        const F32x16 q = codes.nearest(mul(sub(g.x[v], splat(offset)), splat(inverse)));
        const F32x16 weighted = mul(g.w[v], q);
        sum = add(sum, weighted);
        squares = add(squares, mul(weighted, q));
        products = add(products, mul(weighted, g.x[v]));
    }
    return {reduce_add(sum), reduce_add(squares), reduce_add(products)};
}

ABACI_INLINE float inverse_of(float scale) {
    return scale > kSmallestScale || scale < -kSmallestScale ? 1.0f / scale : 0.0f;
}

// The error that a scale and an offset leave with the nearest codes.
template <int V, class Codes>
ABACI_INLINE double error_of(const Group<V>& g, float scale, float offset, Codes codes) {
    const float inverse = inverse_of(scale);
    F32x16 total = zeros();
    for (int v = 0; v < V; ++v) {
        const F32x16 q = codes.nearest(mul(sub(g.x[v], splat(offset)), splat(inverse)));
        const F32x16 error = sub(g.x[v], add(mul(q, splat(scale)), splat(offset)));
        total = add(total, mul(g.w[v], mul(error, error)));
    }
    return reduce_add(total);
}

// A series of code values; the group's extreme is mapped to each in turn.
struct Targets {
    float first, step;
    int count;
};

struct ScaleFit {
    float scale;
    double qq;  // how much an error of the scale costs
};

// value = scale * code. `targets` are tried for the value of largest magnitude, then the same with the other sign
// where `mirrored` has any.
template <int V, class Codes>
ABACI_INLINE ScaleFit fit_scale(const Group<V>& g, Codes codes, Targets targets, Targets mirrored) {
    F32x16 highest = g.x[0], lowest = sub(zeros(), g.x[0]);
    for (int v = 1; v < V; ++v) highest = max(highest, g.x[v]), lowest = max(lowest, sub(zeros(), g.x[v]));
    const float above = reduce_max(highest), below = reduce_max(lowest);
    const float extreme = above > below ? above : -below;
    if (inverse_of(extreme) == 0.0f) return {0.0f, 0.0};
    ScaleFit best = {0.0f, 0.0};
    double best_gain = 0.0;
    const auto consider = [&](float inverse) __attribute__((always_inline)) {
        const Moments m = moments_of(g, inverse, 0.0f, codes);
        if (m.qq <= 0.0 || m.qx * m.qx <= best_gain * m.qq) return false;
        best_gain = m.qx * m.qx / m.qq;
        best = {static_cast<float>(m.qx / m.qq), m.qq};
        return true;
    };
    const float inverse_extreme = 1.0f / extreme;
    for (int i = 0; i < targets.count; ++i) consider((targets.first + i * targets.step) * inverse_extreme);
    for (int i = 0; i < mirrored.count; ++i) consider((mirrored.first + i * mirrored.step) * inverse_extreme);
    for (int i = 0; i < 4 && consider(inverse_of(best.scale)); ++i) {
    }
    return best;
}

// The constant that is nearest to a group.
template <int V>
ABACI_INLINE float mean_of(const Group<V>& g) {
    F32x16 weights = zeros(), sum = zeros();
    for (int v = 0; v < V; ++v) weights = add(weights, g.w[v]), sum = add(sum, mul(g.w[v], g.x[v]));
    const double total = reduce_add(weights);
    return total > 0.0 ? static_cast<float>(reduce_add(sum) / total) : 0.0f;
}

struct LineFit {
    float scale, offset;
    double qq;
};

// value = scale * code + offset with codes 0..highest. With `offset_below_zero` no offset lies above zero.
template <int V>
ABACI_INLINE LineFit fit_line(const Group<V>& g, int highest_code, bool offset_below_zero, Targets spans) {
    const Uniform codes = {0.0f, static_cast<float>(highest_code)};
    F32x16 highest = g.x[0], lowest = sub(zeros(), g.x[0]), weights = zeros(), sum = zeros();
    for (int v = 0; v < V; ++v) {
        highest = max(highest, g.x[v]), lowest = max(lowest, sub(zeros(), g.x[v]));
        weights = add(weights, g.w[v]), sum = add(sum, mul(g.w[v], g.x[v]));
    }
    const float above = reduce_max(highest);
    float below = -reduce_max(lowest);
    if (offset_below_zero && below > 0.0f) below = 0.0f;
    const double sw = reduce_add(weights), sx = reduce_add(sum);
    LineFit best = {0.0f, below, 0.0};
    if (inverse_of(above - below) == 0.0f || sw <= 0.0) return best;
    double best_gain = -1.0;
    const auto consider = [&](float inverse, float offset) __attribute__((always_inline)) {
        const Moments m = moments_of(g, inverse, offset, codes);
        const double determinant = sw * m.qq - m.q * m.q;
        double scale, intercept;
        if (determinant > 1e-12 * sw * m.qq) {
            scale = (sw * m.qx - sx * m.q) / determinant;
            intercept = (m.qq * sx - m.q * m.qx) / determinant;
        } else {
            return false;
        }
        if (offset_below_zero && intercept > 0.0) intercept = 0.0, scale = m.qq > 0.0 ? m.qx / m.qq : 0.0;
        // For the exact solution, and for a zero intercept, this is by how much the squared error falls.
        const double gain = scale * m.qx + intercept * sx;
        if (scale <= 0.0 || gain <= best_gain) return false;
        best_gain = gain;
        best = {static_cast<float>(scale), static_cast<float>(intercept), m.qq};
        return true;
    };
    const float inverse_width = 1.0f / (above - below);
    for (int i = 0; i < spans.count; ++i) consider((spans.first + i * spans.step) * inverse_width, below);
    for (int i = 0; i < 4 && consider(inverse_of(best.scale), best.offset); ++i) {
    }
    return best;
}

// A float as a file keeps it, and its bits.
struct Half {
    float value;
    uint16_t bits;
};
ABACI_INLINE Half to_half(double x) {
    uint16_t bits[16];
    float values[16];
    store_f16(bits, splat(static_cast<float>(x)));
    store(values, load_f16(bits));
    return {values[0], bits[0]};
}
ABACI_INLINE bool is_finite(const Half& half) {
    return (half.bits & 0x7C00) != 0x7C00;
}

ABACI_INLINE int nearest_int(float y, int lowest, int highest) {
    const float clamped = y < static_cast<float>(lowest)    ? static_cast<float>(lowest)
                          : y > static_cast<float>(highest) ? static_cast<float>(highest)
                                                            : y;
    // 1.5 * 2^23: adding it leaves whole numbers, rounded to the nearest even.
    return static_cast<int>((clamped + 12582912.0f) - 12582912.0f);
}

}  // namespace
}  // namespace abaci
