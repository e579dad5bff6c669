// Logarithm, exponential, sine and cosine in double precision, ours so that every machine gives the same bits.
//
// Only additions, multiplications and divisions, compiled without contraction. Errors are a few units in the last
// place, far below the float that the results end up in.
#pragma once

#include <cstdint>
#include <cstring>

namespace abaci {

// Natural logarithm of a positive, normal x: x = m 2^e with m in [sqrt 1/2, sqrt 2), log m = 2 artanh((m - 1) / (m +
// 1)).
inline double log_of(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    int exponent = static_cast<int>(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000;
    double m;
    std::memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
    double series = 0.0;
    for (int k = 23; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
    return exponent * 0.6931471805599453 + 2.0 * s * series;
}

// e^x for |x| < 700: x = n ln 2 + r.
inline double exp_of(double x) {
    const double scaled = x * 1.4426950408889634;
    const int n = static_cast<int>(scaled + (scaled < 0 ? -0.5 : 0.5));
    const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
    double series = 1.0;
    for (int k = 15; k >= 1; --k) series = 1.0 + series * r / k;
    const uint64_t bits = static_cast<uint64_t>(n + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

// Sine and cosine for 0 <= x < 1e6: x = n pi/2 + r; pi/2 in three parts, the first two short enough for n times them to
// be exact.
inline void sin_cos_of(double x, double& sine, double& cosine) {
    const int64_t n = static_cast<int64_t>(x * 0.6366197723675814 + 0.5);
    const double r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21;
    const double r2 = r * r;
    double s = 0.0, c = 0.0;
    for (int k = 19; k >= 3; k -= 2) s = (1.0 + s) * -r2 / (k * (k - 1.0));
    for (int k = 20; k >= 2; k -= 2) c = (1.0 + c) * -r2 / (k * (k - 1.0));
    s = r * (1.0 + s);
    c = 1.0 + c;
    switch (n & 3) {
        case 0:
            sine = s, cosine = c;
            break;
        case 1:
            sine = c, cosine = -s;
            break;
        case 2:
            sine = -s, cosine = -c;
            break;
        default:
            sine = -c, cosine = s;
            break;
    }
}

}  // namespace abaci
