// The inner loops of columns.cpp: some columns of the rows, added to the sums of
// their classes under every labeling.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/views.h"

namespace ssk {

constexpr int64_t kSliceCols = 128;  // 512 bytes of float32 in a piece: memory serves less badly

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
    // than the data need: see columns_run.cpp.
    void (*find_shift)(const MatrixView& z, float* shift);
    // Adds rows [begin, end) of z; row i belongs to classes[(i * labelings)...] of all labelings'
    // classes numbered through.
    void (*add)(const MatrixView& z, int64_t begin, int64_t end, const uint16_t* classes,
                int64_t labelings, const Slice& slice);
};

SSK_EXPORT(Table<ColumnKernels>, column_kernels, VECTORS)

}  // namespace ssk
