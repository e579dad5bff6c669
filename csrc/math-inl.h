// exp on sixteen lanes, ours so that every target gives the same bits.
#pragma once

namespace abaci {
namespace {

constexpr float kExp0 = 0.499999934f, kExp1 = 0.166665206f, kExp2 = 0.0416683882f, kExp3 = 0.00836871745f,
                kExp4 = 0.00138145930f;

// exp(x) within 2 ulp; 0 below -87.3, clamped at 88.
// x = n ln 2 + r, |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 P(r), P fitted for least relative error (3e-9 before rounding).
ABACI_INLINE F32x16 exp(F32x16 x) {
    const F32x16 lowest = splat(-87.3f);
    const F32x16 clamped = min(max(x, lowest), splat(88.0f));
    const I32x16 n = round_to_int(mul(clamped, splat(1.44269502f)));
    const F32x16 whole = to_floats(n);
    F32x16 r = fma(whole, splat(-0.693359375f), clamped);
    r = fma(whole, splat(2.12194440e-4f), r);
    F32x16 p = splat(kExp4);
    p = fma(p, r, splat(kExp3));
    p = fma(p, r, splat(kExp2));
    p = fma(p, r, splat(kExp1));
    p = fma(p, r, splat(kExp0));
    p = add(fma(mul(r, r), p, r), splat(1.0f));
    const F32x16 power = as_floats(shift_left<23>(add(n, splat(127))));
    return select_less(x, lowest, zeros(), mul(p, power));
}

}  // namespace
}  // namespace abaci
