#include "class_projections/class_projections.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "class_moments/label_sort.h"
#include "class_projections/plan.h"
#include "core/mean_of_rows.h"
#include "core/memory.h"
#include "nearest_center/plan.h"

namespace ssk {
namespace {

constexpr int64_t kBlockBytes = 3 << 20;  // packed rows of a thread, streamed from the shared cache
constexpr int64_t kTile = 96;             // rows of a product; blocks are a multiple, if rows allow
constexpr int64_t kMaxRows = 8 * kTile;
constexpr int64_t kRowStep = 16;  // whole panels of every instruction set
constexpr double kInflation = 1 + 0x1p-20;
// Elements to prepare, and multiply-adds, below which one more thread costs more than it saves.
constexpr double kPreparedShare = 3e4, kScannedShare = 1e6;
constexpr int64_t kMostRows = int64_t{1} << 32;  // of z: their numbers are kept in 32 bits

// g, the mean of the usable centers, and ||mu_j - g||.
void around_their_mean(const MatrixView& centers, const std::vector<int32_t>& ids, int threads,
                       double* shift, double* norm) {
    const auto* base = static_cast<const double*>(centers.data);
    const int64_t d = centers.cols, count = static_cast<int64_t>(ids.size());
    mean_of_rows(base, d, d, ids.data(), count, threads, shift);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) {
        constexpr int kSums = 8;  // independent chains of additions
        const double* row = base + ids[i] * d;
        double sums[kSums] = {};
        for (int64_t j = 0; j < d; j += kSums)
            for (int64_t k = 0; k < std::min<int64_t>(kSums, d - j); ++k) {
                const double v = row[j + k] - shift[j + k];
                sums[k] += v * v;
            }
        double total = 0;
        for (const double s : sums) total += s;
        norm[i] = std::sqrt(total);
    }
}

// Scales outside this range leave float64's squares, or their reach, and nothing is bounded.
bool has_safe_squares(double reach) { return reach == 0 || (reach > 0x1p-300 && reach < 0x1p500); }

}  // namespace

void class_projections(const MatrixView& z, const int64_t* classes, const MatrixView& centers,
                       const int64_t* counts, const double* between, bool directional, int threads,
                       const Cuts& cuts, int64_t* rank, uint8_t* alone, double* spread) {
    if (z.rows > kMostRows)
        throw std::invalid_argument("z: expected at most 2^32 rows, got " + std::to_string(z.rows));
    const LabelPlan labels(threads, cuts);
    const int64_t size = centers.rows;
    const Labeling labeling{classes, size, -1};
    if (first_bad_row({labeling}, z.rows, labels).row >= 0)
        throw std::invalid_argument("class_projections: a class is out of range");
    for (int64_t i = 0; i < z.rows; ++i) rank[i] = classes[i] < 0 ? -1 : size;
    std::fill(alone, alone + z.rows, uint8_t{0});
    std::fill(spread, spread + size, 0.0);
    const double elements = static_cast<double>(size) * centers.cols;
    const int preparing = cuts.threads(elements / kPreparedShare, threads);
    const std::vector<int32_t> ids = usable_centers(centers, preparing);
    const int64_t usable = static_cast<int64_t>(ids.size());
    if (ids.empty() || z.rows == 0) return;

    std::vector<int32_t> column(size, -1);
    for (std::size_t i = 0; i < ids.size(); ++i) column[ids[i]] = static_cast<int32_t>(i);
    const Array<uint32_t> order(z.rows), spare(z.rows);
    const int64_t labelled = sort_rows({labeling}, z.rows, labels, order.get(), spare.get());
    const auto without_center = [&](uint32_t row) { return column[classes[row]] < 0; };
    const int64_t n =
        std::remove_if(order.get(), order.get() + labelled, without_center) - order.get();
    if (n == 0) return;

    const Array<double> shift(centers.cols), norm(usable), row_spread(n);
    around_their_mean(centers, ids, preparing, shift.get(), norm.get());
    const double reach = *std::max_element(norm.get(), norm.get() + usable);
    int exponent = 0;
    if (std::isfinite(reach) && reach > 0) exponent = -std::ilogb(reach);
    for (int64_t i = 0; i < usable; ++i) norm[i] = std::ldexp(norm[i], exponent) * kInflation;

    const bool wide = z.dtype == DType::f64;
    const ProjectionKernel product = class_projection_kernel()(wide);
    const int64_t panels = (usable + product.lanes - 1) / product.lanes;
    const Array<char> packed(product.packed_bytes(usable, centers.cols));
    const ProjectionPlan plan{z,
                              centers,
                              nearest_center_exact()(),
                              classes,
                              counts,
                              wide ? nullptr : between,
                              directional,
                              usable,
                              (z.cols + 7) / 8 * 8,
                              ids.data(),
                              column.data(),
                              shift.get(),
                              exponent,
                              has_safe_squares(reach),
                              norm.get(),
                              packed.get(),
                              order.get(),
                              rank,
                              alone,
                              row_spread.get()};
#pragma omp parallel for num_threads(preparing) schedule(static)
    for (int64_t p = 0; p < panels; ++p) product.pack(plan, p, packed.get());

    const int scanning = cuts.threads(elements * static_cast<double>(n) / kScannedShare, threads);
    const auto stepped = [](int64_t rows, int64_t step) { return (rows + step - 1) / step * step; };
    const int64_t fitting = kBlockBytes / (centers.cols * product.element) / kTile * kTile;
    const int64_t share = stepped((n + scanning - 1) / scanning, kRowStep);
    const int64_t chosen = std::min(share, std::clamp(fitting, kTile, kMaxRows));
    const int64_t rows = cuts("rows", chosen, 1, kMaxRows);
    const int64_t blocks = (n + rows - 1) / rows;
    const int team = static_cast<int>(std::min<int64_t>(scanning, blocks));
    const int64_t scratch_bytes = product.scratch(plan, rows);
    const Array<char> scratch(team * scratch_bytes);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t b = 0; b < blocks; ++b)
        product.scan(plan, b * rows, std::min(rows, n - b * rows), rows,
                     scratch.get() + omp_get_thread_num() * scratch_bytes);

    if (!directional) return;
    for (int64_t i = 0; i < n; ++i) spread[classes[order[i]]] += row_spread[i];
    if (!std::isfinite(reach))
        for (int64_t i = 0; i < n; ++i)
            spread[classes[order[i]]] = std::numeric_limits<double>::quiet_NaN();
}

}  // namespace ssk
