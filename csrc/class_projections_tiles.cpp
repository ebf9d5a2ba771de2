// Tiles of rows x centers: the product, and on each tile while it is in cache the ranks, the rivals
// of rows that leave their class, and the sums along lines. Symbols as in class_projections.h.
#include <type_traits>

#include "class_projections_rows.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kGroup = 16;    // classes whose distances are taken together
constexpr double kAway = 0x1p60;  // as half a squared distance: a center that is not in this tile

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

// What a class knows about the centers of one column tile.
template <class T>
struct ClassTile {
    alignas(64) T half[kBlock];     // a^2 d_j^2 / 2; kAway for its own center and for close ones
    alignas(64) T inverse[kBlock];  // 1 / (a d_j)^2, or 0
};

// The scratch of one thread.
template <class T>
struct Block {
    const ProjectionPlan& plan;
    int64_t first, n;
    int64_t slots = 0;
    T *packed, *product, *differences;
    double *x, *between;
    Row<T>* rows;
    f64v* sums;
    ClassTile<T>* tiles;
    int32_t* slot_begin;  // [slots + 1]
    bool* coincides;      // [slots] another center has the same mean
    T* weight;            // [kBlock] ||a v_j|| of the column tile

    Block(const ProjectionPlan& p, int64_t begin, int64_t size) : plan(p), first(begin), n(size) {}

    // Lays the parts out from address `at`; returns the address after the last.
    uintptr_t lay_out(int64_t capacity, uintptr_t at) {
        const int64_t dim = plan.z.cols;
        const auto take = [&at](auto*& part, int64_t count) {
            part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
            at += static_cast<uintptr_t>(ceil_div(count * int64_t{sizeof(*part)}, 64) * 64);
        };
        take(packed, capacity * dim);
        take(differences, kBlock * dim);
        take(product, kBlock * kBlock);
        take(x, larger(kLanes<T>, kGroup) * plan.leading);
        take(between, kGroup * kBlock);
        take(rows, capacity);
        take(sums, capacity);
        take(tiles, capacity);
        take(slot_begin, capacity + 1);
        take(coincides, capacity);
        take(weight, kBlock);
        return at;
    }
    int64_t class_of(int64_t slot) const {
        return plan.classes[plan.order[first + slot_begin[slot]]];
    }
    const double* center(int64_t id) const {
        return static_cast<const double*>(plan.centers.data) + id * plan.z.cols;
    }
};

template <class T>
void pack_block(Block<T>& b) {
    constexpr int W = kLanes<T>;
    int64_t last = -1;
    for (int64_t r = 0; r < b.n; r += W) {
        const uint32_t* order = b.plan.order + b.first + r;
        const int64_t here = smaller(W, b.n - r), next = smaller(W, b.n - r - here);
        pack_rows_of_classes(b.plan, order, here, next, b.x, b.rows + r,
                             b.packed + r * b.plan.z.cols);
        for (int64_t i = 0; i < here; ++i) {
            const int64_t y = b.plan.classes[order[i]];
            if (y != last) b.slot_begin[b.slots++] = static_cast<int32_t>(r + i);
            last = y;
            b.rows[r + i].slot = static_cast<int32_t>(b.slots - 1);
            b.sums[r + i] = f64v{};
        }
    }
    b.slot_begin[b.slots] = static_cast<int32_t>(b.n);
    for (int64_t s = 0; s < b.slots; ++s) b.coincides[s] = false;
}

// Decides by float64 distances between a row and `count` centers that the bound left open: for the
// rank where `ranked`, for the row that has left its class where `left`.
template <class T>
void decide(const Block<T>& b, int64_t r, const int32_t* ids, const bool* ranked, const bool* left,
            int64_t count) {
    Row<T>& row = b.rows[r];
    const int64_t at = b.plan.order[b.first + r], y = b.plan.classes[at];
    double d2[kBlock];
    b.plan.exact.load(b.plan.z, &at, 1, b.x, b.plan.leading);
    b.plan.exact.distances(b.x, b.plan.leading, 1, b.plan.centers, ids, count, d2);
    const auto nearer = [&](int64_t i, double limit) {
        return d2[i] < limit || (d2[i] == limit && ids[i] < y);
    };
    for (int64_t i = 0; i < count; ++i) {
        if (ranked[i]) row.rank += nearer(i, row.own);
        if (left[i] && !row.rival) row.rival = nearer(i, row.without);
    }
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
        const V t = *reinterpret_cast<const V*>(products + v * W) - row.at_own;
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

// The centers `lanes` of a column tile that are close to that of a class, by products with the
// differences between the means.
template <class T>
void finish_close(const Block<T>& b, int64_t slot, int64_t j0, const double* between,
                  const int32_t* lanes, int64_t count) {
    constexpr int W = kLanes<T>;
    const ProjectionPlan& plan = b.plan;
    const int64_t dim = plan.z.cols, begin = b.slot_begin[slot], end = b.slot_begin[slot + 1];
    const double* own = b.center(b.class_of(slot));
    const double up = power_of_two(plan.exponent);
    double magnify[kBlock], scaled[kBlock];  // the first puts the difference's length into [1, 2)
    for (int64_t i = 0; i < count; ++i) {
        const double d2 = between[lanes[i]];
        const bool measured = d2 > 0 && std::isfinite(d2);
        magnify[i] = measured ? power_of_two(-std::ilogb(std::sqrt(d2))) : up;
        scaled[i] = d2 * up * up;
    }
    for (int64_t p = 0; p < count; p += W) {
        const auto difference = [&](int64_t l) {
            return Difference{b.center(plan.ids[j0 + lanes[p + l]]), own, magnify[p + l]};
        };
        pack_differences<T>(smaller(W, count - p), dim, difference, b.differences + p * dim);
    }
    const double relative = relative_rounding<T>(dim);
    for (int64_t s = begin / W * W; s < end; s += kBlock) {
        const int64_t height = smaller(kBlock, end - s);
        block_product(b.packed + s * dim, dim * W, height, b.differences, dim * W, count, 0, dim,
                      false, b.product);
        for (int64_t r = larger(s, begin); r < s + height; ++r) {
            Row<T>& row = b.rows[r];
            if (!row.finite) continue;
            int32_t ids[kBlock];
            bool ranked[kBlock], left[kBlock];
            int64_t open = 0;
            for (int64_t i = 0; i < count; ++i) {
                const double product = static_cast<double>(b.product[(r - s) * kBlock + i]);
                const double t = product * (up / magnify[i]);
                if (scaled[i] > 0) {
                    const double ratio = t / scaled[i];
                    b.sums[r][0] += ratio * ratio;
                }
                const double half = scaled[i] / 2 * static_cast<double>(row.per_half);
                const double bound =
                    kInflation * static_cast<double>(row.slope) * std::sqrt(scaled[i]) +
                    relative * (half + static_cast<double>(row.gain)) + row.base;
                const double margin = t - half, moved = margin + static_cast<double>(row.gain);
                const bool sure = margin > bound, surely = moved > bound;
                row.rank += sure;
                row.rival |= surely;
                ids[open] = plan.ids[j0 + lanes[i]];
                ranked[open] = !(sure || margin < -bound);
                left[open] = !(surely || moved < -bound);
                open += ranked[open] || (left[open] && !row.rival);
            }
            if (open) decide(b, r, ids, ranked, left, open);
        }
    }
}

// The tables of all classes for columns [j0, j0 + width); close centers are dealt with at once.
template <class T>
void know_columns(const Block<T>& b, int64_t j0, int64_t width) {
    const ProjectionPlan& plan = b.plan;
    const int64_t dim = plan.z.cols, lanes = panels_of<T>(width) * kLanes<T>;
    const double up = power_of_two(plan.exponent);
    for (int64_t l = 0; l < lanes; ++l)
        b.weight[l] = l < width ? static_cast<T>(plan.norm[j0 + l] * kInflation) : T{0};
    for (int64_t g = 0; g < b.slots; g += kGroup) {
        const int64_t group = smaller(kGroup, b.slots - g);
        for (int64_t i = 0; i < group; ++i) {
            double* const row = b.x + i * plan.leading;
            std::memcpy(row, b.center(b.class_of(g + i)), dim * sizeof(double));
            for (int64_t j = dim; j < plan.leading; ++j) row[j] = 0;
        }
        plan.exact.distances(b.x, plan.leading, group, plan.centers, plan.ids + j0, width,
                             b.between);
        for (int64_t i = 0; i < group; ++i) {
            const int64_t at = plan.column[b.class_of(g + i)];
            const double own = plan.norm[at];
            const double* between = b.between + i * width;
            ClassTile<T>& tile = b.tiles[g + i];
            int32_t close[kBlock];
            int64_t count = 0;
            for (int64_t l = 0; l < lanes; ++l) {
                tile.half[l] = static_cast<T>(kAway);
                tile.inverse[l] = 0;
                if (l >= width || j0 + l == at) continue;
                const double other = plan.norm[j0 + l];
                const double scaled = between[l] * up * up;
                if (!(between[l] > 0) || !std::isfinite(between[l])) b.coincides[g + i] = true;
                if (scaled > kTiny && scaled > Bound<T>::close * (own * own + other * other)) {
                    tile.half[l] = static_cast<T>(scaled / 2);
                    tile.inverse[l] = static_cast<T>(1 / scaled);
                } else {
                    close[count++] = static_cast<int32_t>(l);
                }
            }
            if (count) finish_close(b, g + i, j0, between, close, count);
        }
    }
}

template <class T, bool kLeaving, bool kDirectional>
void scan_columns(const Block<T>& b) {
    constexpr int W = kLanes<T>;
    const ProjectionPlan& plan = b.plan;
    const int64_t panel = plan.z.cols * W;
    const T* const centers = static_cast<const T*>(plan.packed);
    for (int64_t j0 = 0; j0 < plan.count; j0 += kBlock) {
        const int64_t width = smaller(kBlock, plan.count - j0);
        const int vectors = static_cast<int>(panels_of<T>(width));
        know_columns(b, j0, width);
        for (int64_t s = 0; s < b.n; s += kBlock) {
            const int64_t height = smaller(kBlock, b.n - s);
            block_product(b.packed + s * plan.z.cols, panel, height, centers + j0 / W * panel,
                          panel, width, 0, plan.z.cols, false, b.product);
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
        const int64_t at = plan.order[first + r];
        if (row.finite) {
            plan.rank[at] = row.rank;
            plan.alone[at] = !row.rival;
        }
        const double down = power_of_two(row.finite ? -row.magnified : 0);
        plan.row_spread[first + r] = row.finite && !b.coincides[row.slot]
                                         ? sum_lanes(b.sums[r]) * down * down
                                         : __builtin_nan("");
    }
}

template <class T>
int64_t scratch_bytes(const ProjectionPlan& plan, int64_t rows) {
    return static_cast<int64_t>(Block<T>(plan, 0, 0).lay_out(rows, 0));
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
    pack_differences<T>(here, dim, difference, static_cast<T*>(packed));
}

template <class T>
constexpr ProjectionKernel kernel() {
    return {kLanes<T>, sizeof(T), pack<T>, scratch_bytes<T>, scan<T>};
}

}  // namespace

ProjectionKernel class_projection_kernel(bool wide) {
    return wide ? kernel<double>() : kernel<float>();
}

}  // namespace SSK_ISA
}  // namespace ssk
