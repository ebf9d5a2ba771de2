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

// A row with more open comparisons, as a share of the centers, is not worth deciding one by one.
constexpr int64_t kOpenShare = 8;
// The panels of a v; those of float32 lie behind quantized ones.
template <class T>
const T* packed_centers(const ProjectionPlan& plan) {
    return static_cast<const T*>(plan.packed);
}

// Rows of a block that are scanned again.
struct Leftovers {
    int32_t* rows;
    uint32_t* order;
    double* spread;
    uintptr_t end;

    Leftovers(int64_t capacity, uintptr_t at) {
        const auto bytes = static_cast<uintptr_t>(ceil_div(capacity, 8) * 64);
        spread = reinterpret_cast<double*>(at);
        rows = reinterpret_cast<int32_t*>(at + bytes);
        order = reinterpret_cast<uint32_t*>(at + 2 * bytes);
        end = at + 3 * bytes;
    }
};

// What a class knows about the centers of one column tile, in the type that products are summed in.
template <class T>
struct ClassTile {
    alignas(64) T half[kBlock];     // a^2 d_j^2 / 2; kAway for its own center and for close ones
    alignas(64) T inverse[kBlock];  // 1 / (a d_j)^2, or 0
};

// Of a class, the sums over all centers j of (||v_j|| / d_j^2)^2 and of (lost_j / d_j^2)^2.
struct Noise {
    double rows, centers;
};

// The scratch of one thread.
template <class T>
struct Block {
    const ProjectionPlan& plan;
    int64_t first, n;
    int64_t slots = 0;
    T *packed, *differences;
    Sum<T>* product;
    double *x, *between;
    Row<Sum<T>>* rows;
    f64v* sums;
    ClassTile<Sum<T>>* tiles;
    int32_t* slot_begin;  // [slots + 1]
    bool* coincides;      // [slots] another center has the same mean
    Sum<T>* weight;       // [kBlock] ||a v_j|| of the column tile
    // Of quantized centers: their factors, what they have lost, and [slots] the noise they bring.
    Sum<T>*factor, *lost;
    Noise* noise;

    Block(const ProjectionPlan& p, int64_t begin, int64_t size) : plan(p), first(begin), n(size) {}

    // Lays the parts out from address `at`; returns the address after the last.
    uintptr_t lay_out(int64_t capacity, uintptr_t at) {
        const int64_t dim = plan.z.cols;
        const auto take = [&at](auto*& part, int64_t count) {
            part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
            at += static_cast<uintptr_t>(ceil_div(count * int64_t{sizeof(*part)}, 64) * 64);
        };
        take(packed, panels_of<T>(capacity) * panel_of<T>(dim));
        take(differences, panels_of<T>(kBlock) * panel_of<T>(dim));
        take(product, kBlock * kBlock);
        take(x, larger(kLanes<T>, kGroup) * plan.leading);
        take(between, kGroup * kBlock);
        take(rows, capacity);
        take(sums, capacity);
        take(tiles, capacity);
        take(slot_begin, capacity + 1);
        take(coincides, capacity);
        take(weight, kBlock);
        if (kQuantized<T>) {
            take(factor, kBlock);
            take(lost, kBlock);
            take(noise, capacity);
        }
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
                             b.packed + r / W * panel_of<T>(b.plan.z.cols));
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
    if (kQuantized<T>)
        for (int64_t s = 0; s < b.slots; ++s) b.noise[s] = {0, 0};
}

// Decides by float64 distances between a row and `count` centers that the bound left open: for the
// rank where `ranked`, for the row that has left its class where `left`.
template <class T>
void decide(const Block<T>& b, int64_t r, const int32_t* ids, const bool* ranked, const bool* left,
            int64_t count) {
    Row<Sum<T>>& row = b.rows[r];
    const int64_t at = b.plan.order[b.first + r], y = b.plan.classes[at];
    double d2[kBlock];
    if constexpr (kQuantized<T>) {
        row.open += static_cast<int32_t>(count);
        row.given_up = row.open > b.plan.count / kOpenShare;
        if (row.given_up) return;
    }
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
