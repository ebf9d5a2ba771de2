// The four ways class_moments goes through the rows; see class_moments.cpp for which and when.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "class_moments/class_moments.h"
#include "class_moments/label_sort.h"
#include "class_moments/run.h"
#include "core/memory.h"

namespace ssk {

inline int64_t element_size(DType dtype) {
    return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// What every way needs beside the rows.
struct Setup {
    Setup(int most, const Cuts& given)
        : kernels(run_kernels()()), cuts(given), labels(most, given), threads(labels.threads) {}

    const RunKernels kernels;
    const Cuts& cuts;
    const LabelPlan labels;
    const int threads;
};

struct Target {
    Labeling labeling;
    ClassState state;
};

// Labelings of which each is a function of the one before it.
using Chain = std::vector<Target>;

// Whether float32 squares of n rows can be trusted, given the scatter that they add up to: neither
// overflow (nor NaN or infinity in the data, which float64 arithmetic then reports as it should),
// nor underflow.
inline bool trusted_in_f32(DType dtype, double m2, int64_t n, int64_t cols) {
    constexpr double kSmallest = 1e-30;  // per element; float32 squares are normal from 1.2e-38
    if (dtype == DType::f64) return true;
    if (!std::isfinite(m2)) return false;
    if (n == 1) return true;
    return dtype == DType::f16 || m2 >= kSmallest * static_cast<double>(n) * cols;
}

// Rows of z in the order of their classes, gathered; a run of a coarser class is made of whole runs
// of finer ones.
void add_by_gather(const MatrixView& z, const Chain& chain, const Setup& setup);

// Rows of z in their own order, through the cache, for any number of labelings with few classes.
// False if the shape does not suit (nothing is done then).
bool add_by_strips(const MatrixView& z, const std::vector<Target>& targets, const Setup& setup);

// A labeling of the rows in some classes of a target, and those labels.
struct Remainder {
    Array<int64_t> labels;
    Target target;
};

// Rows of z in their own order, into sums of all chains' classes at once. Returns what is still to
// be added, by another way.
std::vector<Remainder> add_by_columns(const MatrixView& z, const std::vector<Chain>& chains,
                                      const Setup& setup);
bool columns_suit(const MatrixView& z, const std::vector<Chain>& chains, const Setup& setup);

}  // namespace ssk
