// One read of the rows: the length of a row, then its unit vector less a shift into sums of first
// and second powers, all in float64. The rows are cut into a fixed number of ranges whose sums are
// joined in order, so that the result does not depend on the number of threads.
//
// The shift is the first row's unit vector. Where the rows turn out to lie far from it beside their
// spread, digits were lost, and they are read again around their mean.
#include "unit_moments/unit_moments.h"

#include <omp.h>

#include <cmath>

#include "core/dtypes.h"
#include "core/memory.h"
#include "core/rows.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kRanges = 64;
constexpr int64_t kMostRanges = 4096;
constexpr double kElementsPerThread = 3e4;  // below this a second thread costs more than it saves
constexpr double kFar = 1e6;  // squared distance to the shift over variance: 6 of 16 digits lost

// 1 / ||row||, 0 for a row of zeros; infinity where that leaves float64. Scaled by the largest
// entry where squares would.
template <class T>
double inverse_length(const T* row, int64_t d) {
    f64v sums{};
    int64_t j = 0;
    for (; j + kF64Lanes <= d; j += kF64Lanes) {
        const f64v x = load<f64v>(row + j);
        sums += x * x;
    }
    double total = sum_lanes(sums);
    for (; j < d; ++j) {
        const double x = to_f64(load_one(row + j));
        total += x * x;
    }
    if (total > 1e-280 && total < 1e280) return 1 / std::sqrt(total);
    if (total != total) return total;
    double largest = 0;
    for (j = 0; j < d; ++j) largest = __builtin_fmax(largest, std::fabs(to_f64(load_one(row + j))));
    if (largest == 0) return 0;
    total = 0;
    for (j = 0; j < d; ++j) {
        const double x = to_f64(load_one(row + j)) / largest;
        total += x * x;
    }
    return 1 / largest / std::sqrt(total);
}

// first[j] += u_j - shift_j and second[j] += (u_j - shift_j)^2 with u = row * scale.
template <class T>
void add_row(const T* row, double scale, const double* shift, int64_t d, double* first,
             double* second) {
    int64_t j = 0;
    for (; j + kF64Lanes <= d; j += kF64Lanes) {
        const f64v x = load<f64v>(row + j) * scale - load<f64v>(shift + j);
        const f64v a = load<f64v>(first + j) + x, b = load<f64v>(second + j) + x * x;
        std::memcpy(first + j, &a, sizeof a);
        std::memcpy(second + j, &b, sizeof b);
    }
    for (; j < d; ++j) {
        const double x = to_f64(load_one(row + j)) * scale - shift[j];
        first[j] += x;
        second[j] += x * x;
    }
}

template <class S>
void moments_of(const MatrixView& z, int threads, const Cuts& cuts, double* mean, double* m2) {
    using T = Real<S>;
    const S* const data = static_cast<const S*>(z.data);
    const int64_t n = z.rows, d = z.cols;
    const double work = static_cast<double>(n) * static_cast<double>(d);
    const int team = cuts.threads(work / kElementsPerThread, threads);
    const int64_t ranges = cuts("ranges", n < kRanges ? n : kRanges, 1, kMostRanges);
    const Array<double> shift(d), sums(ranges * 2 * d);
    const Array<T> buffers(team * d);  // a row of each thread

    // Row i and 1 / its length. A row of subnormal numbers is magnified first.
    const auto read = [&](int64_t i, T* buffer, double& scale) {
        const T* row = read_row(data + i * z.row_stride, z.col_stride, d, buffer);
        scale = inverse_length(row, d);
        if (std::isinf(scale)) {
            for (int64_t j = 0; j < d; ++j) buffer[j] = load_one(row + j) * static_cast<T>(0x1p100);
            row = buffer;
            scale = inverse_length(row, d);
        }
        return row;
    };
    const auto pass = [&] {
#pragma omp parallel for num_threads(team) schedule(dynamic)
        for (int64_t r = 0; r < ranges; ++r) {
            T* const buffer = buffers.get() + omp_get_thread_num() * d;
            double* const first = sums.get() + 2 * r * d;
            std::memset(first, 0, static_cast<size_t>(2 * d) * sizeof(double));
            for (int64_t i = n * r / ranges; i < n * (r + 1) / ranges; ++i) {
                double scale;
                const T* const row = read(i, buffer, scale);
                add_row(row, scale, shift.get(), d, first, first + d);
            }
        }
        double away = 0, spread = 0;
        for (int64_t j = 0; j < d; ++j) {
            double first = 0, second = 0;
            for (int64_t r = 0; r < ranges; ++r) {
                first += sums[2 * r * d + j];
                second += sums[(2 * r + 1) * d + j];
            }
            const double gap = first / static_cast<double>(n);
            mean[j] = shift[j] + gap;
            m2[j] = second - first * gap;
            if (m2[j] < 0) m2[j] = 0;  // rounding; NaN stays
            away += gap * gap;
            spread += second / static_cast<double>(n) - gap * gap;
        }
        return away > kFar * std::fabs(spread);
    };

    double scale;
    const T* const row = read(0, buffers.get(), scale);
    for (int64_t j = 0; j < d; ++j) shift[j] = to_f64(load_one(row + j)) * scale;
    if (pass()) {
        std::memcpy(shift.get(), mean, static_cast<size_t>(d) * sizeof(double));
        pass();
    }
}

}  // namespace

SSK_BY_DTYPE(UnitMoments, unit_moments, moments_of)

}  // namespace SSK_ISA
}  // namespace ssk
