// The gradient of NT-Xent. A tile of logits is computed again and turned into the symmetric weights
// P_ij + P_ji, P_ij = exp(s_ij - lse_i), which multiply the rows on either side; at a positive,
// 1 - P_ij comes from the row's loss.
//
// Accumulators: float32 (float64 for float64), a tile at a time in registers. Norms are float64.
#include <cfloat>

#include "nt_xent/tiles.h"
#include "product/tile_apply.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// Per row: exp(-lse) as weight * 2^-exponent, the weight times the gradient of the log-sum-exp;
// and, for rows of the first view, the gradient by the positive logit of both its rows.
template <class T>
struct Weights {
    T *weight, *exponent, *positive;
};

// Logits become the gradient by the logits of both (i, j) and (j, i), up to 1 / 2N.
template <class T>
void weigh_tile(const Logits<T>& logits, int64_t i, int64_t j, const Weights<T>& w, T* c) {
    using V = Vec<T>;
    constexpr int W = kLanes<T>;
    const int64_t vectors = panels_of<T>(logits.height(j));
    const V* column_weight = reinterpret_cast<const V*>(w.weight + j);
    const V* column_exponent = reinterpret_cast<const V*>(w.exponent + j);
    for (int64_t r = 0; r < logits.height(i); ++r) {
        V* row = reinterpret_cast<V*>(c + r * kBlock);
        const V weight = splat(w.weight[i + r]);
        for (int v = 0; v < vectors; ++v) {
            const Power<T> power = exp2_parts<T>(row[v]);
            row[v] =
                power.fraction * (scaled<T>(weight, power.whole - w.exponent[i + r]) +
                                  scaled<T>(column_weight[v], power.whole - column_exponent[v]));
        }
    }
    static_assert(kBlock % W == 0, "a block starts on a vector");
    logits.for_positives(i, j, [&](int64_t row, int64_t at, int64_t mirrored) {
        c[at] = c[mirrored] = w.positive[row];
    });
}

// Through u = z / max(|z|, 1e-12): the gradient by z from that by u.
template <class S>
void write_gradient(const Real<S>* z, const Real<S>* g, const Real<S>* unit, int64_t d,
                    double scale, Real<S>* buffer, S* out) {
    using T = Real<S>;
    const double length = norm(z, d), factor = scale / floored(length);
    double along = 0;
    if (!(length < kMinNorm))
        for (int64_t j = 0; j < d; ++j)
            along += static_cast<double>(g[j]) * static_cast<double>(unit[j]);
    for (int64_t j = 0; j < d; ++j)
        buffer[j] = static_cast<T>(
            (static_cast<double>(g[j]) - along * static_cast<double>(unit[j])) * factor);
    write_row(buffer, d, out);
}

template <class S>
void backward(const double* grad, const MatrixView& x, const MatrixView& y, double temperature,
              int threads, const Cuts& cuts, const double* lse, const double* row_loss,
              void* grad_x, void* grad_y) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const Rows<S> rows(x, y);
    const int64_t count = rows.count(), d = rows.d, panels = panels_of<T>(count);
    const int64_t ld = ceil_div(d, W) * W;
    const double work = static_cast<double>(count) * static_cast<double>(count) *
                        static_cast<double>(3 * d / 2 + 16);
    threads = useful_threads(threads, work, cuts);

    // One gradient scales the weights and the positive pairs' share, whichever is larger.
    const double on_uniformity = grad[0] + grad[2], on_alignment = grad[0] + grad[1];
    double common = std::fabs(on_uniformity);
    if (!(std::fabs(on_alignment) <= common)) common = std::fabs(on_alignment);
    if (common > 0 && common < DBL_MIN) common = DBL_MIN;  // one over less is infinite
    const double inverse = common > 0 ? 1 / common : 1;    // NaN passes through `common` below

    const Array<T> packed(panels * W * d);
    const Array<T> units(count * ld);
    const Array<T> gradients(count * ld);
    const Array<T> buffers(threads * W * d);
    const Array<T> per_row(3 * panels * W);
    T* const first_weight = per_row.get();
    const Weights<T> weights{first_weight, first_weight + panels * W,
                             first_weight + 2 * panels * W};
    for (int64_t i = 0; i < panels * W; ++i) {
        const double base2 = i < count ? lse[i] * kLog2E : 0, whole = std::nearbyint(base2);
        weights.exponent[i] = static_cast<T>(whole);
        weights.weight[i] =
            i < count ? static_cast<T>(std::exp2(whole - base2) * on_uniformity * inverse) : T{0};
    }
    for (int64_t i = 0; i < rows.n; ++i) {
        const double missing = -std::expm1(-row_loss[i]) - std::expm1(-row_loss[i + rows.n]);
        const double difference =
            grad[2] - grad[1];  // by the log-sum-exp, less that by the positive
        weights.positive[i] = static_cast<T>((2 * difference - on_uniformity * missing) * inverse);
    }
    const Logits<T> logits{packed.get(), rows.n, d};
    const Tournament tournament(count, cuts);
    const double scale = std::sqrt(kLog2E / temperature);
    const double outer = common / (static_cast<double>(count) * temperature);
    S* const outs[2] = {static_cast<S*>(grad_x), static_cast<S*>(grad_y)};
#pragma omp parallel num_threads(threads)
    {
        alignas(64) T c[kBlock * kBlock];
        T* const buffer = buffers.get() + omp_get_thread_num() * W * d;
#pragma omp for schedule(static)
        for (int64_t p = 0; p < panels; ++p) {
            pack_panel<S>(rows, p, scale, buffer, packed.get() + p * W * d, units.get(), ld);
            const int64_t present = smaller(W, count - p * W);
            std::memset(gradients.get() + p * W * ld, 0,
                        static_cast<size_t>(present * ld) * sizeof(T));
        }
        for_tiles(tournament, [&](int64_t i, int64_t j) {
            const int64_t height = logits.height(i), width = logits.height(j);
            logits.tile(i, j, c);
            weigh_tile(logits, i, j, weights, c);
            tile_apply<T, false>(c, height, width, units.get() + j * ld, ld,
                                 gradients.get() + i * ld);
            if (i != j)
                tile_apply<T, true>(c, width, height, units.get() + i * ld, ld,
                                    gradients.get() + j * ld);
        });
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; ++i) {
            S* const out = outs[i / rows.n];
            if (out)
                write_gradient<S>(rows.row(i, buffer), gradients.get() + i * ld,
                                  units.get() + i * ld, d, outer, buffer + d, out + i % rows.n * d);
        }
    }
}

}  // namespace

SSK_BY_DTYPE(NtXentBackward, nt_xent_backward, backward)

}  // namespace SSK_ISA
}  // namespace ssk
