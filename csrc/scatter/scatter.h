// The pooled scatter of rows around the centers of their classes, in float64:
//
//   upper += sum_i (z_i - mu_{y_i}) (z_i - mu_{y_i})^T    on and above the diagonal
//
// Slabs of rows are centered in float64 while they are packed into panels (gram.h), one slab while
// the one before it is multiplied; a slab stays in the cache until all blocks of the triangle have
// read it. Rows that are not finite, and rows of classes whose center is not, spread as in any sum.
//
// Work is cut by shape alone and partial sums are added in a fixed order: the same bits for any
// number of threads. Memory: 2 slabs of 4 MB, or of 128 rows; 8 bytes per row.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// z [N, D] with any strides; classes [N], -1 for rows to skip; centers [C, D] and upper [D, D]
// contiguous. What lies below the diagonal is neither read nor written. Cuts: rows of a `slab`,
// `parts` of a block's slab, `pack_rows` packed at a time; `threads` to put to work. Throws
// std::bad_alloc.
using ScatterUpdate = void(const MatrixView& z, const int64_t* classes, const double* centers,
                           double* upper, int threads, const Cuts& cuts);

SSK_EXPORT(ByDType<ScatterUpdate>, scatter_update, VECTORS)

}  // namespace ssk
