#include "core/mean_of_rows.h"

#include <algorithm>

namespace ssk {

template <class T>
void mean_of_rows(const T* base, int64_t stride, int64_t dim, const int32_t* ids, int64_t count,
                  int threads, double* out) {
    constexpr int64_t kSlice = 64;  // columns that one thread sums
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j0 = 0; j0 < dim; j0 += kSlice) {
        const int64_t columns = std::min(kSlice, dim - j0);
        double sum[kSlice] = {};
        for (int64_t i = 0; i < count; ++i) {
            const T* const row = base + ids[i] * stride + j0;
            if (columns == kSlice)
                for (int64_t j = 0; j < kSlice; ++j) sum[j] += row[j];
            else
                for (int64_t j = 0; j < columns; ++j) sum[j] += row[j];
        }
        for (int64_t j = 0; j < columns; ++j)
            out[j0 + j] = count > 0 ? sum[j] / static_cast<double>(count) : 0;
    }
}

template void mean_of_rows(const float*, int64_t, int64_t, const int32_t*, int64_t, int, double*);
template void mean_of_rows(const double*, int64_t, int64_t, const int32_t*, int64_t, int, double*);

}  // namespace ssk
