// SIGReg: rows are projected on the slices tile by tile, and a tile of projections p is used up at
// once: N x slices values exist only kBlock x kBlock at a time.
//
// The knots are equally spaced, so their angles are first * p + k * step * p, and one rotation by
// step * p leads from a knot to the next: two calls of sincos per projection (one if the first knot
// is at zero) instead of one per knot. A rotation in rounded arithmetic adds at most 2.5 units of
// 2^-24 and carries on what was there, as does an error of step * p itself: knot k is off by less
// than 4 (k + 1) 2^-24, as large as what rounding p does to the angle of that knot once |p| > 2.
//
// Slices are drawn by position (philox.h), so that each thread makes its own, and the backward pass
// makes them again.
//
// Accumulators: float32 (float64 for float64) over the rows of a tile, float64 across tiles; the
// gradient of a row in float32 across slices.
#include "sigreg/sigreg.h"

#include <omp.h>

#include <cfloat>
#include <cmath>

#include "core/elementary.h"
#include "product/panels.h"
#include "product/tile_apply.h"
#include "sigreg/philox.h"

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int64_t kMaxParts = 8;  // into which the rows are cut forward
constexpr int kAtOnce = 4;        // projections per lane that rotate together
constexpr int64_t kUnits = 16;    // pieces of work wanted backward

// Four normal numbers per counter: Box-Muller on the upper 24 bits of each word.
template <class T>
void normals(uint64_t seed, uint64_t draw, int64_t slice, int64_t quad,
             T (&out)[4 * kPhiloxLanes]) {
    constexpr int W = kLanes<T>;
    constexpr int kStep = W < kPhiloxLanes ? W : kPhiloxLanes;
    uint32_t words[4][kPhiloxLanes];
    for (int l = 0; l < kPhiloxLanes; ++l) {
        words[0][l] = static_cast<uint32_t>(quad + l);
        words[1][l] = static_cast<uint32_t>(slice);
        words[2][l] = static_cast<uint32_t>(draw);
        words[3][l] = static_cast<uint32_t>(draw >> 32);
    }
    philox(words, seed);
    constexpr T kUnit = static_cast<T>(0x1p-24);
    for (int pair = 0; pair < 4; pair += 2)
        for (int l0 = 0; l0 < kPhiloxLanes; l0 += kStep) {
            Vec<T> uniform = splat<T>(1), turns{}, cosine, sine, radius;
            for (int l = 0; l < kStep; ++l) {
                uniform[l] = static_cast<T>((words[pair][l0 + l] >> 8) + 1) * kUnit;
                turns[l] = static_cast<T>(words[pair + 1][l0 + l] >> 8) * kUnit;
            }
            const Vec<T> square = log_of<T>(uniform) * -2;
            for (int l = 0; l < W; ++l) radius[l] = std::sqrt(square[l] > 0 ? square[l] : T{0});
            sincos_turns<T>(turns, cosine, sine);
            for (int l = 0; l < kStep; ++l) {
                out[4 * (l0 + l) + pair] = radius[l] * cosine[l];
                out[4 * (l0 + l) + pair + 1] = radius[l] * sine[l];
            }
        }
}

// One unit slice of `dim` elements.
template <class T>
void draw_slice(const SigregSettings& s, int64_t slice, int64_t dim, T* out) {
    double squares = 0;
    for (int64_t j = 0; j < dim; j += 4 * kPhiloxLanes) {
        T numbers[4 * kPhiloxLanes];
        normals<T>(s.seed, s.draw, slice, j / 4, numbers);
        const int64_t count = smaller(4 * kPhiloxLanes, dim - j);
        for (int64_t l = 0; l < count; ++l) {
            out[j + l] = numbers[l];
            squares += static_cast<double>(numbers[l]) * static_cast<double>(numbers[l]);
        }
    }
    // All zero happens once in 2^24 draws of one column, and is left so.
    const double inverse = squares > 0 ? 1 / std::sqrt(squares) : 0;
    for (int64_t j = 0; j < dim; ++j)
        out[j] = static_cast<T>(static_cast<double>(out[j]) * inverse);
}

// One panel of slices; and the slices themselves, row stride `ld`, unless null.
template <class T>
void pack_slices(const SigregSettings& s, int64_t dim, int64_t p, T* buffer, T* panel, T* rows,
                 int64_t ld) {
    constexpr int W = kLanes<T>;
    alignas(64) T z[W][kChunk];
    const int64_t present = smaller(W, s.slices - p * W);
    for (int64_t r = 0; r < present; ++r) {
        T* slice = buffer + r * dim;
        draw_slice(s, p * W + r, dim, slice);
        if (rows) {
            T* out = rows + (p * W + r) * ld;
            std::memcpy(out, slice, static_cast<size_t>(dim) * sizeof(T));
            for (int64_t j = dim; j < ld; ++j) out[j] = 0;
        }
    }
    for (int64_t k = 0; k < dim; k += kChunk) {
        const int64_t width = smaller(kChunk, dim - k);
        for (int64_t r = 0; r < present; ++r)
            std::memcpy(z[r], buffer + r * dim + k, static_cast<size_t>(width) * sizeof(T));
        pack_rows(z, present, width, panel + k * W);
    }
}

template <class S>
void pack_embeddings(const Matrix<S>& z, int64_t n, int64_t dim, int64_t p, Real<S>* panel) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    alignas(64) T rows[W][kChunk];
    alignas(64) T buffer[kChunk];
    const int64_t present = smaller(W, n - p * W);
    for (int64_t k = 0; k < dim; k += kChunk) {
        const int64_t width = smaller(kChunk, dim - k);
        for (int64_t r = 0; r < present; ++r)
            std::memcpy(rows[r], z.row(p * W + r, k, width, buffer),
                        static_cast<size_t>(width) * sizeof(T));
        pack_rows(rows, present, width, panel + k * W);
    }
}

// kCount rotating pairs (cos, sin) per lane, from the first knot on.
template <class T, int kCount>
struct Rotation {
    using V = Vec<T>;
    V cosine[kCount], sine[kCount], step_cosine[kCount], step_sine[kCount];

    Rotation(const T* p, const SigregSettings& s) {
        for (int r = 0; r < kCount; ++r) {
            const V projection = *reinterpret_cast<const V*>(p + r * kBlock);
            sincos<T>(projection * static_cast<T>(s.step), step_cosine[r], step_sine[r]);
            if (s.first != 0) {
                sincos<T>(projection * static_cast<T>(s.first), cosine[r], sine[r]);
            } else {
                cosine[r] = splat<T>(1);
                sine[r] = V{};
            }
        }
    }
    void advance() {
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) {
            const V c = cosine[r] * step_cosine[r] - sine[r] * step_sine[r];
            sine[r] = sine[r] * step_cosine[r] + cosine[r] * step_sine[r];
            cosine[r] = c;
        }
    }
};

// sums[2 k], sums[2 k + 1] += cos, sin of knot k over kCount rows of projections.
template <class T, int kCount>
void add_knots(const T* p, const SigregSettings& s, Vec<T>* sums) {
    Rotation<T, kCount> rotation(p, s);
    for (int64_t k = 0;; ++k) {
        Vec<T> c = rotation.cosine[0], t = rotation.sine[0];
#pragma GCC unroll 4
        for (int r = 1; r < kCount; ++r) {
            c += rotation.cosine[r];
            t += rotation.sine[r];
        }
        sums[2 * k] += c;
        sums[2 * k + 1] += t;
        if (k + 1 == s.knots) return;
        rotation.advance();
    }
}

// kCount rows of projections become sum_k weights[2 k] cos + weights[2 k + 1] sin.
template <class T, int kCount>
void weigh_knots(T* p, const SigregSettings& s, const Vec<T>* weights) {
    using V = Vec<T>;
    Rotation<T, kCount> rotation(p, s);
    V out[kCount] = {};
    for (int64_t k = 0;; ++k) {
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r)
            out[r] += weights[2 * k] * rotation.cosine[r] + weights[2 * k + 1] * rotation.sine[r];
        if (k + 1 == s.knots) break;
        rotation.advance();
    }
    for (int r = 0; r < kCount; ++r) *reinterpret_cast<V*>(p + r * kBlock) = out[r];
}

template <class S>
void forward(const MatrixView& view, const SigregSettings& s, int threads, const Cuts& cuts,
             double* sums) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const Matrix<S> z{static_cast<const S*>(view.data), view.row_stride, view.col_stride};
    const int64_t n = view.rows, d = view.cols, panel = d * W;
    const int64_t row_panels = panels_of<T>(n), slice_panels = panels_of<T>(s.slices);
    const int64_t chosen = ceil_div(ceil_div(n, kMaxParts), kBlock) * kBlock;
    const int64_t part = cuts("part", chosen, W, ceil_div(n, kBlock) * kBlock, W);
    const int64_t parts = ceil_div(n, part), blocks = ceil_div(s.slices, kBlock);
    const int64_t lanes = blocks * kBlock, values = 2 * s.knots;
    threads = useful_threads(threads,
                             static_cast<double>(n) * static_cast<double>(s.slices) *
                                 static_cast<double>(d + 6 * s.knots),
                             cuts);

    const Array<T> packed(row_panels * panel);
    const Array<T> slices(slice_panels * panel);
    const Array<T> buffers(threads * W * d);
    const Array<T> tile_sums(threads * values * W);
    const Array<double> part_sums(parts * values * lanes);
#pragma omp parallel num_threads(threads)
    {
        alignas(64) T p[kBlock * kBlock];
        const int64_t thread = omp_get_thread_num();
        T* const tile = tile_sums.get() + thread * values * W;
#pragma omp for schedule(static) nowait
        for (int64_t q = 0; q < row_panels; ++q)
            pack_embeddings(z, n, d, q, packed.get() + q * panel);
#pragma omp for schedule(static)
        for (int64_t q = 0; q < slice_panels; ++q)
            pack_slices<T>(s, d, q, buffers.get() + thread * W * d, slices.get() + q * panel,
                           nullptr, 0);
#pragma omp for schedule(dynamic, 1)
        for (int64_t unit = 0; unit < parts * blocks; ++unit) {
            const int64_t m = unit % blocks * kBlock, first = unit / blocks * part;
            const int64_t width = smaller(kBlock, s.slices - m), last = smaller(n, first + part);
            double* const sum = part_sums.get() + (unit / blocks * lanes + m) * values;
            std::memset(sum, 0, static_cast<size_t>(values * kBlock) * sizeof(double));
            for (int64_t i = first; i < last; i += kBlock) {
                const int64_t height = smaller(kBlock, last - i);
                block_product(packed.get() + i / W * panel, panel, height,
                              slices.get() + m / W * panel, panel, width, 0, d, false, p);
                for (int64_t v = 0; v < panels_of<T>(width); ++v) {
                    Vec<T>* const lane_sums = reinterpret_cast<Vec<T>*>(tile);
                    for (int64_t k = 0; k < values; ++k) lane_sums[k] = Vec<T>{};
                    int64_t r = 0;
                    for (; r + kAtOnce <= height; r += kAtOnce)
                        add_knots<T, kAtOnce>(p + r * kBlock + v * W, s, lane_sums);
                    for (; r < height; ++r) add_knots<T, 1>(p + r * kBlock + v * W, s, lane_sums);
                    for (int64_t k = 0; k < values * W; ++k)
                        sum[v * values * W + k] += static_cast<double>(tile[k]);
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t m = 0; m < s.slices; ++m)
            for (int64_t k = 0; k < values; ++k) {
                double total = 0;
                for (int64_t q = 0; q < parts; ++q)
                    total += part_sums[q * lanes * values + m / W * values * W + k * W + m % W];
                sums[m * values + k] = total;
            }
    }
}

template <class S>
void backward(const double* grad, const MatrixView& view, const SigregSettings& s, int threads,
              const Cuts& cuts, void* grad_z) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const Matrix<S> z{static_cast<const S*>(view.data), view.row_stride, view.col_stride};
    const int64_t n = view.rows, d = view.cols, panel = d * W, ld = ceil_div(d, W) * W;
    const int64_t slice_panels = panels_of<T>(s.slices), values = 2 * s.knots;
    const int64_t chosen = smaller(kBlock, ceil_div(ceil_div(n, kUnits), W) * W);
    const int64_t span = cuts("span", chosen, W, kBlock, W);
    threads = useful_threads(threads,
                             static_cast<double>(n) * static_cast<double>(s.slices) *
                                 static_cast<double>(2 * d + 6 * s.knots),
                             cuts);

    const Array<T> slices(slice_panels * panel);
    const Array<T> rows(s.slices * ld);
    const Array<T> weights(slice_panels * values * W);
    const int64_t local = larger(W * d, ceil_div(span, W) * panel) + span * ld;
    const Array<T> locals(threads * ceil_div(local, W) * W);

    // The weights have one scale, kept out of float32 so that neither end of it is lost.
    double largest = 0;
    for (int64_t i = 0; i < s.slices * values; ++i) {
        const double size = std::fabs(grad[i]);
        if (!(size <= largest)) largest = size;
        if (size != size) break;
    }
    if (largest > 0 && largest < DBL_MIN) largest = DBL_MIN;  // one over less is infinite
    const double inverse = largest > 0 ? 1 / largest : 1;
#pragma omp parallel num_threads(threads)
    {
        alignas(64) T p[kBlock * kBlock];
        T* const packed = locals.get() + omp_get_thread_num() * ceil_div(local, W) * W;
        T* const gradient = packed + larger(W * d, ceil_div(span, W) * panel);
#pragma omp for schedule(static)
        for (int64_t q = 0; q < slice_panels; ++q) {
            pack_slices<T>(s, d, q, packed, slices.get() + q * panel, rows.get(), ld);
            // d cos(t p) / dp = -t sin(t p), d sin(t p) / dp = t cos(t p)
            for (int64_t k = 0; k < s.knots; ++k)
                for (int64_t l = 0; l < W; ++l) {
                    const int64_t m = q * W + l, at = (m * s.knots + k) * 2;
                    const double t = (s.first + static_cast<double>(k) * s.step) * inverse;
                    T* const out = weights.get() + (q * values + 2 * k) * W + l;
                    out[0] = m < s.slices ? static_cast<T>(t * grad[at + 1]) : T{0};
                    out[W] = m < s.slices ? static_cast<T>(-t * grad[at]) : T{0};
                }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n; i += span) {
            const int64_t height = smaller(span, n - i);
            for (int64_t q = 0; q < panels_of<T>(height); ++q)
                pack_embeddings(z, n, d, i / W + q, packed + q * panel);
            std::memset(gradient, 0, static_cast<size_t>(height * ld) * sizeof(T));
            for (int64_t m = 0; m < s.slices; m += kBlock) {
                const int64_t width = smaller(kBlock, s.slices - m);
                block_product(packed, panel, height, slices.get() + m / W * panel, panel, width, 0,
                              d, false, p);
                for (int64_t v = 0; v < panels_of<T>(width); ++v) {
                    const auto* weight =
                        reinterpret_cast<const Vec<T>*>(weights.get()) + (m / W + v) * values;
                    int64_t r = 0;
                    for (; r + kAtOnce <= height; r += kAtOnce)
                        weigh_knots<T, kAtOnce>(p + r * kBlock + v * W, s, weight);
                    for (; r < height; ++r) weigh_knots<T, 1>(p + r * kBlock + v * W, s, weight);
                }
                tile_apply<T, false>(p, height, width, rows.get() + m * ld, ld, gradient);
            }
            for (int64_t r = 0; r < height; ++r) {
                T* const out = gradient + r * ld;
                for (int64_t j = 0; j < d; ++j)
                    out[j] = static_cast<T>(static_cast<double>(out[j]) * largest);
                write_row(out, d, static_cast<S*>(grad_z) + (i + r) * d);
            }
        }
    }
}

}  // namespace

SSK_BY_DTYPE(SigregForward, sigreg_forward, forward)

SSK_BY_DTYPE(SigregBackward, sigreg_backward, backward)

}  // namespace SSK_ISA
}  // namespace ssk
