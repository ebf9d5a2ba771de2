// Class moments for several labelings of which none is a function of another, in one read.
//
// Rows cannot lie in the order of every labeling at once. A task is a slice of columns over a fixed
// part of the rows, which takes its rows in memory order: each row is added to a sum per class
// under each labeling while it is in registers, and the slice is such that those sums stay in the
// cache.
//
// With g a shift common to all classes, s_c and q_c the sums of x - g and ||x - g||^2 over class c
// of n_c rows,
//
//   mean_c = g + s_c / n_c   m2_c = q_c - n_c ||mean_c - g||^2
//
// A coarser labeling that is a function of a finer one adds up the finer one's sums.
//
// The sums are good to float32 around g, so the result is good to float32 around the class where
// the class is not much tighter than its distance from g. m2 tells which classes are; so does it
// tell overflow, underflow and values that are not finite. Those classes, and those of a few rows,
// are left to a gather. Classes of two labelings that cross cannot both be tight, so that costs
// about one more read at worst, unless most classes are small (columns_suit).
//
// Tasks and the order of additions depend on the shape alone, so the result does not depend on
// threads. Memory: float64 sums for each part of the rows, at most 1/16 of the data; sums
// for each thread, at most 8 MB; 2 bytes per row and labeling. A gather of what is left adds
// 8 bytes per row and labeling to its own.
#include <omp.h>

#include <algorithm>
#include <utility>

#include "class_moments/columns_run.h"
#include "class_moments/parts.h"

namespace ssk {

namespace {

constexpr int64_t kMaxClasses = 1 << 14;  // of the labelings that are summed together
constexpr int64_t kMinRows = 16;          // in a class: float32 around g is not enough for fewer
constexpr int64_t kMinRowsExpected = 64;  // in a class, for this way to suit
constexpr int64_t kDataPerSums = 16;      // bytes of rows per byte of float64 sums
constexpr int64_t kMaxParts = 16;
constexpr int64_t kMinTasks = 4;
constexpr int64_t kNumbered = 4096;  // rows at a time
constexpr double kMaxDistance = 4;   // ||mean - g||^2 per ||x - mean||^2, on average

class Columns {
  public:
    Columns(const MatrixView& z, const std::vector<Chain>& chains, const Setup& setup)
        : z_(z), chains_(chains), setup_(setup), width_(padded_cols(z.cols)) {
        for (const Chain& chain : chains) {
            first_class_.push_back(classes_);
            classes_ += chain[0].state.classes;
        }
        // float64 rows have no kernels here, and classes are numbered in 16 bits.
        if (z.dtype == DType::f64 || classes_ > kMaxClasses) return;
        const Cuts& cuts = setup.cuts;
        slices_ = (z.cols + kSliceCols - 1) / kSliceCols;
        const int64_t sums_bytes = (classes_ + 1) * width_ * 8;
        const int64_t data_bytes = z.rows * z.cols * element_size(z.dtype);
        const int64_t parts = std::min(kMaxParts, data_bytes / kDataPerSums / sums_bytes);
        const bool chosen = parts * slices_ >= kMinTasks &&
                            std::all_of(chains.begin(), chains.end(), [&](const Chain& chain) {
                                return chain[0].state.classes * kMinRowsExpected <= z.rows;
                            });
        suits_ = cuts("columns", chosen, 0, 1) != 0;
        parts_ = cuts("parts", std::max<int64_t>(1, parts), 1, kMaxParts);
    }

    bool suits() const { return suits_; }

    void run() {
        const int threads = setup_.threads;
        const Array<float> shift(z_.cols);
        column_kernels()().find_shift(z_, shift.get());
        shift_ = shift.get();
        sums_ = Array<double>(parts_ * (classes_ + 1) * width_);
        const int64_t tallies = parts_ * slices_ * (classes_ + 1);
        tallies_ = Array<Tally>(tallies);
        std::fill_n(tallies_.get(), tallies, Tally{});
        add_parts(threads);
        counts_ = Array<int64_t>(classes_);
        squares_ = Array<double>(classes_);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t c = 0; c < classes_; ++c) add_up(c);
        for (size_t k = 0; k < chains_.size(); ++k)
            for (size_t l = 1; l < chains_[k].size(); ++l) merge_coarse(k, l, threads);
        const Array<bool> left(classes_);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t c = 0; c < classes_; ++c) {
            const size_t k = std::upper_bound(first_class_.begin(), first_class_.end(), c) -
                             first_class_.begin() - 1;
            left[c] = !merge(chains_[k][0], c - first_class_[k], counts_[c], squares_[c],
                             sums_.get() + c * width_);
        }
        for (size_t k = 0; k < chains_.size(); ++k)
            leave(chains_[k][0], left.get() + first_class_[k], threads);
    }

    // The rows that are still to be added.
    std::vector<Remainder> take_left() { return std::move(left_); }

  private:
    Tally* tallies_of(int64_t part, int64_t slice) const {
        return tallies_.get() + (part * slices_ + slice) * (classes_ + 1);
    }

    void add_parts(int threads) const {
        const int64_t labelings = static_cast<int64_t>(chains_.size());
        const Array<uint16_t> numbers(z_.rows * labelings);
        const int64_t numbered = setup_.cuts("numbered", kNumbered, 1, kNumbered);
        const int64_t recent = (classes_ + 1) * kSliceCols;
        const Array<float> recents(threads * recent);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < z_.rows; i += numbered)
                number_classes(i, std::min(z_.rows, i + numbered), numbers.get());
            float* mine = recents.get() + omp_get_thread_num() * recent;
            std::fill_n(mine, recent, 0.0f);
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < parts_ * slices_; ++t)
                add_part(t / slices_, t % slices_, numbers.get(), mine);
        }
    }

    void number_classes(int64_t begin, int64_t end, uint16_t* numbers) const {
        const size_t labelings = chains_.size();
        for (size_t k = 0; k < labelings; ++k) {
            const Labeling& labeling = chains_[k][0].labeling;
            for (int64_t i = begin; i < end; ++i) {
                const int64_t key = labeling.key(i);
                const bool skipped = key == labeling.classes;
                numbers[i * labelings + k] =
                    static_cast<uint16_t>(skipped ? classes_ : first_class_[k] + key);
            }
        }
    }

    void add_part(int64_t p, int64_t s, const uint16_t* numbers, float* recent) const {
        Slice slice;
        slice.first_col = s * kSliceCols;
        slice.cols = std::min(kSliceCols, z_.cols - slice.first_col);
        slice.shift = shift_;
        slice.recent = recent;
        slice.tallies = tallies_of(p, s);
        slice.sums = sums_.get() + p * (classes_ + 1) * width_;
        slice.sums_stride = width_;
        slice.classes = classes_ + 1;
        const int64_t cols = std::min(kSliceCols, width_ - slice.first_col);
        for (int64_t c = 0; c <= classes_; ++c)
            std::fill_n(slice.sums + c * width_ + slice.first_col, cols, 0.0);
        column_kernels()().add(z_, z_.rows * p / parts_, z_.rows * (p + 1) / parts_, numbers,
                               static_cast<int64_t>(chains_.size()), slice);
    }

    // The parts of class c together, in the place of the first.
    void add_up(int64_t c) {
        double* sums = sums_.get() + c * width_;
        counts_[c] = 0;
        squares_[c] = 0;
        for (int64_t p = 0; p < parts_; ++p) {
            const Tally* tallies = tallies_.get() + p * slices_ * (classes_ + 1) + c;
            counts_[c] += tallies->count;
            for (int64_t s = 0; s < slices_; ++s)
                squares_[c] += tallies[s * (classes_ + 1)].squares;
            if (p == 0) continue;
            const double* more = sums + p * (classes_ + 1) * width_;
            for (int64_t j = 0; j < z_.cols; ++j) sums[j] += more[j];
        }
    }

    // Merges n rows into class c of target, whose sums become a mean. False if they are better left
    // to a gather.
    bool merge(const Target& target, int64_t c, int64_t n, double squares, double* sums) const {
        if (n == 0) return true;
        const double rows = static_cast<double>(n);
        double distance = 0;
        for (int64_t j = 0; j < z_.cols; ++j) {
            const double d = sums[j] / rows;
            distance += d * d;
            sums[j] = shift_[j] + d;
        }
        const double m2 = squares - rows * distance;
        if (n < kMinRows || !(rows * distance <= kMaxDistance * m2) ||
            !trusted_in_f32(z_.dtype, m2, n, z_.cols))
            return false;
        const ClassState& state = target.state;
        state.m2[c] += m2 + setup_.kernels.merge(z_.cols, static_cast<double>(state.counts[c]),
                                                 rows, sums, state.mean + c * z_.cols);
        state.counts[c] += n;
        return true;
    }

    // chains_[k][l], whose classes are unions of those of chains_[k][0].
    void merge_coarse(size_t k, size_t l, int threads) {
        const Target& fine = chains_[k][0];
        const Target& coarse = chains_[k][l];
        const int64_t classes = coarse.state.classes;
        const Array<int64_t> parents(fine.state.classes + 1);
        for (int64_t i = 0; i < z_.rows; ++i)
            parents[fine.labeling.key(i)] = coarse.labeling.key(i);
        std::vector<int64_t> counts(classes);
        std::vector<double> squares(classes), sums(classes * width_);
        for (int64_t c = 0; c < fine.state.classes; ++c) {
            const int64_t from = first_class_[k] + c;
            if (counts_[from] == 0 || parents[c] == classes) continue;
            const int64_t to = parents[c];
            counts[to] += counts_[from];
            squares[to] += squares_[from];
            for (int64_t j = 0; j < z_.cols; ++j) sums[to * width_ + j] += sums_[from * width_ + j];
        }
        const Array<bool> left(classes);
        for (int64_t c = 0; c < classes; ++c)
            left[c] = !merge(coarse, c, counts[c], squares[c], sums.data() + c * width_);
        leave(coarse, left.get(), threads);
    }

    // Leaves over the target's rows in the classes marked.
    void leave(const Target& target, const bool* marked, int threads) {
        const int64_t classes = target.state.classes;
        if (std::none_of(marked, marked + classes, [](bool m) { return m; })) return;
        constexpr int64_t kSkip = -1;
        Array<int64_t> labels(z_.rows);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < z_.rows; ++i) {
            const int64_t key = target.labeling.key(i);
            labels[i] = key < classes && marked[key] ? key : kSkip;
        }
        const Labeling labeling{labels.get(), classes, kSkip};
        left_.push_back({std::move(labels), {labeling, target.state}});
    }

    const MatrixView& z_;
    const std::vector<Chain>& chains_;
    const Setup& setup_;
    const int64_t width_;
    int64_t classes_ = 0;  // of the finest labeling of every chain; one more for skipped rows
    bool suits_ = false;
    int64_t slices_ = 0;
    int64_t parts_ = 0;
    std::vector<int64_t> first_class_;
    const float* shift_ = nullptr;
    Array<double> sums_;    // [parts, classes + 1, width]
    Array<Tally> tallies_;  // [parts, slices, classes + 1]
    Array<int64_t> counts_;
    Array<double> squares_;
    std::vector<Remainder> left_;
};

}  // namespace

bool columns_suit(const MatrixView& z, const std::vector<Chain>& chains, const Setup& setup) {
    return Columns(z, chains, setup).suits();
}

std::vector<Remainder> add_by_columns(const MatrixView& z, const std::vector<Chain>& chains,
                                      const Setup& setup) {
    Columns columns(z, chains, setup);
    columns.run();
    return columns.take_left();
}

}  // namespace ssk
