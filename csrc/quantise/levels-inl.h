// Blocks of 256 whose groups have small whole numbers for scales, with one float16 scale (two: of scales and of
// minimums) for the whole block.
//
// First every group is fitted by itself, then the block's scale to the groups' (an error of a group's scale costs its
// sum of squared codes), then each group tries the neighbouring whole numbers, and whether it is better off constant;
// last the block's scale is solved for once more with all codes as they are, and kept if the error falls.
#pragma once

#include "quantise/fit-inl.h"

namespace abaci {
namespace {

constexpr int kBlockValues = 256;

// value = scale * sub[group] * code
template <int G>
struct SignedLevels {
    Half scale;
    int sub[G];
};

// value = scale * sub[group] * code - minimum * low[group]
template <int G>
struct PairLevels {
    Half scale, minimum;
    int sub[G], low[G];
};

// The best scale for up to sixteen numbers as whole numbers `lowest`..`highest`.
template <int G>
ABACI_INLINE float fit_levels(const float* numbers, const float* weights, int lowest, int highest) {
    static_assert(G <= 16);
    Group<1> g = {{load_first(numbers, G)}, {load_first(weights, G)}};
    const Uniform codes = {static_cast<float>(lowest), static_cast<float>(highest)};
    if (lowest == 0) return fit_scale(g, codes, {highest - 1.0f, 0.1f, 21}, {0, 0, 0}).scale;
    return fit_scale(g, codes, {lowest - 0.9f, 0.1f, 19}, {highest - 0.9f, 0.1f, 19}).scale;
}

template <int G, class Codes>
ABACI_INLINE double block_error(const Group<16 / G>* groups, const SignedLevels<G>& levels, Codes codes) {
    double total = 0.0;
    for (int i = 0; i < G; ++i) total += error_of(groups[i], levels.scale.value * levels.sub[i], 0.0f, codes);
    return total;
}

template <int G>
ABACI_INLINE double block_error(const Group<16 / G>* groups, const PairLevels<G>& levels, Uniform codes) {
    double total = 0.0;
    for (int i = 0; i < G; ++i)
        total += error_of(groups[i], levels.scale.value * levels.sub[i], -levels.minimum.value * levels.low[i], codes);
    return total;
}

// Whether the float16 scale can hold what the values need.
template <int G, class Codes>
ABACI_INLINE bool fit_signed(const Group<16 / G>* groups, int lowest, int highest, Codes codes, Targets targets,
                             Targets mirrored, SignedLevels<G>& levels) {
    float scales[G], costs[G];
    for (int i = 0; i < G; ++i) {
        const ScaleFit fit = fit_scale(groups[i], codes, targets, mirrored);
        scales[i] = fit.scale, costs[i] = static_cast<float>(fit.qq);
    }
    levels.scale = to_half(fit_levels<G>(scales, costs, lowest, highest));
    if (!is_finite(levels.scale)) return false;
    const float inverse = inverse_of(levels.scale.value);
    for (int i = 0; i < G; ++i) {
        const int middle = nearest_int(scales[i] * inverse, lowest, highest);
        double least = error_of(groups[i], levels.scale.value * middle, 0.0f, codes);
        levels.sub[i] = middle;
        for (int sub = middle - 1; sub <= middle + 1; sub += 2) {
            if (sub < lowest || sub > highest) continue;
            const double error = error_of(groups[i], levels.scale.value * sub, 0.0f, codes);
            if (error < least) least = error, levels.sub[i] = sub;
        }
    }
    double qx = 0.0, qq = 0.0;
    for (int i = 0; i < G; ++i) {
        const Moments m = moments_of(groups[i], inverse_of(levels.scale.value * levels.sub[i]), 0.0f, codes);
        qx += levels.sub[i] * m.qx, qq += static_cast<double>(levels.sub[i]) * levels.sub[i] * m.qq;
    }
    if (qq <= 0.0) return true;
    SignedLevels<G> solved = levels;
    solved.scale = to_half(qx / qq);
    if (is_finite(solved.scale) && block_error<G>(groups, solved, codes) < block_error<G>(groups, levels, codes))
        levels = solved;
    return true;
}

template <int G>
ABACI_INLINE bool fit_pairs(const Group<16 / G>* groups, int highest_level, int highest_code, Targets spans,
                            PairLevels<G>& levels) {
    const Uniform codes = {0.0f, static_cast<float>(highest_code)};
    float scales[G], minimums[G], scale_costs[G], minimum_costs[G];
    for (int i = 0; i < G; ++i) {
        const LineFit fit = fit_line(groups[i], highest_code, true, spans);
        F32x16 weights = zeros();
        for (int v = 0; v < 16 / G; ++v) weights = add(weights, groups[i].w[v]);
        scales[i] = fit.scale, minimums[i] = -fit.offset;
        scale_costs[i] = static_cast<float>(fit.qq), minimum_costs[i] = reduce_add(weights);
    }
    levels.scale = to_half(fit_levels<G>(scales, scale_costs, 0, highest_level));
    levels.minimum = to_half(fit_levels<G>(minimums, minimum_costs, 0, highest_level));
    if (!is_finite(levels.scale) || !is_finite(levels.minimum)) return false;
    const float inverse_scale = inverse_of(levels.scale.value), inverse_minimum = inverse_of(levels.minimum.value);
    for (int i = 0; i < G; ++i) {
        const int sub = nearest_int(scales[i] * inverse_scale, 0, highest_level);
        const int low = nearest_int(minimums[i] * inverse_minimum, 0, highest_level);
        double least = -1.0;
        const auto consider = [&](int s, int l) __attribute__((always_inline)) {
            if (s < 0 || s > highest_level || l < 0 || l > highest_level) return;
            const double error = error_of(groups[i], levels.scale.value * s, -levels.minimum.value * l, codes);
            if (least < 0.0 || error < least) least = error, levels.sub[i] = s, levels.low[i] = l;
        };
        for (int s = sub - 1; s <= sub + 1; ++s)
            for (int l = low - 1; l <= low + 1; ++l) consider(s, l);
        // Beside groups of much larger scale a constant may be nearer than a line whose steps are too wide.
        consider(0, nearest_int(-mean_of(groups[i]) * inverse_minimum, 0, highest_level));
    }
    // x = scale (s q) - minimum l, solved for both.
    double ss = 0.0, sl = 0.0, ll = 0.0, sx = 0.0, lx = 0.0;
    for (int i = 0; i < G; ++i) {
        const float offset = -levels.minimum.value * levels.low[i];
        const Moments m = moments_of(groups[i], inverse_of(levels.scale.value * levels.sub[i]), offset, codes);
        F32x16 weights = zeros(), sums = zeros();
        for (int v = 0; v < 16 / G; ++v) {
            weights = add(weights, groups[i].w[v]);
            sums = add(sums, mul(groups[i].w[v], groups[i].x[v]));
        }
        const double s = levels.sub[i], l = levels.low[i];
        ss += s * s * m.qq, sl -= s * l * m.q, ll += l * l * reduce_add(weights);
        sx += s * m.qx, lx -= l * reduce_add(sums);
    }
    const double determinant = ss * ll - sl * sl;
    if (determinant <= 1e-9 * ss * ll) return true;
    PairLevels<G> solved = levels;
    solved.scale = to_half((sx * ll - lx * sl) / determinant);
    solved.minimum = to_half((lx * ss - sx * sl) / determinant);
    if (is_finite(solved.scale) && is_finite(solved.minimum) && solved.scale.value > 0.0f &&
        solved.minimum.value >= 0.0f && block_error<G>(groups, solved, codes) < block_error<G>(groups, levels, codes))
        levels = solved;
    return true;
}

}  // namespace
}  // namespace abaci
