// SIGReg's sums over random slices and their gradient: the passes that sslkernels/passes/sigreg.py
// specifies.
#pragma once

#include "core/cpu_features.h"
#include "core/cuts.h"
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

namespace portable {
SigregForward sigreg_forward;
SigregBackward sigreg_backward;
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {
SigregForward sigreg_forward;
SigregBackward sigreg_backward;
}  // namespace avx2
namespace avx512 {
SigregForward sigreg_forward;
SigregBackward sigreg_backward;
}  // namespace avx512
#endif

inline SigregForward* sigreg_forward(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512::sigreg_forward;
    if (isa >= Isa::avx2) return avx2::sigreg_forward;
#endif
    (void)isa;
    return portable::sigreg_forward;
}

inline SigregBackward* sigreg_backward(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512::sigreg_backward;
    if (isa >= Isa::avx2) return avx2::sigreg_backward;
#endif
    (void)isa;
    return portable::sigreg_backward;
}

}  // namespace ssk
