// VICReg, forward and backward: the passes that sslkernels/passes/vicreg.py specifies.
#pragma once

#include <cstdint>

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// One view: P problems of N rows and D columns. Strides count elements and may be zero or negative.
struct Problems {
    void* data;
    DType dtype;
    int64_t p, n, d;
    int64_t p_stride, n_stride, d_stride;
};

struct VicregSettings {
    double sim, std, cov, gamma, eps;
    bool invariance, variance, covariance;
    bool wide;  // gram = Z Z^T, N x N; else Z^T Z without its diagonal, D x D
    // The whole batch's sizes, by which sums are divided: the views may be a part of it.
    int64_t rows, columns;
    bool unrounded;  // gradients of the arithmetic type, not of the input's
};

// Outputs are contiguous. `terms` and `gram` are float64 for float64 input, else float32. `y` may
// be null. Cuts: `threads`, `columns` of a chunk, `slab` steps of the contraction (rounded up to
// whole chunks), `parts` of a block's slab. Throws std::bad_alloc.
using VicregForward = void(const Problems& x, const Problems* y, const VicregSettings& settings,
                           int threads, const Cuts& cuts, void* terms, double* mean, double* var,
                           void* gram);

// `grad` holds the four gradients of the terms; `grad_x` and `grad_y`, contiguous [P, N, D] of x's
// dtype (or `unrounded`), may be null. Cuts: `threads`, `span` lanes (columns of a wide problem,
// rows of any other) that are multiplied at a time; without covariance `rows` and `columns` that
// are written at a time.
using VicregBackward = void(const double* grad, const Problems& x, const Problems* y,
                            const VicregSettings& settings, int threads, const Cuts& cuts,
                            const double* mean, const double* var, const void* gram, void* grad_x,
                            void* grad_y);

SSK_EXPORT(ByDType<VicregForward>, vicreg_forward, VECTORS)
SSK_EXPORT(ByDType<VicregBackward>, vicreg_backward, VECTORS)

}  // namespace ssk
