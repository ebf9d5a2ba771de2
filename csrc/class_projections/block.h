// The scratch of one thread: a block of rows in class order, what the scan has found of them, and
// the tables of one column tile. Included once per instruction set; symbols as in
// class_projections.h.
#pragma once

#include <type_traits>

#include "class_projections/rows.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kGroup = 16;    // classes whose distances are taken together
constexpr double kAway = 0x1p60;  // as half a squared distance: a center that is not in this tile

// What a class knows about the centers of one column tile.
template <class T>
struct ClassTile {
    alignas(64) T half[kBlock];     // a^2 d_j^2 / 2; kAway for its own center and for close ones
    alignas(64) T inverse[kBlock];  // 1 / (a d_j)^2, or 0
};

// The scratch of one thread.
template <class T>
struct Block {
    const ProjectionPlan& plan;
    int64_t first, n;
    int64_t slots = 0;
    T *packed, *differences;
    T* product;
    double *x, *between;
    Row<T>* rows;
    f64v* sums;
    ClassTile<T>* tiles;
    int32_t* slot_begin;  // [slots + 1]
    bool* coincides;      // [slots] another center has the same mean
    T* weight;            // [kBlock] ||a v_j|| of the column tile

    Block(const ProjectionPlan& p, int64_t begin, int64_t size) : plan(p), first(begin), n(size) {}

    // Lays the parts out from address `at`; returns the address after the last.
    uintptr_t lay_out(int64_t capacity, uintptr_t at) {
        const int64_t dim = plan.z.cols;
        const auto take = [&at](auto*& part, int64_t count) {
            part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
            at += static_cast<uintptr_t>(ceil_div(count * int64_t{sizeof(*part)}, 64) * 64);
        };
        take(packed, panels_of<T>(capacity) * kLanes<T> * dim);
        take(differences, panels_of<T>(kBlock) * kLanes<T> * dim);
        take(product, kBlock * kBlock);
        take(x, larger(kLanes<T>, kGroup) * plan.leading);
        take(between, kGroup * kBlock);
        take(rows, capacity);
        take(sums, capacity);
        take(tiles, capacity);
        take(slot_begin, capacity + 1);
        take(coincides, capacity);
        take(weight, kBlock);
        return at;
    }
    int64_t class_of(int64_t slot) const {
        return plan.classes[plan.order[first + slot_begin[slot]]];
    }
    const double* center(int64_t id) const {
        return static_cast<const double*>(plan.centers.data) + id * plan.z.cols;
    }
};

template <class T>
void pack_block(Block<T>& b) {
    constexpr int W = kLanes<T>;
    int64_t last = -1;
    for (int64_t r = 0; r < b.n; r += W) {
        const uint32_t* order = b.plan.order + b.first + r;
        const int64_t here = smaller(W, b.n - r), next = smaller(W, b.n - r - here);
        pack_rows_of_classes(b.plan, order, here, next, b.x, b.rows + r,
                             b.packed + r / W * W * b.plan.z.cols);
        for (int64_t i = 0; i < here; ++i) {
            const int64_t y = b.plan.classes[order[i]];
            if (y != last) b.slot_begin[b.slots++] = static_cast<int32_t>(r + i);
            last = y;
            b.rows[r + i].slot = static_cast<int32_t>(b.slots - 1);
            b.sums[r + i] = f64v{};
        }
    }
    b.slot_begin[b.slots] = static_cast<int32_t>(b.n);
    for (int64_t s = 0; s < b.slots; ++s) b.coincides[s] = false;
}

// Decides by float64 distances between a row and `count` centers that the bound left open: for the
// rank where `ranked`, for the row that has left its class where `left`.
template <class T>
void decide(const Block<T>& b, int64_t r, const int32_t* ids, const bool* ranked, const bool* left,
            int64_t count) {
    Row<T>& row = b.rows[r];
    const int64_t at = b.plan.order[b.first + r], y = b.plan.classes[at];
    double d2[kBlock];
    b.plan.exact.load(b.plan.z, &at, 1, b.x, b.plan.leading);
    b.plan.exact.distances(b.x, b.plan.leading, 1, b.plan.centers, ids, count, d2);
    const auto nearer = [&](int64_t i, double limit) {
        return d2[i] < limit || (d2[i] == limit && ids[i] < y);
    };
    for (int64_t i = 0; i < count; ++i) {
        if (ranked[i]) row.rank += nearer(i, row.own);
        if (left[i] && !row.rival) row.rival = nearer(i, row.without);
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
