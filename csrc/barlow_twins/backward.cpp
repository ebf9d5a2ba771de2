// The gradient of Barlow Twins. With a, b the normalized views, r a view's factors, c the diagonal
// of the cross-correlation C, C' the rest of it, and g the gradient by a,
//
//     wide:      g = alpha K_b a + b diag(beta)        alpha = 2 g_off / N^2
//     otherwise: g = alpha b C'^T + b diag(beta)       alpha = 2 g_off / N
//     gradient by x = (g - a diag(mean over rows of g a)) diag(r)
//
// for the first view, and with the views exchanged (C' for C'^T) for the second; g's columns sum to
// zero. When wide, a thread forms all rows of a block of columns, so that the mean is at hand; else
// mean(g a)_i = alpha sum_j C'_ij^2 + beta_i c_i is known beforehand. Without a Gram matrix, g is
// b diag(beta).
//
// Work is cut so that no sum depends on the number of threads. Products accumulate in the
// arithmetic type, kSteps at a time in registers, the means in float64.
#include <omp.h>

#include "barlow_twins/views.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kUnits = 32;  // pieces of work wanted, for balance

template <class S>
struct Gradient {
    using T = Real<S>;
    const NormalizedView<S>* views;
    int64_t n, d, rows_of_all, side;
    double alpha;
    const double *beta, *correlation;  // [D]
    void* const* outs;
    bool unrounded;

    // On rows [i0, i0 + rows) and columns [j0, j0 + count): (alpha c - drift a + beta b) r, where c
    // has row stride kBlock and drift is mean(g a).
    void write(int v, int64_t i0, int64_t rows, int64_t j0, int64_t count, const T* c,
               const T* drift) const {
        alignas(64) T buffer[kChunk], own[kChunk], far[kChunk], slope[kChunk];
        const T scale = static_cast<T>(alpha), *factor = views[v].factor + j0;
        for (int64_t j = 0; j < count; ++j) slope[j] = static_cast<T>(beta[j0 + j]);
        for (int64_t i = 0; i < rows; ++i) {
            views[v].row(i0 + i, j0, count, buffer, own);
            views[1 - v].row(i0 + i, j0, count, buffer, far);
            for (int64_t j = 0; j < count; ++j)
                own[j] =
                    (scale * c[i * kBlock + j] - drift[j] * own[j] + slope[j] * far[j]) * factor[j];
            const int64_t at = (i0 + i) * d + j0;
            if (unrounded)
                std::memcpy(static_cast<T*>(outs[v]) + at, own, count * sizeof(T));
            else
                write_row(own, count, static_cast<S*>(outs[v]) + at);
        }
    }

    // Columns [j0, j0 + count) of view v; `matrix` holds the other view's K in panels.
    void columns(int v, int64_t j0, int64_t count, const T* matrix, T* packed, T* product) const {
        constexpr int W = kLanes<T>;
        const int64_t panel = n * W;
        alignas(64) T buffer[kChunk], z[kChunk], drift[kChunk];
        for (int64_t i = 0; i < n; ++i) {
            views[v].row(i, j0, count, buffer, z);
            pack_columns(z, count, i, panel, packed);
        }
        for (int64_t i = 0; i < n; i += kBlock)
            block_product(matrix + i / W * panel, panel, smaller(kBlock, n - i), packed, panel,
                          count, 0, n, false, product + i * kBlock);
        double along[kChunk] = {};
        for (int64_t i0 = 0; i0 < n; i0 += W) {
            for (int64_t j = 0; j < count + W; ++j) z[j] = 0;
            for (int64_t i = i0; i < smaller(n, i0 + W); ++i)
                for (int64_t j = 0; j < count; j += W) {  // spare lanes of a panel hold zeros
                    const T* lanes = packed + j / W * panel + i * W;
                    for (int l = 0; l < W; ++l) z[j + l] += lanes[l] * product[i * kBlock + j + l];
                }
            for (int64_t j = 0; j < count; ++j) along[j] += static_cast<double>(z[j]);
        }
        for (int64_t j = 0; j < count; ++j)
            drift[j] = static_cast<T>(alpha * along[j] / static_cast<double>(rows_of_all) +
                                      beta[j0 + j] * correlation[j0 + j]);
        write(v, 0, n, j0, count, product, drift);
    }

    // Rows [i0, i0 + rows) of view v; `matrix` holds C' or its transpose in panels, if any.
    void rows(int v, int64_t i0, int64_t count, const T* matrix, const T* drift, T* packed,
              T* product) const {
        constexpr int W = kLanes<T>;
        const int64_t panel = side * W;
        alignas(64) T buffer[kChunk], z[W][kChunk];
        for (int64_t i = 0; i < count; i += W)
            for (int64_t j = 0; j < side; j += kChunk) {
                const int64_t width = smaller(kChunk, side - j), present = smaller(W, count - i);
                for (int64_t r = 0; r < present; ++r)
                    views[1 - v].row(i0 + i + r, j, width, buffer, z[r]);
                pack_rows(z, present, width, packed + i / W * panel + j * W);
            }
        if (side == 0) std::memset(product, 0, kArea * sizeof(T));
        for (int64_t j = 0; j < d; j += kBlock) {
            const int64_t width = smaller(kBlock, d - j);
            if (side > 0)
                block_product(packed, panel, count, matrix + j / W * panel, panel, width, 0, side,
                              false, product);
            write(v, i0, count, j, width, product, drift + j);
        }
    }
};

// One panel of what multiplies view v's side: lanes q * W on. A symmetric K, or C' of [D, D], of
// which the first view takes rows as lanes.
template <class T>
void pack_matrix(const T* gram, int64_t side, bool rows_are_lanes, int64_t q, T* panel) {
    constexpr int W = kLanes<T>;
    const int64_t count = smaller(W, side - q * W);
    if (!rows_are_lanes) {
        for (int64_t k = 0; k < side; ++k)
            pack_columns(gram + k * side + q * W, count, k, side * W, panel);
        return;
    }
    alignas(64) T z[W][kChunk];
    for (int64_t k = 0; k < side; k += kChunk) {
        const int64_t width = smaller(kChunk, side - k);
        for (int64_t r = 0; r < count; ++r)
            std::memcpy(z[r], gram + (q * W + r) * side + k,
                        static_cast<size_t>(width) * sizeof(T));
        pack_rows(z, count, width, panel + k * W);
    }
}

// mean(g a) for columns [j0, j0 + count) of view v, from rows (first view) or columns of C'.
template <class T>
void tall_drift(const T* gram, int64_t d, int v, int64_t j0, int64_t count, double alpha,
                const double* beta, const double* correlation, const double* given, T* drift) {
    double squares[kChunk] = {};
    if (given) std::memcpy(squares, given + v * d + j0, count * sizeof(double));
    for (int64_t i = 0; gram && !given && i < (v == 0 ? count : d); ++i)
        for (int64_t j = 0; j < (v == 0 ? d : count); ++j) {
            const double c =
                static_cast<double>(v == 0 ? gram[(j0 + i) * d + j] : gram[i * d + j0 + j]);
            squares[v == 0 ? i : j] += c * c;
        }
    for (int64_t j = 0; j < count; ++j)
        drift[j0 + j] = static_cast<T>(alpha * squares[j] + beta[j0 + j] * correlation[j0 + j]);
}

template <class S>
void backward(const double* grad, const MatrixView& x, const MatrixView& y, double lambda,
              bool wide, const BarlowPart& part, int threads, const Cuts& cuts,
              const BarlowColumns& columns, const void* gram_in, void* const* grads) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const T* const gram = static_cast<const T*>(gram_in);
    wide = wide && gram;
    const int64_t n = x.rows, d = x.cols, side = !gram ? 0 : wide ? n : d;
    const int64_t panel = side * W, panels = panels_of<T>(side), matrix_size = panels * panel;
    int needed[2];
    int64_t count = 0;
    for (int v = 0; v < 2; ++v)
        if (grads[v]) needed[count++] = v;
    const int64_t lanes = wide ? d : n;
    threads = useful_threads(
        threads,
        static_cast<double>(n) * static_cast<double>(d) * static_cast<double>(count * (side + 16)),
        cuts);
    const int64_t few = smaller(2 * kUnits, 8 * int64_t{threads});
    const bool halves = count * ceil_div(lanes, kBlock) < few;
    const int64_t span = cuts("span", halves ? kBlock / 2 : kBlock, 1, kBlock);
    const int64_t spans = ceil_div(lanes, span);
    const int64_t chunk = cuts("columns", kChunk, 1, kChunk);

    const int64_t out_size = part.unrounded ? sizeof(T) : sizeof(S);
    for (int v = 0; v < 2; ++v) prefer_huge_pages(grads[v], static_cast<size_t>(n * d * out_size));
    const int64_t product_size = wide ? ceil_div(n, kBlock) * kArea : kArea;
    const int64_t local_size = kBlock / W * panel + product_size;
    const Array<T> matrices(2 * matrix_size);
    const Array<T> locals(threads * local_size);
    const Array<T> per_column(8 * d);
    const Array<double> slopes(d);
    const NormalizedView<S> views[2] = {{x, per_column.get()}, {y, per_column.get() + 3 * d}};
    for (int v = 0; v < 2; ++v) views[v].set(0, d, columns.mean[v], columns.factor[v]);

    const double rows = static_cast<double>(part.rows);
    const double on = grad[0] + grad[1], off = gram ? grad[0] * lambda + grad[2] : 0;
    const double alpha = 2 * off / (wide ? rows * rows : rows);
    double* const beta = slopes.get();
    for (int64_t j = 0; j < d; ++j) {
        const double c = columns.correlation[j];
        beta[j] = 2 * (on * (c - 1) - (wide ? off * c : 0)) / rows;
    }
    T* const drift = per_column.get() + 6 * d;  // [2, D], when not wide
    const Gradient<S> gradient{
        views, n, d, part.rows, side, alpha, beta, columns.correlation, grads, part.unrounded};
#pragma omp parallel num_threads(threads)
    {
        for (int i = 0; !wide && i < count; ++i) {
            const int v = needed[i];
#pragma omp for schedule(dynamic, 1) nowait
            for (int64_t j = 0; j < d; j += chunk)
                tall_drift(gram, d, v, j, smaller(chunk, d - j), alpha, beta, columns.correlation,
                           part.squares, drift + v * d);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < count * panels; ++unit) {
            const int v = needed[unit / panels];
            const int64_t q = unit % panels;
            const T* const source = wide ? gram + (1 - v) * n * n : gram;
            pack_matrix(source, side, !wide && v == 0, q,
                        matrices.get() + v * matrix_size + q * panel);
        }
        T* const packed = locals.get() + omp_get_thread_num() * local_size;
        T* const product = packed + kBlock / W * panel;
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < count * spans; ++unit) {
            const int v = needed[unit / spans];
            const int64_t lane = unit % spans * span, width = smaller(span, lanes - lane);
            const T* const matrix = matrices.get() + v * matrix_size;
            if (wide)
                gradient.columns(v, lane, width, matrix, packed, product);
            else
                gradient.rows(v, lane, width, matrix, drift + v * d, packed, product);
        }
    }
}

}  // namespace

SSK_BY_DTYPE(BarlowBackward, barlow_backward, backward)

}  // namespace SSK_ISA
}  // namespace ssk
