// The method is in scatter.h.
#include "scatter/scatter.h"

#include <omp.h>

#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kArea = int64_t{kBlock} * kBlock;
constexpr int64_t kSlabBytes = int64_t{4} << 20;
constexpr int64_t kLeastRows = 128;  // of a slab: a block is added to `upper` once per slab
constexpr int64_t kMostRows = 8192;
constexpr int64_t kUnits = 16;      // pieces of work wanted, for balance
constexpr int64_t kPartRows = 512;  // at least, when a slab is cut for balance
constexpr int64_t kPackRows = 64;   // with kChunk columns: 128 KiB of panels
constexpr int64_t kPad = 8;         // rows between panels, lest they all start in one cache set

// How the work is cut, a function of the shape alone.
struct Plan {
    int64_t rows, d;
    int64_t slab, slabs;
    int64_t blocks, triangle;
    int64_t parts, part;  // of a slab, where blocks are few
    int64_t chunks;       // of columns
    int64_t pack_rows;

    Plan(int64_t row_count, int64_t columns, const Cuts& cuts) : rows(row_count), d(columns) {
        constexpr int64_t kSize = sizeof(double);
        slab = smaller(kMostRows, larger(kLeastRows, kSlabBytes / (d * kSize)));
        slab = cuts("slab", slab / kLeastRows * kLeastRows, 1, kMostRows);
        slabs = ceil_div(rows, slab);
        slab = smaller(slab, rows);
        blocks = ceil_div(d, kBlock);
        triangle = blocks * (blocks + 1) / 2;
        const int64_t wanted = smaller(ceil_div(kUnits, triangle), slab / kPartRows);
        parts = cuts("parts", larger(1, wanted), 1, kUnits);
        part = ceil_div(slab, parts);
        chunks = ceil_div(d, kChunk);
        pack_rows = cuts("pack_rows", kPackRows, 1, kMostRows);
    }

    int64_t rows_of(int64_t s) const { return smaller(slab, rows - s * slab); }
    int64_t panel() const { return (slab + kPad) * kLanes<double>; }
    int64_t packed_size() const { return panels_of<double>(d) * panel(); }
    int64_t pack_units(int64_t s) const {
        return s < slabs ? ceil_div(rows_of(s), pack_rows) * chunks : 0;
    }
};

template <class S>
struct Scatter {
    const MatrixView& z;
    const int64_t* classes;
    const double* centers;
    double* upper;
    const Plan& cut;
    const int64_t* used;  // rows of z
    double* packed[2];    // slabs
    double* areas;        // [triangle * parts] blocks; null for one part

    // One unit of slab s: some rows of one chunk of columns.
    void pack(int64_t s, int64_t unit) const {
        alignas(64) double centered[kChunk];
        alignas(64) Real<S> buffer[kChunk];
        const int64_t j0 = unit % cut.chunks * kChunk, columns = smaller(kChunk, cut.d - j0);
        const int64_t k0 = unit / cut.chunks * cut.pack_rows;
        double* const out = packed[s % 2] + j0 / kLanes<double> * cut.panel();
        for (int64_t k = k0; k < smaller(cut.rows_of(s), k0 + cut.pack_rows); ++k) {
            const int64_t i = used[s * cut.slab + k];
            const S* from = static_cast<const S*>(z.data) + i * z.row_stride + j0 * z.col_stride;
            const Real<S>* __restrict row = read_row(from, z.col_stride, columns, buffer);
            const double* __restrict mu = centers + classes[i] * cut.d + j0;
            for (int64_t j = 0; j < columns; ++j) centered[j] = to_f64(load_one(row + j)) - mu[j];
            pack_columns(centered, columns, k, cut.panel(), out);
        }
    }

    // The block at position `index` of the upper triangle, row by row: its first row and column.
    void corner(int64_t index, int64_t& row, int64_t& col) const {
        int64_t i = 0;
        while (index >= cut.blocks - i) index -= cut.blocks - i++;
        row = i * kBlock;
        col = (i + index) * kBlock;
    }

    // One part of one block of slab s's product.
    void multiply(int64_t s, int64_t unit, double* local) const {
        int64_t row, col;
        corner(unit / cut.parts, row, col);
        const int64_t steps = cut.rows_of(s), k = unit % cut.parts * cut.part;
        const double* lanes = packed[s % 2];
        const int64_t panel = cut.panel();
        double* const c = areas ? areas + unit * kArea : local;
        block_product(lanes + row / kLanes<double> * panel, panel, smaller(kBlock, cut.d - row),
                      lanes + col / kLanes<double> * panel, panel, smaller(kBlock, cut.d - col),
                      smaller(k, steps), smaller(k + cut.part, steps), row == col, c);
        if (!areas) add(row, col, c);
    }

    void add(int64_t row, int64_t col, const double* c) const {
        const int64_t width = smaller(kBlock, cut.d - col);
        for (int64_t i = 0; i < smaller(kBlock, cut.d - row); ++i) {
            double* const to = upper + (row + i) * cut.d + col;
            for (int64_t j = row == col ? i : 0; j < width; ++j) to[j] += c[i * kBlock + j];
        }
    }

    void add_parts(int64_t s, int64_t index) const {
        int64_t row, col;
        corner(index, row, col);
        for (int64_t p = 0; p < cut.parts && p * cut.part < cut.rows_of(s); ++p)
            add(row, col, areas + (index * cut.parts + p) * kArea);
    }

    void run(int threads) const {
        const int64_t units = cut.triangle * cut.parts;
#pragma omp parallel num_threads(threads)
        {
            alignas(64) double local[kArea];
#pragma omp for schedule(dynamic, 1)
            for (int64_t unit = 0; unit < cut.pack_units(0); ++unit) pack(0, unit);
            for (int64_t s = 0; s < cut.slabs; ++s) {
                // The small units last: they even out the threads' ends.
#pragma omp for schedule(dynamic, 1)
                for (int64_t unit = 0; unit < units + cut.pack_units(s + 1); ++unit) {
                    if (unit < units)
                        multiply(s, unit, local);
                    else
                        pack(s + 1, unit - units);
                }
                if (areas) {
#pragma omp for schedule(dynamic, 1)
                    for (int64_t index = 0; index < cut.triangle; ++index) add_parts(s, index);
                }
            }
        }
    }
};

template <class S>
void update(const MatrixView& z, const int64_t* classes, const double* centers, double* upper,
            int threads, const Cuts& cuts) {
    const Array<int64_t> used(z.rows);
    int64_t rows = 0;
    for (int64_t i = 0; i < z.rows; ++i)
        if (classes[i] >= 0) used[rows++] = i;
    if (rows == 0 || z.cols == 0) return;
    const Plan cut(rows, z.cols, cuts);
    const Scratch packed(static_cast<size_t>(2 * cut.packed_size()) * sizeof(double));
    const int64_t area_count = cut.parts > 1 ? cut.triangle * cut.parts : 0;
    const Scratch areas(static_cast<size_t>(area_count * kArea) * sizeof(double));
    double* const slabs = packed.as<double>();
    const Scatter<S> scatter{z,
                             classes,
                             centers,
                             upper,
                             cut,
                             used.get(),
                             {slabs, slabs + cut.packed_size()},
                             area_count ? areas.as<double>() : nullptr};
    const double elements = static_cast<double>(cut.rows) * static_cast<double>(cut.d);
    const double work = elements * (8 + static_cast<double>(cut.d) / 2);
    scatter.run(useful_threads(threads, work, cuts));
}

}  // namespace

SSK_BY_DTYPE(ScatterUpdate, scatter_update, update)

}  // namespace SSK_ISA
}  // namespace ssk
