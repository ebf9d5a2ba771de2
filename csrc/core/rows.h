// Rows of a strided view in the type that arithmetic is done in, and back: float64 for float64
// elements, float32 for any other. Included once per instruction set, like convert.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/convert.h"

namespace ssk {
namespace SSK_ISA {
namespace {

template <class S>
struct Arithmetic {
    using type = float;
};
template <>
struct Arithmetic<double> {
    using type = double;
};
template <class S>
using Real = typename Arithmetic<S>::type;

[[maybe_unused]] inline double to_real(double x) { return x; }
template <class S>
[[maybe_unused]] inline float to_real(S x) {
    return to_f32(x);
}

// Round to nearest, ties to even.
[[maybe_unused]] inline void from_real(double x, double& out) { out = x; }
[[maybe_unused]] inline void from_real(float x, float& out) { out = x; }

[[maybe_unused]] inline void from_real(float x, bf16& out) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

[[maybe_unused]] inline void from_real(float x, f16& out) {
#if defined(__F16C__)
    out.bits = static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    uint32_t half;
    if (bits > 0x7f800000u) {
        half = 0x7e00u;  // NaN
    } else if (bits >= 0x477ff000u) {
        half = 0x7c00u;  // 65520 and above round to infinity
    } else if (bits >= 0x38800000u) {
        half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    } else {
        // Below 2^-14 halves are multiples of 2^-24; adding 1/2 aligns a float32's last place
        // there.
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        const float aligned = magnitude + 0.5f;
        std::memcpy(&half, &aligned, sizeof half);
        half -= 0x3f000000u;
    }
    out.bits = static_cast<uint16_t>(sign | half);
#endif
}

// `count` elements from p, `stride` apart: p itself where they lie ready, else a copy in `buffer`.
template <class S>
inline const Real<S>* read_row(const S* p, int64_t stride, int64_t count, Real<S>* buffer) {
    using T = Real<S>;
    if (stride == 1) {
        if constexpr (sizeof(S) == sizeof(T)) {
            return reinterpret_cast<const T*>(p);
        } else {
            int64_t i = 0;
            for (; i + kF32Lanes <= count; i += kF32Lanes) {
                const f32v v = load<f32v>(p + i);
                std::memcpy(buffer + i, &v, sizeof v);
            }
            for (; i < count; ++i) buffer[i] = to_real(load_one(p + i));
            return buffer;
        }
    }
    for (int64_t i = 0; i < count; ++i) buffer[i] = to_real(load_one(p + i * stride));
    return buffer;
}

template <class S>
inline void write_row(const Real<S>* row, int64_t count, S* out) {
    int64_t i = 0;
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 2) {
        for (; i + 16 <= count; i += 16) {
            const __m512 v = _mm512_loadu_ps(row + i);
            __m256i bits;
            if constexpr (std::is_same_v<S, f16>) {
                bits = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
            } else {
                const __m512i u = _mm512_castps_si512(v);
                const __m512i odd =
                    _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
                const __m512i up =
                    _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
                const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
                bits = _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan,
                                                                   _mm512_set1_epi32(0x7fc0)));
            }
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bits);
        }
    }
#endif
    for (; i < count; ++i) from_real(row[i], out[i]);
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
