// One read of the rows: the length of a row, then its unit vector less a shift into sums of first
// and second powers, all in float64. The rows are cut into a fixed number of ranges whose sums are
// joined in order, so that the result does not depend on the number of threads.
//
// The shift is the first row's unit vector. Where the rows turn out to lie far from it beside their
// spread, digits were lost, and they are read again around their mean.
#include "unit_moments.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "rows.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kRanges = 64;
constexpr double kFar = 1e6;  // squared distance to the shift over variance: 6 of 16 digits lost

// 1 / ||row||, 0 for a row of zeros. Scaled by the largest entry where squares would leave float64.
template <class T>
double inverse_length(const T* row, int64_t d) {
    f64v sums{};
    int64_t j = 0;
    for (; j + kF64Lanes <= d; j += kF64Lanes) {
        const f64v x = load<f64v>(row + j);
        sums += x * x;
    }
    double total = sum_lanes(sums);
    for (; j < d; ++j) total += to_f64(row[j]) * to_f64(row[j]);
    if (total > 1e-280 && total < 1e280) return 1 / std::sqrt(total);
    if (total != total) return total;
    double largest = 0;
    for (j = 0; j < d; ++j) largest = std::max(largest, std::fabs(to_f64(row[j])));
    if (largest == 0) return 0;
    total = 0;
    for (j = 0; j < d; ++j) total += (to_f64(row[j]) / largest) * (to_f64(row[j]) / largest);
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
        const double x = to_f64(row[j]) * scale - shift[j];
        first[j] += x;
        second[j] += x * x;
    }
}

template <class S>
void moments_of(const MatrixView& z, int threads, double* mean, double* m2) {
    using T = Real<S>;
    const S* const data = static_cast<const S*>(z.data);
    const int64_t n = z.rows, d = z.cols, ranges = std::min(n, kRanges);
    std::vector<double> shift(d), sums(ranges * 2 * d);

    const auto read = [&](int64_t i, T* buffer) {
        return read_row(data + i * z.row_stride, z.col_stride, d, buffer);
    };
    const auto pass = [&] {
        std::fill(sums.begin(), sums.end(), 0.0);
#pragma omp parallel num_threads(threads)
        {
            std::vector<T> buffer(d);
#pragma omp for schedule(dynamic)
            for (int64_t r = 0; r < ranges; ++r)
                for (int64_t i = n * r / ranges; i < n * (r + 1) / ranges; ++i) {
                    const T* const row = read(i, buffer.data());
                    add_row(row, inverse_length(row, d), shift.data(), d, &sums[2 * r * d],
                            &sums[(2 * r + 1) * d]);
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

    std::vector<T> buffer(d);
    const T* const row = read(0, buffer.data());
    const double scale = inverse_length(row, d);
    for (int64_t j = 0; j < d; ++j) shift[j] = to_f64(row[j]) * scale;
    if (pass()) {
        std::copy(mean, mean + d, shift.begin());
        pass();
    }
}

}  // namespace

void unit_moments(const MatrixView& z, int threads, double* mean, double* m2) {
    const double work = static_cast<double>(z.rows) * static_cast<double>(z.cols);
    const int team = static_cast<int>(std::clamp(work / 3e4, 1.0, static_cast<double>(threads)));
    switch (z.dtype) {
        case DType::f32:
            return moments_of<float>(z, team, mean, m2);
        case DType::f64:
            return moments_of<double>(z, team, mean, m2);
        case DType::f16:
            return moments_of<f16>(z, team, mean, m2);
        case DType::bf16:
            return moments_of<bf16>(z, team, mean, m2);
    }
}

}  // namespace SSK_ISA
}  // namespace ssk
