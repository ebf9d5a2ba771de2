// Rows and centers as int16, for products of pairs (gram.h): twice as many multiply-adds as float32
// in one instruction, each sum over kRun columns exact. Only instruction sets with AVX-512 VNNI
// have them.
//
// x = factor q + rest, with ||rest|| <= lost. The factor is that of least squares, so that the rest
// is perpendicular to q; q is as large as int16 and the int32 sums allow: over no run of columns is
// ||q|| above 2^15.5, so by Cauchy and Schwarz no sum of products of any of its columns leaves
// int32. Where the columns are of even size, ||rest|| is about 7e-5 ||x||.
#pragma once

#include "class_projections/plan.h"
#include "core/elementary.h"
#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

template <class T>
constexpr bool kQuantized = false;
template <>
constexpr bool kQuantized<int32_t> = true;

// Elements of T in one row of an operand, and in one panel: those of int16 end with the factor and
// the lost length of each lane.
template <class T>
int64_t depth_of(int64_t dim) {
    return kQuantized<T> ? (dim + 1) / 2 : dim;
}
template <class T>
int64_t panel_of(int64_t dim) {
    return kLanes<T> * (depth_of<T>(dim) + (kQuantized<T> ? 2 : 0));
}

struct Quantized {
    double factor, lost;
};

constexpr int64_t kRun = 2 * kSteps<int32_t>;
constexpr double kLongest = 46333;  // and kRun roundings by a half stay below sqrt(2^31)
constexpr double kLargest = 32767;
constexpr double kSmallest = 0x1p-100;  // rows of nothing larger are all lost

struct Extent {
    double run;  // the largest sum of squares over kRun columns
    double element;
};

inline Extent extent_of(const double* x, int64_t dim) {
    Extent extent{0, 0};
    f64v largest{};
    for (int64_t k = 0; k < dim; k += kRun) {
        const int64_t end = smaller(dim, k + kRun);
        f64v sums{};
        int64_t j = k;
        for (; j + kF64Lanes <= end; j += kF64Lanes) {
            const f64v v = load<f64v>(x + j), size = v < 0 ? -v : v;
            sums += v * v;
            largest = size > largest ? size : largest;
        }
        double sum = sum_lanes(sums);
        for (; j < end; ++j) {
            sum += x[j] * x[j];
            extent.element = __builtin_fmax(extent.element, __builtin_fabs(x[j]));
        }
        extent.run = __builtin_fmax(extent.run, sum);
    }
    for (int l = 0; l < kF64Lanes; ++l) extent.element = __builtin_fmax(extent.element, largest[l]);
    return extent;
}

using Words = uint16_t __attribute__((vector_size(kF64Lanes * sizeof(uint16_t))));

inline Words low_words(BitsOf<double> x) {
#if defined(__AVX512F__)
    return (Words)_mm512_cvtepi64_epi16((__m512i)x);
#else
    return __builtin_convertvector(x, Words);
#endif
}

// Writes q over x, which is finite, from its beginning on: depth_of<int32_t>(dim) pairs.
inline Quantized quantize(double* x, int64_t dim) {
    const Extent extent = extent_of(x, dim);
    auto* const out = reinterpret_cast<char*>(x);
    if (!(extent.element > kSmallest)) {
        std::memset(out, 0, depth_of<int32_t>(dim) * sizeof(int32_t));
        return {0, extent.element * __builtin_sqrt(static_cast<double>(dim))};
    }
    const double scale = __builtin_fmin(kLongest / __builtin_sqrt(extent.run),
                                        kLargest / extent.element * (1 - 0x1p-50));
    f64v rests{}, products{}, squares{};
    const auto round = [&](f64v v) {
        const f64v scaled = v * scale, rounded = scaled + kRounder<double>;
        const f64v q = rounded - kRounder<double>;
        rests += (scaled - q) * (scaled - q);
        products += scaled * q;
        squares += q * q;
        return low_words(bits_of<double>(rounded));
    };
    int64_t j = 0;
    for (; j + kF64Lanes <= dim; j += kF64Lanes) {
        const Words q = round(load<f64v>(x + j));
        std::memcpy(out + 2 * j, &q, sizeof q);
    }
    if (j < dim) {
        f64v tail{};
        std::memcpy(&tail, x + j, (dim - j) * sizeof(double));
        const Words q = round(tail);
        std::memcpy(out + 2 * j, &q, depth_of<int32_t>(dim - j) * sizeof(int32_t));
    }
    const double lost = __builtin_sqrt(sum_lanes(rests)) / scale;
    return {sum_lanes(products) / sum_lanes(squares) / scale, lost * (1 + 0x1p-20)};
}

// One panel from n rows of x that hold pairs.
inline void pack_quantized(const double* x, int64_t leading, int64_t n, int64_t dim,
                           int32_t* panel) {
    constexpr int W = kLanes<int32_t>;
    alignas(64) int32_t z[W][kChunk];
    const int64_t depth = depth_of<int32_t>(dim);
    for (int64_t k = 0; k < depth; k += kChunk) {
        const int64_t width = smaller(kChunk, depth - k);
        for (int64_t r = 0; r < n; ++r)
            std::memcpy(z[r], reinterpret_cast<const char*>(x + r * leading) + k * sizeof(int32_t),
                        width * sizeof(int32_t));
        pack_rows(z, n, width, panel + k * W);
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
