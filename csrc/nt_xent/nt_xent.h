// NT-Xent, forward and backward: the passes that sslkernels/passes/nt_xent.py specifies.
#pragma once

#include "core/cpu_features.h"
#include "core/cuts.h"
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
// the arithmetic's with `unrounded`. `radial`, which may be null, is the sum over own unit rows of their
// products with the gradients by them.
using NtXentBackward = void(const double* grad, const MatrixView& x, const MatrixView& y,
                            int64_t first, int64_t samples, double temperature, int threads,
                            const Cuts& cuts, const double* lse, const double* row_loss, bool unrounded,
                            void* grad_x, void* grad_y, double* radial);

namespace portable {
NtXentForward nt_xent_forward;
NtXentBackward nt_xent_backward;
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {
NtXentForward nt_xent_forward;
NtXentBackward nt_xent_backward;
}  // namespace avx2
namespace avx512 {
NtXentForward nt_xent_forward;
NtXentBackward nt_xent_backward;
}  // namespace avx512
#endif

inline NtXentForward* nt_xent_forward(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512::nt_xent_forward;
    if (isa >= Isa::avx2) return avx2::nt_xent_forward;
#endif
    (void)isa;
    return portable::nt_xent_forward;
}

inline NtXentBackward* nt_xent_backward(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512::nt_xent_backward;
    if (isa >= Isa::avx2) return avx2::nt_xent_backward;
#endif
    (void)isa;
    return portable::nt_xent_backward;
}

}  // namespace ssk
