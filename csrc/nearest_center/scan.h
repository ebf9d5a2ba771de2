// The filter: packs a block of rows, scores them against every panel of centers, keeps the centers
// that the error bound cannot exclude. SSK_TILES is the header of the tiles that it multiplies; it
// defines Element, store_row, stored_value, kRowTile, kVectors, kCenterTile, kDepthAlign, kSumStep,
// TileSession and multiply_tile.
#pragma once

#include SSK_TILES

#include "core/dtypes.h"
#include "nearest_center/filter.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr float kLargest = 3.40282346638528859812e+38f;
const float kClosed = __builtin_nanf("");  // as U: no score passes, not even minus infinity or NaN
constexpr bool kBf16 = sizeof(Element) == 2;
constexpr int kGroup = 16;  // rows staged together: one cache line of a transposed fp32 matrix

// staging[r][d - d0] = a (z - g) in fp32 for d0 <= d < d1, zero up to `depth` columns. float64 rows
// are shifted and scaled before they are rounded.
template <class T>
void stage_columns(const FilterPlan& plan, const MatrixView& z, int64_t row, int64_t rows,
                   int64_t d0, int64_t d1, int64_t depth, float* staging) {
    const T* base = static_cast<const T*>(z.data) + row * z.row_stride + d0 * z.col_stride;
    const float* shift = plan.shift + d0;
    const int64_t n = d1 - d0;
    const auto transform = [&](T value, int64_t d) {
        if constexpr (sizeof(T) == 8)
            return static_cast<float>((value - static_cast<double>(shift[d])) * plan.scale);
        else
            return (to_f32(value) - shift[d]) * plan.scale;
    };
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = n; d < depth; ++d) staging[r * kDepthBlock + d] = 0.0f;
    if (z.col_stride == 1) {
        for (int64_t r = 0; r < rows; ++r) {
            const T* in = base + r * z.row_stride;
            float* out = staging + r * kDepthBlock;
            int64_t d = 0;
            if constexpr (sizeof(T) < 8)
                for (; d + kF32Lanes <= n; d += kF32Lanes) {
                    const f32v t = (load<f32v>(in + d) - load<f32v>(shift + d)) * plan.scale;
                    std::memcpy(out + d, &t, sizeof t);
                }
            for (; d < n; ++d) out[d] = transform(load_one(in + d), d);
        }
    } else {
        for (int64_t d = 0; d < n; ++d)
            for (int64_t r = 0; r < rows; ++r)
                staging[r * kDepthBlock + d] =
                    transform(load_one(base + r * z.row_stride + d * z.col_stride), d);
    }
}

void stage(const FilterPlan& plan, const MatrixView& z, int64_t row, int64_t rows, int64_t d0,
           int64_t d1, int64_t depth, float* staging) {
    by_dtype(z.dtype, [&](auto s) {
        stage_columns<decltype(s)>(plan, z, row, rows, d0, d1, depth, staging);
    });
}

// A, T and U of a row from its norms ||x||^2 and ||x - x^||^2.
void start_row(const FilterPlan& plan, float norm2, float error2, int64_t r, RowBlock& block) {
    const float norm = __builtin_sqrtf(norm2) * plan.inflate + plan.tiny;
    const float error = (kBf16 ? __builtin_sqrtf(error2) * plan.inflate : 0.0f) + plan.tiny;
    const float slope = (error + norm * plan.per_norm + plan.constant) * plan.inflate;
    const float far = norm + plan.reach;
    const bool bounded = norm < 0x1p60f && slope < 0x1p60f;  // false for NaN
    block.slope[r] = plan.exact && bounded ? slope : 0.0f;
    block.slack[r] = plan.exact ? far * far * plan.gamma64 * plan.inflate + plan.slack : 0.0f;
    block.best[r] = bounded ? kLargest : kClosed;
    block.count[r] = bounded ? 0 : -1;
}

void pack_rows(const FilterPlan& plan, const MatrixView& z, int64_t first, int64_t rows,
               int64_t padded_rows, RowBlock& block) {
    Element* x = static_cast<Element*>(block.x);
    for (int64_t group = 0; group < padded_rows; group += kGroup) {
        const int64_t end = group + kGroup < padded_rows ? group + kGroup : padded_rows;
        const int64_t real = end < rows ? end : rows;
        for (int64_t r = real > group ? real : group; r < end; ++r) {
            std::memset(x + r * block.leading, 0, plan.depth * sizeof(Element));
            start_row(plan, __builtin_nanf(""), 0.0f, r, block);
        }
        if (real <= group) continue;
        f32v norm2[kGroup] = {}, error2[kGroup] = {};
        for (int64_t d0 = 0; d0 < plan.depth; d0 += kDepthBlock) {
            const int64_t depth = plan.depth - d0 < kDepthBlock ? plan.depth - d0 : kDepthBlock;
            const int64_t d1 = d0 + depth < plan.dim ? d0 + depth : plan.dim;
            stage(plan, z, first + group, real - group, d0, d1, depth, block.staging);
            for (int64_t r = 0; r < real - group; ++r) {
                const float* in = block.staging + r * kDepthBlock;
                Element* out = x + (group + r) * block.leading + d0;
                f32v n2 = norm2[r], e2 = error2[r];
                for (int64_t d = 0; d < depth; d += kF32Lanes) {
                    const f32v t = load<f32v>(in + d);
                    store_row(out + d, t);
                    const f32v error = t - stored_value(t);
                    n2 += t * t;
                    e2 += error * error;
                }
                norm2[r] = n2;
                error2[r] = e2;
            }
        }
        for (int64_t r = group; r < real; ++r)
            start_row(plan, sum_lanes(norm2[r - group]), sum_lanes(error2[r - group]), r, block);
    }
}

// Bit i: lane i of a is at most b.
inline uint32_t lanes_at_most(f32v a, float b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(a, _mm512_set1_ps(b), _CMP_LE_OQ);
#elif defined(__AVX2__)
    return static_cast<uint32_t>(
        _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_set1_ps(b), _CMP_LE_OQ)));
#else
    uint32_t mask = 0;
    for (int i = 0; i < kF32Lanes; ++i) mask |= static_cast<uint32_t>(a[i] <= b) << i;
    return mask;
#endif
}

inline f32v smaller(f32v a, f32v b) { return a < b ? a : b; }

int32_t prune(int32_t count, float best, int32_t* index, float* low) {
    int32_t kept = 0;
    for (int32_t i = 0; i < count; ++i) {
        if (low[i] > best) continue;
        index[kept] = index[i];
        low[kept++] = low[i];
    }
    return kept;
}

// A panel that holds a candidate for row r: lowers U by the panel's best, then takes what is left.
__attribute__((noinline)) void take_candidates(const FilterPlan& plan, const float* bias,
                                               const float* weight, int64_t panel, int64_t r,
                                               RowBlock& block) {
    const float* sums = block.sums + r * kCenterTile;
    const float slope = block.slope[r];
    f32v low[kVectors], least;
    for (int v = 0; v < kVectors; ++v) {
        const f32v s = load<f32v>(bias + v * kF32Lanes) - load<f32v>(sums + v * kF32Lanes);
        const f32v e = load<f32v>(weight + v * kF32Lanes) * slope;
        low[v] = s - e;
        least = v == 0 ? s + e : smaller(least, s + e);
    }
    float best = least[0];
    for (int i = 1; i < kF32Lanes; ++i) best = least[i] < best ? least[i] : best;
    best += block.slack[r];
    int32_t* index = block.index + r * kMaxCandidates;
    float* kept_low = block.low + r * kMaxCandidates;
    int32_t count = block.count[r];
    if (!plan.exact) {  // the first of the smallest scores
        if (count > 0 && !(best < block.best[r])) return;
        count = 0;
    }
    if (best < block.best[r]) block.best[r] = best;
    best = block.best[r];
    for (int v = 0; v < kVectors; ++v) {
        for (uint32_t mask = lanes_at_most(low[v], best); mask; mask &= mask - 1) {
            const int lane = __builtin_ctz(mask);
            if (count == kMaxCandidates) count = prune(count, best, index, kept_low);
            if (count == kMaxCandidates) {
                block.count[r] = -1;
                block.best[r] = kClosed;
                return;
            }
            index[count] = static_cast<int32_t>(panel * kCenterTile + v * kF32Lanes + lane);
            kept_low[count++] = low[v][lane];
            if (!plan.exact) {
                block.count[r] = 1;
                return;
            }
        }
    }
    block.count[r] = count;
}

void find_candidates(const FilterPlan& plan, int64_t panel, int64_t rows, RowBlock& block) {
    const float* bias = plan.bias + panel * kCenterTile;
    const float* weight = plan.weight + panel * kCenterTile;
    for (int64_t r = 0; r < rows; ++r) {
        const float* sums = block.sums + r * kCenterTile;
        const float slope = block.slope[r], best = block.best[r];
        uint32_t any = 0;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            const f32v s = load<f32v>(bias + v * kF32Lanes) - load<f32v>(sums + v * kF32Lanes);
            any |= lanes_at_most(s - load<f32v>(weight + v * kF32Lanes) * slope, best);
        }
        if (__builtin_expect(any != 0, 0)) take_candidates(plan, bias, weight, panel, r, block);
    }
}

void scan(const FilterPlan& plan, const MatrixView& z, int64_t first, int64_t rows,
          RowBlock& block) {
    const int64_t padded_rows = (rows + kRowTile - 1) / kRowTile * kRowTile;
    pack_rows(plan, z, first, rows, padded_rows, block);
    const Element* x = static_cast<const Element*>(block.x);
    const Element* centers = static_cast<const Element*>(plan.packed);
    [[maybe_unused]] const TileSession session;
    for (int64_t panel = 0; panel < plan.panels; ++panel) {
        const int64_t left = plan.centers - panel * kCenterTile;
        const int64_t used = left < kCenterTile ? left : kCenterTile;
        for (int64_t d0 = 0; d0 < plan.depth; d0 += kDepthBlock) {
            const int64_t depth = plan.depth - d0 < kDepthBlock ? plan.depth - d0 : kDepthBlock;
            const Element* part = centers + (panel * plan.depth + d0) * kCenterTile;
            for (int64_t r = 0; r < padded_rows; r += kRowTile)
                multiply_tile(x + r * block.leading + d0, block.leading, part, depth, used,
                              block.sums + r * kCenterTile, d0 == 0);
        }
        find_candidates(plan, panel, rows, block);
    }
    for (int64_t r = 0; r < rows; ++r)
        if (block.count[r] > 1)
            block.count[r] = prune(block.count[r], block.best[r], block.index + r * kMaxCandidates,
                                   block.low + r * kMaxCandidates);
}

constexpr FilterKernel kFilter = {{kRowTile, kCenterTile, kDepthAlign, kSumStep, kBf16}, scan};

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
