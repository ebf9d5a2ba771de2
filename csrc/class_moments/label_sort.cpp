#include "class_moments/label_sort.h"

#include <omp.h>

#include <algorithm>
#include <atomic>

#include "core/memory.h"

namespace ssk {
namespace {

constexpr int64_t kShare = 16384;  // labels
constexpr int64_t kBlock = 4096;
constexpr int kMaxDigitBits = 11;  // 2048 counters: half of a 16 KiB L1 share

int bits_of(int64_t largest) {
    int bits = 0;
    while (bits < 63 && (largest >> bits) != 0) ++bits;
    return bits;
}

// One digit of one labeling's key.
struct Digit {
    const Labeling* labeling;
    int shift;
    int64_t mask;

    int64_t of(int64_t row) const { return (labeling->key(row) >> shift) & mask; }
};

// One pass of a stable counting sort, each thread on its own stretch of the input: where a thread
// writes follows from all threads' counts, so the result does not depend on how many there are.
// A null `from` stands for the rows in their own order, less those that the labeling skips.
int64_t sort_digit(const Digit& digit, const uint32_t* from, int64_t n, uint32_t* to,
                   const LabelPlan& plan) {
    const int64_t buckets = digit.mask + 1;
    const int team = plan.team(n);
    const Array<int64_t> starts(team * buckets);
    int64_t total = 0;

    const auto stretch = [&](int t) { return n * t / team; };
    const auto count = [&](int t) {
        int64_t* mine = starts.get() + t * buckets;
        std::fill_n(mine, buckets, 0);
        for (int64_t i = stretch(t); i < stretch(t + 1); ++i) {
            if (from)
                ++mine[digit.of(from[i])];
            else if (digit.labeling->labels[i] != digit.labeling->ignore)
                ++mine[digit.of(i)];
        }
    };
    const auto scatter = [&](int t) {
        int64_t* mine = starts.get() + t * buckets;
        for (int64_t i = stretch(t); i < stretch(t + 1); ++i) {
            if (from)
                to[mine[digit.of(from[i])]++] = from[i];
            else if (digit.labeling->labels[i] != digit.labeling->ignore)
                to[mine[digit.of(i)]++] = static_cast<uint32_t>(i);
        }
    };
    const auto accumulate = [&] {
        for (int64_t b = 0; b < buckets; ++b) {
            for (int t = 0; t < team; ++t) {
                const int64_t size = starts[t * buckets + b];
                starts[t * buckets + b] = total;
                total += size;
            }
        }
    };

    if (team == 1) {
        count(0);
        accumulate();
        scatter(0);
        return total;
    }
#pragma omp parallel num_threads(team)
    {
#pragma omp for schedule(static, 1)
        for (int t = 0; t < team; ++t) count(t);
#pragma omp single
        accumulate();
#pragma omp for schedule(static, 1)
        for (int t = 0; t < team; ++t) scatter(t);
    }
    return total;
}

}  // namespace

LabelPlan::LabelPlan(int most, const Cuts& cuts)
    : threads(cuts.threads(most, most)),
      share(cuts("label_share", kShare, 1, kShare)),
      block(cuts("label_block", kBlock, 1, kBlock)),
      digit_bits(static_cast<int>(cuts("digit_bits", kMaxDigitBits, 1, kMaxDigitBits))) {}

int LabelPlan::team(int64_t labels) const {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, labels / share)));
}

RowOfLabeling first_bad_row(const std::vector<Labeling>& labelings, int64_t rows,
                            const LabelPlan& plan) {
    const auto is_bad = [&](const Labeling& labeling, int64_t row) {
        const int64_t label = labeling.labels[row];
        return (label != labeling.ignore) &
               (static_cast<uint64_t>(label) >= static_cast<uint64_t>(labeling.classes));
    };
    const int64_t count = static_cast<int64_t>(labelings.size());
    const int64_t per_labeling = (rows + plan.block - 1) / plan.block;
    const int64_t blocks = count * per_labeling;
    int64_t first = blocks;
    const auto has_bad = [&](int64_t block) {
        bool bad = false;
        const Labeling& labeling = labelings[block / per_labeling];
        const int64_t begin = block % per_labeling * plan.block;
        const int64_t end = std::min(rows, begin + plan.block);
        for (int64_t i = begin; i < end; ++i) bad |= is_bad(labeling, i);
        return bad;
    };
    const int team = plan.team(count * rows);
    if (team == 1) {
        for (int64_t b = 0; b < blocks && first == blocks; ++b)
            if (has_bad(b)) first = b;
    } else {
#pragma omp parallel for num_threads(team) schedule(static) reduction(min : first)
        for (int64_t b = 0; b < blocks; ++b)
            if (has_bad(b)) first = std::min(first, b);
    }
    if (first == blocks) return {0, -1};
    int64_t row = first % per_labeling * plan.block;
    while (!is_bad(labelings[first / per_labeling], row)) ++row;
    return {first / per_labeling, row};
}

bool is_function_of(const Labeling& coarse, const Labeling& fine, int64_t rows,
                    const LabelPlan& plan) {
    constexpr int64_t kUnseen = -1;
    const int64_t keys = fine.classes + 1;
    const int team = plan.team(rows);
    const Array<int64_t> parents(team * keys);
    std::fill_n(parents.get(), team * keys, kUnseen);
    // Skipped rows are not in the order at all, so only another skip may go with them.
    for (int t = 0; t < team; ++t) parents[t * keys + fine.classes] = coarse.classes;
    std::atomic<bool> consistent{true};
    const auto scan = [&](int t, int64_t begin, int64_t end) {
        int64_t* mine = parents.get() + t * keys;
        for (int64_t i = begin; i < end; i += plan.block) {
            if (!consistent.load(std::memory_order_relaxed)) return;
            for (int64_t j = i; j < std::min(end, i + plan.block); ++j) {
                int64_t& parent = mine[fine.key(j)];
                const int64_t here = coarse.key(j);
                if (parent == kUnseen) parent = here;
                if (parent != here) {
                    consistent.store(false, std::memory_order_relaxed);
                    return;
                }
            }
        }
    };
    // Labelings that cross mostly show it at once: not worth waking other threads.
    scan(0, 0, std::min(rows, plan.block));
    if (!consistent) return false;
    if (team == 1) {
        scan(0, plan.block, rows);
        return consistent;
    }
#pragma omp parallel for num_threads(team) schedule(static, 1)
    for (int t = 0; t < team; ++t) scan(t, rows * t / team, rows * (t + 1) / team);
    if (!consistent) return false;
    for (int64_t c = 0; c < keys; ++c) {
        int64_t parent = kUnseen;
        for (int t = 0; t < team; ++t) {
            const int64_t here = parents[t * keys + c];
            if (here == kUnseen) continue;
            if (parent != kUnseen && parent != here) return false;
            parent = here;
        }
    }
    return true;
}

int64_t sort_rows(const std::vector<Labeling>& chain, int64_t rows, const LabelPlan& plan,
                  uint32_t* order, uint32_t* spare) {
    // Least significant digit first: finest labeling before coarser ones.
    std::vector<Digit> digits;
    for (const Labeling& labeling : chain) {
        const int bits = std::max(1, bits_of(labeling.classes));
        const int count = (bits + plan.digit_bits - 1) / plan.digit_bits;
        const int width = (bits + count - 1) / count;
        for (int d = 0; d < count; ++d)
            digits.push_back({&labeling, d * width, (int64_t{1} << width) - 1});
    }
    const uint32_t* from = nullptr;
    uint32_t* to = digits.size() % 2 ? order : spare;
    int64_t n = rows;
    for (const Digit& digit : digits) {
        n = sort_digit(digit, from, n, to, plan);
        from = to;
        to = to == order ? spare : order;
    }
    return n;
}

}  // namespace ssk
