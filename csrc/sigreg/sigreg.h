// SIGReg's sums over random slices and their gradient: the passes that sslkernels/passes/sigreg.py
// specifies.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

struct SigregSettings {
    int64_t slices, knots;
    double first, step;  // knot k is at first + k * step
    uint64_t seed, draw;
};

// sums [slices, knots, 2]: over the rows of z, cos and sin of knot times projection. Cuts:
// `threads`, `part` rows that are added up by themselves. Throws std::bad_alloc.
using SigregForward = void(const MatrixView& z, const SigregSettings& settings, int threads,
                           const Cuts& cuts, double* sums);

// `grad` [slices, knots, 2] is the gradient by the sums; `grad_z` is contiguous, of z's dtype.
// Cuts: `threads`, `span` rows whose gradient is formed at a time.
using SigregBackward = void(const double* grad, const MatrixView& z, const SigregSettings& settings,
                            int threads, const Cuts& cuts, void* grad_z);

SSK_EXPORT(ByDType<SigregForward>, sigreg_forward, VECTORS)
SSK_EXPORT(ByDType<SigregBackward>, sigreg_backward, VECTORS)

}  // namespace ssk
