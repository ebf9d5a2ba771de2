// Counts, means and scatter per class, for K labelings of the same rows.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuts.h"
#include "core/views.h"

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
//
// Cuts: `stage` rows copied at a time, where columns are not contiguous; `strips`, 1 to go by
// strips of rows, with `strip` rows in one and `task` strips in a task; `segment` rows of a gather;
// `columns`, 1 to take labelings that cross together, with `parts` of the rows and `numbered`
// rows whose classes are looked up at a time;
// `threads` to put to work; those of the labels (label_sort.h).
BadLabel class_moments_update(const MatrixView& z, const int64_t* labels,
                              const std::vector<ClassState>& states, int64_t ignore, int threads,
                              const Cuts& cuts);

}  // namespace ssk
