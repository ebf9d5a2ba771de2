// The gradient of VICReg: each thread packs a block of centered lanes, multiplies it with the
// symmetric matrix, and the epilogue adds the other terms and writes the gradient in the input's
// dtype.
//
// Work is cut so that no sum depends on the number of threads. A gradient's product accumulates in
// the arithmetic type (float32; float64 for float64), kSteps at a time in registers.
#include <omp.h>

#include <cmath>
#include <type_traits>

#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kUnits = 32;  // pieces of work wanted, for balance

// What the epilogue of the gradient of one problem of one view needs.
template <class S>
struct Gradient {
    using T = Real<S>;
    Matrix<S> view, other;
    const T *hi, *lo, *beta;  // [D]
    T alpha, delta;
    bool moments, invariance;
    void* out;  // [N, D] contiguous, of T if unrounded, else of S
    bool unrounded;
    int64_t d;

    // out = alpha * c - beta * z + delta * (view - other) on rows [i0, i0 + rows) x columns
    // [j0, j0 + count); c has row stride kBlock and may be null.
    void write(int64_t i0, int64_t rows, int64_t j0, int64_t count, const T* c) const {
        alignas(64) T buffer[kChunk], far[kChunk], result[kChunk], none[kChunk] = {};
        for (int64_t i = i0; i < i0 + rows; ++i) {
            const T* row = view.row(i, j0, count, buffer);
            const T* across = invariance ? other.row(i, j0, count, far) : row;
            const T* product = c ? c + (i - i0) * kBlock : none;
            const int64_t at = i * d + j0;
            T* const g = unrounded ? static_cast<T*>(out) + at : result;
            if (moments)
                combine(product, row, across, j0, count, g);
            else
                for (int64_t j = 0; j < count; ++j) g[j] = delta * (row[j] - across[j]);
            if (!unrounded) write_row(g, count, static_cast<S*>(out) + at);
        }
    }

    void combine(const T* __restrict product, const T* __restrict row, const T* __restrict across,
                 int64_t j0, int64_t count, T* __restrict g) const {
        const T *h = hi + j0, *l = lo + j0, *b = beta + j0;
        for (int64_t j = 0; j < count; ++j) {
            const T z = (row[j] - h[j]) - l[j];
            g[j] = alpha * product[j] - b[j] * z + delta * (row[j] - across[j]);
        }
    }
};

// Centered lanes [lane0, lane0 + count), packed over the whole of the axis that the matrix product
// contracts: columns when wide, else rows.
template <class S>
void pack_lanes(const Gradient<S>& g, bool wide, int64_t m, int64_t lane0, int64_t count,
                Real<S>* out) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    alignas(64) T buffer[kChunk], z[W][kChunk];
    const int64_t panel = m * W;
    if (wide) {
        for (int64_t i = 0; i < m; ++i) {
            center(g.view.row(i, lane0, count, buffer), g.hi + lane0, g.lo + lane0, count, z[0]);
            pack_columns(z[0], count, i, panel, out);
        }
        return;
    }
    for (int64_t i = 0; i < count; i += W) {
        const int64_t rows = smaller(W, count - i);
        for (int64_t j = 0; j < m; j += kChunk) {
            const int64_t width = smaller(kChunk, m - j);
            for (int64_t r = 0; r < rows; ++r)
                center(g.view.row(lane0 + i + r, j, width, buffer), g.hi + j, g.lo + j, width,
                       z[r]);
            pack_rows(z, rows, width, out + i / W * panel + j * W);
        }
    }
}

template <class S>
void backward(const double* grad, const Problems& x, const Problems* y, const VicregSettings& s,
              int threads, const Cuts& cuts, const double* mean, const double* var,
              const void* gram_in, void* grad_x, void* grad_y) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const int view_count = y ? 2 : 1;
    const int64_t n = x.n, d = x.d;
    const int64_t m = s.covariance ? (s.wide ? n : d) : 0;
    const int64_t lanes = s.wide ? d : n;
    const int64_t panel = m * W, matrix_panels = panels_of<T>(m);
    const bool moments = s.variance || s.covariance;

    const double problems = static_cast<double>(x.p), columns = static_cast<double>(s.columns);
    const double rows = static_cast<double>(s.rows), free_rows = rows - 1;
    const double on_invariance = s.invariance ? grad[0] * s.sim + grad[1] : 0;
    const double on_variance = s.variance ? grad[0] * s.std + grad[2] : 0;
    const double on_covariance = s.covariance ? grad[0] * s.cov + grad[3] : 0;
    const double alpha = 4 * on_covariance / (columns * problems * free_rows * free_rows);
    const double delta = 2 * on_invariance / (problems * rows * columns);
    const double variance_scale = on_variance / (view_count * problems * columns * free_rows);
    const double diagonal_scale =
        s.wide && s.covariance ? 4 * on_covariance / (columns * problems * free_rows) : 0;

    void* const outs[kMaxViews] = {grad_x, grad_y};
    const bool unrounded = s.unrounded || std::is_same_v<S, T>;
    const int64_t out_size = unrounded ? sizeof(T) : sizeof(S);
    const int64_t needed = (outs[0] != nullptr) + (outs[1] != nullptr);
    const double work = static_cast<double>(n) * static_cast<double>(d) *
                        static_cast<double>(m + 16) * static_cast<double>(needed);
    threads = useful_threads(threads, work, cuts);
    // Lanes per unit: a full block, or half where that leaves few units for each thread.
    const int64_t few = smaller(2 * kUnits, 8 * int64_t{threads});
    const bool halves = needed * ceil_div(lanes, kBlock) < few;
    const int64_t span = cuts("span", halves ? kBlock / 2 : kBlock, 1, kBlock);
    const int64_t spans = ceil_div(lanes, span);
    const int64_t strip = cuts("rows", kBlock, 1, n), strips = ceil_div(n, strip);
    const int64_t chunk = cuts("columns", kChunk, 1, kChunk), chunks = ceil_div(d, chunk);
    constexpr int64_t kArea = int64_t{kBlock} * kBlock;
    for (void* out : outs) prefer_huge_pages(out, static_cast<size_t>(x.p * n * d * out_size));

    const int64_t matrix_size = matrix_panels * panel;
    const int64_t local_size = kBlock / W * panel + kArea;
    const Array<T> matrices(view_count * matrix_size);
    const Array<T> locals(threads * local_size);
    const Array<T> per_column(view_count * 3 * d);

    for (int64_t p = 0; p < x.p; ++p) {
        Gradient<S> gradients[kMaxViews];
        int views[kMaxViews];
        int count = 0;
        for (int v = 0; v < view_count; ++v) {
            if (!outs[v]) continue;
            T* const hi = per_column.get() + v * 3 * d;
            T *const lo = hi + d, *const beta = lo + d;
            const int64_t at = (v * x.p + p) * d;
            if (moments) split_mean(mean + at, d, hi, lo);
            for (int64_t j = 0; moments && j < d; ++j) {
                const double sd = std::sqrt(var[at + j] + s.eps);
                const double pull = s.variance && sd < s.gamma ? variance_scale / sd : 0;
                beta[j] = static_cast<T>(diagonal_scale * var[at + j] + pull);
            }
            const Problems& self = v == 0 ? x : *y;
            const Problems& opposite = v == 0 && y ? *y : x;
            views[count] = v;
            gradients[count++] = {problem<S>(self, p),
                                  problem<S>(opposite, p),
                                  hi,
                                  lo,
                                  beta,
                                  static_cast<T>(alpha),
                                  static_cast<T>(delta),
                                  moments,
                                  s.invariance,
                                  static_cast<char*>(outs[v]) + p * n * d * out_size,
                                  unrounded,
                                  d};
        }
#pragma omp parallel num_threads(threads)
        if (!s.covariance) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * strips * chunks; ++unit) {
                const int64_t at = unit / count;  // the views in turn: each reads both
                const int64_t i = at / chunks * strip, j = at % chunks * chunk;
                gradients[unit % count].write(i, smaller(strip, n - i), j, smaller(chunk, d - j),
                                              nullptr);
            }
        } else {
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * matrix_panels; ++unit) {
                const int64_t v = views[unit / matrix_panels], q = unit % matrix_panels;
                const T* gram = static_cast<const T*>(gram_in) + (v * x.p + p) * m * m;
                for (int64_t k = 0; k < m; ++k)  // symmetric: a column's lanes lie in a row
                    pack_columns(gram + k * m + q * W, smaller(W, m - q * W), k, panel,
                                 matrices.get() + v * matrix_size + q * panel);
            }
            T* const packed = locals.get() + omp_get_thread_num() * local_size;
            T* const c = packed + kBlock / W * panel;
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * spans; ++unit) {
                const Gradient<S>& g = gradients[unit / spans];
                const T* matrix = matrices.get() + views[unit / spans] * matrix_size;
                const int64_t lane = unit % spans * span, width = smaller(span, lanes - lane);
                pack_lanes(g, s.wide, m, lane, width, packed);
                for (int64_t i = 0; i < m; i += kBlock) {
                    const int64_t height = smaller(kBlock, m - i);
                    const T* side = matrix + i / W * panel;
                    if (s.wide) {  // rows of K times columns of Z
                        block_product(side, panel, height, packed, panel, width, 0, m, false, c);
                        g.write(i, height, lane, width, c);
                    } else {  // rows of Z times columns of the Gram matrix
                        block_product(packed, panel, width, side, panel, height, 0, m, false, c);
                        g.write(lane, width, i, height, c);
                    }
                }
            }
        }
    }
}

}  // namespace

SSK_BY_DTYPE(VicregBackward, vicreg_backward, backward)

}  // namespace SSK_ISA
}  // namespace ssk
