// The method and its error bounds are in mean_pairs.h.
#include "mean_pairs/mean_pairs.h"

#include <omp.h>

#include <cmath>

#include "core/mean_of_rows.h"
#include "product/panels.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr double kShare = 0.25;
constexpr double kShare64 = 1e-4;
constexpr double kUnderflow = 0x1p-90;
constexpr int64_t kDense = 6;
constexpr int64_t kArea = int64_t{kBlock} * kBlock;
constexpr int64_t kFew = 512;  // means: fp64 products take some ms at D = 2048
constexpr int64_t kSuper = 8;  // blocks: 2 x 8 of them stay in L3 while all their pairs are taken
constexpr int64_t kMost = int64_t{1} << 40;  // of what a cut may set
constexpr int kMaxExponent = 1000;

struct Tile {
    int32_t row, col;  // blocks
};

// Blocks of the upper triangle, those that share operands near each other.
Array<Tile> upper_tiles(int64_t blocks, int64_t super) {
    Array<Tile> tiles(blocks * (blocks + 1) / 2);
    int64_t count = 0;
    for (int64_t si = 0; si < blocks; si += super)
        for (int64_t sj = si; sj < blocks; sj += super)
            for (int64_t i = si; i < smaller(blocks, si + super); ++i)
                for (int64_t j = larger(i, sj); j < smaller(blocks, sj + super); ++j)
                    tiles[count++] = {static_cast<int32_t>(i), static_cast<int32_t>(j)};
    return tiles;
}

// Everything the threads share about the n classes that have rows.
struct Pairs {
    const MeanTable& means;
    PairSum kind;
    const int64_t n, dim;
    const bool fp32;
    const int64_t* rows;                          // [n] of the table
    const Array<double> center{dim};              // [D]
    const Array<double> scale{n};                 // [n]: the common power of two, or 1 / length
    const Array<double> variance{n};              // [n], times the square of the power
    const Array<double> norm{n};                  // [n] of the scaled a
    const Array<double> norm_fp32{fp32 ? n : 0};  // [n] of their roundings
    const Array<float> packed{fp32 ? panels_of<float>(n) * kLanes<float> * dim : 0};  // panels
    double target = 0;                                                                // 1 / (C - 1)

    const double* mean(int64_t i) const { return means.mean + rows[i] * dim; }

    // Columns [j0, j0 + count) of a_i.
    template <class T>
    void centered(int64_t i, int64_t j0, int64_t count, T* __restrict out) const {
        const double* __restrict from = mean(i) + j0;
        const double* __restrict g = center.get() + j0;
        const double by = scale[i];
        for (int64_t j = 0; j < count; ++j) out[j] = static_cast<T>((from[j] - g[j]) * by);
    }

    // Sum over the pairs of one block, whose products lie in c.
    template <class T>
    double reduce(Tile t, const T* c, double* c64, double* spare) const;
    template <class T>
    double reduce_cdnv(Tile t, const T* c, double* c64, double* spare) const;
    template <class T>
    double reduce_cosines(Tile t, const T* c) const;

    double distance(int64_t i, int64_t j) const;
    void pack_panel(int64_t p);
    void product_fp64(Tile t, double* c, double* spare) const;
};

template <class T>
double sum_of_squares(const T* x, int64_t count) {
    double part[8] = {};  // independent, so that the loop is vectorised
    int64_t j = 0;
    for (; j + 8 <= count; j += 8)
        for (int l = 0; l < 8; ++l)
            part[l] += static_cast<double>(x[j + l]) * static_cast<double>(x[j + l]);
    for (; j < count; ++j) part[0] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
    for (int l = 1; l < 8; ++l) part[0] += part[l];
    return part[0];
}

// Lanes of one vector of c from column j on, in float64.
inline f64v widened(const double* c) { return load<f64v>(c); }
inline f64v widened(const float* c) {
#if defined(__AVX512F__)
    return _mm512_cvtps_pd(_mm256_loadu_ps(c));
#elif defined(__AVX2__)
    return _mm256_cvtps_pd(_mm_loadu_ps(c));
#else
    f64v out;
    for (int l = 0; l < kF64Lanes; ++l) out[l] = static_cast<double>(c[l]);
    return out;
#endif
}

// ||mean_i - mean_j||^2 in the units of the a, from differences.
double Pairs::distance(int64_t i, int64_t j) const {
    constexpr int64_t kAtOnce = 4 * kF64Lanes;
    const double *a = mean(i), *b = mean(j);
    const f64v by = f64v{} + scale[i];
    f64v sum[4] = {};
    int64_t k = 0;
    for (; k + kAtOnce <= dim; k += kAtOnce)
        for (int v = 0; v < 4; ++v) {
            const int64_t at = k + v * kF64Lanes;
            const f64v apart = (load<f64v>(a + at) - load<f64v>(b + at)) * by;
            sum[v] += apart * apart;
        }
    double total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; k < dim; ++k) {
        const double apart = (a[k] - b[k]) * scale[i];
        total += apart * apart;
    }
    return total;
}

// One panel of fp32 rows, and their norms.
void Pairs::pack_panel(int64_t p) {
    constexpr int W = kLanes<float>;
    alignas(64) float z[W][kChunk];
    const int64_t first = p * W, count = smaller(W, n - first);
    double sum[W] = {};
    for (int64_t j0 = 0; j0 < dim; j0 += kChunk) {
        const int64_t columns = smaller(kChunk, dim - j0);
        for (int64_t r = 0; r < count; ++r) {
            centered(first + r, j0, columns, z[r]);
            sum[r] += sum_of_squares(z[r], columns);
        }
        pack_rows(z, count, columns, packed.get() + (p * dim + j0) * W);
    }
    for (int64_t r = 0; r < count; ++r) norm_fp32[first + r] = sum[r];
}

// c = the products of one block in float64; `spare` holds kChunk columns of both sides.
void Pairs::product_fp64(Tile t, double* c, double* spare) const {
    constexpr int W = kLanes<double>;
    alignas(64) double z[W][kChunk];
    const int64_t at[2] = {t.row * int64_t{kBlock}, t.col * int64_t{kBlock}};
    const int64_t size[2] = {smaller(kBlock, n - at[0]), smaller(kBlock, n - at[1])};
    const bool diagonal = t.row == t.col;
    double* const side[2] = {spare, diagonal ? spare : spare + kBlock * kChunk};
    double* const part = spare + 2 * kBlock * kChunk;
    for (int64_t j0 = 0; j0 < dim; j0 += kChunk) {
        const int64_t columns = smaller(kChunk, dim - j0);
        for (int s = 0; s < (diagonal ? 1 : 2); ++s)
            for (int64_t i = 0; i < size[s]; i += W) {
                const int64_t count = smaller(W, size[s] - i);
                for (int64_t r = 0; r < count; ++r) centered(at[s] + i + r, j0, columns, z[r]);
                pack_rows(z, count, columns, side[s] + i * kChunk);
            }
        block_product(side[0], W * kChunk, size[0], side[1], W * kChunk, size[1], 0, columns,
                      diagonal, j0 == 0 ? c : part);
        for (int64_t i = 0; j0 > 0 && i < kArea; ++i) c[i] += part[i];
    }
}

template <class T>
double Pairs::reduce_cdnv(Tile t, const T* c, double* c64, double* spare) const {
    constexpr bool fp32 = sizeof(T) == sizeof(float);
    constexpr double share = fp32 ? kShare : kShare64, least = fp32 ? kUnderflow : 0.0;
    const int64_t top = t.row * int64_t{kBlock}, left = t.col * int64_t{kBlock};
    const int64_t height = smaller(kBlock, n - top), width = smaller(kBlock, n - left);
    const bool diagonal = t.row == t.col;
    alignas(64) double norms[kBlock], variances[kBlock];
    const double* const own = fp32 ? norm_fp32.get() : norm.get();
    std::memcpy(norms, own + left, static_cast<size_t>(width) * sizeof(double));
    std::memcpy(variances, variance.get() + left, static_cast<size_t>(width) * sizeof(double));
    int64_t lost[kBlock], lost_here = 0;  // pairs of each row that are to be taken again
    double total = 0;
    const auto keeps = [&](double terms, double d2) {
        return d2 > share * terms && d2 > least;  // false for NaN
    };
    for (int64_t i = 0; i < height; ++i) {
        const T* row = c + i * kBlock;
        const double ni = own[top + i], vi = variance[top + i];
        int64_t j = diagonal ? i + 1 : 0;
        lost[i] = width - smaller(j, width);
        const auto one = [&] {
            const double terms = ni + norms[j], d2 = terms - 2 * static_cast<double>(row[j]);
            if (!keeps(terms, d2)) return;
            total += (vi + variances[j]) / d2;
            --lost[i];
        };
        f64v sum = {};
        decltype(sum < sum) kept_here = {};
        for (; j < width && j % kF64Lanes; ++j) one();
        for (; j + kF64Lanes <= width; j += kF64Lanes) {
            const f64v terms = load<f64v>(norms + j) + ni, d2 = terms - 2.0 * widened(row + j);
            const auto kept = (d2 > share * terms) & (d2 > least);
            sum += kept ? (load<f64v>(variances + j) + vi) / d2 : f64v{};
            kept_here += kept;  // a lane that is true is -1
        }
        for (; j < width; ++j) one();
        total += sum_lanes(sum);
        for (int l = 0; l < kF64Lanes; ++l) lost[i] += kept_here[l];
        lost_here += lost[i];
    }
    if (fp32 && lost_here * kDense > height * width) {
        product_fp64(t, c64, spare);
        return reduce_cdnv(t, static_cast<const double*>(c64), c64, spare);
    }
    for (int64_t i = 0; i < height; ++i)
        for (int64_t j = diagonal ? i + 1 : 0; lost[i] > 0 && j < width; ++j) {
            const double terms = own[top + i] + norms[j];
            if (keeps(terms, terms - 2 * static_cast<double>(c[i * kBlock + j]))) continue;
            total += (variance[top + i] + variances[j]) / distance(top + i, left + j);
        }
    return total;
}

template <class T>
double Pairs::reduce_cosines(Tile t, const T* c) const {
    const int64_t top = t.row * int64_t{kBlock}, left = t.col * int64_t{kBlock};
    const int64_t height = smaller(kBlock, n - top), width = smaller(kBlock, n - left);
    double total = 0;
    for (int64_t i = 0; i < height; ++i) {
        const T* row = c + i * kBlock;
        double part[8] = {};
        int64_t j = t.row == t.col ? i + 1 : 0;
        for (; j + 8 <= width; j += 8)
            for (int l = 0; l < 8; ++l)
                part[l] += std::abs(static_cast<double>(row[j + l]) + target);
        for (; j < width; ++j) part[0] += std::abs(static_cast<double>(row[j]) + target);
        for (const double x : part) total += x;
    }
    return total;
}

template <class T>
double Pairs::reduce(Tile t, const T* c, double* c64, double* spare) const {
    return kind == PairSum::cdnv ? reduce_cdnv(t, c, c64, spare) : reduce_cosines(t, c);
}

// The power of two that brings the largest finite element into [1/2, 1).
double find_power(const Pairs& p, const Array<uint8_t>& used, int threads) {
    const Array<double> largest(p.n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < p.n; ++i) {
        const double *mean = p.mean(i), *g = p.center.get();
        double most[8] = {};  // independent, so that the loop is vectorised
        const auto see = [&](int64_t j, int64_t l) {
            const double size = std::fabs(mean[j] - g[j]);
            most[l] = size > most[l] ? size : most[l];
        };
        const int64_t dim = used[i] ? p.dim : 0;
        int64_t j = 0;
        for (; j + 8 <= dim; j += 8)
            for (int64_t l = 0; l < 8; ++l) see(j + l, l);
        for (; j < dim; ++j) see(j, 0);
        for (int l = 1; l < 8; ++l) most[0] = most[l] > most[0] ? most[l] : most[0];
        largest[i] = most[0];
    }
    double most = 0;
    for (int64_t i = 0; i < p.n; ++i) most = largest[i] > most ? largest[i] : most;
    int exponent = 0;
    if (most > 0 && std::isfinite(most)) std::frexp(most, &exponent);
    exponent = exponent > kMaxExponent ? kMaxExponent : exponent;
    exponent = exponent < -kMaxExponent ? -kMaxExponent : exponent;
    return std::ldexp(1.0, -exponent);
}

// Fills in what the pairs need of each class. False if a class has NaN: so will every pair of it.
bool prepare(Pairs& p, int threads) {
    const Array<uint8_t> finite(p.n);
    bool nan = false;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(|| : nan)
    for (int64_t i = 0; i < p.n; ++i) {
        const double* mean = p.mean(i);
        f64v zeros = {};
        int64_t j = 0;
        for (; j + kF64Lanes <= p.dim; j += kF64Lanes) zeros += 0.0 * load<f64v>(mean + j);
        double zero = sum_lanes(zeros);
        for (; j < p.dim; ++j) zero += 0 * mean[j];
        finite[i] = zero == 0;  // NaN for what is not finite
        for (int64_t k = 0; !finite[i] && k < p.dim; ++k) nan = nan || mean[k] != mean[k];
        nan = nan || (p.kind == PairSum::cdnv && std::isnan(p.means.m2[p.rows[i]]));
    }
    if (nan) return false;
    const Array<int32_t> used(p.n);
    int64_t count = 0;
    for (int64_t i = 0; i < p.n; ++i)
        if (finite[i]) used[count++] = static_cast<int32_t>(p.rows[i]);
    mean_of_rows(p.means.mean, p.dim, p.dim, used.get(), count, threads, p.center.get());
    const double power = find_power(p, finite, threads);
    p.target = 1 / static_cast<double>(p.n - 1);
    for (int64_t i = 0; p.kind == PairSum::cdnv && i < p.n; ++i) {
        const double rows = static_cast<double>(p.means.counts[p.rows[i]]);
        p.variance[i] = p.means.m2[p.rows[i]] / rows * 0.5 * power * power;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < p.n; ++i) {
        double row[kChunk], sum = 0;
        p.scale[i] = power;
        for (int64_t j0 = 0; j0 < p.dim; j0 += kChunk) {
            const int64_t columns = smaller(kChunk, p.dim - j0);
            p.centered(i, j0, columns, row);
            sum += sum_of_squares(row, columns);
        }
        p.norm[i] = sum;
        if (p.kind == PairSum::cosine_gap) p.scale[i] = power / std::sqrt(sum);
    }
    return true;
}

}  // namespace

double mean_pairs(const MeanTable& means, PairSum kind, int threads, const Cuts& cuts) {
    const Array<int64_t> rows(means.classes);
    int64_t n = 0;
    for (int64_t c = 0; c < means.classes; ++c)
        if (means.counts[c] > 0) rows[n++] = c;
    const int64_t few = cuts("few", kFew, 0, kMost), super = cuts("super", kSuper, 1, kMost);
    const double elements = static_cast<double>(n) * static_cast<double>(means.dim);
    const double work = elements * (16 + static_cast<double>(n) / 2);
    threads = useful_threads(threads, work, cuts);
    if (n < 2) return 0;
    Pairs p{means, kind, n, means.dim, n > few, rows.get()};
    if (!prepare(p, threads)) return __builtin_nan("");

    const int64_t blocks = ceil_div(p.n, kBlock), tile_count = blocks * (blocks + 1) / 2;
    const Array<Tile> tiles = upper_tiles(blocks, super);
    const Array<double> sums(tile_count);
    const int64_t panels = panels_of<float>(p.n);
    // Both sides of a block in float64, two blocks of products, one of fp32 products.
    constexpr int64_t kSpare = 2 * kBlock * kChunk + kArea, kPerThread = kSpare + 2 * kArea;
    const Scratch spare(static_cast<size_t>(threads * kPerThread) * sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        double* const mine = spare.as<double>() + omp_get_thread_num() * kPerThread;
        double* const c64 = mine + kSpare;
        float* const c32 = reinterpret_cast<float*>(c64 + kArea);
        if (p.fp32) {
#pragma omp for schedule(static)
            for (int64_t panel = 0; panel < panels; ++panel) p.pack_panel(panel);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < tile_count; ++index) {
            const Tile t = tiles[index];
            if (!p.fp32) {
                p.product_fp64(t, c64, mine);
                sums[index] = p.reduce(t, static_cast<const double*>(c64), c64, mine);
                continue;
            }
            const int64_t row = t.row * int64_t{kBlock}, col = t.col * int64_t{kBlock};
            const float *const top = p.packed.get() + row * p.dim, *const left =
                                                                       p.packed.get() + col * p.dim;
            block_product(top, kLanes<float> * p.dim, smaller(kBlock, p.n - row), left,
                          kLanes<float> * p.dim, smaller(kBlock, p.n - col), 0, p.dim,
                          t.row == t.col, c32);
            sums[index] = p.reduce(t, static_cast<const float*>(c32), c64, mine);
        }
    }
    double total = 0;
    for (int64_t index = 0; index < tile_count; ++index) total += sums[index];
    return total;
}

}  // namespace SSK_ISA
}  // namespace ssk
