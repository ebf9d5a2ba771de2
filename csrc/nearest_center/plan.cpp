#include "nearest_center/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/mean_of_rows.h"

namespace ssk {
namespace {

constexpr int64_t kSampledRows = 64;

template <class T>
const T* row_of(const MatrixView& m, int64_t row) {
    return static_cast<const T*>(m.data) + row * m.row_stride;
}

float as_float(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

uint32_t as_bits(float value) {
    uint32_t out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

uint32_t rounded_bf16(float value) {
    const uint32_t bits = as_bits(value);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
}

// norm2[i] = ||mu_i - g||^2 and along[i] = g.(mu_i - g).
template <class T>
void center_norms(const MatrixView& centers, const std::vector<int32_t>& ids, const float* shift,
                  int threads, double* norm2, double* along) {
    constexpr int kSums = 4;  // independent chains of additions
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); ++i) {
        const T* row = row_of<T>(centers, ids[i]);
        double squares[kSums] = {}, products[kSums] = {};
        const auto add = [&](int64_t d, int k) {
            const double g = shift[d], m = static_cast<double>(row[d]) - g;
            squares[k] += m * m;
            products[k] += g * m;
        };
        int64_t d = 0;
        for (; d + kSums <= centers.cols; d += kSums)
            for (int k = 0; k < kSums; ++k) add(d + k, k);
        for (; d < centers.cols; ++d) add(d, 0);
        norm2[i] = (squares[0] + squares[1]) + (squares[2] + squares[3]);
        along[i] = (products[0] + products[1]) + (products[2] + products[3]);
    }
}

// Whether bf16 rows give the smaller bound raw (||x|| rho) than shifted (about 2 ||x - g|| rho).
bool raw_is_tighter(const MatrixView& z, const float* shift) {
    const auto* base = static_cast<const char*>(z.data);
    double raw = 0.0, shifted = 0.0;
    const int64_t step = std::max<int64_t>(1, z.rows / kSampledRows);
    for (int64_t i = 0; i < z.rows; i += step) {
        double raw2 = 0.0, shifted2 = 0.0;
        for (int64_t d = 0; d < z.cols; ++d) {
            uint16_t bits;
            std::memcpy(&bits, base + (i * z.row_stride + d * z.col_stride) * 2, sizeof bits);
            const double x = as_float(static_cast<uint32_t>(bits) << 16);
            raw2 += x * x;
            shifted2 += (x - shift[d]) * (x - shift[d]);
        }
        if (!std::isfinite(raw2)) continue;
        raw += std::sqrt(raw2);
        shifted += std::sqrt(shifted2);
    }
    return raw < 2.0 * shifted;
}

// One panel: rounds a (mu - g) to the filter's type; per center ||m^||^2 and ||m - m^||^2.
template <class T>
void pack_panel(const MatrixView& centers, const std::vector<int32_t>& ids, const float* shift,
                double scale, const FilterPlan& plan, int64_t panel, char* packed, double* stored2,
                double* error2) {
    constexpr int64_t kColumns = 16;
    const int64_t width = plan.shape.center_tile;
    const int64_t size = plan.depth * width;
    const int64_t used = std::min<int64_t>(width, static_cast<int64_t>(ids.size()) - panel * width);
    auto* as_f32 = reinterpret_cast<float*>(packed) + panel * size;
    auto* as_bf16 = reinterpret_cast<uint16_t*>(packed) + panel * size;
    for (int64_t d0 = 0; d0 < plan.depth; d0 += kColumns) {
        const int64_t n = std::clamp<int64_t>(plan.dim - d0, 0, kColumns);
        for (int64_t lane = 0; lane < width; ++lane) {
            float stored[kColumns] = {};
            if (lane < used) {
                const T* row = row_of<T>(centers, ids[panel * width + lane]) + d0;
                double sum2 = 0.0, sum_error2 = 0.0;
                for (int64_t k = 0; k < n; ++k) {
                    const double m = (static_cast<double>(row[k]) - shift[d0 + k]) * scale;
                    const auto rounded = static_cast<float>(m);
                    stored[k] = plan.shape.bf16 ? as_float(rounded_bf16(rounded)) : rounded;
                    sum2 += static_cast<double>(stored[k]) * stored[k];
                    sum_error2 += (m - stored[k]) * (m - stored[k]);
                }
                stored2[lane] += sum2;
                error2[lane] += sum_error2;
            }
            for (int64_t k = 0; k < kColumns; ++k) {
                const int64_t d = d0 + k;
                if (plan.shape.bf16)
                    as_bf16[(d / 2 * width + lane) * 2 + d % 2] =
                        static_cast<uint16_t>(as_bits(stored[k]) >> 16);
                else
                    as_f32[d * width + lane] = stored[k];
            }
        }
    }
}

template <class T>
PreparedCenters prepare(const MatrixView& z, const MatrixView& centers,
                        const std::vector<int32_t>& ids, const FilterShape& shape, bool exact,
                        int threads, const Cuts& cuts) {
    const int64_t dim = centers.cols, count = static_cast<int64_t>(ids.size());
    const int64_t width = shape.center_tile;
    PreparedCenters out;
    out.shift = Array<float>(dim);
    float* const shift = out.shift.get();
    // g: the mean of the usable centers. Any vector would do; this one makes the bound small.
    const Array<double> mean(dim);
    mean_of_rows(static_cast<const T*>(centers.data), centers.row_stride, dim, ids.data(), count,
                 threads, mean.get());
    for (int64_t d = 0; d < dim; ++d) shift[d] = static_cast<float>(mean[d]);
    const Array<double> norm2(count), along(count);
    center_norms<T>(centers, ids, shift, threads, norm2.get(), along.get());

    double largest = std::sqrt(*std::max_element(norm2.get(), norm2.get() + count));
    double shift_norm = 0.0;
    for (int64_t d = 0; d < dim; ++d) shift_norm += static_cast<double>(shift[d]) * shift[d];
    shift_norm = std::sqrt(shift_norm);
    int exponent = largest > 0.0 && std::isfinite(largest) ? std::ilogb(largest) : 0;
    // A center that is not finite here overflowed in float64; gamma_n needs n v well below 1.
    out.filterable = std::isfinite(largest) && std::isfinite(shift_norm) &&
                     std::abs(exponent) <= 120 && dim <= (int64_t{1} << 20);
    if (!out.filterable) return out;

    const bool raw = shape.bf16 && z.dtype == DType::bf16 && std::abs(exponent) <= 40 &&
                     shift_norm < 0x1p40 && cuts("raw", raw_is_tighter(z, shift), 0, 1) != 0;
    const double scale = raw ? 1.0 : std::ldexp(1.0, -exponent);
    largest *= scale;

    FilterPlan& plan = out.plan;
    plan.shape = shape;
    plan.exact = exact;
    plan.dim = dim;
    plan.depth = (dim + shape.depth_align - 1) / shape.depth_align * shape.depth_align;
    plan.centers = count;
    plan.panels = (count + width - 1) / width;
    plan.scale = static_cast<float>(scale);
    out.packed = Array<char>(plan.panels * width * plan.depth * (shape.bf16 ? 2 : 4));
    std::vector<double> stored2(plan.panels * width), error2(plan.panels * width);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t panel = 0; panel < plan.panels; ++panel)
        pack_panel<T>(centers, ids, shift, scale, plan, panel, out.packed.get(),
                      stored2.data() + panel * width, error2.data() + panel * width);

    const double floor = 0x1p-60 * std::ldexp(scale, exponent);
    double rho = 0.0, bias_ratio = 0.0;
    const int64_t padded = plan.panels * width;
    out.bias = Array<float>(padded);
    out.weight = Array<float>(padded);
    std::fill_n(out.bias.get(), padded, std::numeric_limits<float>::infinity());
    std::fill_n(out.weight.get(), padded, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
        const double bias = norm2[i] * scale * scale / 2 + (raw ? along[i] : 0.0);
        const double weight = std::max(std::sqrt(stored2[i]), floor);
        rho = std::max(rho, std::sqrt(error2[i]) / weight);
        bias_ratio = std::max(bias_ratio, std::abs(bias) / weight);
        out.bias[i] = static_cast<float>(bias);
        out.weight[i] = static_cast<float>(weight);
    }
    if (raw) std::fill_n(shift, dim, 0.0f);

    const double chain = shape.sum_step + static_cast<double>(plan.depth / shape.sum_step) + 2;
    const double gamma = chain * 0x1p-23 / (1.0 - chain * 0x1p-23);
    const auto size = static_cast<double>(dim);
    plan.inflate = static_cast<float>(1.0 + 0x1p-9 + size * 0x1p-23);
    plan.tiny = static_cast<float>(std::sqrt(size) * 0x1p-62);
    plan.per_norm = static_cast<float>(rho + gamma + 0x1p-20);
    plan.constant = static_cast<float>(0x1p-20 * bias_ratio);
    plan.reach = static_cast<float>(largest + (raw ? shift_norm : 0.0));
    plan.gamma64 = static_cast<float>(0x1p-52 * (size + 16));
    plan.slack = static_cast<float>(size * 0x1p-100);
    plan.shift = shift;
    plan.bias = out.bias.get();
    plan.weight = out.weight.get();
    plan.packed = out.packed.get();
    return out;
}

template <class T>
std::vector<int32_t> usable(const MatrixView& centers, int threads) {
    const Array<char> finite(centers.rows);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < centers.rows; ++c)
        finite[c] = all_finite(row_of<T>(centers, c), centers.cols);
    std::vector<int32_t> ids;
    for (int64_t c = 0; c < centers.rows; ++c)
        if (finite[c]) ids.push_back(static_cast<int32_t>(c));
    return ids;
}

}  // namespace

std::vector<int32_t> usable_centers(const MatrixView& centers, int threads) {
    return centers.dtype == DType::f64 ? usable<double>(centers, threads)
                                       : usable<float>(centers, threads);
}

PreparedCenters prepare_centers(const MatrixView& z, const MatrixView& centers,
                                const std::vector<int32_t>& ids, const FilterShape& shape,
                                bool exact, int threads, const Cuts& cuts) {
    return centers.dtype == DType::f64
               ? prepare<double>(z, centers, ids, shape, exact, threads, cuts)
               : prepare<float>(z, centers, ids, shape, exact, threads, cuts);
}

}  // namespace ssk
