// Counts, means and scatter per class, for K labelings of the same rows.
#pragma once

#include <cstdint>
#include <vector>

#include "views.h"

namespace ssk {

// The moments of one labeling, updated in place.
struct ClassState {
    int64_t classes;
    int64_t* counts;  // [classes]
    double* mean;     // [classes, cols]; rows of empty classes are zero
    double* m2;       // [classes]: sum over the class of ||z - mean||^2
};

struct BadLabel {
    int64_t labeling;
    int64_t row;  // -1: every label is fine
    int64_t value;
};

// Adds the rows of z, labelled by labels [states.size(), z.rows], to every state. Rows labelled
// `ignore` are skipped. If a label is neither that nor in [0, classes), nothing is changed and the
// first such row is returned. Same input, same bits, whatever the number of threads.
BadLabel class_moments_update(const MatrixView& z, const int64_t* labels,
                              const std::vector<ClassState>& states, int64_t ignore, int threads);

// From how many labelings that are not functions of each other, and how many classes of all of
// them, rows are gathered from blocks (class_moments_columns.cpp): 6 and 4096 by default.
void set_moment_blocks(int64_t labelings, int64_t classes);

}  // namespace ssk
