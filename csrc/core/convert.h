// Vectors of the instruction set being compiled, and loads into them from every element type.
// Included only by files that ssk_kernel compiles once per instruction set; everything here has
// internal linkage, so that no copy can stand in for another set's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ssk {
namespace SSK_ISA {
namespace {

// Storage types: 16 bits, read only through the functions below.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

using f32v = float __attribute__((vector_size(kVectorBytes)));
using f64v = double __attribute__((vector_size(kVectorBytes)));
using u32v = uint32_t __attribute__((vector_size(kVectorBytes)));

constexpr int kF32Lanes = kVectorBytes / 4;
constexpr int kF64Lanes = kVectorBytes / 8;

template <class V>
struct Lanes;
template <>
struct Lanes<f32v> {
    using scalar = float;
    static constexpr int count = kF32Lanes;
};
template <>
struct Lanes<f64v> {
    using scalar = double;
    static constexpr int count = kF64Lanes;
};

[[maybe_unused]] inline float to_f32(float x) { return x; }
[[maybe_unused]] inline float to_f32(double x) { return static_cast<float>(x); }

[[maybe_unused]] inline float to_f32(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// In integers where the hardware has no instruction, so that subnormals survive a flush-to-zero
// mode.
[[maybe_unused]] inline float to_f32(f16 x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#else
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    const uint32_t magnitude = x.bits & 0x7fffu;
    uint32_t bits;
    if (magnitude >= 0x7c00u) {  // infinity or NaN
        bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    } else if (magnitude >= 0x400u) {  // normal: move the exponent's bias from 15 to 127
        bits = (magnitude << 13) + (112u << 23);
    } else {  // subnormal: magnitude * 2^-24, and the product is a normal float32
        const float value = static_cast<float>(magnitude) * 0x1p-24f;
        std::memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
#endif
}

[[maybe_unused]] inline double to_f64(double x) { return x; }
template <class T>
[[maybe_unused]] inline double to_f64(T x) {
    return static_cast<double>(to_f32(x));
}

// Memory that a caller handed over is read through these: it may lie at any alignment.
template <class T>
[[maybe_unused]] inline T load_one(const T* p) {
    T out;
    std::memcpy(&out, p, sizeof out);
    return out;
}

// load<V>(p): Lanes<V>::count elements from p.
template <class V, class T>
[[maybe_unused]] inline V load(const T* p) {
    V out;
    if constexpr (sizeof(T) == sizeof(typename Lanes<V>::scalar)) {
        std::memcpy(&out, p, sizeof out);
    } else if constexpr (sizeof(typename Lanes<V>::scalar) == 8) {
        for (int i = 0; i < Lanes<V>::count; ++i) out[i] = to_f64(load_one(p + i));
    } else {
        for (int i = 0; i < Lanes<V>::count; ++i) out[i] = to_f32(load_one(p + i));
    }
    return out;
}

#if defined(__AVX512F__)
template <>
[[maybe_unused]] inline f32v load<f32v, bf16>(const bf16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
template <>
[[maybe_unused]] inline f32v load<f32v, f16>(const f16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
#elif defined(__AVX2__)
template <>
[[maybe_unused]] inline f32v load<f32v, bf16>(const bf16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
template <>
[[maybe_unused]] inline f32v load<f32v, f16>(const f16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#endif

// The first n elements of p (0 <= n <= Lanes<V>::count); the other lanes are zero.
template <class V, class T>
[[maybe_unused]] inline V load_part(const T* p, int n) {
    T padded[Lanes<V>::count];
    std::memset(padded, 0, sizeof padded);
    std::memcpy(padded, p, n * sizeof(T));
    return load<V>(padded);
}

// Both halves of a float32 vector, in double.
[[maybe_unused]] inline void widen(f32v x, f64v& low, f64v& high) {
#if defined(__AVX512F__)
    low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
#elif defined(__AVX2__)
    low = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
#else
    for (int i = 0; i < kF64Lanes; ++i) {
        low[i] = static_cast<double>(x[i]);
        high[i] = static_cast<double>(x[kF64Lanes + i]);
    }
#endif
}

// By halves: lane after lane would take one addition's latency each.
template <class V>
[[maybe_unused]] inline typename Lanes<V>::scalar sum_lanes(V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(x[0]) == sizeof(float))
        return _mm512_reduce_add_ps(x);
    else
        return _mm512_reduce_add_pd(x);
#else
    for (int half = Lanes<V>::count / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
#endif
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
