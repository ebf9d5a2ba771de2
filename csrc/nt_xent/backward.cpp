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

// Of all rows: exp(-lse) as weight * 2^-exponent, the weight times the gradient of the log-sum-exp.
// Of own samples: the gradient by the positive logit of both rows.
template <class T>
struct Weights {
    T *weight, *exponent, *positive;
};

// Logits become the gradient by the logits of both (i, j) and (j, i), up to 1 / 2N.
template <class T>
void weigh_tile(const Logits<T>& logits, int64_t i, int64_t j, const Weights<T>& w, T* c) {
    using V = Vec<T>;
    constexpr int W = kLanes<T>;
    const int64_t vectors = panels_of<T>(logits.width(j));
    const V* column_weight = reinterpret_cast<const V*>(w.weight + j);
    const V* column_exponent = reinterpret_cast<const V*>(w.exponent + j);
    for (int64_t r = 0; r < logits.height(i); ++r) {
        V* row = reinterpret_cast<V*>(c + r * kBlock);
        const int64_t self = logits.own.self(i + r);
        const V weight = splat(w.weight[self]);
        for (int v = 0; v < vectors; ++v) {
            const Power<T> power = exp2_parts<T>(row[v]);
            row[v] =
                power.fraction * (scaled<T>(weight, power.whole - w.exponent[self]) +
                                  scaled<T>(column_weight[v], power.whole - column_exponent[v]));
        }
    }
    static_assert(kBlock % W == 0, "a block starts on a vector");
    logits.for_positives(
        i, j, [&](int64_t row, int64_t at) { c[at] = w.positive[logits.own.sample(row)]; });
}

// Through u = z / max(|z|, 1e-12): the gradient by z, in `out`, from that by u. Returns the part of
// the latter along u.
template <class T>
double project(const T* z, const T* g, const T* unit, int64_t d, double scale, T* out) {
    const double length = norm(z, d), factor = scale / floored(length);
    double along = 0;
    for (int64_t j = 0; j < d; ++j)
        along += static_cast<double>(g[j]) * static_cast<double>(unit[j]);
    const double inside = length < kMinNorm ? 0 : along;
    for (int64_t j = 0; j < d; ++j)
        out[j] = static_cast<T>(
            (static_cast<double>(g[j]) - inside * static_cast<double>(unit[j])) * factor);
    return along;
}

template <class S>
void backward(const double* grad, const MatrixView& x, const MatrixView& y, int64_t first,
              int64_t samples, double temperature, int threads, const Cuts& cuts, const double* lse,
              const double* row_loss, bool unrounded, void* grad_x, void* grad_y, double* radial) {
    using T = Real<S>;
    constexpr int W = kLanes<T>;
    const OwnRows own{x.rows, first, samples};
    const Rows<S> rows(x, y, 0, own.n), own_rows(x, y, first, samples);
    const int64_t count = rows.count(), d = rows.d, panels = panels_of<T>(count);
    const int64_t own_count = own.count(), ld = ceil_div(d, W) * W;
    const double tiles = static_cast<double>(own_count) * static_cast<double>(count);
    threads = useful_threads(
        threads, tiles * static_cast<double>(own.all() ? 3 * d / 2 + 16 : 2 * d + 16), cuts);

    // One gradient scales the weights and the positive pairs' share, whichever is larger.
    const double on_uniformity = grad[0] + grad[2], on_alignment = grad[0] + grad[1];
    double common = std::fabs(on_uniformity);
    if (!(std::fabs(on_alignment) <= common)) common = std::fabs(on_alignment);
    if (common > 0 && common < DBL_MIN) common = DBL_MIN;  // one over less is infinite
    const double inverse = common > 0 ? 1 / common : 1;    // NaN passes through `common` below

    const Array<T> packed(panels * W * d);
    const Array<T> own_packed(own.all() ? 0 : panels_of<T>(own_count) * W * d);
    const Array<T> units(count * ld);
    const Array<T> gradients(own_count * ld);
    const Array<T> buffers(threads * W * d);
    const Array<T> per_row(2 * panels * W + samples);
    const Array<double> along(own_count);
    T* const first_weight = per_row.get();
    const Weights<T> weights{first_weight, first_weight + panels * W,
                             first_weight + 2 * panels * W};
    for (int64_t i = 0; i < panels * W; ++i) {
        const double base2 = i < count ? lse[i] * kLog2E : 0, whole = std::nearbyint(base2);
        weights.exponent[i] = static_cast<T>(whole);
        weights.weight[i] =
            i < count ? static_cast<T>(std::exp2(whole - base2) * on_uniformity * inverse) : T{0};
    }
    for (int64_t i = 0; i < samples; ++i) {
        const double missing =
            -std::expm1(-row_loss[own.self(i)]) - std::expm1(-row_loss[own.partner(i)]);
        const double difference =
            grad[2] - grad[1];  // by the log-sum-exp, less that by the positive
        weights.positive[i] = static_cast<T>((2 * difference - on_uniformity * missing) * inverse);
    }
    const Plan plan(own, threads, cuts);
    T* const own_panels = own.all() ? packed.get() : own_packed.get();
    const Logits<T> logits{own_panels, packed.get(), own, d, plan.height};
    const double scale = std::sqrt(kLog2E / temperature);
    const double outer = common / (static_cast<double>(count) * temperature);
    void* const outs[2] = {grad_x, grad_y};
#pragma omp parallel num_threads(threads)
    {
        alignas(64) T c[kBlock * kBlock];
        T* const buffer = buffers.get() + omp_get_thread_num() * W * d;
        pack<S>(rows, own_rows, scale, buffer, packed.get(), own_panels, units.get(), ld);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < own_count; i += W)
            std::memset(gradients.get() + i * ld, 0,
                        static_cast<size_t>(smaller(W, own_count - i) * ld) * sizeof(T));
        for_tiles(plan, [&](int64_t i, int64_t j) {
            const int64_t height = logits.height(i), width = logits.width(j);
            logits.tile(i, j, c);
            weigh_tile(logits, i, j, weights, c);
            tile_apply<T, false>(c, height, width, units.get() + j * ld, ld,
                                 gradients.get() + i * ld);
            if (own.all() && i != j)
                tile_apply<T, true>(c, width, height, units.get() + i * ld, ld,
                                    gradients.get() + j * ld);
        });
#pragma omp for schedule(static)
        for (int64_t i = 0; i < own_count; ++i) {
            void* const out = outs[i / samples];
            if (!out && !radial) continue;
            along[i] = project(own_rows.row(i, buffer), gradients.get() + i * ld,
                               units.get() + own.self(i) * ld, d, outer, buffer + d);
            const int64_t at = i % samples * d;
            if (out && unrounded)
                std::memcpy(static_cast<T*>(out) + at, buffer + d,
                            static_cast<size_t>(d) * sizeof(T));
            else if (out)
                write_row(buffer + d, d, static_cast<S*>(out) + at);
        }
    }
    if (radial) {
        double sum = 0;
        for (int64_t i = 0; i < own_count; ++i) sum += along[i];
        *radial = sum * outer;
    }
}

}  // namespace

SSK_BY_DTYPE(NtXentBackward, nt_xent_backward, backward)

}  // namespace SSK_ISA
}  // namespace ssk
