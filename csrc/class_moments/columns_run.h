// The inner loops of class_moments_columns.cpp: some columns of the rows, added to the sums of
// their classes under every labeling.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/views.h"

namespace ssk {

constexpr int64_t kSliceCols = 128;  // 512 bytes of float32 in a piece: memory serves less badly

// A block: so many rows, at most, of so many columns take 1 MB in float32.
constexpr int64_t kBlockCols = 32;
constexpr int64_t kBlockRows = 8192;

// The rows of one class that one slice has seen.
struct Tally {
    double squares;  // of the differences to the shift, over the slice's columns
    int64_t count;
};

struct Slice {
    int64_t first_col;
    int64_t cols;        // at most kSliceCols
    const float* shift;  // [cols of z]
    float* recent;       // [classes, kSliceCols]: sums not yet in `sums`; 64-byte aligned
    Tally* tallies;      // [classes]
    double* sums;        // [classes, sums_stride], at column 0 of z
    int64_t sums_stride;
    int64_t classes;
};

struct ColumnKernels {
    // A number near the middle of every column, such that differences to it have few digits more
    // than the data need: see class_moments_columns_run.cpp.
    void (*find_shift)(const MatrixView& z, float* shift);
    // Adds rows [begin, end) of z; row i belongs to classes[(i * labelings)...] of all labelings'
    // classes numbered through.
    void (*add)(const MatrixView& z, int64_t begin, int64_t end, const uint16_t* classes,
                int64_t labelings, const Slice& slice);

    // Rows [begin, begin + n) of z less the shift [cols of z], columns from first_col on:
    // block [n, kBlockCols], zero beyond the last column, and squares [n], the sum over each row.
    void (*stage)(const MatrixView& z, int64_t begin, int64_t n, int64_t first_col,
                  const float* shift, float* block, double* squares);
    // Adds rows order[starts[c]] up to order[starts[c + 1]] of a block to sums[c] and tallies[c],
    // for every class of one labeling. sums [classes, kBlockCols]; it and block 64-byte aligned.
    void (*add_block)(const float* block, const double* squares, const uint16_t* order,
                      const uint16_t* starts, int64_t classes, double* sums, Tally* tallies);
};

SSK_EXPORT(Table<ColumnKernels>, column_kernels, VECTORS)

}  // namespace ssk
