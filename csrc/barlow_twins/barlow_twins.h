// Barlow Twins, forward and backward: the passes that sslkernels/passes/barlow_twins.py specifies.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// What the forward pass leaves per column: all [D].
struct BarlowColumns {
    double *mean[2], *factor[2];  // of each view; factor = 1 / sqrt(variance + eps)
    double* correlation;          // the diagonal of the cross-correlation
};

// Both views are [N, D] of one dtype, any strides. `terms` holds loss, on_diagonal, off_diagonal.
// `gram` is of the arithmetic type: [2, N, N] if `wide`, else [D, D]. Cuts: `threads`, `columns` of
// a chunk, `parts` of a block's contraction. Throws std::bad_alloc.
using BarlowForward = void(const MatrixView& x, const MatrixView& y, double lambda, double eps,
                           bool wide, int threads, const Cuts& cuts, double* terms,
                           const BarlowColumns& columns, void* gram);

// The views may be a part of a batch.
struct BarlowPart {
    int64_t rows;           // of the batch
    bool unrounded;         // gradients of the arithmetic type, not of the input's
    const double* squares;  // [2, D], instead of C's own squared row and column norms; may be null
};

// `grad` holds the gradients of the three terms; `grads`, contiguous [N, D] of x's dtype (or
// `unrounded`), may be null, and so may `gram`: the gradient of on_diagonal alone. Cuts: `threads`,
// `span` columns (rows unless wide) that are multiplied at a time, `columns` whose mean(g a) is
// taken at a time unless wide.
using BarlowBackward = void(const double* grad, const MatrixView& x, const MatrixView& y,
                            double lambda, bool wide, const BarlowPart& part, int threads,
                            const Cuts& cuts, const BarlowColumns& columns, const void* gram,
                            void* const* grads);

SSK_EXPORT(ByDType<BarlowForward>, barlow_forward, VECTORS)
SSK_EXPORT(ByDType<BarlowBackward>, barlow_backward, VECTORS)

}  // namespace ssk
