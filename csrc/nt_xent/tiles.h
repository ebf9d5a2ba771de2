// NT-Xent over 2N unit rows u, the views one below the other, in tiles of kBlock x kBlock.
//
// Rows are packed as u * sqrt(log2(e) / temperature), so that a tile of the symmetric product holds
// logits to the base 2, and only tiles on and above the diagonal are computed: each serves its rows
// and its columns. Rows form at most kMaxGroups groups, and pairs of groups meet in the rounds of a
// tournament: no two pairs of a round share a group, so that whoever handles a pair owns what it
// adds to, and every sum has one order whatever the number of threads.
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

// The 2N rows of both views.
template <class S>
struct Rows {
    using T = Real<S>;
    Matrix<S> views[2];
    int64_t n, d;

    Rows(const MatrixView& x, const MatrixView& y)
        : views{{static_cast<const S*>(x.data), x.row_stride, x.col_stride},
                {static_cast<const S*>(y.data), y.row_stride, y.col_stride}},
          n(x.rows),
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

// The tournament: who meets whom, and the blocks of each.
struct Tournament {
    int64_t rows, group, groups, seats;

    Tournament(int64_t count, const Cuts& cuts) : rows(count) {
        const int64_t blocks = ceil_div(count, kBlock);
        const int64_t chosen = ceil_div(blocks, kMaxGroups) * kBlock;
        group = cuts("group", chosen, kBlock, blocks * kBlock, kBlock);
        groups = ceil_div(count, group);
        seats = groups + groups % 2;  // with an odd number, one seat is empty
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

// handle(i, j) for every tile on or above the diagonal; both are multiples of kBlock.
template <class Handle>
void for_tiles(const Tournament& t, const Handle& handle) {
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

// The product of packed rows [i, i + height) and [j, j + width), and the positive pairs in it.
template <class T>
struct Logits {
    const T* packed;
    int64_t n, d;

    int64_t height(int64_t i) const { return smaller(kBlock, 2 * n - i); }

    // Logits to the base 2, row stride kBlock; absent on the diagonal and in spare lanes.
    void tile(int64_t i, int64_t j, T* c) const {
        constexpr int W = kLanes<T>;
        const int64_t panel = d * W, rows = height(i), cols = height(j);
        block_product(packed + i / W * panel, panel, rows, packed + j / W * panel, panel, cols, 0,
                      d, false, c);
        if (i == j)
            for (int64_t r = 0; r < rows; ++r) c[r * kBlock + r] = kAbsent<T>;
        const int64_t lanes = panels_of<T>(cols) * W;
        for (int64_t r = 0; cols < lanes && r < rows; ++r)
            for (int64_t l = cols; l < lanes; ++l) c[r * kBlock + l] = kAbsent<T>;
    }

    // handle(row, position in the tile, position of its mirror) for every row of the first view
    // whose other view is among the columns; only a diagonal tile holds the mirror elsewhere.
    template <class Handle>
    void for_positives(int64_t i, int64_t j, const Handle& handle) const {
        for (int64_t r = 0; r < height(i); ++r) {
            const int64_t column = i + r + n - j;
            if (column < 0 || column >= height(j)) continue;
            handle(i + r, r * kBlock + column, i == j ? column * kBlock + r : r * kBlock + column);
        }
    }
};

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
