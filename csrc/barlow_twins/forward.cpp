// Barlow Twins' terms. One visit per chunk of columns, narrow enough that the chunk of both views
// stays in L2: means, variances, the diagonal of the cross-correlation, and the normalized rows
// packed into panels. Then the two symmetric N x N products, whose inner product is the squared
// norm of the cross-correlation (wide), or the cross-correlation itself.
//
// Work is cut by shape alone, never by the number of threads, and partial sums are added in a fixed
// order: results are the same for any number of threads.
//
// Accumulators: the arithmetic type (float32; float64 for float64) over at most 16 rows or kSteps
// of a product and across those steps, float64 across rows, columns and blocks.
#include <omp.h>

#include "barlow_twins/views.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 19;  // of both views: half of a 1 MiB L2
constexpr int64_t kUnits = 32;                     // pieces of work wanted, for balance
constexpr int64_t kPartSteps = 512;  // of a contraction, at least, when it is cut for balance
constexpr int64_t kRowsPerPart = 16;

// Calls add(row, part) on every row of a chunk, and adds `part` up over the rows.
template <class S, class Add>
void column_sums(const Matrix<S>& z, int64_t n, int64_t j0, int64_t count, double* sum,
                 const Add& add) {
    alignas(64) Real<S> buffer[kChunk], part[kChunk];
    for (int64_t j = 0; j < count; ++j) sum[j] = 0;
    for (int64_t i0 = 0; i0 < n; i0 += kRowsPerPart) {
        for (int64_t j = 0; j < count; ++j) part[j] = 0;
        for (int64_t i = i0; i < smaller(n, i0 + kRowsPerPart); ++i)
            add(z.row(i, j0, count, buffer), part);
        for (int64_t j = 0; j < count; ++j) sum[j] += static_cast<double>(part[j]);
    }
}

template <class S>
void normalize_chunk(const NormalizedView<S>& view, int64_t n, int64_t j0, int64_t count,
                     double eps, double* mean, double* factor) {
    using T = Real<S>;
    alignas(64) T buffer[kChunk], shift[kChunk];
    double sum[kChunk];
    // Sums of x - shift, the first row being near the data: an offset costs no digits.
    std::memcpy(shift, view.matrix.row(0, j0, count, buffer), count * sizeof(T));
    column_sums(view.matrix, n, j0, count, sum, [&](const T* row, T* part) {
        for (int64_t j = 0; j < count; ++j) part[j] += row[j] - shift[j];
    });
    const double rows = static_cast<double>(n);
    for (int64_t j = 0; j < count; ++j)
        mean[j0 + j] = static_cast<double>(shift[j]) + sum[j] / rows;
    split_mean(mean + j0, count, view.hi + j0, view.lo + j0);
    column_sums(view.matrix, n, j0, count, sum, [&](const T* row, T* part) {
        for (int64_t j = 0; j < count; ++j) {
            const T z = (row[j] - view.hi[j0 + j]) - view.lo[j0 + j];
            part[j] += z * z;
        }
    });
    for (int64_t j = 0; j < count; ++j) factor[j0 + j] = 1 / std::sqrt(sum[j] / rows + eps);
    view.set(j0, count, mean, factor);
}

// Packs both views' normalized columns, and correlates them.
template <class S>
void pack_chunk(const NormalizedView<S>* views, int64_t n, int64_t j0, int64_t count, bool wide,
                int64_t panel, Real<S>* const* packed, double* correlation) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    alignas(64) T buffer[kChunk], z[2][W][kChunk], part[kChunk];
    double sum[kChunk];
    for (int64_t j = 0; j < count; ++j) sum[j] = 0;
    for (int64_t i0 = 0; i0 < n; i0 += W) {
        const int64_t rows = smaller(W, n - i0);
        for (int64_t j = 0; j < count; ++j) part[j] = 0;
        for (int64_t r = 0; r < rows; ++r) {
            for (int v = 0; v < 2; ++v) {
                views[v].row(i0 + r, j0, count, buffer, z[v][r]);
                if (!wide) pack_columns(z[v][r], count, i0 + r, panel, packed[v] + j0 / W * panel);
            }
            for (int64_t j = 0; j < count; ++j) part[j] += z[0][r][j] * z[1][r][j];
        }
        for (int64_t j = 0; j < count; ++j) sum[j] += static_cast<double>(part[j]);
        for (int v = 0; wide && v < 2; ++v)
            pack_rows(z[v], rows, count, packed[v] + i0 / W * panel + j0 * W);
    }
    for (int64_t j = 0; j < count; ++j) correlation[j0 + j] = sum[j] / static_cast<double>(n);
}

// The products still to do, in blocks: of the upper triangles of both N x N matrices, or of D x D.
struct Blocks {
    bool wide;
    int64_t side, per_side, count;  // of one matrix
    int64_t matrices, contraction, parts, part;

    Blocks(bool is_wide, int64_t n, int64_t d, const Cuts& cuts) : wide(is_wide) {
        side = wide ? n : d;
        contraction = wide ? d : n;
        per_side = ceil_div(side, kBlock);
        count = wide ? per_side * (per_side + 1) / 2 : per_side * per_side;
        matrices = wide ? 2 : 1;
        const int64_t wanted = ceil_div(kUnits, count * matrices);
        parts = cuts("parts", larger(1, smaller(wanted, contraction / kPartSteps)), 1, kUnits);
        part = ceil_div(contraction, parts);
    }
    // First row and column of the block at position `index`, row by row.
    void place(int64_t index, int64_t& row, int64_t& col) const {
        int64_t i = index / per_side, j = index % per_side;
        if (wide) {
            for (i = 0, j = index; j >= per_side - i; ++i) j -= per_side - i;
            j += i;
        }
        row = i * kBlock;
        col = j * kBlock;
    }
    int64_t extent(int64_t first) const { return smaller(kBlock, side - first); }
};

// Both triangles of K_a and K_b; returns the block's share of their inner product.
template <class T>
double finish_wide(const Blocks& b, int64_t i0, int64_t j0, const T* first, const T* second,
                   T* gram) {
    const int64_t rows = b.extent(i0), cols = b.extent(j0), n = b.side;
    double product = 0;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = i0 == j0 ? i : 0; j < cols; ++j) {
            const T k_a = first[i * kBlock + j], k_b = second[i * kBlock + j];
            const double term = static_cast<double>(k_a) * static_cast<double>(k_b);
            product += i0 + i == j0 + j ? term : 2 * term;
            gram[(i0 + i) * n + j0 + j] = gram[(j0 + j) * n + i0 + i] = k_a;
            gram[(n + i0 + i) * n + j0 + j] = gram[(n + j0 + j) * n + i0 + i] = k_b;
        }
    return product;
}

// The cross-correlation with its diagonal set to zero; returns the block's sum of squares.
template <class T>
double finish_tall(const Blocks& b, int64_t i0, int64_t j0, const T* c, double inverse, T* gram) {
    double squares = 0;
    for (int64_t i = 0; i < b.extent(i0); ++i)
        for (int64_t j = 0; j < b.extent(j0); ++j) {
            const double value =
                i0 + i == j0 + j ? 0 : static_cast<double>(c[i * kBlock + j]) * inverse;
            gram[(i0 + i) * b.side + j0 + j] = static_cast<T>(value);
            squares += value * value;
        }
    return squares;
}

template <class S>
void forward(const MatrixView& x, const MatrixView& y, double lambda, double eps, bool wide,
             int threads, const Cuts& cuts, double* terms, const BarlowColumns& columns,
             void* gram_out) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const int64_t n = x.rows, d = x.cols;
    const Blocks blocks(wide, n, d, cuts);
    const int64_t panel = blocks.contraction * W, size = panels_of<T>(blocks.side) * panel;
    const int64_t fitting = kChunkBytes / (2 * n * static_cast<int64_t>(sizeof(T))) / 32 * 32;
    const int64_t balanced = ceil_div(ceil_div(d, kUnits), 32) * 32;
    const int64_t chosen = smaller(kChunk, larger(32, smaller(fitting, balanced)));
    const int64_t width = cuts("columns", chosen, 32, kChunk, 32);
    const int64_t unit_count = blocks.count * blocks.matrices * blocks.parts;
    const double inverse = 1 / static_cast<double>(n);
    threads = useful_threads(
        threads,
        static_cast<double>(n) * static_cast<double>(d) * static_cast<double>(blocks.side + 32),
        cuts);

    const Array<T> packed_views(2 * size);
    const Array<T> areas(unit_count * kArea);
    const Array<T> per_column(6 * d);
    const Array<double> sums(blocks.count);
    T* const packed[2] = {packed_views.get(), packed_views.get() + size};
    const NormalizedView<S> views[2] = {{x, per_column.get()}, {y, per_column.get() + 3 * d}};
    T* const gram = static_cast<T*>(gram_out);
    prefer_huge_pages(gram,
                      static_cast<size_t>(blocks.matrices * blocks.side * blocks.side) * sizeof(T));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t j = 0; j < d; j += width) {
            const int64_t count = smaller(width, d - j);
            for (int v = 0; v < 2; ++v)
                normalize_chunk(views[v], n, j, count, eps, columns.mean[v], columns.factor[v]);
            pack_chunk(views, n, j, count, wide, panel, packed, columns.correlation);
        }
        // A block's units lie together: parts of the first matrix, then of the second.
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < unit_count; ++unit) {
            int64_t i, j;
            blocks.place(unit / (blocks.matrices * blocks.parts), i, j);
            const int64_t v = unit / blocks.parts % blocks.matrices;
            const int64_t k = unit % blocks.parts * blocks.part;
            block_product(packed[v] + i / W * panel, panel, blocks.extent(i),
                          packed[wide ? v : 1] + j / W * panel, panel, blocks.extent(j), k,
                          smaller(blocks.contraction, k + blocks.part), wide && i == j,
                          areas.get() + unit * kArea);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < blocks.count; ++block) {
            int64_t i, j;
            blocks.place(block, i, j);
            T* const first = areas.get() + block * blocks.matrices * blocks.parts * kArea;
            T* const second = first + blocks.parts * kArea;
            for (int64_t part = 1; part < blocks.parts; ++part)
                for (int64_t at = 0; at < kArea; ++at) {
                    first[at] += first[part * kArea + at];
                    if (wide) second[at] += second[part * kArea + at];
                }
            sums[block] = wide ? finish_wide(blocks, i, j, first, second, gram)
                               : finish_tall(blocks, i, j, first, inverse, gram);
        }
    }
    double on_diagonal = 0, off_diagonal = 0, diagonal = 0;
    for (int64_t block = 0; block < blocks.count; ++block) off_diagonal += sums[block];
    for (int64_t j = 0; j < d; ++j) {
        const double c = columns.correlation[j];
        on_diagonal += (c - 1) * (c - 1);
        diagonal += c * c;
    }
    if (wide) off_diagonal = off_diagonal * inverse * inverse - diagonal;
    terms[0] = on_diagonal + lambda * off_diagonal;
    terms[1] = on_diagonal;
    terms[2] = off_diagonal;
}

}  // namespace

SSK_BY_DTYPE(BarlowForward, barlow_forward, forward)

}  // namespace SSK_ISA
}  // namespace ssk
