// Dense products of packed panels, for translation units compiled once per instruction set.
//
// A panel holds W lanes (one vector) over the whole contraction: panel[k * W + lane]. Both operands
// of a product use this one format, so a symmetric product packs its matrix once:
// C[i][j] = sum_k A(k, i) B(k, j), where rows i are broadcast from A's lanes, a few at a time, and
// columns j are three vectors of B. One register tile is MR rows x 3 W columns.
//
// Within KC steps of k a tile stays in registers and the results of successive steps are then added
// up in memory, so rounding errors grow as in a blocked sum.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/convert.h"

namespace ssk {
namespace SSK_ISA {
// Unnamed, so that the linker never merges copies compiled for different instruction sets.
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 8;  // 24 accumulators of 32 registers
#else
constexpr int kTileRows = 4;  // 12 accumulators of 16 registers
#endif
constexpr int kTileVectors = 3;

template <class T>
struct Simd;
template <>
struct Simd<float> {
    using V = f32v;
};
template <>
struct Simd<double> {
    using V = f64v;
};

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
constexpr int kRows = kTileRows < kLanes<T> ? kTileRows : kLanes<T>;

// Side of the square block of the output that one thread computes at a time; 96 = 6 x 16 = 2 x 48.
constexpr int kBlock = 96;

// Contraction steps per visit: the three B vectors of one visit fill three quarters of a 32 KiB L1.
template <class T>
constexpr int kSteps = 24576 / (kTileVectors * kVectorBytes);

template <class T>
constexpr int64_t panels_of(int64_t lanes) {
    return (lanes + kLanes<T> - 1) / kLanes<T>;
}

// c[kRows][NV * W] (+)= sum over `steps` of a[k * W + row] * b[vector * b_panel + k * W + lane].
template <class T, int NV, bool kFirst>
inline void register_tile(const T* __restrict a, const T* __restrict b, int64_t b_panel,
                          int64_t steps, T* __restrict c) {
    using V = typename Simd<T>::V;
    constexpr int W = kLanes<T>;
    constexpr int R = kRows<T>;
    V acc[R][NV];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) acc[r][v] = V{};
    for (int64_t k = 0; k < steps; ++k) {
        V bv[NV];
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) bv[v] = *reinterpret_cast<const V*>(b + v * b_panel + k * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const T s = a[k * W + r];
#pragma GCC unroll 3
            for (int v = 0; v < NV; ++v) acc[r][v] += s * bv[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) {
            V* out = reinterpret_cast<V*>(c + r * kBlock + v * W);
            *out = kFirst ? acc[r][v] : *out + acc[r][v];
        }
}

template <class T, bool kFirst>
inline void register_tile(int vectors, const T* a, const T* b, int64_t b_panel, int64_t steps,
                          T* c) {
    if (vectors == 3)
        register_tile<T, 3, kFirst>(a, b, b_panel, steps, c);
    else if (vectors == 2)
        register_tile<T, 2, kFirst>(a, b, b_panel, steps, c);
    else
        register_tile<T, 1, kFirst>(a, b, b_panel, steps, c);
}

// One block of C, kBlock x kBlock at most, row stride kBlock: `a` and `b` are the first panels of
// their sides and k runs over [k0, k1). With `triangle` the block lies on the diagonal of a
// symmetric product, and tiles wholly below the diagonal are left alone. An empty contraction
// writes zeros: whoever cuts a contraction into parts may leave some with nothing to do.
template <class T>
void block_product(const T* a, int64_t a_panel, int64_t rows, const T* b, int64_t b_panel,
                   int64_t cols, int64_t k0, int64_t k1, bool triangle, T* c) {
    constexpr int W = kLanes<T>;
    constexpr int R = kRows<T>;
    const int64_t b_panels = panels_of<T>(cols);
    if (k0 >= k1) std::memset(c, 0, sizeof(T) * kBlock * kBlock);
    for (int64_t k = k0; k < k1; k += kSteps<T>) {
        const int64_t steps = k1 - k < kSteps<T> ? k1 - k : kSteps<T>;
        for (int64_t p = 0; p < b_panels; p += kTileVectors) {
            const int vectors =
                static_cast<int>(b_panels - p < kTileVectors ? b_panels - p : kTileVectors);
            const T* bp = b + p * b_panel + k * W;
            const int64_t last = (p + vectors) * W;
            const int64_t height = triangle && last < rows ? last : rows;
            for (int64_t i = 0; i < height; i += R) {
                const T* ap = a + i / W * a_panel + k * W + i % W;
                T* cp = c + i * kBlock + p * W;
                if (k == k0)
                    register_tile<T, true>(vectors, ap, bp, b_panel, steps, cp);
                else
                    register_tile<T, false>(vectors, ap, bp, b_panel, steps, cp);
            }
        }
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
