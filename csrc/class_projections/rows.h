// The rows of a block relative to the centers of their classes, packed for the product, with what
// the bound on its error needs. Included once per instruction set; symbols as in
// class_projections.h.
#pragma once

#include <cmath>

#include "class_projections/plan.h"
#include "core/elementary.h"
#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// Constants of the bound; `rounding` is 2 u. Centers whose squared distance is below `close` of
// their squared norms are multiplied by differences.
template <class T>
struct Bound;
template <>
struct Bound<float> {
    static constexpr double rounding = 0x1p-23, floor = 0x1p-100, close = 0x1p-10;
};
template <>
struct Bound<double> {
    static constexpr double rounding = 0x1p-52, floor = 0x1p-200, close = 0x1p-24;
};
constexpr double kInflation = 1 + 0x1p-10;
// Squared distances, scaled, whose inverse is kept out of float32's extremes.
constexpr double kTiny = 0x1p-80;
// Rows so much larger than the centers' scatter are compared in float64 only, and smaller ones are
// scaled as if they were larger.
constexpr int kFar = 30, kNear = 60;

// What a class's row carries through the tiles.
template <class T>
struct Row {
    T slope;       // A
    T constant;    // the part of the bound that no center changes
    T per_half;    // b / a, which puts a^2 d_j^2 / 2 on the scale of t_j
    T at_own;      // p_y
    T gain;        // (f^2 - 1) ||r||^2 / 2
    int32_t slot;  // place of its class in the block
    int32_t rank;
    int32_t magnified;  // b / a = 2^magnified
    bool finite, rival;
    double base;          // `constant` without the rounding of p_y
    double own, without;  // the float64 distances that decide: ||r||^2 and f^2 ||r||^2
};

// 2^e; 0 or infinity beyond the normal numbers.
inline double power_of_two(int e) {
    const int biased = e < -1023 ? 0 : e > 1023 ? 2047 : e + 1023;
    const uint64_t bits = static_cast<uint64_t>(biased) << 52;
    double out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

template <class T>
double relative_rounding(int64_t dim) {
    return 4 * Bound<T>::rounding + 0x1p-51 * static_cast<double>(dim + 16);
}

// x -= mu, and the product of the result with mu - g.
inline double center_row(const double* mu, const double* g, int64_t dim, double* x) {
    f64v sum{};
    int64_t j = 0;
    for (; j + kF64Lanes <= dim; j += kF64Lanes) {
        const f64v m = load<f64v>(mu + j), r = load<f64v>(x + j) - m;
        std::memcpy(x + j, &r, sizeof r);
        sum += r * (m - load<f64v>(g + j));
    }
    double total = sum_lanes(sum);
    for (; j < dim; ++j) {
        x[j] -= mu[j];
        total += x[j] * (mu[j] - g[j]);
    }
    return total;
}

[[maybe_unused]] bool all_zero(const double* x, int64_t count) {
    for (int64_t j = 0; j < count; ++j)
        if (x[j] != 0) return false;
    return true;
}

// n of the bound's gamma_n.
template <class T>
double roundings(int64_t dim) {
    return static_cast<double>(kSteps<T> + dim / kSteps<T> + 2);
}

// Fills everything but the slot, for a row whose r is in x; returns the exponent of b.
template <class T>
int describe_row(const ProjectionPlan& plan, int64_t y, double at_own, const double* x,
                 Row<T>& row) {
    const int64_t dim = plan.z.cols;
    row.rank = 0;
    row.finite = std::isfinite(row.own);
    if (!row.finite) return 0;
    const int a = plan.exponent;
    int b = row.own > 0 ? -std::ilogb(std::sqrt(row.own)) : a;
    bool bounded = plan.scaled && b >= a - kFar;
    if (b > a + kNear) b = a + kNear;
    if (row.own < 0x1p-960) {  // squares may have vanished
        b = a + kNear;
        bounded = bounded && all_zero(x, dim);
    }
    const double up_a = power_of_two(a), up_b = power_of_two(b);
    const double norm = std::sqrt(row.own) * up_b, per_half = power_of_two(b - a);
    const double d = static_cast<double>(dim), gamma64 = 0x1p-53 * (d + 16);
    const double n = roundings<T>(dim);
    const double gamma = n * Bound<T>::rounding / (1 - n * Bound<T>::rounding);
    row.base = 4 * gamma64 * norm * norm / per_half + d * Bound<T>::floor;
    if (a + b > 700) row.base += std::ldexp(d, a + b - 1072);  // else far below the floor
    row.base = bounded ? row.base * kInflation : __builtin_inf();
    const double own_norm = plan.norm[plan.column[y]];
    const double rounding = 2 * Bound<T>::rounding;
    row.constant =
        static_cast<T>(row.base + kInflation * norm * own_norm * (rounding + 2 * gamma64));
    row.slope = static_cast<T>(kInflation * norm * (gamma + rounding));
    row.per_half = static_cast<T>(per_half);
    row.magnified = b - a;
    row.at_own = static_cast<T>(at_own * up_a * up_b);
    row.gain = 0;
    row.rival = true;
    if (plan.counts) {
        const double count = static_cast<double>(plan.counts[y]), f = count / (count - 1);
        row.without = row.own * (f * f);  // infinite, or 0 x infinity, for a class of one
        row.rival = !std::isfinite(row.without);
        if (!row.rival) row.gain = static_cast<T>((row.without - row.own) / 2 * up_b * up_a);
    }
    return b;
}

// Asks for share `part` of `parts` of the columns of n rows that will be packed next: rows of a
// class lie apart, and memory serves many short streams faster than one after the other.
inline void prefetch(const MatrixView& z, const uint32_t* order, int64_t n, int64_t part,
                     int64_t parts) {
    constexpr int64_t kBytes[] = {4, 8, 2, 2};  // by DType
    constexpr int64_t kLine = 64;
    if (z.col_stride != 1) return;
    const int64_t element = kBytes[static_cast<int>(z.dtype)];
    const int64_t lines = ceil_div(z.cols * element, kLine);
    for (int64_t l = lines * part / parts; l < lines * (part + 1) / parts; ++l)
        for (int64_t r = 0; r < n; ++r)
            __builtin_prefetch(
                static_cast<const char*>(z.data) + order[r] * z.row_stride * element + l * kLine, 0,
                2);
}

template <class T>
void pack_scaled(const double* x, int64_t leading, const double* scale, int64_t n, int64_t dim,
                 T* panel) {
    alignas(64) T z[kLanes<T>][kChunk];
    for (int64_t k = 0; k < dim; k += kChunk) {
        const int64_t width = smaller(kChunk, dim - k);
        for (int64_t r = 0; r < n; ++r) {
            const double* const row = x + r * leading + k;
            for (int64_t j = 0; j < width; ++j) z[r][j] = static_cast<T>(row[j] * scale[r]);
        }
        pack_rows(z, n, width, panel + k * kLanes<T>);
    }
}

// Packs n rows, at most kLanes, as one panel and describes them; `next` rows come after. x has room
// for kLanes rows.
template <class T>
void pack_rows_of_classes(const ProjectionPlan& plan, const uint32_t* order, int64_t n,
                          int64_t next, double* x, Row<T>* rows, T* panel) {
    constexpr int W = kLanes<T>;
    const int64_t dim = plan.z.cols;
    const auto* centers = static_cast<const double*>(plan.centers.data);
    int64_t ids[W];
    double scale[W];
    for (int64_t r = 0; r < n; ++r) ids[r] = order[r];
    plan.exact.load(plan.z, ids, n, x, plan.leading);
    for (int64_t r = 0; r < n; ++r) {
        prefetch(plan.z, order + n, next, r, n);
        double* const row = x + r * plan.leading;
        const int64_t y = plan.classes[order[r]];
        const auto center = static_cast<int32_t>(y);
        plan.exact.distances(row, plan.leading, 1, plan.centers, &center, 1, &rows[r].own);
        const double at_own = center_row(centers + y * dim, plan.shift, dim, row);
        scale[r] = power_of_two(describe_row(plan, y, at_own, row, rows[r]));
        if (!rows[r].finite) std::memset(row, 0, dim * sizeof(double));
    }
    pack_scaled(x, plan.leading, scale, n, dim, panel);
}

struct Difference {
    const double *to, *from;
    double factor;
};

// One panel of differences times their factors, of(lane) each; spare lanes are zero.
template <class T, class Of>
void pack_differences(int64_t lanes, int64_t dim, const Of& of, T* panel) {
    constexpr int W = kLanes<T>;
    alignas(64) T z[W][kChunk];
    for (int64_t k = 0; k < dim; k += kChunk) {
        const int64_t width = smaller(kChunk, dim - k);
        for (int64_t l = 0; l < lanes; ++l) {
            const Difference v = of(l);
            for (int64_t j = 0; j < width; ++j)
                z[l][j] = static_cast<T>((v.to[k + j] - v.from[k + j]) * v.factor);
        }
        pack_rows(z, lanes, width, panel + k * W);
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
