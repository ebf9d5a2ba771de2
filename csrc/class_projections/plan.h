// Between the driver (class_projections.cpp) and the kernels compiled per instruction set. Plain
// data only: nothing here is compiled under wider flags. Symbols as in class_projections.h.
#pragma once

#include <cstdint>

#include "core/views.h"
#include "nearest_center/filter.h"

namespace ssk {

struct ProjectionPlan {
    const MatrixView& z;
    const MatrixView& centers;  // float64, contiguous
    ExactKernel exact;
    const int64_t* classes;
    const int64_t* counts;  // or null
    const double* between;  // [C][C] or null
    bool directional;
    int64_t count;          // usable centers
    int64_t leading;        // columns of a row in float64, padded
    const int32_t* ids;     // [count] their classes, ascending
    const int32_t* column;  // [C] the place of a class in ids
    const double* shift;    // [D] g
    int exponent;           // a = 2^exponent
    bool scaled;            // whether that puts the largest ||a v|| into [1, 2), or all are zero
    const double* norm;     // [count] ||a v_j||, inflated
    const void* packed;     // panels of a v, as the kernel packs them
    const uint32_t* order;  // rows in class order
    int64_t* rank;
    uint8_t* alone;
    double* row_spread;  // [rows of order]
};

struct ProjectionKernel {
    int64_t lanes;    // centers per panel
    int64_t element;  // bytes of a row's element, about
    int64_t (*packed_bytes)(int64_t centers, int64_t dim);
    void (*pack)(const ProjectionPlan&, int64_t panel, void* packed);
    // Bytes of scratch for `rows` rows at a time, a multiple of 64.
    int64_t (*scratch)(const ProjectionPlan&, int64_t rows);
    // Rows order[first, first + n), n at most what the scratch was made for.
    void (*scan)(const ProjectionPlan&, int64_t first, int64_t n, int64_t rows, void* scratch);
};

using ProjectionKernelFor = ProjectionKernel(bool wide);
SSK_EXPORT(ProjectionKernelFor, class_projection_kernel, VECTORS)

}  // namespace ssk
