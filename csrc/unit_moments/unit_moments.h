// Mean and scatter per column of rows divided by their lengths.
#pragma once

#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// mean [D] and m2 [D], the sum of squared differences to it, of z / ||z|| over the rows of z, at
// least one. A row of zeros stays zero; one that is not finite makes everything NaN. Cuts: `ranges`
// of the rows; `threads` to put to work. Throws std::bad_alloc.
using UnitMoments = void(const MatrixView& z, int threads, const Cuts& cuts, double* mean,
                         double* m2);

SSK_EXPORT(ByDType<UnitMoments>, unit_moments, VECTORS)

}  // namespace ssk
