// What the classes of a block know about the centers of one column tile: distances, and the centers
// so close to their own that they are multiplied as differences.
#pragma once

#include "class_projections/block.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// The centers `lanes` of a column tile that are close to that of a class, by products with the
// differences between the means.
template <class T>
void finish_close(const Block<T>& b, int64_t slot, int64_t j0, const double* between,
                  const int32_t* lanes, int64_t count) {
    constexpr int W = kLanes<T>;
    const ProjectionPlan& plan = b.plan;
    const int64_t dim = plan.z.cols, begin = b.slot_begin[slot], end = b.slot_begin[slot + 1];
    const double* own = b.center(b.class_of(slot));
    const double up = power_of_two(plan.exponent);
    const int64_t panel = W * dim;
    double magnify[kBlock], scaled[kBlock];  // the first puts the difference's length into [1, 2)
    for (int64_t i = 0; i < count; ++i) {
        const double d2 = between[lanes[i]];
        const bool measured = d2 > 0 && std::isfinite(d2);
        magnify[i] = measured ? power_of_two(-std::ilogb(std::sqrt(d2))) : up;
        scaled[i] = d2 * up * up;
    }
    for (int64_t p = 0; p < count; p += W) {
        const auto difference = [&](int64_t l) {
            return Difference{b.center(plan.ids[j0 + lanes[p + l]]), own, magnify[p + l]};
        };
        pack_differences<T>(smaller(W, count - p), dim, difference, b.differences + p / W * panel);
    }
    double factor[kBlock];
    for (int64_t i = 0; i < count; ++i) {
        factor[i] = up / magnify[i];
    }
    const double relative = relative_rounding<T>(dim);
    for (int64_t s = begin / W * W; s < end; s += kBlock) {
        const int64_t height = smaller(kBlock, end - s);
        block_product(b.packed + s / W * panel, panel, height, b.differences, panel, count, 0, dim,
                      false, b.product);
        for (int64_t r = larger(s, begin); r < s + height; ++r) {
            Row<T>& row = b.rows[r];
            if (!row.finite) continue;
            int32_t ids[kBlock];
            bool ranked[kBlock], left[kBlock];
            int64_t open = 0;
            for (int64_t i = 0; i < count; ++i) {
                const double product = static_cast<double>(b.product[(r - s) * kBlock + i]);
                const double t = product * factor[i];
                if (scaled[i] > 0) {
                    const double ratio = t / scaled[i];
                    b.sums[r][0] += ratio * ratio;
                }
                const double half = scaled[i] / 2 * static_cast<double>(row.per_half);
                const double bound =
                    kInflation * static_cast<double>(row.slope) * std::sqrt(scaled[i]) +
                    relative * (half + static_cast<double>(row.gain)) + row.base;
                const double margin = t - half, moved = margin + static_cast<double>(row.gain);
                const bool sure = margin > bound, surely = moved > bound;
                row.rank += sure;
                row.rival |= surely;
                ids[open] = plan.ids[j0 + lanes[i]];
                ranked[open] = !(sure || margin < -bound);
                left[open] = !(surely || moved < -bound);
                open += ranked[open] || (left[open] && !row.rival);
            }
            if (open) decide(b, r, ids, ranked, left, open);
        }
    }
}

// Squared distances between the centers of classes [g, g + group) and of columns [j0, j0 + width).
template <class T>
void know_distances(const Block<T>& b, int64_t g, int64_t group, int64_t j0, int64_t width) {
    const ProjectionPlan& plan = b.plan;
    if (plan.between) {
        for (int64_t i = 0; i < group; ++i) {
            const double* const row = plan.between + b.class_of(g + i) * plan.centers.rows;
            for (int64_t l = 0; l < width; ++l) b.between[i * width + l] = row[plan.ids[j0 + l]];
        }
        return;
    }
    const int64_t dim = plan.z.cols;
    for (int64_t i = 0; i < group; ++i) {
        double* const row = b.x + i * plan.leading;
        std::memcpy(row, b.center(b.class_of(g + i)), dim * sizeof(double));
        for (int64_t j = dim; j < plan.leading; ++j) row[j] = 0;
    }
    plan.exact.distances(b.x, plan.leading, group, plan.centers, plan.ids + j0, width, b.between);
}

// The tables of all classes for columns [j0, j0 + width); close centers are dealt with at once.
template <class T>
void know_columns(const Block<T>& b, int64_t j0, int64_t width) {
    const ProjectionPlan& plan = b.plan;
    const int64_t lanes = panels_of<T>(width) * kLanes<T>;
    const double up = power_of_two(plan.exponent);
    for (int64_t l = 0; l < lanes; ++l) {
        b.weight[l] = l < width ? static_cast<T>(plan.norm[j0 + l] * kInflation) : T{0};
    }
    for (int64_t g = 0; g < b.slots; g += kGroup) {
        const int64_t group = smaller(kGroup, b.slots - g);
        know_distances(b, g, group, j0, width);
        for (int64_t i = 0; i < group; ++i) {
            const int64_t at = plan.column[b.class_of(g + i)];
            const double own = plan.norm[at];
            const double* between = b.between + i * width;
            ClassTile<T>& tile = b.tiles[g + i];
            int32_t close[kBlock];
            int64_t count = 0;
            for (int64_t l = 0; l < lanes; ++l) {
                tile.half[l] = static_cast<T>(kAway);
                tile.inverse[l] = 0;
                if (l >= width || j0 + l == at) continue;
                const double other = plan.norm[j0 + l];
                const double scaled = between[l] * up * up;
                if (!(between[l] > 0) || !std::isfinite(between[l])) b.coincides[g + i] = true;
                if (scaled > kTiny && scaled > Bound<T>::close * (own * own + other * other)) {
                    tile.half[l] = static_cast<T>(scaled / 2);
                    tile.inverse[l] = static_cast<T>(1 / scaled);
                } else {
                    close[count++] = static_cast<int32_t>(l);
                }
            }
            if (count) finish_close(b, g + i, j0, between, close, count);
        }
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
