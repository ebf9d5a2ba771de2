// The centers as a filter wants them: shifted, scaled, rounded and packed, with the constants of
// the error bound. Symbols as in nearest_center.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/cuts.h"
#include "core/memory.h"
#include "nearest_center/filter.h"

namespace ssk {

// In integers, so that it vectorises: adding one to an exponent of all ones carries into the sign.
template <class T>
bool all_finite(const T* row, int64_t n) {
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    constexpr int kMantissa = sizeof(T) == 8 ? 52 : 23;
    constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
    constexpr Bits kExponent = kSign - (Bits{1} << kMantissa);
    Bits any = 0;
    for (int64_t d = 0; d < n; ++d) {
        Bits bits;
        std::memcpy(&bits, row + d, sizeof bits);
        any |= (bits & kExponent) + (Bits{1} << kMantissa);
    }
    return (any & kSign) == 0;
}

// The indices of the centers that are finite throughout, ascending.
std::vector<int32_t> usable_centers(const MatrixView& centers, int threads);

struct PreparedCenters {
    bool filterable = false;  // false: their scale leaves fp32, every distance needs float64
    FilterPlan plan{};
    Array<float> shift, bias, weight;
    Array<char> packed;
};

// ids: the usable centers, at least one.
PreparedCenters prepare_centers(const MatrixView& z, const MatrixView& centers,
                                const std::vector<int32_t>& ids, const FilterShape& shape,
                                bool exact, int threads, const Cuts& cuts);

}  // namespace ssk
