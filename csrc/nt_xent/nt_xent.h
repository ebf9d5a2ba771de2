// NT-Xent, forward and backward: the passes that sslkernels/passes/nt_xent.py specifies.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// Both views are [N, D] of one dtype, any strides. `terms` holds loss, alignment and uniformity;
// `lse` and `row_loss`, [2N], the log-sum-exp of a row and its distance to the row's positive
// logit. Cuts, of both passes: `threads`, `group` rows of the 2N that one thread owns at a time.
// Throws std::bad_alloc.
using NtXentForward = void(const MatrixView& x, const MatrixView& y, double temperature,
                           int threads, const Cuts& cuts, double* terms, double* lse,
                           double* row_loss);

// `grad` holds the gradients of the three terms; `grad_x` and `grad_y`, contiguous [N, D] of x's
// dtype, may be null.
using NtXentBackward = void(const double* grad, const MatrixView& x, const MatrixView& y,
                            double temperature, int threads, const Cuts& cuts, const double* lse,
                            const double* row_loss, void* grad_x, void* grad_y);

SSK_EXPORT(ByDType<NtXentForward>, nt_xent_forward, VECTORS)
SSK_EXPORT(ByDType<NtXentBackward>, nt_xent_backward, VECTORS)

}  // namespace ssk
