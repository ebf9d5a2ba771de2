// Rows of one class enter its moments in groups of up to 8, each row as its difference to the first
// of its group, in registers:
//
//   d_r = x_r - x_0   s = sum d_r / R   q = sum d_r^2 - R s^2
//
// and groups merge in float64 (Chan, Golub, LeVeque 1979), with w = R / (n + R):
//
//   delta = x_0 + s - mean   mean += w delta   m2 += q + n w delta^2
//
// For float16, bfloat16 and float32 the group is in float32. The shift is a row of the class
// itself, so an offset of the data costs nothing; should x_0 be an outlier, q loses at most a
// factor of R to cancellation, whatever the size of the class. Equal rows have no scatter at all.
#include "class_moments/run.h"

#include "core/dtypes.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int kGroup = 8;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline void split(f32v x, f64v* out) { widen(x, out[0], out[1]); }
inline void split(f64v x, f64v* out) { out[0] = x; }

inline void store(double* p, f64v x) { std::memcpy(p, &x, sizeof x); }

struct Weights {
    double share;   // R / (n + R)
    double spread;  // n R / (n + R)
};

template <class V, int R, class T>
inline void merge_columns(const T* const* x, int64_t j, const Weights& w, double* mean, f64v& m2) {
    using S = typename Lanes<V>::scalar;
    const V shift = load<V>(x[0] + j);
    V s[2] = {}, q[2] = {};
    for (int r = 1; r < R; ++r) {
        const V d = load<V>(x[r] + j) - shift;
        s[r % 2] += d;
        q[r % 2] += d * d;
    }
    const V rest = (s[0] + s[1]) * (S(1) / R);
    const V scatter = (q[0] + q[1]) - rest * rest * S(R);

    constexpr int kParts = sizeof(S) == 4 ? 2 : 1;
    f64v shift64[kParts], rest64[kParts], scatter64[kParts];
    split(shift, shift64);
    split(rest, rest64);
    split(scatter, scatter64);
    for (int h = 0; h < kParts; ++h) {
        const f64v old = load<f64v>(mean + j + h * kF64Lanes);
        const f64v delta = shift64[h] + rest64[h] - old;
        store(mean + j + h * kF64Lanes, old + delta * w.share);
        m2 += scatter64[h] + delta * delta * w.spread;
    }
}

template <class V, int R, class T>
inline void add_group(const T* const* x, const T* const* next, int64_t cols, double count,
                      double* mean, f64v& m2) {
    constexpr int kLanes = Lanes<V>::count;
    constexpr int64_t kLine = 64 / sizeof(T);
    const double share = R / (count + R);
    const Weights w{share, count * share};
    int64_t j = 0;
    for (; j + kLanes <= cols; j += kLanes) {
        // All rows of a group side by side: memory serves eight short streams faster than one
        // after the other. To L2: two groups of long rows do not fit L1.
        if (j % kLine == 0)
            for (int r = 0; r < R; ++r) __builtin_prefetch(next[r] + j, 0, 2);
        merge_columns<V, R>(x, j, w, mean, m2);
    }
    if (j < cols) {
        for (int r = 0; r < R; ++r) __builtin_prefetch(next[r] + j, 0, 2);
        T part[R][kLanes] = {};
        const T* parts[R];
        for (int r = 0; r < R; ++r) {
            std::memcpy(part[r], x[r] + j, (cols - j) * sizeof(T));
            parts[r] = part[r];
        }
        merge_columns<V, R>(parts, 0, w, mean + j, m2);
    }
}

template <class V, class T>
double add_rows(const MatrixView& z, const uint32_t* rows, int64_t n, const Upcoming& upcoming,
                double count, double* mean) {
    const T* base = static_cast<const T*>(z.data);
    const T* x[kGroup];
    const T* next[kGroup];
    f64v m2 = {};
    for (int64_t i = 0; i < n; i += kGroup) {
        const int size = static_cast<int>(smaller(kGroup, n - i));
        for (int r = 0; r < size; ++r) {
            x[r] = base + static_cast<int64_t>(rows[i + r]) * z.row_stride;
            next[r] = x[r];
        }
        for (int r = 0; r < size; ++r) {
            int64_t row;
            if (upcoming.rows) {
                const int64_t k = smaller(i + size + r, n + upcoming.count - 1);
                row = k < n ? rows[k] : upcoming.rows[k - n];
            } else {
                if (upcoming.count == 0) break;
                row = upcoming.first + smaller(i + r, upcoming.count - 1);
            }
            next[r] = base + row * z.row_stride;
        }
        switch (size) {
#define SSK_CASE(R)                                        \
    case R:                                                \
        add_group<V, R>(x, next, z.cols, count, mean, m2); \
        break;
            SSK_CASE(1)
            SSK_CASE(2)
            SSK_CASE(3)
            SSK_CASE(4)
            SSK_CASE(5)
            SSK_CASE(6)
            SSK_CASE(7)
            SSK_CASE(8)
#undef SSK_CASE
        }
        count += size;
    }
    const double total = sum_lanes(m2);
    return total < 0 ? 0 : total;  // a NaN stays
}

double add(const MatrixView& z, const uint32_t* rows, int64_t n, const Upcoming& upcoming,
           double count, double* mean) {
    return by_dtype(z.dtype, [&](auto s) {
        using S = decltype(s);
        using V = std::conditional_t<std::is_same_v<S, double>, f64v, f32v>;
        return add_rows<V, S>(z, rows, n, upcoming, count, mean);
    });
}

double add_wide(const MatrixView& z, const uint32_t* rows, int64_t n, const Upcoming& upcoming,
                double count, double* mean) {
    return by_dtype(z.dtype, [&](auto s) {
        return add_rows<f64v, decltype(s)>(z, rows, n, upcoming, count, mean);
    });
}

double merge(int64_t cols, double n_a, double n_b, const double* mean_b, double* mean_a) {
    if (n_a == 0) {
        std::memcpy(mean_a, mean_b, cols * sizeof(double));
        return 0;
    }
    const double share = n_b / (n_a + n_b);
    f64v squares = {};
    int64_t j = 0;
    for (; j + kF64Lanes <= cols; j += kF64Lanes) {
        const f64v old = load<f64v>(mean_a + j);
        const f64v delta = load<f64v>(mean_b + j) - old;
        store(mean_a + j, old + delta * share);
        squares += delta * delta;
    }
    double total = sum_lanes(squares);
    for (; j < cols; ++j) {
        const double delta = mean_b[j] - mean_a[j];
        mean_a[j] += delta * share;
        total += delta * delta;
    }
    return total * (n_a * share);
}

}  // namespace

RunKernels run_kernels() { return {add, add_wide, merge}; }

}  // namespace SSK_ISA
}  // namespace ssk
