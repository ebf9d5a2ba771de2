// Elementary functions of whole vectors, for translation units compiled once per instruction set.
//
// Taylor series on ranges short enough that a few terms reach the last digit, so that no fitted
// constants need trust. NaN goes in and comes out.
#pragma once

#include <cstdint>
#include <cstring>

#include "product/gram.h"

namespace ssk {
namespace SSK_ISA {
namespace {

template <class T>
struct Float;
template <>
struct Float<float> {
    using Bits = u32v;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr int exp_terms = 7;  // 0.347^8 / 8! = 5e-9
    static constexpr int sin_terms = 5;  // 0.786^11 / 11! = 2e-9
    static constexpr int cos_terms = 6;  // 0.786^12 / 12! = 1e-10
    static constexpr int log_terms = 5;  // 2 * 0.172^11 / 11 = 7e-10
    static constexpr float largest = 0x1.fffffep127f;
};
template <>
struct Float<double> {
    using Bits = uint64_t __attribute__((vector_size(kVectorBytes)));
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr int exp_terms = 13;
    static constexpr int sin_terms = 9;
    static constexpr int cos_terms = 9;
    static constexpr int log_terms = 11;
    static constexpr double largest = 0x1.fffffffffffffp1023;
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using BitsOf = typename Float<T>::Bits;

// Adding and subtracting 1.5 * 2^mantissa rounds to an integer, and leaves that integer's low bits
// in the last places of the sum. Good for |x| < 2^(mantissa - 1).
template <class T>
constexpr T kRounder = static_cast<T>(int64_t{3} << (Float<T>::mantissa - 1));

template <class T>
inline BitsOf<T> bits_of(Vec<T> x) {
    BitsOf<T> out;
    std::memcpy(&out, &x, sizeof out);
    return out;
}
template <class T>
inline Vec<T> from_bits(BitsOf<T> x) {
    Vec<T> out;
    std::memcpy(&out, &x, sizeof out);
    return out;
}

template <class T>
inline Vec<T> splat(T x) {
    return Vec<T>{} + x;
}

template <class T>
constexpr T inverse_factorial(int n) {
    T product = 1;
    for (int k = 2; k <= n; ++k) product *= static_cast<T>(k);
    return 1 / product;
}
// The coefficient of x^n in the series of sine or cosine.
template <class T>
constexpr T signed_inverse_factorial(int n) {
    return n & 2 ? -inverse_factorial<T>(n) : inverse_factorial<T>(n);
}

// 2^x as fraction * 2^whole: fraction in [0.70, 1.42], whole an integer.
template <class T>
struct Power {
    Vec<T> fraction, whole;
};
template <class T>
inline Power<T> exp2_parts(Vec<T> x) {
    constexpr T kLn2 = static_cast<T>(0.69314718055994530942);
    const Vec<T> whole = (x + kRounder<T>)-kRounder<T>;
    const Vec<T> y = (x - whole) * kLn2;
    Vec<T> p = splat(inverse_factorial<T>(Float<T>::exp_terms));
#pragma GCC unroll 13
    for (int k = Float<T>::exp_terms - 1; k >= 0; --k) p = p * y + inverse_factorial<T>(k);
    return {p, whole};
}

// x * 2^exponent for integers `exponent` below `bias`; 0 once 2^exponent is subnormal.
template <class T>
inline Vec<T> scaled(Vec<T> x, Vec<T> exponent) {
    const Vec<T> least = splat<T>(-Float<T>::bias);
    const Vec<T> kept = exponent > least ? exponent : least;
    const Vec<T> biased = kept + (kRounder<T> + static_cast<T>(Float<T>::bias));
    return x * from_bits<T>(bits_of<T>(biased) << Float<T>::mantissa);
}

// cos and sin of quarter turns * pi/2 + r, |r| <= pi/4; `quarters` holds kRounder + quarter turns.
template <class T>
inline void sincos_reduced(Vec<T> r, Vec<T> quarters, Vec<T>& cosine, Vec<T>& sine) {
    const Vec<T> square = r * r;
    constexpr int kSine = 2 * Float<T>::sin_terms - 1, kCosine = 2 * Float<T>::cos_terms - 2;
    Vec<T> s = splat(signed_inverse_factorial<T>(kSine));
    Vec<T> c = splat(signed_inverse_factorial<T>(kCosine));
#pragma GCC unroll 9
    for (int k = kSine - 2; k > 0; k -= 2) s = s * square + signed_inverse_factorial<T>(k);
#pragma GCC unroll 9
    for (int k = kCosine - 2; k >= 0; k -= 2) c = c * square + signed_inverse_factorial<T>(k);
    s *= r;
    const BitsOf<T> quarter = bits_of<T>(quarters);
    const BitsOf<T> swap = BitsOf<T>{} - (quarter & 1);  // all ones where sine and cosine trade
    const BitsOf<T> cb = bits_of<T>(c), sb = bits_of<T>(s);
    constexpr int kToSign = Float<T>::mantissa + (sizeof(T) == 4 ? 8 : 11) - 1;
    const BitsOf<T> cosine_sign = ((quarter + 1) & 2) << kToSign, sine_sign = (quarter & 2)
                                                                              << kToSign;
    cosine = from_bits<T>(((cb & ~swap) | (sb & swap)) ^ cosine_sign);
    sine = from_bits<T>(((sb & ~swap) | (cb & swap)) ^ sine_sign);
}

// cos and sin of 2 pi * turns, for |turns| <= 1: the reduction is exact.
template <class T>
inline void sincos_turns(Vec<T> turns, Vec<T>& cosine, Vec<T>& sine) {
    const Vec<T> quarters = turns * 4 + kRounder<T>;
    const Vec<T> r = turns - (quarters - kRounder<T>)*static_cast<T>(0.25);
    sincos_reduced<T>(r * static_cast<T>(6.28318530717958647693), quarters, cosine, sine);
}

// cos and sin of x in radians. pi/2 is subtracted in three parts, the first two with so few digits
// that their products with the number of quarter turns are exact up to 2^13 turns (float32) or 2^20
// (float64); further out the error grows with x, as that of x itself does. Past the rounder's range
// the angle means nothing, and the result is only kept on the unit circle.
template <class T>
inline void sincos(Vec<T> x, Vec<T>& cosine, Vec<T>& sine) {
    constexpr bool kSingle = sizeof(T) == 4;
    constexpr T kHigh = kSingle ? static_cast<T>(0x1.92p0) : static_cast<T>(0x1.921fb544p0);
    constexpr T kMiddle = kSingle ? static_cast<T>(0x1.fb4p-12) : static_cast<T>(0x1.0b4611a6p-34);
    constexpr T kLow =
        kSingle ? static_cast<T>(0x1.4442d2p-24) : static_cast<T>(0x1.3198a2e037073p-69);
    constexpr T kQuarter = static_cast<T>(0.78539816339744830962);
    const Vec<T> quarters = x * static_cast<T>(0.63661977236758134308) + kRounder<T>;
    const Vec<T> n = quarters - kRounder<T>;
    Vec<T> r = ((x - n * kHigh) - n * kMiddle) - n * kLow;
    const Vec<T> most = splat<T>(kQuarter * static_cast<T>(1.01));
    r = r > most ? most : r;
    r = r < -most ? -most : r;
    r = x - x != 0 ? x - x : r;  // infinity has no angle
    sincos_reduced<T>(r, quarters, cosine, sine);
}

// The natural logarithm of positive normal numbers.
template <class T>
inline Vec<T> log_of(Vec<T> x) {
    // x = m * 2^e with m in [0.70, 1.42): subtract the exponent of sqrt(1/2) from x's.
    const T half_root = static_cast<T>(0.70710678118654752440);
    const BitsOf<T> offset = bits_of<T>(splat<T>(half_root));
    constexpr int kMantissa = Float<T>::mantissa;
    // An arithmetic shift: x is positive, so bits_of(x) - offset is a small signed number.
    const BitsOf<T> difference = bits_of<T>(x) - offset;
    const BitsOf<T> mask = ((BitsOf<T>{} + 1) << kMantissa) - 1;
    const BitsOf<T> m_bits = (difference & mask) + offset;
    Vec<T> e;
    for (int l = 0; l < kLanes<T>; ++l) {
        if constexpr (sizeof(T) == 4)
            e[l] = static_cast<T>(static_cast<int32_t>(difference[l]) >> kMantissa);
        else
            e[l] = static_cast<T>(static_cast<int64_t>(difference[l]) >> kMantissa);
    }
    const Vec<T> m = from_bits<T>(m_bits);
    const Vec<T> f = (m - 1) / (m + 1), square = f * f;  // log m = 2 (f + f^3/3 + f^5/5 + ...)
    Vec<T> p{};
#pragma GCC unroll 11
    for (int k = Float<T>::log_terms - 1; k >= 0; --k)
        p = p * square + 2 / static_cast<T>(2 * k + 1);
    return e * static_cast<T>(0.69314718055994530942) + f * p;
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
