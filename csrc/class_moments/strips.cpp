// Class moments for few classes, reading the rows in their own order.
//
// A strip of rows that fits the second-level cache is sorted by class for each labeling and
// gathered from there, while the next strip is fetched in memory order; short rows are read a good
// deal faster that way than class by class across all of memory. A fixed number of consecutive
// strips makes a task with moments of its own, and the tasks' moments are merged in order per
// class. Both depend on the shape alone, so the result does not depend on threads. Memory: the
// tasks' moments, at most 1/64 of the data.
#include <omp.h>

#include <algorithm>

#include "class_moments/parts.h"

namespace ssk {
namespace {

constexpr int64_t kStripBytes = 256 << 10;
constexpr int64_t kMinRun = 4;           // rows of a class to expect in a strip
constexpr int64_t kDataPerMoments = 64;  // bytes of rows per byte of a task's moments
constexpr int64_t kMinTaskBytes = 1 << 20;
constexpr int64_t kMinTasks = 16;
constexpr int64_t kMost = int64_t{1} << 20;  // of what a cut may set

class Strips {
  public:
    Strips(const MatrixView& z, const std::vector<Target>& targets, const Setup& setup)
        : z_(z), targets_(targets), kernels_(setup.kernels), width_(padded_cols(z.cols)) {
        for (const Target& target : targets) {
            first_class_.push_back(classes_);
            classes_ += target.state.classes;
            largest_ = std::max(largest_, target.state.classes);
        }
        // A count, an m2 and a mean per class.
        const int64_t moment_bytes = classes_ * (width_ + 2) * 8;
        const int64_t task_bytes = std::max(kMinTaskBytes, kDataPerMoments * moment_bytes);
        const int64_t row_bytes = z.cols * element_size(z.dtype);
        const int64_t strip = std::max<int64_t>(1, kStripBytes / row_bytes);
        const int64_t task = std::max<int64_t>(1, task_bytes / row_bytes / strip);
        const auto tasks_of = [&](int64_t rows) { return (z.rows + rows - 1) / rows; };
        const bool chosen = largest_ * kMinRun <= strip && tasks_of(task * strip) >= kMinTasks;
        suits_ = setup.cuts("strips", chosen, 0, 1) != 0;
        if (!suits_) return;
        strip_ = setup.cuts("strip", strip, 1, kMost);
        task_ = setup.cuts("task", task, 1, kMost) * strip_;
        tasks_ = tasks_of(task_);
    }

    bool suits() const { return suits_; }

    void run(int threads) {
        counts_ = Array<int64_t>(tasks_ * classes_);
        m2_ = Array<double>(tasks_ * classes_);
        means_ = Array<double>(tasks_ * classes_ * width_);
        const int64_t scratch = strip_ + largest_ + 2;
        const Array<uint32_t> scratches(threads * scratch);
#pragma omp parallel num_threads(threads)
        {
            uint32_t* order = scratches.get() + omp_get_thread_num() * scratch;
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < tasks_; ++t) add_task(t, order);
#pragma omp for schedule(dynamic, 1)
            for (int64_t c = 0; c < classes_; ++c) merge_class(c);
        }
    }

  private:
    void add_task(int64_t t, uint32_t* order) {
        const int64_t begin = t * task_, end = std::min(z_.rows, begin + task_);
        std::fill_n(counts_.get() + t * classes_, classes_, 0);
        std::fill_n(m2_.get() + t * classes_, classes_, 0.0);
        std::fill_n(means_.get() + t * classes_ * width_, classes_ * width_, 0.0);
        for (int64_t b = begin; b < end; b += strip_)
            add_strip(t, b, std::min(end, b + strip_), order);
        for (size_t k = 0; k < targets_.size(); ++k) {
            for (int64_t c = 0; c < targets_[k].state.classes; ++c) {
                const int64_t at = t * classes_ + first_class_[k] + c;
                if (counts_[at] && !trusted_in_f32(z_.dtype, m2_[at], counts_[at], z_.cols))
                    add_class_wide(at, targets_[k].labeling, c, begin, end, order);
            }
        }
    }

    void add_strip(int64_t t, int64_t begin, int64_t end, uint32_t* order) {
        uint32_t* starts = order + strip_;
        int64_t fetched = std::min(z_.rows, end);
        for (size_t k = 0; k < targets_.size(); ++k) {
            const Labeling& labeling = targets_[k].labeling;
            const int64_t classes = labeling.classes;
            std::fill_n(starts, classes + 2, 0u);
            for (int64_t i = begin; i < end; ++i) ++starts[labeling.key(i) + 1];
            for (int64_t c = 0; c < classes; ++c) starts[c + 1] += starts[c];
            for (int64_t i = begin; i < end; ++i)
                order[starts[labeling.key(i)]++] = static_cast<uint32_t>(i);
            // starts[c] is now the end of class c; class `classes`, the skipped rows, is last.
            for (int64_t c = 0, b = 0; c < classes; b = starts[c++]) {
                const int64_t n = starts[c] - b;
                if (n == 0) continue;
                const int64_t at = t * classes_ + first_class_[k] + c;
                // The first labeling's pass fetches the next strip.
                const Upcoming upcoming{nullptr, fetched, k == 0 ? z_.rows - fetched : 0};
                if (k == 0) fetched = std::min(z_.rows, fetched + n);
                m2_[at] += kernels_.add(z_, order + b, n, upcoming, counts_[at],
                                        means_.get() + at * width_);
                counts_[at] += n;
            }
        }
    }

    void add_class_wide(int64_t at, const Labeling& labeling, int64_t c, int64_t begin, int64_t end,
                        uint32_t* order) {
        double* mean = means_.get() + at * width_;
        std::fill_n(mean, width_, 0.0);
        m2_[at] = 0;
        counts_[at] = 0;
        for (int64_t b = begin; b < end; b += strip_) {
            int64_t n = 0;
            for (int64_t i = b; i < std::min(end, b + strip_); ++i)
                if (labeling.key(i) == c) order[n++] = static_cast<uint32_t>(i);
            m2_[at] += kernels_.add_wide(z_, order, n, {nullptr, 0, 0}, counts_[at], mean);
            counts_[at] += n;
        }
    }

    void merge_class(int64_t at) {
        const size_t k = std::upper_bound(first_class_.begin(), first_class_.end(), at) -
                         first_class_.begin() - 1;
        const ClassState& state = targets_[k].state;
        const int64_t c = at - first_class_[k];
        for (int64_t t = 0; t < tasks_; ++t, at += classes_) {
            if (counts_[at] == 0) continue;
            state.m2[c] +=
                m2_[at] + kernels_.merge(z_.cols, state.counts[c], counts_[at],
                                         means_.get() + at * width_, state.mean + c * z_.cols);
            state.counts[c] += counts_[at];
        }
    }

    const MatrixView& z_;
    const std::vector<Target>& targets_;
    const RunKernels& kernels_;
    const int64_t width_;
    bool suits_ = false;
    int64_t strip_ = 0;  // rows
    int64_t task_ = 0;   // rows
    int64_t tasks_ = 0;
    int64_t classes_ = 0;  // of all labelings together
    int64_t largest_ = 0;
    std::vector<int64_t> first_class_;
    Array<int64_t> counts_;  // [tasks, classes]
    Array<double> m2_;       // the same
    Array<double> means_;    // the same, by width
};

}  // namespace

bool add_by_strips(const MatrixView& z, const std::vector<Target>& targets, const Setup& setup) {
    Strips strips(z, targets, setup);
    if (!strips.suits()) return false;
    strips.run(setup.threads);
    return true;
}

}  // namespace ssk
