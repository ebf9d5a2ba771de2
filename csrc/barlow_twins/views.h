// Batch-normalized rows of a strided view, for Barlow Twins.
#pragma once

#include <cmath>

#include "barlow_twins/barlow_twins.h"
#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kArea = int64_t{kBlock} * kBlock;

template <class S>
struct NormalizedView {
    using T = Real<S>;
    Matrix<S> matrix;
    // [D] each, of scratch [3, D]: the mean in two parts, and 1 / sqrt(variance + eps).
    T *hi, *lo, *factor;

    NormalizedView() = default;
    NormalizedView(const MatrixView& z, T* scratch)
        : matrix{static_cast<const S*>(z.data), z.row_stride, z.col_stride},
          hi(scratch),
          lo(scratch + z.cols),
          factor(scratch + 2 * z.cols) {}

    void set(int64_t j0, int64_t count, const double* mean, const double* factors) const {
        split_mean(mean + j0, count, hi + j0, lo + j0);
        for (int64_t j = j0; j < j0 + count; ++j) factor[j] = static_cast<T>(factors[j]);
    }

    // Columns [j0, j0 + count) of row i, at most kChunk.
    void row(int64_t i, int64_t j0, int64_t count, T* buffer, T* z) const {
        center(matrix.row(i, j0, count, buffer), hi + j0, lo + j0, count, z);
        for (int64_t j = 0; j < count; ++j) z[j] *= factor[j0 + j];
    }
};

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
