// How the Python side hands tensors over: raw pointers with strides, never a framework's type.
#pragma once

#include <cstdint>

namespace ssk {

enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

// A strided matrix. Strides count elements and may be zero or negative.
struct MatrixView {
    void* data;
    DType dtype;
    int64_t rows;
    int64_t cols;
    int64_t row_stride;
    int64_t col_stride;
};

}  // namespace ssk
