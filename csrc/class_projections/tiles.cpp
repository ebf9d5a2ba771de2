// Tiles of rows x centers: the product, and on each tile while it is in cache the ranks, the rivals
// of rows that leave their class, and the sums along lines. Symbols as in class_projections.h.
#include "class_projections/columns.h"

namespace ssk {
namespace SSK_ISA {
namespace {

template <class T>
using Mask = decltype(Vec<T>{} < Vec<T>{});

template <class M>
inline bool any(M x) {
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    uint64_t halves[2];
    std::memcpy(halves, &x, sizeof halves);
    return (halves[0] | halves[1]) != 0;
#endif
}

// One row of a tile against `vectors` vectors of centers.
template <class T, bool kLeaving, bool kDirectional>
void finish_row(const Block<T>& b, int64_t r, const T* products, const ClassTile<T>& tile,
                int64_t j0, int vectors) {
    using V = Vec<T>;
    using M = Mask<T>;
    constexpr int W = kLanes<T>;
    Row<T>& row = b.rows[r];
    const auto relative = static_cast<T>(relative_rounding<T>(b.plan.z.cols));
    const T relative_gain = relative * row.gain;
    V total{};
    M near{}, rival{}, open{}, open_left{};
    M opens[kBlock / W], opens_left[kBlock / W];
    for (int v = 0; v < vectors; ++v) {
        V t = *reinterpret_cast<const V*>(products + v * W);
        t -= row.at_own;
        if constexpr (kDirectional) {
            const V ratio = t * *reinterpret_cast<const V*>(tile.inverse + v * W);
            total += ratio * ratio;
        }
        const V half = *reinterpret_cast<const V*>(tile.half + v * W) * row.per_half;
        const V weight = *reinterpret_cast<const V*>(b.weight + v * W);
        const V margin = t - half;
        const V bound = weight * row.slope + (half * relative + row.constant);
        const M sure = margin > bound;
        near += sure;
        // Negated, so that NaN decides nothing.
        opens[v] = ~(sure | (margin < -bound));
        open |= opens[v];
        if constexpr (kLeaving) {
            const V wider = bound + relative_gain, moved = margin + row.gain;
            const M surely = moved > wider;
            rival |= surely;
            opens_left[v] = ~(surely | (moved < -wider));
            open_left |= opens_left[v];
        }
    }
    if constexpr (kDirectional) {
        if constexpr (sizeof(T) == 4) {
            f64v low, high;
            widen(total, low, high);
            b.sums[r] += low + high;
        } else {
            b.sums[r] += total;
        }
    }
    if (any(near)) {
        int32_t found = 0;
        for (int l = 0; l < W; ++l) found -= static_cast<int32_t>(near[l]);
        row.rank += found;
    }
    if (kLeaving && any(rival)) row.rival = true;
    if (!any(open) && (row.rival || !any(open_left))) return;
    int32_t ids[kBlock];
    bool ranked[kBlock], left[kBlock];
    int64_t count = 0;
    for (int64_t l = 0; l < vectors * W; ++l) {
        ranked[count] = opens[l / W][l % W] != 0;
        left[count] = kLeaving && opens_left[l / W][l % W] != 0;
        if ((ranked[count] || left[count]) && tile.half[l] != static_cast<T>(kAway))
            ids[count++] = b.plan.ids[j0 + l];
    }
    if (count) decide(b, r, ids, ranked, left, count);
}

template <class T, bool kLeaving, bool kDirectional>
void scan_columns(const Block<T>& b) {
    constexpr int W = kLanes<T>;
    const ProjectionPlan& plan = b.plan;
    const int64_t depth = plan.z.cols, panel = W * depth;
    const T* const centers = static_cast<const T*>(plan.packed);
    for (int64_t j0 = 0; j0 < plan.count; j0 += kBlock) {
        const int64_t width = smaller(kBlock, plan.count - j0);
        const int vectors = static_cast<int>(panels_of<T>(width));
        know_columns(b, j0, width);
        for (int64_t s = 0; s < b.n; s += kBlock) {
            const int64_t height = smaller(kBlock, b.n - s);
            block_product(b.packed + s / W * panel, panel, height, centers + j0 / W * panel, panel,
                          width, 0, depth, false, b.product);
            for (int64_t r = s; r < s + height; ++r)
                if (b.rows[r].finite)
                    finish_row<T, kLeaving, kDirectional>(b, r, b.product + (r - s) * kBlock,
                                                          b.tiles[b.rows[r].slot], j0, vectors);
        }
    }
}

template <class T>
void scan(const ProjectionPlan& plan, int64_t first, int64_t n, int64_t rows, void* scratch) {
    Block<T> b(plan, first, n);
    b.lay_out(rows, reinterpret_cast<uintptr_t>(scratch));
    pack_block(b);
    if (plan.counts && plan.directional)
        scan_columns<T, true, true>(b);
    else if (plan.counts)
        scan_columns<T, true, false>(b);
    else if (plan.directional)
        scan_columns<T, false, true>(b);
    else
        scan_columns<T, false, false>(b);
    for (int64_t r = 0; r < n; ++r) {
        const Row<T>& row = b.rows[r];
        const int64_t to = plan.order[first + r];
        if (row.finite) {
            plan.rank[to] = row.rank;
            plan.alone[to] = !row.rival;
        }
        const double down = power_of_two(row.finite ? -row.magnified : 0);
        const bool defined = row.finite && !b.coincides[row.slot];
        plan.row_spread[first + r] =
            defined ? sum_lanes(b.sums[r]) * down * down : __builtin_nan("");
    }
}

template <class T>
int64_t scratch_bytes(const ProjectionPlan& plan, int64_t rows) {
    return static_cast<int64_t>(Block<T>(plan, 0, 0).lay_out(rows, 0));
}

template <class T>
int64_t packed_bytes(int64_t centers, int64_t dim) {
    return panels_of<T>(centers) * kLanes<T> * dim * int64_t{sizeof(T)};
}

template <class T>
void pack(const ProjectionPlan& plan, int64_t panel, void* packed) {
    constexpr int W = kLanes<T>;
    const int64_t dim = plan.z.cols, here = smaller(W, plan.count - panel * W);
    const double* const base = static_cast<const double*>(plan.centers.data);
    const double factor = power_of_two(plan.exponent);
    const auto difference = [&](int64_t l) {
        return Difference{base + plan.ids[panel * W + l] * dim, plan.shift, factor};
    };
    pack_differences<T>(here, dim, difference, static_cast<T*>(packed) + panel * W * dim);
}

template <class T>
constexpr ProjectionKernel kernel() {
    return {kLanes<T>, sizeof(T), packed_bytes<T>, pack<T>, scratch_bytes<T>, scan<T>};
}

}  // namespace

ProjectionKernel class_projection_kernel(bool wide) {
    return wide ? kernel<double>() : kernel<float>();
}

}  // namespace SSK_ISA
}  // namespace ssk
