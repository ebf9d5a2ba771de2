// Labels: are they all in range, and in which order are rows of one class neighbours?
#pragma once

#include <cstdint>
#include <vector>

#include "core/cuts.h"

namespace ssk {

// One labeling of the rows: labels in [0, classes), or `ignore`.
struct Labeling {
    const int64_t* labels;
    int64_t classes;
    int64_t ignore;

    // A class, or `classes` for a row that is skipped.
    int64_t key(int64_t row) const { return labels[row] == ignore ? classes : labels[row]; }
};

// How labels are gone through; the results do not depend on it. Cuts: `threads` to put
// to work; `label_share`, labels below which one more costs more than it saves; `label_block`,
// labels looked at before asking whether to go on; `digit_bits` of a sorted digit.
struct LabelPlan {
    LabelPlan(int threads, const Cuts& cuts);
    int team(int64_t labels) const;  // threads for so many

    int threads;
    int64_t share, block;
    int digit_bits;
};

struct RowOfLabeling {
    int64_t labeling;
    int64_t row;
};

// The first row whose label is neither in range nor ignored, of the first labeling that has one;
// row -1 if there is none.
RowOfLabeling first_bad_row(const std::vector<Labeling>& labelings, int64_t rows,
                            const LabelPlan& plan);

// Whether rows of one class of `fine` always share one class of `coarse` (a skipped row counts as a
// class of its own here), in one scan that ends early where they do not.
bool is_function_of(const Labeling& coarse, const Labeling& fine, int64_t rows,
                    const LabelPlan& plan);

// Stable sort of the rows that chain[0] does not skip, by (key of chain.back(), ..., key of
// chain[0]). order and spare hold `rows` elements each; the result is in order. Returns its length.
int64_t sort_rows(const std::vector<Labeling>& chain, int64_t rows, const LabelPlan& plan,
                  uint32_t* order, uint32_t* spare);

}  // namespace ssk
