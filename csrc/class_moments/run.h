// The inner loop of class_moments: rows of one class, added to the moments of that class.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/views.h"

namespace ssk {

// Rows that will be asked for after these, fetched into the cache meanwhile. Row k of `count` is
// rows[k], or first + k where rows is null.
struct Upcoming {
    const uint32_t* rows;
    int64_t first;
    int64_t count;
};

// Means are float64 vectors; those that `add` works on have room for padded_cols(cols) elements,
// of which the ones beyond cols stay zero.
constexpr int64_t padded_cols(int64_t cols) { return (cols + 15) / 16 * 16; }

struct RunKernels {
    // Adds rows[0..n) of z (columns contiguous) to a class of `count` rows with this mean, and
    // returns what they add to its m2. Arithmetic: see class_moments_run.cpp.
    double (*add)(const MatrixView& z, const uint32_t* rows, int64_t n, const Upcoming& upcoming,
                  double count, double* mean);
    // The same in float64 throughout: for values whose squares do not fit float32.
    double (*add_wide)(const MatrixView& z, const uint32_t* rows, int64_t n,
                       const Upcoming& upcoming, double count, double* mean);
    // Merges n_b > 0 rows with mean_b into n_a rows with mean_a; returns ||delta||^2 n_a n_b / n.
    double (*merge)(int64_t cols, double n_a, double n_b, const double* mean_b, double* mean_a);
};

SSK_EXPORT(Table<RunKernels>, run_kernels, VECTORS)

}  // namespace ssk
