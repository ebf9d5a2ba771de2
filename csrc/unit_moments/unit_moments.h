// Mean and scatter per column of rows divided by their lengths.
#pragma once

#include "core/cpu_features.h"
#include "core/cuts.h"
#include "core/views.h"

namespace ssk {

// mean [D] and m2 [D], the sum of squared differences to it, of z / ||z|| over the rows of z, at
// least one. A row of zeros stays zero; one that is not finite makes everything NaN. Cuts: `ranges`
// of the rows; `threads` to put to work. Throws std::bad_alloc.
using UnitMoments = void(const MatrixView& z, int threads, const Cuts& cuts, double* mean,
                         double* m2);

namespace portable {
UnitMoments unit_moments;
}
#if defined(__x86_64__)
namespace avx2 {
UnitMoments unit_moments;
}
namespace avx512 {
UnitMoments unit_moments;
}
#endif

inline UnitMoments* unit_moments(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512::unit_moments;
    if (isa >= Isa::avx2) return avx2::unit_moments;
#endif
    (void)isa;
    return portable::unit_moments;
}

}  // namespace ssk
