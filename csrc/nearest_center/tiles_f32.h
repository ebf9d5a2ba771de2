// Scores by fused multiply-add: fp32 rows times fp32 centers. Exact for fp16, bf16 and fp32 rows
// that need no shift.
#pragma once

#include "core/convert.h"
#include "nearest_center/filter.h"

namespace ssk {
namespace SSK_ISA {
namespace {

using Element = float;

// Accumulators fill the registers but for the centers' vectors and one broadcast row element.
#if defined(__AVX512F__)
constexpr int kRowTile = 6, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kRowTile = 6, kVectors = 2;
#else
constexpr int kRowTile = 4, kVectors = 2;
#endif
constexpr int kCenterTile = kVectors * kF32Lanes;
constexpr int kDepthAlign = 16;
constexpr int kSumStep = kDepthBlock;

struct TileSession {};

inline void store_row(float* x, f32v t) { std::memcpy(x, &t, sizeof t); }
inline f32v stored_value(f32v t) { return t; }

// sums[r][c] (+)= sum_k x[r][k] centers[k][c] over `depth` columns for one tile of rows and the
// first V vectors of a panel.
template <int V>
inline void multiply_vectors(const float* x, int64_t leading, const float* centers, int64_t depth,
                             float* sums, bool first) {
    f32v acc[kRowTile][V] = {};
    for (int64_t k = 0; k < depth; ++k, centers += kCenterTile) {
        f32v c[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) c[v] = load<f32v>(centers + v * kF32Lanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRowTile; ++r) {
            const float element = x[r * leading + k];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) acc[r][v] += c[v] * element;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRowTile; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            float* out = sums + r * kCenterTile + v * kF32Lanes;
            if (!first) acc[r][v] += load<f32v>(out);
            std::memcpy(out, &acc[r][v], sizeof(f32v));
        }
    }
}

// For the first `used` centers of a panel; the sums of the others may stay as they are.
inline void multiply_tile(const float* x, int64_t leading, const float* centers, int64_t depth,
                          int64_t used, float* sums, bool first) {
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
