// Checks the labels, then reads the rows in the way that suits their shape:
//
// * few classes for the length of a row (every class has several rows in a quarter of a MB): strips
//   of rows in memory order, all labelings while a strip is in the cache;
// * otherwise, for a chain of labelings of which each is a function of the one before (classes,
//   superclasses, everything): class by class, one gather for the chain;
// * for several chains, with enough rows per class: slices of columns in memory order, all chains
//   together; then a gather of the few rows for whose classes that is not accurate.
//
// A matrix whose columns are not contiguous is first copied, a few MB of rows at a time.
#include "class_moments/class_moments.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "class_moments/parts.h"

namespace ssk {

namespace {

constexpr int64_t kMaxRows = int64_t{1} << 31;  // row numbers are kept in 32 bits
constexpr int64_t kStageBytes = 8 << 20;
constexpr int64_t kStageTile = 32;  // rows: two cache lines of float32 down each column

// Labelings grouped so that each is a function of the one before it in its group.
std::vector<Chain> chains(std::vector<Target> targets, int64_t rows, const LabelPlan& labels) {
    std::stable_sort(targets.begin(), targets.end(), [](const Target& a, const Target& b) {
        return a.labeling.classes > b.labeling.classes;
    });
    std::vector<Chain> out;
    for (const Target& target : targets) {
        const auto extends = [&](const Chain& chain) {
            // With fewer rows than classes the table of parents would cost more than it saves.
            return chain.back().labeling.classes <= rows &&
                   is_function_of(target.labeling, chain.back().labeling, rows, labels);
        };
        const auto chain = std::find_if(out.begin(), out.end(), extends);
        if (chain == out.end())
            out.push_back({target});
        else
            chain->push_back(target);
    }
    return out;
}

void add_contiguous(const MatrixView& z, const std::vector<Target>& targets, const Setup& setup) {
    if (add_by_strips(z, targets, setup)) return;
    if (targets.size() == 1) return add_by_gather(z, targets, setup);
    std::vector<Remainder> remainders;
    std::vector<Chain> group;
    const auto add_group = [&] {
        if (group.size() == 1)
            add_by_gather(z, group[0], setup);
        else
            for (Remainder& remainder : add_by_columns(z, group, setup))
                remainders.push_back(std::move(remainder));
        group.clear();
    };
    for (Chain& chain : chains(targets, z.rows, setup.labels)) {
        group.push_back(std::move(chain));
        if (group.size() == 1 || columns_suit(z, group, setup)) continue;
        Chain last = std::move(group.back());
        group.pop_back();
        add_group();
        group.push_back(std::move(last));
    }
    add_group();
    std::vector<Target> rest;
    for (const Remainder& remainder : remainders) rest.push_back(remainder.target);
    for (const Chain& chain : chains(rest, z.rows, setup.labels)) add_by_gather(z, chain, setup);
}

template <class Bits>
void copy_rows(const MatrixView& z, Bits* out, int threads) {
    const char* in = static_cast<const char*>(z.data);
    const auto copy = [&](int64_t i, int64_t j) {  // from any alignment
        const int64_t at = i * z.row_stride + j * z.col_stride;
        std::memcpy(out + i * z.cols + j, in + at * int64_t{sizeof(Bits)}, sizeof(Bits));
    };
    const bool column_major = std::abs(z.row_stride) < std::abs(z.col_stride);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < z.rows; begin += kStageTile) {
        const int64_t end = std::min(z.rows, begin + kStageTile);
        if (column_major) {
            for (int64_t j = 0; j < z.cols; ++j)
                for (int64_t i = begin; i < end; ++i) copy(i, j);
        } else {
            for (int64_t i = begin; i < end; ++i)
                for (int64_t j = 0; j < z.cols; ++j) copy(i, j);
        }
    }
}

void add_staged(const MatrixView& z, const std::vector<Target>& targets, const Setup& setup) {
    const int64_t size = element_size(z.dtype);
    const int64_t fitting = std::max(2 * kStageTile, kStageBytes / (z.cols * size));
    const int64_t chunk = std::min(z.rows, setup.cuts("stage", fitting, 1, kMaxRows));
    const Scratch stage(static_cast<size_t>(chunk * z.cols * size));
    for (int64_t begin = 0; begin < z.rows; begin += chunk) {
        const int64_t rows = std::min(chunk, z.rows - begin);
        MatrixView part = z;
        part.rows = rows;
        part.data = static_cast<char*>(z.data) + begin * z.row_stride * size;
        if (size == 8)
            copy_rows(part, stage.as<uint64_t>(), setup.threads);
        else if (size == 4)
            copy_rows(part, stage.as<uint32_t>(), setup.threads);
        else
            copy_rows(part, stage.as<uint16_t>(), setup.threads);
        std::vector<Target> here = targets;
        for (Target& target : here) target.labeling.labels += begin;
        add_contiguous({stage.as<void>(), z.dtype, rows, z.cols, z.cols, 1}, here, setup);
    }
}

}  // namespace

BadLabel class_moments_update(const MatrixView& z, const int64_t* labels,
                              const std::vector<ClassState>& states, int64_t ignore, int threads,
                              const Cuts& cuts) {
    const Setup setup(threads, cuts);
    std::vector<Target> targets;
    for (const ClassState& state : states)
        targets.push_back(
            {{labels + static_cast<int64_t>(targets.size()) * z.rows, state.classes, ignore},
             state});
    std::vector<Labeling> labelings;
    for (const Target& target : targets) labelings.push_back(target.labeling);
    const auto [labeling, row] = first_bad_row(labelings, z.rows, setup.labels);
    if (row >= 0) return {labeling, row, labelings[labeling].labels[row]};
    const bool contiguous = z.col_stride == 1 || z.cols == 1;
    for (int64_t begin = 0; begin < z.rows; begin += kMaxRows) {
        MatrixView part = z;
        part.rows = std::min(kMaxRows, z.rows - begin);
        part.data = static_cast<char*>(z.data) + begin * z.row_stride * element_size(z.dtype);
        std::vector<Target> here = targets;
        for (Target& target : here) target.labeling.labels += begin;
        if (contiguous)
            add_contiguous(part, here, setup);
        else
            add_staged(part, here, setup);
    }
    return {0, -1, 0};
}

}  // namespace ssk
