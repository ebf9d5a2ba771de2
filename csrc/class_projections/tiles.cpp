// Tiles of rows x centers: the product, and on each tile while it is in cache the ranks, the rivals
// of rows that leave their class, and the sums along lines. Symbols as in class_projections.h.
#include "class_projections/columns.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// Quantized rows whose expected noise is a larger share of their sum of squares are taken in
// float32.
constexpr double kNoiseShare = 0x1p-26;

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
void finish_row(const Block<T>& b, int64_t r, const Sum<T>* products, const ClassTile<Sum<T>>& tile,
                int64_t j0, int vectors) {
    using S = Sum<T>;
    using V = Vec<S>;
    using M = Mask<S>;
    constexpr int W = kLanes<S>;
    Row<S>& row = b.rows[r];
    const auto relative = static_cast<S>(relative_rounding<S>(b.plan.z.cols));
    const S relative_gain = relative * row.gain;
    V total{};
    M near{}, rival{}, open{}, open_left{};
    M opens[kBlock / W], opens_left[kBlock / W];
    for (int v = 0; v < vectors; ++v) {
        V t = *reinterpret_cast<const V*>(products + v * W);
        if constexpr (kQuantized<T>)
            t = t * *reinterpret_cast<const V*>(b.factor + v * W) * row.factor;
        t -= row.at_own;
        if constexpr (kDirectional) {
            const V ratio = t * *reinterpret_cast<const V*>(tile.inverse + v * W);
            total += ratio * ratio;
        }
        const V half = *reinterpret_cast<const V*>(tile.half + v * W) * row.per_half;
        const V weight = *reinterpret_cast<const V*>(b.weight + v * W);
        const V margin = t - half;
        V bound = weight * row.slope + (half * relative + row.constant);
        if constexpr (kQuantized<T>)
            bound += *reinterpret_cast<const V*>(b.lost + v * W) * row.loss;
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
        if constexpr (sizeof(S) == 4) {
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
        if ((ranked[count] || left[count]) && tile.half[l] != static_cast<S>(kAway))
            ids[count++] = b.plan.ids[j0 + l];
    }
    if (count) decide(b, r, ids, ranked, left, count);
}

template <class T, bool kLeaving, bool kDirectional>
void scan_columns(const Block<T>& b) {
    constexpr int W = kLanes<T>;
    const ProjectionPlan& plan = b.plan;
    const int64_t panel = panel_of<T>(plan.z.cols), depth = depth_of<T>(plan.z.cols);
    const T* const centers = packed_centers<T>(plan);
    for (int64_t j0 = 0; j0 < plan.count; j0 += kBlock) {
        const int64_t width = smaller(kBlock, plan.count - j0);
        const int vectors = static_cast<int>(panels_of<T>(width));
        know_columns(b, j0, width);
        for (int64_t s = 0; s < b.n; s += kBlock) {
            const int64_t height = smaller(kBlock, b.n - s);
            block_product(b.packed + s / W * panel, panel, height, centers + j0 / W * panel, panel,
                          width, 0, depth, false, b.product);
            for (int64_t r = s; r < s + height; ++r)
                if (b.rows[r].finite && !b.rows[r].given_up)
                    finish_row<T, kLeaving, kDirectional>(b, r, b.product + (r - s) * kBlock,
                                                          b.tiles[b.rows[r].slot], j0, vectors);
        }
    }
}

// Whether the sums of a row are good to float32's last digits, as far as its noise can be expected:
// that of roundings independent of each other.
template <class T>
bool holds(const Block<T>& b, const Row<Sum<T>>& row, double sum) {
    if (!kQuantized<T>) return true;
    if (row.given_up) return false;
    const Noise& noise = b.noise[row.slot];
    const double expected = row.lost * row.lost * noise.rows + row.norm * row.norm * noise.centers;
    return !b.plan.directional ||
           expected <= kNoiseShare * static_cast<double>(b.plan.z.cols) * sum;
}

// Writes the answers of all rows that hold; returns the number of others, listed in `again`.
template <class T>
int64_t scan_once(const ProjectionPlan& plan, int64_t first, int64_t n, int64_t rows, uintptr_t at,
                  int32_t* again) {
    Block<T> b(plan, first, n);
    b.lay_out(rows, at);
    pack_block(b);
    if (plan.counts && plan.directional)
        scan_columns<T, true, true>(b);
    else if (plan.counts)
        scan_columns<T, true, false>(b);
    else if (plan.directional)
        scan_columns<T, false, true>(b);
    else
        scan_columns<T, false, false>(b);
    int64_t left = 0;
    for (int64_t r = 0; r < n; ++r) {
        const Row<Sum<T>>& row = b.rows[r];
        const int64_t to = plan.order[first + r];
        const double sum = row.finite ? sum_lanes(b.sums[r]) : 0;
        if (row.finite && !holds(b, row, sum)) {
            again[left++] = static_cast<int32_t>(r);
            continue;
        }
        if (row.finite) {
            plan.rank[to] = row.rank;
            plan.alone[to] = !row.rival;
        }
        const double down = power_of_two(row.finite ? -row.magnified : 0);
        plan.row_spread[first + r] =
            row.finite && !b.coincides[row.slot] ? sum * down * down : __builtin_nan("");
    }
    return left;
}

template <class T>
void scan(const ProjectionPlan& plan, int64_t first, int64_t n, int64_t rows, void* scratch) {
    const auto at = reinterpret_cast<uintptr_t>(scratch);
    if constexpr (!kQuantized<T>) {
        scan_once<T>(plan, first, n, rows, at, nullptr);
    } else {
        Leftovers of(rows, at);
        const int64_t left = scan_once<T>(plan, first, n, rows, of.end, of.rows);
        if (left == 0) return;
        for (int64_t i = 0; i < left; ++i) of.order[i] = plan.order[first + of.rows[i]];
        ProjectionPlan again = plan;
        again.packed =
            packed_centers<T>(plan) + panels_of<T>(plan.count) * panel_of<T>(plan.z.cols);
        again.order = of.order;
        again.row_spread = of.spread;
        scan_once<Sum<T>>(again, 0, left, rows, of.end, nullptr);
        for (int64_t i = 0; i < left; ++i) plan.row_spread[first + of.rows[i]] = of.spread[i];
    }
}

template <class T>
int64_t scratch_bytes(const ProjectionPlan& plan, int64_t rows) {
    const auto block = Block<T>(plan, 0, 0).lay_out(rows, 0);
    if (!kQuantized<T>) return static_cast<int64_t>(block);
    const auto wider = Block<Sum<T>>(plan, 0, 0).lay_out(rows, 0);
    return static_cast<int64_t>(Leftovers(rows, 0).end + (block > wider ? block : wider));
}

template <class T>
int64_t packed_bytes(int64_t centers, int64_t dim) {
    const int64_t bytes = panels_of<T>(centers) * panel_of<T>(dim) * int64_t{sizeof(T)};
    return kQuantized<T> ? bytes + packed_bytes<Sum<T>>(centers, dim) : bytes;
}
template <class T>
void pack(const ProjectionPlan& plan, int64_t panel, double* staging, void* packed) {
    constexpr int W = kLanes<T>;
    const int64_t dim = plan.z.cols, here = smaller(W, plan.count - panel * W);
    const double* const base = static_cast<const double*>(plan.centers.data);
    const double factor = power_of_two(plan.exponent);
    const auto difference = [&](int64_t l) {
        return Difference{base + plan.ids[panel * W + l] * dim, plan.shift, factor};
    };
    T* const panels = static_cast<T*>(packed);
    pack_differences<T>(here, dim, difference, staging, plan.leading,
                        panels + panel * panel_of<T>(dim));
    if constexpr (kQuantized<T>)
        pack<Sum<T>>(plan, panel, staging, panels + panels_of<T>(plan.count) * panel_of<T>(dim));
}

template <class T>
constexpr ProjectionKernel kernel() {
    return {kLanes<T>,        sizeof(T), kQuantized<T> ? kLanes<T> : 0, packed_bytes<T>, pack<T>,
            scratch_bytes<T>, scan<T>};
}

}  // namespace

#if defined(__AVX512VNNI__)
ProjectionKernel quantized_class_projection_kernel() { return kernel<int32_t>(); }
#else
ProjectionKernel class_projection_kernel(bool wide) {
    return wide ? kernel<double>() : kernel<float>();
}
#endif

}  // namespace SSK_ISA
}  // namespace ssk
