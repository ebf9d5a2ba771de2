// float64 distances from differences, with the same bits on every instruction set: column d adds
// its square to partial sum d mod 8 by a fused multiply-add (in software where the CPU has none),
// and the eight are added in one fixed order. Compiled once per instruction set.
#include "core/dtypes.h"
#include "nearest_center/filter.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int kSums = 8;
constexpr int kParts = kSums / kF64Lanes;  // vectors that hold the eight partial sums

// Rows x centers per kernel call: what fits the registers.
#if defined(__AVX512F__)
constexpr int kRows = 2, kCenters = 4;
#elif defined(__AVX2__)
constexpr int kRows = 1, kCenters = 4;
#else
constexpr int kRows = 1, kCenters = 2;
#endif

inline f64v widened(const double* p) { return load<f64v>(p); }
inline f64v widened(const float* p) {
#if defined(__AVX512F__)
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    f64v out;
    for (int i = 0; i < kF64Lanes; ++i) out[i] = to_f64(load_one(p + i));
    return out;
#endif
}

// a * a + b, rounded once.
inline f64v add_square(f64v a, f64v b) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, a, b);
#elif defined(__AVX2__)
    return _mm256_fmadd_pd(a, a, b);
#else
    for (int i = 0; i < kF64Lanes; ++i) b[i] = __builtin_fma(a[i], a[i], b[i]);
    return b;
#endif
}

// ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
inline double total(const f64v (&s)[kParts]) {
#if defined(__AVX512F__)
    const __m256d four = _mm512_castpd512_pd256(s[0]) + _mm512_extractf64x4_pd(s[0], 1);
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
#elif defined(__AVX2__)
    const __m256d four = s[0] + s[1];
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
#else
    const f64v two = (s[0] + s[2]) + (s[1] + s[3]);
#endif
    return two[0] + two[1];
}

// out[r][c] = ||x_r - mu_c||^2; the rows of x are zero-padded, those of the centers are not.
template <int R, int C, class T>
inline void distances(const double* x, int64_t leading, const T* const* mu, int64_t dim,
                      double (&out)[kRows][kCenters]) {
    f64v sums[R][C][kParts] = {};
    const auto add = [&](int64_t d, const T* const* at, int64_t offset) {
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) {
            f64v row[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) row[r] = load<f64v>(x + r * leading + d + p * kF64Lanes);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) {
                const f64v m = widened(at[c] + offset + p * kF64Lanes);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    sums[r][c][p] = add_square(row[r] - m, sums[r][c][p]);
                }
            }
        }
    };
    int64_t d = 0;
    for (; d + kSums <= dim; d += kSums) add(d, mu, d);
    if (d < dim) {
        T tail[C][kSums] = {};
        const T* tails[C];
        for (int c = 0; c < C; ++c) {
            std::memcpy(tail[c], mu[c] + d, (dim - d) * sizeof(T));
            tails[c] = tail[c];
        }
        add(d, tails, 0);
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r][c] = total(sums[r][c]);
}

// handle(r, c, ||x_r - mu_ids[c]||^2) for n rows and `count` centers, centers ascending.
template <class T, class Handle>
void for_distances(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
                   const int32_t* ids, int64_t count, const Handle& handle) {
    const T* base = static_cast<const T*>(centers.data);
    for (int64_t c = 0; c < count; c += kCenters) {
        const int used = count - c < kCenters ? static_cast<int>(count - c) : kCenters;
        const T* mu[kCenters];
        for (int i = 0; i < kCenters; ++i)
            mu[i] = base + ids[i < used ? c + i : c] * centers.row_stride;
        for (int64_t r = 0; r < n;) {
            double out[kRows][kCenters];
            const int64_t left = n - r;
            const int taken = left < kRows ? 1 : kRows;
            const double* row = x + r * leading;
            if (taken == kRows)
                used == 1 ? distances<kRows, 1>(row, leading, mu, centers.cols, out)
                          : distances<kRows, kCenters>(row, leading, mu, centers.cols, out);
            else if (used == 1)
                distances<1, 1>(row, leading, mu, centers.cols, out);
            else if (used == 2)
                distances<1, 2>(row, leading, mu, centers.cols, out);
            else
                distances<1, kCenters>(row, leading, mu, centers.cols, out);
            for (int k = 0; k < taken; ++k, ++r)
                for (int i = 0; i < used; ++i) handle(r, c + i, out[k][i]);
        }
    }
}

template <class Handle>
void for_any_distances(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
                       const int32_t* ids, int64_t count, const Handle& handle) {
    if (centers.dtype == DType::f64)
        for_distances<double>(x, leading, n, centers, ids, count, handle);
    else
        for_distances<float>(x, leading, n, centers, ids, count, handle);
}

void nearest(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
             const int32_t* ids, int64_t count, double* distance, int64_t* id) {
    for (int64_t r = 0; r < n; ++r) {
        distance[r] = __builtin_inf();
        id[r] = ids[0];  // stays if every distance overflows
    }
    for_any_distances(x, leading, n, centers, ids, count, [&](int64_t r, int64_t c, double d) {
        if (d < distance[r]) {
            distance[r] = d;
            id[r] = ids[c];
        }
    });
}

void all_distances(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
                   const int32_t* ids, int64_t count, double* out) {
    for_any_distances(x, leading, n, centers, ids, count,
                      [&](int64_t r, int64_t c, double d) { out[r * count + c] = d; });
}

template <class T>
void load_rows(const MatrixView& z, const int64_t* rows, int64_t n, double* out, int64_t leading) {
    const T* base = static_cast<const T*>(z.data);
    for (int64_t r = 0; r < n; ++r)
        for (int64_t d = z.cols; d < leading; ++d) out[r * leading + d] = 0.0;
    if (z.col_stride == 1) {
        for (int64_t r = 0; r < n; ++r) {
            const T* in = base + rows[r] * z.row_stride;
            for (int64_t d = 0; d < z.cols; ++d) out[r * leading + d] = to_f64(load_one(in + d));
        }
    } else {  // neighbouring rows of a transposed matrix share cache lines
        for (int64_t d = 0; d < z.cols; ++d)
            for (int64_t r = 0; r < n; ++r)
                out[r * leading + d] =
                    to_f64(load_one(base + rows[r] * z.row_stride + d * z.col_stride));
    }
}

void load_any(const MatrixView& z, const int64_t* rows, int64_t n, double* out, int64_t leading) {
    by_dtype(z.dtype, [&](auto s) { load_rows<decltype(s)>(z, rows, n, out, leading); });
}

}  // namespace

ExactKernel nearest_center_exact() { return {load_any, nearest, all_distances}; }

}  // namespace SSK_ISA
}  // namespace ssk
