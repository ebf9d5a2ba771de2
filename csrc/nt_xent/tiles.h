// NT-Xent over 2N unit rows u, the views one below the other, in tiles of at most kBlock x kBlock:
// own rows, those of a range of samples in either view, by all rows.
//
// Rows are packed as u * sqrt(log2(e) / temperature), so that a tile of the product holds logits to
// the base 2. Where own rows are all rows, only tiles on and above the diagonal are computed: each
// serves its rows and its columns. Rows then form at most kMaxGroups groups, and pairs of groups
// meet in the rounds of a tournament: no two pairs of a round share a group, so that whoever
// handles a pair owns what it adds to. Else a thread owns some rows and runs over all columns.
// Either way every sum has one order whatever the number of threads.
#pragma once

#include <omp.h>

#include <cmath>

#include "core/elementary.h"
#include "nt_xent/nt_xent.h"
#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.69314718055994530942;
constexpr double kMinNorm = 1e-12;  // as torch.nn.functional.normalize
constexpr int64_t kMaxGroups = 32;
constexpr int64_t kMostLanes = 16;  // of any vector: strips of own rows start on one

// Stands for no logit: below any (|logit| <= log2(e) / 1e-6), and within the rounder's range.
template <class T>
constexpr T kAbsent = T{-4e6};

double norm(const float* row, int64_t count) {
    double part[8] = {};
    int64_t j = 0;
    for (; j + 8 <= count; j += 8)
        for (int l = 0; l < 8; ++l) {
            const double value = static_cast<double>(row[j + l]);
            part[l] += value * value;
        }
    for (; j < count; ++j) part[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    for (int l = 1; l < 8; ++l) part[0] += part[l];
    return std::sqrt(part[0]);
}
double norm(const double* row, int64_t count) {
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += row[j] * row[j];
    return std::sqrt(sum);
}

// NaN is kept.
double floored(double length) { return length < kMinNorm ? kMinNorm : length; }

// Which of the 2N rows are own: the samples [first, first + samples) of either view. Own rows are
// numbered as all are, those of the second view after those of the first.
struct OwnRows {
    int64_t n, first, samples;

    bool all() const { return samples == n; }
    int64_t count() const { return 2 * samples; }
    int64_t sample(int64_t own) const { return own < samples ? own : own - samples; }
    // Among all rows: the row itself, and the other view of its sample.
    int64_t self(int64_t own) const { return first + sample(own) + (own < samples ? 0 : n); }
    int64_t partner(int64_t own) const { return first + sample(own) + (own < samples ? n : 0); }
};

// The rows of some samples of both views.
template <class S>
struct Rows {
    using T = Real<S>;
    Matrix<S> views[2];
    int64_t n, d;

    Rows(const MatrixView& x, const MatrixView& y, int64_t first, int64_t samples)
        : views{{static_cast<const S*>(x.data) + first * x.row_stride, x.row_stride, x.col_stride},
                {static_cast<const S*>(y.data) + first * y.row_stride, y.row_stride, y.col_stride}},
          n(samples),
          d(x.cols) {}
    int64_t count() const { return 2 * n; }
    // Row i, in `buffer` (of d elements) where it does not lie ready.
    const T* row(int64_t i, T* buffer) const { return views[i / n].row(i % n, 0, d, buffer); }
};

// One panel of unit rows times `scale`; and the unit rows themselves, row stride `ld`, unless null.
template <class S>
void pack_panel(const Rows<S>& rows, int64_t p, double scale, Real<S>* buffer, Real<S>* panel,
                Real<S>* units, int64_t ld) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    alignas(64) T z[W][kChunk];
    const T* row[W];
    double inverse[W];
    const int64_t present = smaller(W, rows.count() - p * W);
    for (int64_t r = 0; r < present; ++r) {
        row[r] = rows.row(p * W + r, buffer + r * rows.d);
        inverse[r] = 1 / floored(norm(row[r], rows.d));
    }
    for (int64_t k = 0; k < rows.d; k += kChunk) {
        const int64_t width = smaller(kChunk, rows.d - k);
        for (int64_t r = 0; r < present; ++r) {
            for (int64_t j = 0; j < width; ++j) {
                const double unit = static_cast<double>(row[r][k + j]) * inverse[r];
                z[r][j] = static_cast<T>(unit * scale);
                if (units) units[(p * W + r) * ld + k + j] = static_cast<T>(unit);
            }
        }
        pack_rows(z, present, width, panel + k * W);
    }
    if (units)
        for (int64_t r = 0; r < present; ++r)
            for (int64_t j = rows.d; j < ld; ++j) units[(p * W + r) * ld + j] = 0;
}

// Which tiles there are, and who computes them: a tournament of groups if own rows are all rows,
// else strips of `height` own rows.
struct Plan {
    OwnRows own;
    int64_t rows, height, group, groups, seats;

    Plan(const OwnRows& own, int threads, const Cuts& cuts) : own(own), rows(own.count()) {
        const int64_t blocks = ceil_div(rows, kBlock);
        height = kBlock;
        group = groups = seats = 0;
        if (own.all()) {
            const int64_t chosen = ceil_div(blocks, kMaxGroups) * kBlock;
            group = cuts("group", chosen, kBlock, blocks * kBlock, kBlock);
            groups = ceil_div(rows, group);
            seats = groups + groups % 2;  // with an odd number, one seat is empty
        } else {
            // As many strips for every thread, of one height.
            const int64_t share = ceil_div(rows, threads);
            const int64_t even = ceil_div(share, ceil_div(share, kBlock));
            height = cuts("height", ceil_div(even, kMostLanes) * kMostLanes, kMostLanes, kBlock,
                          kMostLanes);
        }
    }
    int64_t rounds() const { return seats - 1; }
    int64_t begin(int64_t g) const { return g * group; }
    int64_t end(int64_t g) const { return smaller(rows, (g + 1) * group); }

    // The two groups of a match; false if one seat is empty. The last seat stays, the others turn.
    bool match(int64_t round, int64_t index, int64_t& a, int64_t& b) const {
        const int64_t turning = seats - 1;
        a = index == 0 ? turning : (round + index) % turning;
        b = (round + turning - index) % turning;
        if (a > b) {
            const int64_t t = a;
            a = b;
            b = t;
        }
        return b < groups;
    }
};

// handle(i, j) for every tile, i the first of its own rows and j of its columns, a multiple of
// kBlock. If own rows are all rows: for every tile on or above the diagonal.
template <class Handle>
void for_tiles(const Plan& t, const Handle& handle) {
    if (!t.own.all()) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < t.rows; i += t.height)
            for (int64_t j = 0; j < 2 * t.own.n; j += kBlock) handle(i, j);
        return;
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t g = 0; g < t.groups; ++g)
        for (int64_t i = t.begin(g); i < t.end(g); i += kBlock)
            for (int64_t j = i; j < t.end(g); j += kBlock) handle(i, j);
    for (int64_t round = 0; round < t.rounds(); ++round) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < t.seats / 2; ++index) {
            int64_t a, b;
            if (!t.match(round, index, a, b)) continue;
            for (int64_t i = t.begin(a); i < t.end(a); i += kBlock)
                for (int64_t j = t.begin(b); j < t.end(b); j += kBlock) handle(i, j);
        }
    }
}

// The product of packed own rows from i on and packed rows from j on, and the positives in it.
template <class T>
struct Logits {
    const T *own_packed, *packed;
    OwnRows own;
    int64_t d, most;  // rows of a tile at most

    int64_t height(int64_t i) const { return smaller(most, own.count() - i); }
    int64_t width(int64_t j) const { return smaller(kBlock, 2 * own.n - j); }

    // Logits to the base 2, row stride kBlock; absent of a row with itself and in spare lanes.
    void tile(int64_t i, int64_t j, T* c) const {
        constexpr int W = kLanes<T>;
        static_assert(kMostLanes % W == 0, "a strip of own rows starts on a panel");
        const int64_t panel = d * W, rows = height(i), cols = width(j);
        block_product(own_packed + i / W * panel, panel, rows, packed + j / W * panel, panel, cols,
                      0, d, false, c);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t column = own.self(i + r) - j;
            if (column >= 0 && column < cols) c[r * kBlock + column] = kAbsent<T>;
        }
        const int64_t lanes = panels_of<T>(cols) * W;
        for (int64_t r = 0; cols < lanes && r < rows; ++r)
            for (int64_t l = cols; l < lanes; ++l) c[r * kBlock + l] = kAbsent<T>;
    }

    // handle(own row, position in the tile) for every row whose other view is among the columns.
    template <class Handle>
    void for_positives(int64_t i, int64_t j, const Handle& handle) const {
        for (int64_t r = 0; r < height(i); ++r) {
            const int64_t column = own.partner(i + r) - j;
            if (column >= 0 && column < width(j)) handle(i + r, r * kBlock + column);
        }
    }
};

// Packs all rows, and own rows once more unless they are these. `units` as in pack_panel.
template <class S>
void pack(const Rows<S>& rows, const Rows<S>& own, double scale, Real<S>* buffer, Real<S>* packed,
          Real<S>* own_packed, Real<S>* units, int64_t ld) {
    constexpr int W = kLanes<Real<S>>;
#pragma omp for schedule(static)
    for (int64_t p = 0; p < panels_of<Real<S>>(rows.count()); ++p)
        pack_panel<S>(rows, p, scale, buffer, packed + p * W * rows.d, units, ld);
    if (own_packed == packed) return;
#pragma omp for schedule(static)
    for (int64_t p = 0; p < panels_of<Real<S>>(own.count()); ++p)
        pack_panel<S>(own, p, scale, buffer, own_packed + p * W * rows.d, nullptr, 0);
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
