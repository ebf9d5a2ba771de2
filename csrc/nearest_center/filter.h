// Between the driver (nearest_center.cpp), the prepared centers (plan.cpp) and the
// kernels compiled per instruction set. Plain data only: nothing here is compiled under wider
// flags.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/views.h"

namespace ssk {

constexpr int kMaxCandidates = 32;  // per row; a row with more is compared with every center
constexpr int kDepthBlock = 512;    // columns per product call: a panel of centers stays in cache

// How a filter wants its operands.
struct FilterShape {
    int32_t row_tile;     // rows of a block are a multiple of it, zero-padded
    int32_t center_tile;  // centers per panel, packed [column][center_tile], in pairs for bf16
    int32_t depth_align;  // columns are zero-padded to a multiple
    int32_t sum_step;     // columns summed before the partial sum joins the total
    bool bf16;            // operands are bf16, else fp32
};

// The centers, prepared once and read by all threads. Symbols as in nearest_center.h.
struct FilterPlan {
    FilterShape shape;
    bool exact;
    int64_t dim;          // D
    int64_t depth;        // D padded
    int64_t centers;      // usable ones
    int64_t panels;       // of center_tile centers each
    const float* shift;   // [dim] g, or zeros
    float scale;          // a
    const void* packed;   // [panels][depth][center_tile] fp32, or [panels][depth/2][center_tile][2]
    const float* bias;    // [panels * center_tile] b_c; infinity in the padding
    const float* weight;  // [panels * center_tile] w_c; 0 in the padding
    float inflate;        // 1 + 2^-9 + D 2^-23
    float tiny;           // sqrt(D) 2^-62
    float per_norm;       // rho + gamma_n + 2^-20
    float constant;       // 2^-20 B
    float reach;          // max ||m_c|| (+ ||g|| if rows are raw)
    float gamma64;        // 2^-52 (D + 16)
    float slack;          // D 2^-100
};

// One thread's rows: scratch for the filter, and what it found.
struct RowBlock {
    void* x;  // [rows][leading] packed rows
    int64_t
        leading;     // elements; no power of two, so that the rows of a tile fall in different sets
    float* staging;  // [16][kDepthBlock]
    float* sums;     // [rows][center_tile], finite from the start: padding keeps old sums
    float* slope;    // [rows] A
    float* slack;    // [rows] T
    float* best;     // [rows] U
    int32_t* count;  // [rows] candidates found; -1: compare with every center
    int32_t* index;  // [rows][kMaxCandidates] ascending
    float* low;      // [rows][kMaxCandidates] s_c - E_c
};

struct FilterKernel {
    FilterShape shape;
    // Scans all centers for rows [first, first + rows) of z.
    void (*scan)(const FilterPlan&, const MatrixView& z, int64_t first, int64_t rows, RowBlock&);
};

struct ExactKernel {
    // Rows as float64, [n][leading], zero-padded to a multiple of 8 columns.
    void (*load)(const MatrixView& z, const int64_t* rows, int64_t n, double* out, int64_t leading);
    // For n such rows the nearest of the centers ids[0..count): its float64 squared distance and
    // its id, the first of equals. Same bits on every instruction set.
    void (*nearest)(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
                    const int32_t* ids, int64_t count, double* distance, int64_t* id);
    // All of those squared distances, [n][count]: the same bits again.
    void (*distances)(const double* x, int64_t leading, int64_t n, const MatrixView& centers,
                      const int32_t* ids, int64_t count, double* out);
};

SSK_EXPORT(Table<FilterKernel>, nearest_center_filter, VECTORS)
SSK_EXPORT(Table<FilterKernel>, nearest_center_filter_bf16, BF16)  // may be null
SSK_EXPORT(Table<ExactKernel>, nearest_center_exact, VECTORS)

}  // namespace ssk
