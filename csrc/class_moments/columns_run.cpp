// d = x - shift is formed and squared in float32 once per row, and added to the float32 sum of the
// row's class under each labeling. A class's sum moves on to float64 every kRecent rows of the
// class, so that its rounding errors stay at about eps |mean - shift| however many rows there are.
//
// The shift of a column is the median of some of its rows, rounded to a multiple of half their
// median absolute deviation: an offset of the data costs no digits, no outlier moves it far, and
// sums of a constant (such as the zeros of a rectified feature) come out exact.
#include "class_moments/columns_run.h"

#include <algorithm>
#include <cmath>

#include "core/dtypes.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kRecent = 64;
constexpr int64_t kSamples = 65;
constexpr int64_t kRowsAhead = 32;
constexpr int kSliceVectors = kSliceCols / kF32Lanes;

double median(double* values, int64_t n) {
    // With a lambda of this file, the template's instance is this instruction set's alone.
    std::nth_element(values, values + n / 2, values + n, [](double a, double b) { return a < b; });
    return values[n / 2];
}

template <class T>
void find_shift(const MatrixView& z, float* shift) {
    const T* base = static_cast<const T*>(z.data);
    const int64_t samples = std::min(kSamples, z.rows);
    double values[kSamples];
    for (int64_t j = 0; j < z.cols; ++j) {
        int64_t n = 0;
        for (int64_t s = 0; s < samples; ++s) {
            const double x = to_f64(load_one(base + z.rows * s / samples * z.row_stride + j));
            if (std::isfinite(x)) values[n++] = x;
        }
        shift[j] = 0;
        if (n == 0) continue;
        const double middle = median(values, n);
        for (int64_t s = 0; s < n; ++s) values[s] = std::abs(values[s] - middle);
        const double deviation = median(values, n);
        const double step = std::exp2(std::floor(std::log2(deviation)) - 1);
        shift[j] =
            static_cast<float>(deviation > 0 ? std::nearbyint(middle / step) * step : middle);
    }
}

// sums[0, kF32Lanes) += recent
inline void add_wide(f32v recent, double* sums) {
    f64v parts[2];
    widen(recent, parts[0], parts[1]);
    for (int h = 0; h < 2; ++h) {
        const f64v sum = load<f64v>(sums + h * kF64Lanes) + parts[h];
        std::memcpy(sums + h * kF64Lanes, &sum, sizeof sum);
    }
}

void flush(const Slice& slice, int64_t c, int vectors) {
    float* recent = slice.recent + c * kSliceCols;
    double* sums = slice.sums + c * slice.sums_stride + slice.first_col;
    for (int v = 0; v < vectors; ++v)
        add_wide(load<f32v>(recent + v * kF32Lanes), sums + v * kF32Lanes);
    std::memset(recent, 0, vectors * sizeof(f32v));
}

// kVectors: how many vectors the slice has, if known.
template <int kVectors, class T>
void add_rows(const MatrixView& z, int64_t begin, int64_t end, const uint16_t* classes,
              int64_t labelings, const Slice& slice) {
    constexpr int64_t kLine = 64 / sizeof(T);
    const T* base = static_cast<const T*>(z.data) + slice.first_col;
    const int whole = static_cast<int>(slice.cols / kF32Lanes);
    const int rest = static_cast<int>(slice.cols % kF32Lanes);
    const int vectors = kVectors ? kVectors : whole + (rest != 0);
    f32v shift[kSliceVectors] = {};
    for (int v = 0; v < vectors; ++v)
        shift[v] = load_part<f32v>(slice.shift + slice.first_col + v * kF32Lanes,
                                   v < whole ? kF32Lanes : rest);
    for (int64_t i = begin; i < end; ++i) {
        // To L2: fetching to L1 takes twice as long.
        const T* ahead = base + std::min(i + kRowsAhead, z.rows - 1) * z.row_stride;
        for (int64_t j = 0; j < slice.cols; j += kLine) __builtin_prefetch(ahead + j, 0, 2);

        const T* x = base + i * z.row_stride;
        f32v d[kSliceVectors], squares = {};
        for (int v = 0; v < (kVectors ? kVectors : whole); ++v) {
            d[v] = load<f32v>(x + v * kF32Lanes) - shift[v];
            squares += d[v] * d[v];
        }
        if (!kVectors && rest) {
            d[whole] = load_part<f32v>(x + whole * kF32Lanes, rest) - shift[whole];
            squares += d[whole] * d[whole];
        }
        const double total = sum_lanes(squares);
        for (int64_t k = 0; k < labelings; ++k) {
            const int64_t c = classes[i * labelings + k];
            float* recent = slice.recent + c * kSliceCols;
            for (int v = 0; v < vectors; ++v) {
                const f32v sum = load<f32v>(recent + v * kF32Lanes) + d[v];
                std::memcpy(recent + v * kF32Lanes, &sum, sizeof sum);
            }
            Tally& tally = slice.tallies[c];
            tally.squares += total;
            if (++tally.count % kRecent == 0) flush(slice, c, vectors);
        }
    }
    for (int64_t c = 0; c < slice.classes; ++c)
        if (slice.tallies[c].count % kRecent != 0) flush(slice, c, vectors);
}

template <class T>
void add_typed(const MatrixView& z, int64_t begin, int64_t end, const uint16_t* classes,
               int64_t labelings, const Slice& slice) {
    if (slice.cols == kSliceCols)
        add_rows<kSliceVectors, T>(z, begin, end, classes, labelings, slice);
    else
        add_rows<0, T>(z, begin, end, classes, labelings, slice);
}

void find_shift_any(const MatrixView& z, float* shift) {
    by_dtype(z.dtype, [&](auto s) { find_shift<decltype(s)>(z, shift); });
}

void add_any(const MatrixView& z, int64_t begin, int64_t end, const uint16_t* classes,
             int64_t labelings, const Slice& slice) {
    by_dtype(z.dtype,
             [&](auto s) { add_typed<decltype(s)>(z, begin, end, classes, labelings, slice); });
}

}  // namespace

ColumnKernels column_kernels() { return {find_shift_any, add_any}; }

}  // namespace SSK_ISA
}  // namespace ssk
