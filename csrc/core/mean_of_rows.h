// The mean of some rows of a matrix with contiguous columns: what class means are centered by.
#pragma once

#include <cstdint>

namespace ssk {

// out [dim], zeros if there is no row. T is float or double; rows ids[0..count), `stride` apart.
template <class T>
void mean_of_rows(const T* base, int64_t stride, int64_t dim, const int32_t* ids, int64_t count,
                  int threads, double* out);

}  // namespace ssk
