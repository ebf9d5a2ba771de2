// VICReg on CPUs. Compiled once per instruction set.
//
// Forward: (1) one visit per chunk of columns, narrow enough that the chunk of all views stays in
// L2: means, variances, sum (x - y)^2, and the centered rows packed into panels; (2) the upper
// triangle of the symmetric product of those panels, squares summed as each block is finished.
// Backward: each thread packs a block of centered lanes, multiplies it with the symmetric matrix,
// and the epilogue adds the other terms and writes the gradient in the input's dtype.
//
// Work is cut by shape alone, never by the number of threads, and partial sums are added in a fixed
// order: results are the same for any number of threads.
//
// Accumulators: float32 over at most one vector's worth of rows (column sums) or kSteps of a
// product, in the arithmetic type across those steps, float64 across rows, columns and blocks.
// float32 squares overflow from 1.8e19.
#include "vicreg.h"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <new>

#include "gram.h"
#include "rows.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kChunk = 256;                    // columns of a chunk, at most
constexpr int64_t kChunkBytes = int64_t{1} << 19;  // half of a 1 MiB L2
constexpr int64_t kUnits = 16;                     // pieces of work wanted, for balance
constexpr int kMaxViews = 2;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One problem of one view.
template <class S>
struct Matrix {
    const S* data;
    int64_t n_stride, d_stride;
    const S* at(int64_t i, int64_t j) const { return data + i * n_stride + j * d_stride; }
    const Real<S>* row(int64_t i, int64_t j, int64_t count, Real<S>* buffer) const {
        return read_row(at(i, j), d_stride, count, buffer);
    }
};

template <class S>
Matrix<S> problem(const Problems& x, int64_t p) {
    return {static_cast<const S*>(x.data) + p * x.p_stride, x.n_stride, x.d_stride};
}

// A column mean as hi + lo, so that (x - hi) - lo keeps its digits when x is large and close to hi.
template <class T>
struct Mean {
    T hi[kChunk], lo[kChunk];
    void set(const double* mean, int64_t count) {
        for (int64_t j = 0; j < count; ++j) {
            hi[j] = static_cast<T>(mean[j]);
            lo[j] = static_cast<T>(mean[j] - static_cast<double>(hi[j]));
        }
    }
};

template <class T>
void center(const T* __restrict x, const T* __restrict hi, const T* __restrict lo, int64_t count,
            T* __restrict z) {
    for (int64_t j = 0; j < count; ++j) z[j] = (x[j] - hi[j]) - lo[j];
}

// Lanes are rows: W rows of z become out[j * W + row]; rows from `rows` on count as zero.
template <class T>
void pack_rows(T (&z)[kLanes<T>][kChunk], int64_t rows, int64_t count, T* __restrict out) {
    constexpr int W = kLanes<T>;
    for (int64_t r = rows; r < W; ++r)
        for (int64_t j = 0; j < count; ++j) z[r][j] = 0;
    for (int64_t j = 0; j < count; ++j)
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

template <class S>
void column_means(const Matrix<S>& x, int64_t n, int64_t j0, int64_t count, double* mean) {
    using T = Real<S>;
    alignas(64) T buffer[kChunk], shift[kChunk], part[kChunk];
    double sum[kChunk];
    // Sums of x - shift, the first row being near the data: an offset costs no digits.
    const T* first = x.row(0, j0, count, buffer);
    for (int64_t j = 0; j < count; ++j) {
        shift[j] = first[j];
        sum[j] = 0;
    }
    constexpr int64_t kRowsPerPart = 16;
    for (int64_t i0 = 0; i0 < n; i0 += kRowsPerPart) {
        for (int64_t j = 0; j < count; ++j) part[j] = 0;
        for (int64_t i = i0; i < smaller(n, i0 + kRowsPerPart); ++i) {
            const T* row = x.row(i, j0, count, buffer);
            for (int64_t j = 0; j < count; ++j) part[j] += row[j] - shift[j];
        }
        for (int64_t j = 0; j < count; ++j) sum[j] += static_cast<double>(part[j]);
    }
    for (int64_t j = 0; j < count; ++j)
        mean[j] = static_cast<double>(shift[j]) + sum[j] / static_cast<double>(n);
}

struct ChunkSums {
    double invariance;
    double hinge;    // over both views
    double squares;  // of variances, over both views
};

// Everything that one visit to columns [j0, j0 + count) of one problem yields. `packed[v]` is null
// without covariance; `mean[v]` and `var[v]` are null without moments.
template <class S>
ChunkSums visit_chunk(const Matrix<S>* views, int view_count, int64_t n, int64_t j0, int64_t count,
                      const VicregSettings& s, double* const* mean, double* const* var,
                      Real<S>* const* packed, int64_t panel) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    alignas(64) T buffer[kMaxViews][kChunk], z[kMaxViews][W][kChunk], part[kMaxViews][kChunk];
    alignas(64) T distance[kChunk];
    double sum[kMaxViews][kChunk];
    Mean<T> center_of[kMaxViews];
    const bool moments = s.variance || s.covariance;
    ChunkSums out{0, 0, 0};

    for (int v = 0; moments && v < view_count; ++v) {
        column_means(views[v], n, j0, count, mean[v] + j0);
        center_of[v].set(mean[v] + j0, count);
        for (int64_t j = 0; j < count; ++j) sum[v][j] = 0;
    }
    for (int64_t i0 = 0; i0 < n; i0 += W) {
        const int64_t rows = smaller(W, n - i0);
        for (int64_t j = 0; j < count; ++j) part[0][j] = part[1][j] = distance[j] = 0;
        for (int64_t r = 0; r < rows; ++r) {
            const T* row[kMaxViews];
            for (int v = 0; v < view_count; ++v)
                row[v] = views[v].row(i0 + r, j0, count, buffer[v]);
            for (int v = 0; moments && v < view_count; ++v) {
                T* zr = z[v][r];
                center(row[v], center_of[v].hi, center_of[v].lo, count, zr);
                for (int64_t j = 0; j < count; ++j) part[v][j] += zr[j] * zr[j];
                if (s.covariance && !s.wide)
                    pack_columns(zr, count, i0 + r, panel, packed[v] + j0 / W * panel);
            }
            if (s.invariance)
                for (int64_t j = 0; j < count; ++j) {
                    const T difference = row[0][j] - row[1][j];
                    distance[j] += difference * difference;
                }
        }
        for (int v = 0; moments && v < view_count; ++v) {
            for (int64_t j = 0; j < count; ++j) sum[v][j] += static_cast<double>(part[v][j]);
            if (s.covariance && s.wide)
                pack_rows(z[v], rows, count, packed[v] + i0 / W * panel + j0 * W);
        }
        if (s.invariance)
            for (int64_t j = 0; j < count; ++j) out.invariance += static_cast<double>(distance[j]);
    }
    for (int v = 0; moments && v < view_count; ++v)
        for (int64_t j = 0; j < count; ++j) {
            const double variance = sum[v][j] / static_cast<double>(n - 1);
            const double gap = s.gamma - std::sqrt(variance + s.eps);
            var[v][j0 + j] = variance;
            out.hinge += gap <= 0 ? 0 : gap;  // NaN is kept
            out.squares += variance * variance;
        }
    return out;
}

// The block of the upper triangle at position `index` of a row-wise count, of `blocks` per side.
struct Block {
    int64_t row, col, rows, cols;
};
Block triangle_block(int64_t index, int64_t blocks, int64_t m) {
    int64_t i = 0;
    while (index >= blocks - i) index -= blocks - i++;
    const int64_t j = i + index;
    return {i * kBlock, j * kBlock, smaller(kBlock, m - i * kBlock),
            smaller(kBlock, m - j * kBlock)};
}

// Writes a finished block to both triangles of gram, and returns its share of the sum of squares.
template <class T>
double finish_block(const T* c, const Block& b, bool wide, int64_t m, T* gram) {
    const bool diagonal = b.row == b.col;
    double off[8] = {0, 0, 0, 0, 0, 0, 0, 0}, on = 0;
    for (int64_t i = 0; i < b.rows; ++i) {
        const T* row = c + i * kBlock;
        T* out = gram + (b.row + i) * m + b.col;
        int64_t j = 0;
        if (diagonal) {
            const double d = wide ? static_cast<double>(row[i]) : 0;
            out[i] = static_cast<T>(d);
            on += d * d;
            j = i + 1;
        }
        for (; j + 8 <= b.cols; j += 8)
            for (int l = 0; l < 8; ++l) {
                out[j + l] = row[j + l];
                off[l] += static_cast<double>(row[j + l]) * static_cast<double>(row[j + l]);
            }
        for (; j < b.cols; ++j) {
            out[j] = row[j];
            off[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        }
    }
    for (int64_t j = 0; j < b.cols; ++j) {
        T* out = gram + (b.col + j) * m + b.row;
        for (int64_t i = 0; i < (diagonal ? j : b.rows); ++i) out[i] = c[i * kBlock + j];
    }
    for (int l = 1; l < 8; ++l) off[0] += off[l];
    return on + 2 * off[0];
}

// Threads worth waking for so many multiply-adds: below about 20 us each, one is faster.
int useful_threads(int threads, double work) {
    const double useful = 1 + work / 1e6;
    return useful < threads ? static_cast<int>(useful) : threads;
}

template <class S>
void forward(const Problems& x, const Problems* y, const VicregSettings& s, int threads,
             void* terms_out, double* mean, double* var, void* gram_out) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const int view_count = y ? 2 : 1;
    const int64_t n = x.n, d = x.d;
    const int64_t m = s.covariance ? (s.wide ? n : d) : 0;
    const int64_t contraction = s.wide ? d : n;
    const int64_t panel = contraction * W;
    const int64_t view_size = panels_of<T>(m) * panel;

    const int64_t fitting = kChunkBytes / (n * static_cast<int64_t>(sizeof(T)) * view_count);
    const int64_t width = smaller(kChunk, larger(smaller(fitting, ceil_div(d, kUnits)), 1));
    const int64_t columns = smaller(kChunk, ceil_div(width, 32) * 32);
    const int64_t chunks = ceil_div(d, columns);

    const int64_t blocks = ceil_div(m, kBlock);
    const int64_t triangle = blocks * (blocks + 1) / 2;
    const int64_t block_count = view_count * triangle;
    // Few blocks: their contraction is cut too, into parts of at least 512 steps.
    const int64_t wanted =
        block_count ? smaller(ceil_div(kUnits, block_count), contraction / 512) : 1;
    const int64_t parts = larger(wanted, 1);
    const int64_t part_steps = ceil_div(contraction, parts);

    constexpr int64_t kArea = int64_t{kBlock} * kBlock;
    const Scratch packed(static_cast<size_t>(view_count * view_size) * sizeof(T));
    const Scratch areas(static_cast<size_t>(larger(block_count * parts, 1) * (parts > 1) * kArea) *
                        sizeof(T));
    const Scratch chunk_sums(static_cast<size_t>(chunks) * sizeof(ChunkSums));
    const Scratch block_sums(static_cast<size_t>(block_count) * sizeof(double));
    if (!packed || !areas || !chunk_sums || !block_sums) throw std::bad_alloc();
    ChunkSums* const visited = chunk_sums.as<ChunkSums>();
    double* const squares = block_sums.as<double>();

    const double work = static_cast<double>(n) * static_cast<double>(d) *
                        static_cast<double>(m / 2 + 16) * view_count;
    threads = useful_threads(threads, work / 8);
    double invariance = 0, hinge = 0, covariance = 0;
    const double free_rows = static_cast<double>(n - 1);
    for (int64_t p = 0; p < x.p; ++p) {
        const Matrix<S> views[kMaxViews] = {problem<S>(x, p), problem<S>(y ? *y : x, p)};
        double *means[kMaxViews], *vars[kMaxViews];
        T *panels[kMaxViews], *grams[kMaxViews];
        for (int v = 0; v < view_count; ++v) {
            means[v] = mean + (v * x.p + p) * d;
            vars[v] = var + (v * x.p + p) * d;
            panels[v] = packed.as<T>() + v * view_size;
            grams[v] = static_cast<T*>(gram_out) + (v * x.p + p) * m * m;
        }
#pragma omp parallel num_threads(threads)
        {
            alignas(64) T local[kArea];
#pragma omp for schedule(dynamic, 1)
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                visited[chunk] = visit_chunk(views, view_count, n, chunk * columns,
                                             smaller(columns, d - chunk * columns), s, means, vars,
                                             panels, panel);
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < block_count * parts; ++unit) {
                const int64_t block = unit / parts, v = block / triangle,
                              k = unit % parts * part_steps;
                const Block b = triangle_block(block % triangle, blocks, m);
                T* c = parts > 1 ? areas.as<T>() + unit * kArea : local;
                block_product(panels[v] + b.row / W * panel, panel, b.rows,
                              panels[v] + b.col / W * panel, panel, b.cols, k,
                              smaller(contraction, k + part_steps), b.row == b.col, c);
                if (parts == 1) squares[block] = finish_block(c, b, s.wide, m, grams[v]);
            }
            if (parts > 1) {
#pragma omp for schedule(dynamic, 1)
                for (int64_t block = 0; block < block_count; ++block) {
                    T* c = areas.as<T>() + block * parts * kArea;
                    for (int64_t part = 1; part < parts; ++part)
                        for (int64_t i = 0; i < kArea; ++i) c[i] += c[part * kArea + i];
                    const Block b = triangle_block(block % triangle, blocks, m);
                    squares[block] = finish_block(c, b, s.wide, m, grams[block / triangle]);
                }
            }
        }
        double gram_squares = 0, variance_squares = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            invariance += visited[chunk].invariance;
            hinge += visited[chunk].hinge;
            variance_squares += visited[chunk].squares;
        }
        for (int64_t block = 0; block < block_count; ++block) gram_squares += squares[block];
        covariance += gram_squares / (free_rows * free_rows) - (s.wide ? variance_squares : 0);
    }

    const double problems = static_cast<double>(x.p),
                 columns_in_all = problems * static_cast<double>(d);
    if (s.invariance) invariance /= columns_in_all * static_cast<double>(n);
    hinge = s.variance ? hinge / (columns_in_all * view_count) : 0;
    covariance = s.covariance ? covariance / columns_in_all : 0;
    T* const terms = static_cast<T*>(terms_out);
    terms[0] = static_cast<T>(s.sim * invariance + s.std * hinge + s.cov * covariance);
    terms[1] = static_cast<T>(invariance);
    terms[2] = static_cast<T>(hinge);
    terms[3] = static_cast<T>(covariance);
}

// What the epilogue of the gradient of one problem of one view needs.
template <class S>
struct Gradient {
    using T = Real<S>;
    Matrix<S> view, other;
    const T *hi, *lo, *beta;  // [D]
    T alpha, delta;
    bool moments, invariance;
    S* out;  // [N, D] contiguous
    int64_t d;

    // out = alpha * c - beta * z + delta * (view - other) on rows [i0, i0 + rows) x columns
    // [j0, j0 + count); c has row stride kBlock and may be null.
    void write(int64_t i0, int64_t rows, int64_t j0, int64_t count, const T* c) const {
        alignas(64) T buffer[kChunk], far[kChunk], z[kChunk], g[kChunk];
        for (int64_t i = i0; i < i0 + rows; ++i) {
            const T* row = view.row(i, j0, count, buffer);
            for (int64_t j = 0; j < count; ++j) g[j] = 0;
            if (c) {
                const T* product = c + (i - i0) * kBlock;
                for (int64_t j = 0; j < count; ++j) g[j] = alpha * product[j];
            }
            if (moments) {
                center(row, hi + j0, lo + j0, count, z);
                for (int64_t j = 0; j < count; ++j) g[j] -= beta[j0 + j] * z[j];
            }
            if (invariance) {
                const T* across = other.row(i, j0, count, far);
                for (int64_t j = 0; j < count; ++j) g[j] += delta * (row[j] - across[j]);
            }
            write_row(g, count, out + i * d + j0);
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
              int threads, const double* mean, const double* var, const void* gram_in, void* grad_x,
              void* grad_y) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const int view_count = y ? 2 : 1;
    const int64_t n = x.n, d = x.d;
    const int64_t m = s.covariance ? (s.wide ? n : d) : 0;
    const int64_t lanes = s.wide ? d : n;
    const int64_t panel = m * W, matrix_panels = panels_of<T>(m);
    const bool moments = s.variance || s.covariance;

    const double problems = static_cast<double>(x.p), columns = static_cast<double>(d);
    const double free_rows = static_cast<double>(n - 1);
    const double on_invariance = s.invariance ? grad[0] * s.sim + grad[1] : 0;
    const double on_variance = s.variance ? grad[0] * s.std + grad[2] : 0;
    const double on_covariance = s.covariance ? grad[0] * s.cov + grad[3] : 0;
    const double alpha = 4 * on_covariance / (columns * problems * free_rows * free_rows);
    const double delta = 2 * on_invariance / (problems * static_cast<double>(n) * columns);
    const double variance_scale = on_variance / (view_count * problems * columns * free_rows);
    const double diagonal_scale =
        s.wide && s.covariance ? 4 * on_covariance / (columns * problems * free_rows) : 0;

    S* const outs[kMaxViews] = {static_cast<S*>(grad_x), static_cast<S*>(grad_y)};
    // Lanes per unit: a full block, or half where that leaves few units.
    const int64_t needed = (outs[0] != nullptr) + (outs[1] != nullptr);
    const int64_t span = needed * ceil_div(lanes, kBlock) < 2 * kUnits ? kBlock / 2 : kBlock;
    const int64_t spans = ceil_div(lanes, span);
    constexpr int64_t kArea = int64_t{kBlock} * kBlock;
    const double work = static_cast<double>(n) * columns * static_cast<double>(m + 16) *
                        static_cast<double>(needed);
    threads = useful_threads(threads, work / 8);

    const size_t matrix_size = static_cast<size_t>(matrix_panels * panel);
    const size_t local_size = static_cast<size_t>(kBlock / W * panel) + kArea;
    const Scratch matrices(view_count * matrix_size * sizeof(T));
    const Scratch locals(static_cast<size_t>(threads) * local_size * sizeof(T));
    const Scratch per_column(static_cast<size_t>(view_count * d) * 3 * sizeof(T));
    if (!matrices || !locals || !per_column) throw std::bad_alloc();

    for (int64_t p = 0; p < x.p; ++p) {
        Gradient<S> gradients[kMaxViews];
        int views[kMaxViews];
        int count = 0;
        for (int v = 0; v < view_count; ++v) {
            if (!outs[v]) continue;
            T* const hi = per_column.as<T>() + v * 3 * d;
            T *const lo = hi + d, *const beta = lo + d;
            const int64_t at = (v * x.p + p) * d;
            for (int64_t j = 0; j < d; ++j) {
                const double mu = moments ? mean[at + j] : 0;
                hi[j] = static_cast<T>(mu);
                lo[j] = static_cast<T>(mu - static_cast<double>(hi[j]));
                double b = 0;
                if (moments) {
                    const double sd = std::sqrt(var[at + j] + s.eps);
                    b = diagonal_scale * var[at + j] + (sd < s.gamma ? variance_scale / sd : 0);
                }
                beta[j] = static_cast<T>(b);
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
                                  outs[v] + p * n * d,
                                  d};
        }
#pragma omp parallel num_threads(threads)
        if (!s.covariance) {
            const int64_t chunks = ceil_div(d, kChunk), strips = ceil_div(n, kBlock);
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * strips * chunks; ++unit) {
                const int64_t i = unit / chunks % strips * kBlock, j = unit % chunks * kChunk;
                gradients[unit / (strips * chunks)].write(i, smaller(kBlock, n - i), j,
                                                          smaller(kChunk, d - j), nullptr);
            }
        } else {
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * matrix_panels; ++unit) {
                const int64_t v = views[unit / matrix_panels], q = unit % matrix_panels;
                const T* gram = static_cast<const T*>(gram_in) + (v * x.p + p) * m * m;
                for (int64_t k = 0; k < m; ++k)  // symmetric: a column's lanes lie in a row
                    pack_columns(gram + k * m + q * W, smaller(W, m - q * W), k, panel,
                                 matrices.as<T>() + v * matrix_size + q * panel);
            }
            T* const packed = locals.as<T>() + omp_get_thread_num() * local_size;
            T* const c = packed + kBlock / W * panel;
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < count * spans; ++unit) {
                const Gradient<S>& g = gradients[unit / spans];
                const T* matrix = matrices.as<T>() + views[unit / spans] * matrix_size;
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

void vicreg_forward(const Problems& x, const Problems* y, const VicregSettings& settings,
                    int threads, void* terms, double* mean, double* var, void* gram) {
    switch (x.dtype) {
        case DType::f32:
            return forward<float>(x, y, settings, threads, terms, mean, var, gram);
        case DType::f64:
            return forward<double>(x, y, settings, threads, terms, mean, var, gram);
        case DType::f16:
            return forward<f16>(x, y, settings, threads, terms, mean, var, gram);
        case DType::bf16:
            return forward<bf16>(x, y, settings, threads, terms, mean, var, gram);
    }
}

void vicreg_backward(const double* grad, const Problems& x, const Problems* y,
                     const VicregSettings& settings, int threads, const double* mean,
                     const double* var, const void* gram, void* grad_x, void* grad_y) {
    switch (x.dtype) {
        case DType::f32:
            return backward<float>(grad, x, y, settings, threads, mean, var, gram, grad_x, grad_y);
        case DType::f64:
            return backward<double>(grad, x, y, settings, threads, mean, var, gram, grad_x, grad_y);
        case DType::f16:
            return backward<f16>(grad, x, y, settings, threads, mean, var, gram, grad_x, grad_y);
        case DType::bf16:
            return backward<bf16>(grad, x, y, settings, threads, mean, var, gram, grad_x, grad_y);
    }
}

}  // namespace SSK_ISA
}  // namespace ssk
