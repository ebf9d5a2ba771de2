// VICReg's terms, and what their gradient needs.
//
// The contraction of the symmetric product (columns of a wide problem, rows of any other) is cut
// into slabs. For each slab the threads first visit chunks of columns, centering and packing rows
// while they add up variances and sum (x - y)^2, then add the slab's product to the upper triangle
// of the matrix; both work from cache, and scratch stays small. A wide problem's chunk takes its
// means on the same visit; otherwise the means come first, from one more pass.
//
// Work is cut by shape alone, never by the number of threads, and partial sums are added in a fixed
// order: results are the same for any number of threads.
//
// Accumulators: float32 over at most 16 rows (column sums) or kSteps of a product, the arithmetic
// type across those steps, float64 across rows, columns and blocks. float32 squares overflow
// from 1.8e19.
#include <cmath>

#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 19;  // of all views: half of a 1 MiB L2
constexpr int64_t kSlabBytes = int64_t{1} << 23;   // of all views: part of an L3
constexpr int64_t kSlabSteps = 512;  // at least, so that adding to the matrix is cheap
constexpr int64_t kUnits = 48;       // pieces of work wanted, for balance
constexpr int64_t kArea = int64_t{kBlock} * kBlock;
constexpr int64_t kRowsPerPart = 16;  // rows added up in the arithmetic type

struct Block {
    int64_t row, col, rows, cols;
    bool diagonal() const { return row == col; }
};

// How a problem's work is cut.
struct Plan {
    int views;
    int64_t n, d;
    int64_t m;            // side of the matrix; 0 without covariance
    int64_t contraction;  // its inner dimension
    int64_t slab, slabs;
    int64_t columns, chunks;  // of a chunk, and how many there are
    int64_t blocks, triangle;
    int64_t parts;  // of a block's slab, where blocks are few

    Plan(const VicregSettings& s, int view_count, int64_t rows, int64_t cols, int64_t size,
         const Cuts& cuts)
        : views(view_count), n(rows), d(cols) {
        m = s.covariance ? (s.wide ? n : d) : 0;
        contraction = s.wide ? d : n;
        blocks = ceil_div(m, kBlock);
        triangle = blocks * (blocks + 1) / 2;

        const int64_t fitting = kChunkBytes / (n * size * views);
        const int64_t balanced = ceil_div(ceil_div(d, kUnits), 32) * 32;
        columns = smaller(kChunk, larger(32, smaller(fitting / 32 * 32, balanced)));
        columns = cuts("columns", columns, 32, kChunk, 32);

        slab = contraction;
        if (m > 0) slab = larger(kSlabSteps, kSlabBytes / (m * size * views));
        slab = cuts("slab", slab, 1, contraction);
        slab = smaller(ceil_div(slab, columns) * columns, contraction);
        slabs = ceil_div(contraction, slab);
        chunks = ceil_div(d, columns);

        const int64_t wanted = m ? ceil_div(kUnits, views * triangle) : 1;
        parts = cuts("parts", larger(1, smaller(wanted, slab / kSlabSteps)), 1, kUnits);
    }

    int64_t block_count() const { return views * triangle; }

    // The block at position `index` of the upper triangle, row by row.
    Block block(int64_t index) const {
        int64_t i = 0;
        while (index >= blocks - i) index -= blocks - i++;
        const int64_t j = i + index;
        return {i * kBlock, j * kBlock, smaller(kBlock, m - i * kBlock),
                smaller(kBlock, m - j * kBlock)};
    }
};

// Everything one problem's threads share.
template <class S>
struct Forward {
    using T = Real<S>;
    static constexpr int W = kLanes<T>;

    const VicregSettings& s;
    const Plan& plan;
    Matrix<S> view[kMaxViews];
    double *mean[kMaxViews], *var[kMaxViews];  // [D]; var holds sums of squares until finish_chunk
    T* packed[kMaxViews];                      // one slab
    T* gram[kMaxViews];                        // [M, M]
    double* distance;                          // [chunks] sum (x - y)^2
    double* hinge;                             // [chunks] over the views
    double* variance_squares;                  // [chunks] over the views
    double* gram_squares;                      // [views * triangle]
    T* areas;  // [views * triangle * parts] blocks; null for one part

    bool moments() const { return s.variance || s.covariance; }

    // Sums of x - shift, the first row being near the data: an offset costs no digits.
    void column_means(int v, int64_t j0, int64_t count) const {
        alignas(64) T buffer[kChunk], shift[kChunk], part[kChunk];
        double sum[kChunk];
        std::memcpy(shift, view[v].row(0, j0, count, buffer), count * sizeof(T));
        for (int64_t j = 0; j < count; ++j) sum[j] = 0;
        for (int64_t i0 = 0; i0 < plan.n; i0 += kRowsPerPart) {
            for (int64_t j = 0; j < count; ++j) part[j] = 0;
            for (int64_t i = i0; i < smaller(plan.n, i0 + kRowsPerPart); ++i) {
                const T* row = view[v].row(i, j0, count, buffer);
                for (int64_t j = 0; j < count; ++j) part[j] += row[j] - shift[j];
            }
            for (int64_t j = 0; j < count; ++j) sum[j] += static_cast<double>(part[j]);
        }
        for (int64_t j = 0; j < count; ++j)
            mean[v][j0 + j] = static_cast<double>(shift[j]) + sum[j] / static_cast<double>(plan.n);
    }

    void start_chunk(int64_t chunk) const {
        const int64_t j0 = chunk * plan.columns, count = smaller(plan.columns, plan.d - j0);
        distance[chunk] = 0;
        for (int v = 0; moments() && v < plan.views; ++v) {
            column_means(v, j0, count);
            for (int64_t j = 0; j < count; ++j) var[v][j0 + j] = 0;
        }
    }

    // Rows [n0, n1) of a chunk: sums of squares, and centered rows into the slab that starts at
    // step `k0` of the contraction and has `steps` of them.
    void visit_chunk(int64_t chunk, int64_t n0, int64_t n1, int64_t k0, int64_t steps) const {
        alignas(64) T buffer[kMaxViews][kChunk], z[kMaxViews][W][kChunk], part[kMaxViews][kChunk];
        alignas(64) T hi[kMaxViews][kChunk], lo[kMaxViews][kChunk], apart[kChunk];
        const int64_t j0 = chunk * plan.columns, count = smaller(plan.columns, plan.d - j0);
        const int64_t panel = steps * W;
        double far = 0;
        for (int v = 0; moments() && v < plan.views; ++v)
            split_mean(mean[v] + j0, count, hi[v], lo[v]);
        for (int64_t i0 = n0; i0 < n1; i0 += W) {
            const int64_t rows = smaller(W, n1 - i0);
            for (int64_t j = 0; j < count; ++j) part[0][j] = part[1][j] = apart[j] = 0;
            for (int64_t r = 0; r < rows; ++r) {
                const T* row[kMaxViews];
                for (int v = 0; v < plan.views; ++v)
                    row[v] = view[v].row(i0 + r, j0, count, buffer[v]);
                for (int v = 0; moments() && v < plan.views; ++v) {
                    T* zr = z[v][r];
                    center(row[v], hi[v], lo[v], count, zr);
                    for (int64_t j = 0; j < count; ++j) part[v][j] += zr[j] * zr[j];
                    if (s.covariance && !s.wide)
                        pack_columns(zr, count, i0 + r - k0, panel, packed[v] + j0 / W * panel);
                }
                if (s.invariance)
                    for (int64_t j = 0; j < count; ++j) {
                        const T difference = row[0][j] - row[1][j];
                        apart[j] += difference * difference;
                    }
            }
            for (int v = 0; moments() && v < plan.views; ++v) {
                double* sum = var[v] + j0;
                for (int64_t j = 0; j < count; ++j) sum[j] += static_cast<double>(part[v][j]);
                if (s.covariance && s.wide)
                    pack_rows(z[v], rows, count, packed[v] + i0 / W * panel + (j0 - k0) * W);
            }
            if (s.invariance)
                for (int64_t j = 0; j < count; ++j) far += static_cast<double>(apart[j]);
        }
        distance[chunk] += far;
    }

    void finish_chunk(int64_t chunk) const {
        const int64_t j0 = chunk * plan.columns, j1 = smaller(j0 + plan.columns, plan.d);
        double below = 0, squares = 0;
        for (int v = 0; moments() && v < plan.views; ++v)
            for (int64_t j = j0; j < j1; ++j) {
                const double variance = var[v][j] / static_cast<double>(s.rows - 1);
                const double gap = s.gamma - std::sqrt(variance + s.eps);
                var[v][j] = variance;
                below += gap <= 0 ? 0 : gap;  // NaN is kept
                squares += variance * variance;
            }
        hinge[chunk] = below;
        variance_squares[chunk] = squares;
    }

    // One part of one block of the slab's product.
    void multiply(int64_t unit, int64_t slab, int64_t steps, T* local) const {
        const int64_t index = unit / plan.parts;
        const int64_t part = ceil_div(steps, plan.parts);  // the last slab may be shorter
        const int64_t k0 = smaller(unit % plan.parts * part, steps), k1 = smaller(k0 + part, steps);
        const Block b = plan.block(index % plan.triangle);
        const T* lanes = packed[index / plan.triangle];
        const int64_t panel = steps * W;
        T* c = areas ? areas + unit * kArea : local;
        block_product(lanes + b.row / W * panel, panel, b.rows, lanes + b.col / W * panel, panel,
                      b.cols, k0, k1, b.diagonal(), c);
        if (!areas) add_block(index, slab, c);
    }

    void add_parts(int64_t index, int64_t slab) const {
        T* c = areas + index * plan.parts * kArea;
        for (int64_t part = 1; part < plan.parts; ++part)
            for (int64_t i = 0; i < kArea; ++i) c[i] += c[part * kArea + i];
        add_block(index, slab, c);
    }

    // Adds c to the upper triangle; with the last slab also fills the lower one and takes squares.
    void add_block(int64_t index, int64_t slab, T* c) const {
        const Block b = plan.block(index % plan.triangle);
        T* const out = gram[index / plan.triangle];
        const bool last = slab + 1 == plan.slabs;
        double off = 0, on = 0;
        for (int64_t i = 0; i < b.rows; ++i) {
            T *row = c + i * kBlock, *to = out + (b.row + i) * plan.m + b.col;
            const int64_t j0 = b.diagonal() ? i : 0;
            if (slab > 0)
                for (int64_t j = j0; j < b.cols; ++j) row[j] += to[j];
            if (last && b.diagonal()) {
                if (!s.wide) row[i] = 0;
                on += static_cast<double>(row[i]) * static_cast<double>(row[i]);
            }
            std::memcpy(to + j0, row + j0, (b.cols - j0) * sizeof(T));
            if (last) off += squares(row, j0 + b.diagonal(), b.cols);
        }
        if (!last) return;
        for (int64_t j = 0; j < b.cols; ++j) {
            T* to = out + (b.col + j) * plan.m + b.row;
            for (int64_t i = 0; i < (b.diagonal() ? j : b.rows); ++i) to[i] = c[i * kBlock + j];
        }
        gram_squares[index] = on + 2 * off;
    }

    static double squares(const T* row, int64_t j, int64_t end) {
        double sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};  // independent, so that the loop is vectorised
        for (; j + 8 <= end; j += 8)
            for (int l = 0; l < 8; ++l)
                sum[l] += static_cast<double>(row[j + l]) * static_cast<double>(row[j + l]);
        for (; j < end; ++j) sum[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        for (int l = 1; l < 8; ++l) sum[0] += sum[l];
        return sum[0];
    }

    void run(int threads) const {
#pragma omp parallel num_threads(threads)
        {
            alignas(64) T local[kArea];
            if (!s.wide) {
#pragma omp for schedule(dynamic, 1)
                for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) start_chunk(chunk);
            }
            for (int64_t slab = 0; slab < plan.slabs; ++slab) {
                const int64_t k0 = slab * plan.slab;
                const int64_t steps = smaller(plan.slab, plan.contraction - k0);
                const int64_t first = s.wide ? k0 / plan.columns : 0;
                const int64_t end = s.wide ? ceil_div(k0 + steps, plan.columns) : plan.chunks;
#pragma omp for schedule(dynamic, 1)
                for (int64_t chunk = first; chunk < end; ++chunk) {
                    if (s.wide) start_chunk(chunk);
                    const int64_t n0 = s.wide ? 0 : k0, n1 = s.wide ? plan.n : k0 + steps;
                    visit_chunk(chunk, n0, n1, k0, steps);
                    if (s.wide || slab + 1 == plan.slabs) finish_chunk(chunk);
                }
                if (!s.covariance) continue;
#pragma omp for schedule(dynamic, 1)
                for (int64_t unit = 0; unit < plan.block_count() * plan.parts; ++unit)
                    multiply(unit, slab, steps, local);
                if (areas) {
#pragma omp for schedule(dynamic, 1)
                    for (int64_t index = 0; index < plan.block_count(); ++index)
                        add_parts(index, slab);
                }
            }
        }
    }
};

double sum(const double* values, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += values[i];
    return total;
}

template <class S>
void forward(const Problems& x, const Problems* y, const VicregSettings& settings, int threads,
             const Cuts& cuts, void* terms_out, double* mean, double* var, void* gram_out) {
    using T = Real<S>;
    VicregSettings s = settings;
    if (!s.covariance) s.wide = true;  // nothing to contract: a chunk's only visit takes its means
    s.invariance = s.invariance && y;
    const int views = y ? 2 : 1;
    const int64_t n = x.n, d = x.d;
    const Plan plan(s, views, n, d, sizeof(T), cuts);
    const int64_t m = plan.m;

    const int64_t packed_size = panels_of<T>(m) * plan.slab * kLanes<T>;
    const int64_t area_count = plan.parts > 1 ? plan.block_count() * plan.parts : 0;
    const Array<T> packed(views * packed_size);
    const Array<T> areas(area_count * kArea);
    const Array<double> sums(3 * plan.chunks + plan.block_count());
    prefer_huge_pages(gram_out, static_cast<size_t>(views * x.p * m * m) * sizeof(T));

    const double steps = static_cast<double>(n) * static_cast<double>(d) * views;
    threads = useful_threads(threads, steps * static_cast<double>(m / 2 + 16), cuts);
    const double free_rows = static_cast<double>(s.rows - 1);
    double invariance = 0, hinge = 0, covariance = 0;
    for (int64_t p = 0; p < x.p; ++p) {
        double* const chunk_sums = sums.get();
        Forward<S> pass{s,
                        plan,
                        {},
                        {},
                        {},
                        {},
                        {},
                        chunk_sums,
                        chunk_sums + plan.chunks,
                        chunk_sums + 2 * plan.chunks,
                        chunk_sums + 3 * plan.chunks,
                        area_count ? areas.get() : nullptr};
        for (int v = 0; v < views; ++v) {
            const int64_t at = v * x.p + p;
            pass.view[v] = problem<S>(v == 0 ? x : *y, p);
            pass.mean[v] = mean + at * d;
            pass.var[v] = var + at * d;
            pass.packed[v] = packed.get() + v * packed_size;
            pass.gram[v] = static_cast<T*>(gram_out) + at * m * m;
        }
        pass.run(threads);
        invariance += sum(pass.distance, plan.chunks);
        hinge += sum(pass.hinge, plan.chunks);
        covariance += sum(pass.gram_squares, plan.block_count()) / (free_rows * free_rows);
        if (s.wide) covariance -= sum(pass.variance_squares, plan.chunks);
    }

    const double columns = static_cast<double>(x.p) * static_cast<double>(s.columns);
    invariance = s.invariance ? invariance / (columns * static_cast<double>(s.rows)) : 0;
    hinge = s.variance ? hinge / (columns * views) : 0;
    covariance = s.covariance ? covariance / columns : 0;
    T* const terms = static_cast<T*>(terms_out);
    terms[0] = static_cast<T>(s.sim * invariance + s.std * hinge + s.cov * covariance);
    terms[1] = static_cast<T>(invariance);
    terms[2] = static_cast<T>(hinge);
    terms[3] = static_cast<T>(covariance);
}

}  // namespace

SSK_BY_DTYPE(VicregForward, vicreg_forward, forward)

}  // namespace SSK_ISA
}  // namespace ssk
