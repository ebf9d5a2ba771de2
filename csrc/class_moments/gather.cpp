// Class moments by gathering rows class by class.
//
// The rows are sorted by class and the sorted order is cut into fixed segments, one task each. A
// run of one class that lies within a segment goes straight into the state: no other task touches
// that class. Runs that touch a segment's border are kept as partial moments and merged in order
// once all tasks are done, so the result does not depend on threads, and one class may hold all
// rows. Memory: 8 bytes per row for the order, and 2 float64 rows per segment and labeling, at most
// 1/512 of fp32 data per labeling once N is in the hundred thousands.
#include <omp.h>

#include <algorithm>

#include "class_moments/parts.h"

namespace ssk {
namespace {

constexpr int64_t kMaxSegment = 2048;             // rows
constexpr int64_t kMinSegmentElements = 1 << 15;  // a task should outlast its own scheduling
constexpr int64_t kMinSegments = 64;

int64_t segment_rows(int64_t rows, int64_t cols, const Cuts& cuts) {
    const int64_t least = std::max<int64_t>(16, kMinSegmentElements / cols);
    const int64_t wanted = (rows + kMinSegments - 1) / kMinSegments;
    return cuts("segment", std::min(kMaxSegment, std::max(least, wanted)), 1, kMaxSegment);
}

// The moments of some rows of one class; cls == classes stands for rows that are skipped.
struct Partial {
    int64_t cls;
    int64_t count;
    double m2;
};

// What one thread has of the run it is in, per labeling of the chain.
struct Open {
    Partial part;
    double* mean;
    int64_t begin;  // position in the order
};

class Gather {
  public:
    Gather(const MatrixView& z, const std::vector<Target>& chain, const Setup& setup,
           const uint32_t* order, int64_t n)
        : z_(z),
          chain_(chain),
          kernels_(setup.kernels),
          order_(order),
          n_(n),
          levels_(static_cast<int64_t>(chain.size())),
          segment_(segment_rows(n, z.cols, setup.cuts)),
          segments_((n + segment_ - 1) / segment_),
          width_(padded_cols(z.cols)),
          edges_(segments_ > 1 ? segments_ * levels_ * 2 : 0),
          edge_means_(segments_ > 1 ? segments_ * levels_ * 2 * z.cols : 0) {}

    void run(int threads) {
        const int team = static_cast<int>(std::min<int64_t>(threads, segments_));
        const Array<double> means(team * levels_ * width_);
        const Array<Open> opens(team * levels_);
        if (segments_ > 1) std::fill_n(edges_.get(), segments_ * levels_ * 2, Partial{});
        for (int64_t i = 0; i < team * levels_; ++i) opens[i].mean = means.get() + i * width_;
        if (team == 1) {
            for (int64_t s = 0; s < segments_; ++s) add_segment(s, opens.get());
        } else {
#pragma omp parallel num_threads(team)
            {
                Open* open = opens.get() + omp_get_thread_num() * levels_;
#pragma omp for schedule(dynamic, 1)
                for (int64_t s = 0; s < segments_; ++s) add_segment(s, open);
            }
        }
        merge_edges();
    }

  private:
    void add_segment(int64_t s, Open* open) {
        const int64_t begin = s * segment_, end = std::min(n_, begin + segment_);
        for (int64_t b = begin; b < end;) {
            const int64_t e = run_end(b, end);
            start(open[0], chain_[0].labeling.key(order_[b]), b);
            // A coarser run ends only where all finer ones do.
            for (int64_t l = 1; l < levels_; ++l) {
                const int64_t cls = chain_[l].labeling.key(order_[b]);
                if (b > begin && open[l].part.cls == cls) break;
                if (b > begin) close(s, open, l, b);
                start(open[l], cls, b);
            }
            add_run(b, e, open[0]);
            close(s, open, 0, e);
            b = e;
        }
        for (int64_t l = 1; l < levels_; ++l) close(s, open, l, end);
    }

    void start(Open& run, int64_t cls, int64_t b) const {
        run.part = {cls, 0, 0.0};
        run.begin = b;
        std::fill_n(run.mean, width_, 0.0);
    }

    // The end of the run of one class of chain[0] that begins at b: by doubling steps, since a
    // look at a label is a cache miss.
    int64_t run_end(int64_t b, int64_t end) const {
        const Labeling& labeling = chain_[0].labeling;
        const int64_t cls = labeling.key(order_[b]);
        const auto within = [&](int64_t i) { return labeling.key(order_[i]) == cls; };
        if (within(end - 1)) return end;
        int64_t in = b, out = end - 1;
        for (int64_t step = 1; in + step < out; step *= 2) {
            if (!within(in + step)) {
                out = in + step;
                break;
            }
            in += step;
        }
        while (out - in > 1) {
            const int64_t middle = in + (out - in) / 2;
            (within(middle) ? in : out) = middle;
        }
        return out;
    }

    void add_run(int64_t b, int64_t e, Open& open) const {
        const uint32_t* rows = order_ + b;
        const Upcoming upcoming{order_ + e, 0, n_ - e};
        open.part.count = e - b;
        open.part.m2 = kernels_.add(z_, rows, e - b, upcoming, 0, open.mean);
        if (trusted_in_f32(z_.dtype, open.part.m2, e - b, z_.cols)) return;
        std::fill_n(open.mean, width_, 0.0);
        open.part.m2 = kernels_.add_wide(z_, rows, e - b, upcoming, 0, open.mean);
    }

    // The run at level l ends at position e of the order: hand it to its state (or keep it as a
    // partial of segment s) and to the coarser run around it.
    void close(int64_t s, Open* open, int64_t l, int64_t e) {
        Open& run = open[l];
        const bool head = s > 0 && run.begin == s * segment_;
        const bool tail = s + 1 < segments_ && e == (s + 1) * segment_;
        if (head || tail) {
            const int64_t slot = (s * levels_ + l) * 2 + (head ? 0 : 1);
            edges_[slot] = run.part;
            std::copy_n(run.mean, z_.cols, edge_means_.get() + slot * z_.cols);
        } else {
            merge_into_state(chain_[l], run.part, run.mean);
        }
        if (l + 1 < levels_) {
            Open& outer = open[l + 1];
            outer.part.m2 += run.part.m2 + kernels_.merge(z_.cols, outer.part.count, run.part.count,
                                                          run.mean, outer.mean);
            outer.part.count += run.part.count;
        }
    }

    void merge_into_state(const Target& target, const Partial& part, const double* mean) const {
        const ClassState& state = target.state;
        if (part.count == 0 || part.cls == state.classes) return;
        state.m2[part.cls] += part.m2 + kernels_.merge(z_.cols, state.counts[part.cls], part.count,
                                                       mean, state.mean + part.cls * z_.cols);
        state.counts[part.cls] += part.count;
    }

    void merge_edges() const {
        if (segments_ == 1) return;
        for (int64_t slot = 0; slot < segments_ * levels_ * 2; ++slot)
            merge_into_state(chain_[slot / 2 % levels_], edges_[slot],
                             edge_means_.get() + slot * z_.cols);
    }

    const MatrixView& z_;
    const std::vector<Target>& chain_;
    const RunKernels& kernels_;
    const uint32_t* order_;
    const int64_t n_;
    const int64_t levels_;
    const int64_t segment_;
    const int64_t segments_;
    const int64_t width_;
    const Array<Partial> edges_;      // [segments, levels, head and tail]
    const Array<double> edge_means_;  // the same, by cols
};

}  // namespace

void add_by_gather(const MatrixView& z, const std::vector<Target>& chain, const Setup& setup) {
    const Array<uint32_t> order(2 * z.rows);
    std::vector<Labeling> labelings;
    for (const Target& target : chain) labelings.push_back(target.labeling);
    const int64_t n = sort_rows(labelings, z.rows, setup.labels, order.get(), order.get() + z.rows);
    if (n > 0) Gather(z, chain, setup, order.get(), n).run(setup.threads);
}

}  // namespace ssk
