// NT-Xent's terms. 2^logit is split into a fraction and an integer exponent once, and scaled twice,
// by the running maximum of its row and by that of its column: nothing overflows or vanishes at any
// temperature. A row's positive stays out of its sum, so that its loss, log(1 + rest / positive),
// keeps its digits when it is small.
//
// Accumulators: float32 (float64 for float64) within a tile, float64 across tiles. Norms are
// float64.
#include "nt_xent/tiles.h"

namespace ssk {
namespace SSK_ISA {
namespace {

template <class T>
T largest_lane(Vec<T> x) {
    T out = x[0];
    for (int l = 1; l < kLanes<T>; ++l) out = x[l] > out ? x[l] : out;
    return out;
}

// Log-sum-exps in the making: sum * 2^exponent per row.
struct LogSums {
    double *sum, *exponent;

    // Room for logits up to `most`; returns the exponent in force.
    double raise(int64_t row, double most) const {
        const double wanted = std::nearbyint(most);
        if (wanted > exponent[row]) {
            sum[row] = std::ldexp(sum[row], static_cast<int>(exponent[row] - wanted));
            exponent[row] = wanted;
        }
        return exponent[row];
    }
};

// Adds 2^logit of a tile to the rows' sums and, with `both`, to the columns'.
template <class T>
void add_tile(const Logits<T>& logits, int64_t i, int64_t j, bool both, const T* c,
              const LogSums& sums) {
    using V = Vec<T>;
    constexpr int W = kLanes<T>;
    constexpr int kVectors = kBlock / W;
    const int64_t rows = logits.height(i), vectors = panels_of<T>(logits.width(j));
    V highest[kVectors], column_sum[kVectors], column_exponent[kVectors];
    T row_exponent[kBlock];
    for (int v = 0; v < vectors; ++v) {
        highest[v] = splat(kAbsent<T>);
        column_sum[v] = V{};
    }
    for (int64_t r = 0; r < rows; ++r) {
        const V* row = reinterpret_cast<const V*>(c + r * kBlock);
        V most = row[0];
        for (int v = 0; v < vectors; ++v) {
            most = row[v] > most ? row[v] : most;
            highest[v] = row[v] > highest[v] ? row[v] : highest[v];
        }
        row_exponent[r] =
            static_cast<T>(sums.raise(i + r, static_cast<double>(largest_lane<T>(most))));
    }
    for (int v = 0; both && v < vectors; ++v)
        for (int l = 0; l < W; ++l) {
            const int64_t column = j + v * W + l;
            column_exponent[v][l] = column < j + logits.width(j)
                                        ? static_cast<T>(sums.raise(column, highest[v][l]))
                                        : T{0};
        }
    for (int64_t r = 0; r < rows; ++r) {
        const V* row = reinterpret_cast<const V*>(c + r * kBlock);
        V row_sum{};
        for (int v = 0; v < vectors; ++v) {
            const Power<T> power = exp2_parts<T>(row[v]);
            row_sum += scaled<T>(power.fraction, power.whole - row_exponent[r]);
            if (both) column_sum[v] += scaled<T>(power.fraction, power.whole - column_exponent[v]);
        }
        sums.sum[i + r] += static_cast<double>(sum_lanes(row_sum));
    }
    for (int v = 0; both && v < vectors; ++v)
        for (int64_t l = 0; l < W && v * W + l < logits.width(j); ++l)
            sums.sum[j + v * W + l] += static_cast<double>(column_sum[v][l]);
}

template <class S>
void forward(const MatrixView& x, const MatrixView& y, int64_t first, int64_t samples,
             double temperature, int threads, const Cuts& cuts, double* terms, double* lse,
             double* row_loss) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const OwnRows own{x.rows, first, samples};
    const Rows<S> rows(x, y, 0, own.n), own_rows(x, y, first, samples);
    const int64_t count = own.count(), d = rows.d, size = panels_of<T>(rows.count()) * W * d;
    const double tiles = static_cast<double>(count) * static_cast<double>(rows.count());
    threads =
        useful_threads(threads, tiles * static_cast<double>(d + 16) / (own.all() ? 2 : 1), cuts);

    const Array<T> packed(size);
    const Array<T> own_packed(own.all() ? 0 : panels_of<T>(count) * W * d);
    const Array<T> buffers(threads * W * d);
    const Array<double> per_row(3 * count);
    const LogSums sums{per_row.get(), per_row.get() + count};
    double* const positive = sums.exponent + count;
    for (int64_t i = 0; i < count; ++i) {
        sums.sum[i] = 0;
        sums.exponent[i] = kAbsent<double>;
    }
    const Plan plan(own, threads, cuts);
    T* const own_panels = own.all() ? packed.get() : own_packed.get();
    const Logits<T> logits{own_panels, packed.get(), own, d, plan.height};
    const double scale = std::sqrt(kLog2E / temperature);
#pragma omp parallel num_threads(threads)
    {
        alignas(64) T c[kBlock * kBlock];
        T* const buffer = buffers.get() + omp_get_thread_num() * W * d;
        pack<S>(rows, own_rows, scale, buffer, packed.get(), own_panels, nullptr, 0);
        for_tiles(plan, [&](int64_t i, int64_t j) {
            logits.tile(i, j, c);
            logits.for_positives(i, j, [&](int64_t row, int64_t at) {
                positive[row] = static_cast<double>(c[at]);
                if (own.all()) positive[own.partner(row)] = positive[row];
                c[at] = kAbsent<T>;
            });
            add_tile(logits, i, j, own.all() && i != j, c, sums);
        });
    }
    double loss = 0, alignment = 0, uniformity = 0;
    for (int64_t i = 0; i < count; ++i) {
        // log(1 + e^gap), gap from the positive to the rest: the larger of 0 and gap, and the
        // remainder.
        const double gap = (sums.exponent[i] + std::log2(sums.sum[i]) - positive[i]) * kLn2;
        row_loss[i] = (gap > 0 ? gap : 0) + std::log1p(std::exp(-std::fabs(gap)));
        lse[i] = positive[i] * kLn2 + row_loss[i];
        loss += row_loss[i];
        alignment -= positive[i] * kLn2;
        uniformity += lse[i];
    }
    const double mean = 1 / static_cast<double>(count);
    terms[0] = loss * mean;
    terms[1] = alignment * mean;
    terms[2] = uniformity * mean;
}

}  // namespace

SSK_BY_DTYPE(NtXentForward, nt_xent_forward, forward)

}  // namespace SSK_ISA
}  // namespace ssk
