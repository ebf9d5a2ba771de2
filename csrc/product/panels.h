// Packing centered rows of a strided view into the panels that gram.h multiplies.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/cuts.h"
#include "core/dtypes.h"
#include "core/memory.h"
#include "core/rows.h"
#include "product/gram.h"
#include "vicreg/vicreg.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kChunk = 256;  // columns handled at a time, at most
constexpr int kMaxViews = 2;

[[maybe_unused]] int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused]] int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
[[maybe_unused]] int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads worth waking for so many multiply-adds: below about 20 us each, one is faster.
[[maybe_unused]] int useful_threads(int threads, double work, const Cuts& cuts) {
    return cuts.threads(1 + work / 8e6, threads);
}

// One problem of one view.
template <class S>
struct Matrix {
    const S* data;
    int64_t n_stride, d_stride;
    const Real<S>* row(int64_t i, int64_t j, int64_t count, Real<S>* buffer) const {
        return read_row(data + i * n_stride + j * d_stride, d_stride, count, buffer);
    }
};

template <class S>
Matrix<S> problem(const Problems& x, int64_t p) {
    return {static_cast<const S*>(x.data) + p * x.p_stride, x.n_stride, x.d_stride};
}

// A mean as hi + lo, so that (x - hi) - lo keeps its digits when x is large and close to hi.
template <class T>
void split_mean(const double* mean, int64_t count, T* hi, T* lo) {
    for (int64_t j = 0; j < count; ++j) {
        hi[j] = static_cast<T>(mean[j]);
        lo[j] = static_cast<T>(mean[j] - static_cast<double>(hi[j]));
    }
}

template <class T>
void center(const T* __restrict x, const T* __restrict hi, const T* __restrict lo, int64_t count,
            T* __restrict z) {
    for (int64_t j = 0; j < count; ++j) z[j] = (x[j] - hi[j]) - lo[j];
}

#if defined(__GNUC__) && !defined(__clang__)
// One stage of a transposition: swaps the lanes with bit kStep of the lower rows with those without
// it of the upper rows.
template <class T, int kStep>
inline void exchange(typename Simd<T>::V* rows) {
    using V = typename Simd<T>::V;
    using Index = decltype(V{} < V{});
    constexpr int W = kLanes<T>;
    Index low, high;
    for (int l = 0; l < W; ++l) {
        low[l] = l & kStep ? W + l - kStep : l;
        high[l] = l & kStep ? W + l : l + kStep;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        if (i & kStep) continue;
        const V a = rows[i], b = rows[i + kStep];
        rows[i] = __builtin_shuffle(a, b, low);
        rows[i + kStep] = __builtin_shuffle(a, b, high);
    }
    if constexpr (kStep > 1) exchange<T, kStep / 2>(rows);
}
#endif

// Lanes are rows: W rows of z become out[j * W + row]; rows from `rows` on count as zero.
template <class T>
void pack_rows(T (&z)[kLanes<T>][kChunk], int64_t rows, int64_t count, T* __restrict out) {
    constexpr int W = kLanes<T>;
    for (int64_t r = rows; r < W; ++r) std::memset(z[r], 0, sizeof z[r]);
    int64_t j = 0;
#if defined(__GNUC__) && !defined(__clang__)
    using V = typename Simd<T>::V;
    for (; j + W <= count; j += W) {
        V lanes[W];
        for (int r = 0; r < W; ++r) std::memcpy(&lanes[r], z[r] + j, sizeof(V));
        exchange<T, W / 2>(lanes);
        std::memcpy(out + j * W, lanes, sizeof lanes);
    }
#endif
    for (; j < count; ++j)
        for (int r = 0; r < W; ++r) out[j * W + r] = z[r][j];
}

// Lanes are columns: one row of z goes to step `k` of consecutive panels; spare lanes are zero.
template <class T>
void pack_columns(const T* __restrict z, int64_t count, int64_t k, int64_t panel,
                  T* __restrict out) {
    constexpr int W = kLanes<T>;
    for (int64_t j = 0; j < count; j += W) {
        T* lanes = out + j / W * panel + k * W;
        if (j + W <= count) {
            std::memcpy(lanes, z + j, W * sizeof(T));
        } else {
            for (int64_t l = 0; l < W; ++l) lanes[l] = j + l < count ? z[j + l] : T{0};
        }
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
