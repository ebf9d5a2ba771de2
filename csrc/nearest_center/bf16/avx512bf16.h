// Scores by vdpbf16ps: each lane of an accumulator adds two products of bf16 pairs, so one
// instruction does 32 multiply-adds. Centers lie in pairs of columns, rows are read as 32-bit
// pairs.
#pragma once

#include "core/convert.h"
#include "nearest_center/bf16/rows.h"
#include "nearest_center/filter.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int kRowTile = 6,
              kVectors = 4;  // 24 accumulators, 4 vectors of centers, 1 broadcast pair
constexpr int kCenterTile = kVectors * kF32Lanes;
constexpr int kDepthAlign = 32;
constexpr int kSumStep = kDepthBlock;

struct TileSession {};

// sums[r][c] (+)= sum_k x[r][k] centers[k][c] over `depth` columns for one tile of rows and the
// first V vectors of a panel.
template <int V>
inline void multiply_vectors(const uint16_t* x, int64_t leading, const uint16_t* centers,
                             int64_t depth, float* sums, bool first) {
    __m512 acc[kRowTile][V] = {};
    for (int64_t k = 0; k < depth; k += 2, centers += 2 * kCenterTile) {
        __m512bh c[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v)
            c[v] = (__m512bh)_mm512_loadu_si512(centers + 2 * v * kF32Lanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRowTile; ++r) {
            int pair;
            std::memcpy(&pair, x + r * leading + k, sizeof pair);
            const __m512bh element = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], c[v], element);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRowTile; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            float* out = sums + r * kCenterTile + v * kF32Lanes;
            if (!first) acc[r][v] += _mm512_loadu_ps(out);
            _mm512_storeu_ps(out, acc[r][v]);
        }
    }
}

// For the first `used` centers of a panel; the sums of the others may stay as they are.
inline void multiply_tile(const uint16_t* x, int64_t leading, const uint16_t* centers,
                          int64_t depth, int64_t used, float* sums, bool first) {
    switch ((used + kF32Lanes - 1) / kF32Lanes) {
        case 1:
            return multiply_vectors<1>(x, leading, centers, depth, sums, first);
        case 2:
            return multiply_vectors<2>(x, leading, centers, depth, sums, first);
        case 3:
            return multiply_vectors <
                   kVectors<3 ? kVectors : 3>(x, leading, centers, depth, sums, first);
        default:
            return multiply_vectors<kVectors>(x, leading, centers, depth, sums, first);
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
