// NT-Xent, forward and backward: the passes that sslkernels/passes/nt_xent.py specifies.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// Both views are [N, D] of one dtype, any strides. Own rows are those of the samples [first, first
// + samples) in either view, numbered first view first.
//
// `terms` holds the means over own rows of loss, alignment and uniformity; `lse` and `row_loss`, [2
// samples], the log-sum-exp of an own row and its distance to the row's positive logit. Cuts, of
// both passes: `threads`; `group`, if own rows are all rows: rows that one thread owns at a time;
// else `height`: own rows of a tile. Throws std::bad_alloc.
using NtXentForward = void(const MatrixView& x, const MatrixView& y, int64_t first, int64_t samples,
                           double temperature, int threads, const Cuts& cuts, double* terms,
                           double* lse, double* row_loss);

// `grad` holds the gradients of the three terms of all rows; `lse` and `row_loss`, [2N], are of all
// rows. `grad_x` and `grad_y`, contiguous [samples, D], may be null; they are of x's dtype, or of
// the arithmetic's with `unrounded`. `radial`, which may be null, is the sum over own unit rows of
// their products with the gradients by them.
using NtXentBackward = void(const double* grad, const MatrixView& x, const MatrixView& y,
                            int64_t first, int64_t samples, double temperature, int threads,
                            const Cuts& cuts, const double* lse, const double* row_loss,
                            bool unrounded, void* grad_x, void* grad_y, double* radial);

SSK_EXPORT(ByDType<NtXentForward>, nt_xent_forward, VECTORS)
SSK_EXPORT(ByDType<NtXentBackward>, nt_xent_backward, VECTORS)

}  // namespace ssk
