// A finished tile of a product, at most kBlock x kBlock, times rows of a row-major matrix.
#pragma once

#include "product/gram.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// out[r][:] += sum_k tile[r * kRowStride + k * kStepStride] * matrix[k][:], R rows by NV vectors.
template <class T, int R, int NV, int kRowStride, int kStepStride>
inline void apply_register_tile(const T* __restrict tile, const T* __restrict matrix, int64_t ld,
                                int64_t steps, T* __restrict out, int64_t out_ld) {
    using V = typename Simd<T>::V;
    constexpr int W = kLanes<T>;
    V acc[R][NV];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) acc[r][v] = V{};
    for (int64_t k = 0; k < steps; ++k) {
        V row[NV];
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) row[v] = *reinterpret_cast<const V*>(matrix + k * ld + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const T s = tile[k * kStepStride + r * kRowStride];
#pragma GCC unroll 3
            for (int v = 0; v < NV; ++v) acc[r][v] += s * row[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NV; ++v) *reinterpret_cast<V*>(out + r * out_ld + v * W) += acc[r][v];
}

template <class T, int NV, bool kTransposed>
inline void apply_columns(const T* tile, int64_t rows, int64_t steps, const T* matrix, int64_t ld,
                          T* out, int64_t out_ld) {
    constexpr int kRow = kTransposed ? 1 : kBlock, kStep = kTransposed ? kBlock : 1;
    constexpr int R = kRows<T>;
    int64_t i = 0;
    for (; i + R <= rows; i += R)
        apply_register_tile<T, R, NV, kRow, kStep>(tile + i * kRow, matrix, ld, steps,
                                                   out + i * out_ld, out_ld);
    for (; i < rows; ++i)
        apply_register_tile<T, 1, NV, kRow, kStep>(tile + i * kRow, matrix, ld, steps,
                                                   out + i * out_ld, out_ld);
}

// out [rows, ld] += tile [rows, steps] * matrix [steps, ld], or with kTransposed the tile [steps,
// rows] from its other side. The tile has row stride kBlock; `ld` is a multiple of kLanes, and
// matrix and out are aligned to vectors.
template <class T, bool kTransposed>
void tile_apply(const T* tile, int64_t rows, int64_t steps, const T* matrix, int64_t ld, T* out) {
    constexpr int W = kLanes<T>;
    int64_t j = 0;
    for (; j + kTileVectors * W <= ld; j += kTileVectors * W)
        apply_columns<T, kTileVectors, kTransposed>(tile, rows, steps, matrix + j, ld, out + j, ld);
    if (ld - j == 2 * W)
        apply_columns<T, 2, kTransposed>(tile, rows, steps, matrix + j, ld, out + j, ld);
    else if (ld - j == W)
        apply_columns<T, 1, kTransposed>(tile, rows, steps, matrix + j, ld, out + j, ld);
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
