// The only file that knows pybind11. Every binding checks nothing (Python has done that), releases
// the GIL, and calls one pass.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <tuple>

#include "barlow_twins/barlow_twins.h"
#include "class_moments/class_moments.h"
#include "class_projections/class_projections.h"
#include "core/cuts.h"
#include "core/isa.h"
#include "core/views.h"
#include "mean_pairs/mean_pairs.h"
#include "nearest_center/nearest_center.h"
#include "nt_xent/nt_xent.h"
#include "scatter/scatter.h"
#include "sigreg/sigreg.h"
#include "unit_moments/unit_moments.h"
#include "vicreg/vicreg.h"

namespace py = pybind11;

namespace {

// Lets other Python threads run while a pass does. A daemon thread that comes back from one while
// the interpreter is leaving finds no interpreter to return to. Before Python 3.14 taking the GIL
// then ends the thread by an unwinding (pthread_exit) that no destructor may let through:
// pybind11's gil_scoped_release, and the process with it, would be terminated. Here the thread
// waits for the end of the process, as it does from Python 3.14 on.
class ReleasedGil {
  public:
    ReleasedGil() : thread_(PyEval_SaveThread()) {}
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;
    ~ReleasedGil() {
        try {
            PyEval_RestoreThread(thread_);
        } catch (...) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }

  private:
    PyThreadState* const thread_;
};

// (data_ptr, dtype, rows, cols, row_stride, col_stride), as sslkernels/backends/cpu/_views.py makes
// it.
using ViewTuple = std::tuple<uintptr_t, int, int64_t, int64_t, int64_t, int64_t>;

[[maybe_unused]] ssk::MatrixView as_view(const ViewTuple& t) {
    return {reinterpret_cast<void*>(std::get<0>(t)),
            static_cast<ssk::DType>(std::get<1>(t)),
            std::get<2>(t),
            std::get<3>(t),
            std::get<4>(t),
            std::get<5>(t)};
}

template <class T>
[[maybe_unused]] T* as_pointer(uintptr_t p) {
    return reinterpret_cast<T*>(p);
}

// How to cut the work, by name; none from any caller but a test.
using CutsDict = std::optional<std::map<std::string, int64_t>>;

ssk::Cuts as_cuts(const CutsDict& given) { return given ? ssk::Cuts(*given) : ssk::Cuts(); }

// (data_ptr, dtype, P, N, D, their strides), as sslkernels/backends/cpu/vicreg.py makes it.
using ProblemsTuple =
    std::tuple<uintptr_t, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

ssk::Problems as_problems(const ProblemsTuple& t) {
    return {reinterpret_cast<void*>(std::get<0>(t)),
            static_cast<ssk::DType>(std::get<1>(t)),
            std::get<2>(t),
            std::get<3>(t),
            std::get<4>(t),
            std::get<5>(t),
            std::get<6>(t),
            std::get<7>(t)};
}

// (sim, std, cov, gamma, eps, invariance, variance, covariance, wide, rows, columns, unrounded)
using VicregTuple = std::tuple<double, double, double, double, double, bool, bool, bool, bool,
                               int64_t, int64_t, bool>;

ssk::VicregSettings as_settings(const VicregTuple& t) {
    return std::apply([](auto... fields) { return ssk::VicregSettings{fields...}; }, t);
}

void vicreg_forward(const ProblemsTuple& x, const std::optional<ProblemsTuple>& y,
                    const VicregTuple& settings, int threads, uintptr_t terms, uintptr_t mean,
                    uintptr_t var, uintptr_t gram, const CutsDict& given) {
    const ssk::Problems first = as_problems(x), second = as_problems(y ? *y : x);
    const auto pass = ssk::vicreg_forward()(first.dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(first, y ? &second : nullptr, as_settings(settings), threads, cuts,
         as_pointer<void>(terms), as_pointer<double>(mean), as_pointer<double>(var),
         as_pointer<void>(gram));
    cuts.all_used();
}

void vicreg_backward(const std::array<double, 4>& grad, const ProblemsTuple& x,
                     const std::optional<ProblemsTuple>& y, const VicregTuple& settings,
                     int threads, uintptr_t mean, uintptr_t var, uintptr_t gram, uintptr_t grad_x,
                     uintptr_t grad_y, const CutsDict& given) {
    const ssk::Problems first = as_problems(x), second = as_problems(y ? *y : x);
    const auto pass = ssk::vicreg_backward()(first.dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(grad.data(), first, y ? &second : nullptr, as_settings(settings), threads, cuts,
         as_pointer<double>(mean), as_pointer<double>(var), as_pointer<void>(gram),
         as_pointer<void>(grad_x), as_pointer<void>(grad_y));
    cuts.all_used();
}

void nearest_center(const ViewTuple& z, const ViewTuple& centers, bool exact, int threads,
                    uintptr_t out, const CutsDict& given) {
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    ssk::nearest_center(as_view(z), as_view(centers), exact, threads, cuts,
                        as_pointer<int64_t>(out));
    cuts.all_used();
}

// (classes, counts, mean, m2)
using ClassStateTuple = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t>;

// (labeling, row, value) of the first bad label; row -1 if there is none.
std::tuple<int64_t, int64_t, int64_t> class_moments_update(
    const ViewTuple& z, uintptr_t labels, const std::vector<ClassStateTuple>& states,
    int64_t ignore, int threads, const CutsDict& given) {
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    std::vector<ssk::ClassState> targets;
    for (const auto& [classes, counts, mean, m2] : states)
        targets.push_back({classes, as_pointer<int64_t>(counts), as_pointer<double>(mean),
                           as_pointer<double>(m2)});
    const ssk::BadLabel bad = ssk::class_moments_update(as_view(z), as_pointer<int64_t>(labels),
                                                        targets, ignore, threads, cuts);
    if (bad.row < 0) cuts.all_used();
    return {bad.labeling, bad.row, bad.value};
}

// (mean, counts, classes, dim)
using MeansTuple = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t>;

double mean_pairs(const MeansTuple& means, std::optional<uintptr_t> m2, int threads,
                  const CutsDict& given) {
    const auto& [mean, counts, classes, dim] = means;
    const ssk::MeanTable table{as_pointer<double>(mean), as_pointer<double>(m2.value_or(0)),
                               as_pointer<int64_t>(counts), classes, dim};
    const auto pass = ssk::mean_pairs();
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    const double sum =
        pass(table, m2 ? ssk::PairSum::cdnv : ssk::PairSum::cosine_gap, threads, cuts);
    cuts.all_used();
    return sum;
}

void class_projections(const ViewTuple& z, uintptr_t classes, const ViewTuple& centers,
                       uintptr_t counts, uintptr_t between, bool directional, int threads,
                       uintptr_t rank, uintptr_t alone, uintptr_t spread, const CutsDict& given) {
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    ssk::class_projections(as_view(z), as_pointer<int64_t>(classes), as_view(centers),
                           as_pointer<int64_t>(counts), as_pointer<double>(between), directional,
                           threads, cuts, as_pointer<int64_t>(rank), as_pointer<uint8_t>(alone),
                           as_pointer<double>(spread));
    cuts.all_used();
}

void nt_xent_forward(const ViewTuple& x, const ViewTuple& y, int64_t first, int64_t samples,
                     double temperature, int threads, uintptr_t terms, uintptr_t lse,
                     uintptr_t row_loss, const CutsDict& given) {
    const auto pass = ssk::nt_xent_forward()(as_view(x).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(as_view(x), as_view(y), first, samples, temperature, threads, cuts,
         as_pointer<double>(terms), as_pointer<double>(lse), as_pointer<double>(row_loss));
    cuts.all_used();
}

void nt_xent_backward(const std::array<double, 3>& grad, const ViewTuple& x, const ViewTuple& y,
                      int64_t first, int64_t samples, double temperature, int threads,
                      uintptr_t lse, uintptr_t row_loss, bool unrounded, uintptr_t grad_x,
                      uintptr_t grad_y, uintptr_t radial, const CutsDict& given) {
    const auto pass = ssk::nt_xent_backward()(as_view(x).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(grad.data(), as_view(x), as_view(y), first, samples, temperature, threads, cuts,
         as_pointer<double>(lse), as_pointer<double>(row_loss), unrounded, as_pointer<void>(grad_x),
         as_pointer<void>(grad_y), as_pointer<double>(radial));
    cuts.all_used();
}

void unit_moments(const ViewTuple& z, int threads, uintptr_t mean, uintptr_t m2,
                  const CutsDict& given) {
    const auto pass = ssk::unit_moments()(as_view(z).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(as_view(z), threads, cuts, as_pointer<double>(mean), as_pointer<double>(m2));
    cuts.all_used();
}

void scatter_update(const ViewTuple& z, uintptr_t classes, uintptr_t centers, uintptr_t upper,
                    int threads, const CutsDict& given) {
    const auto pass = ssk::scatter_update()(as_view(z).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(as_view(z), as_pointer<int64_t>(classes), as_pointer<double>(centers),
         as_pointer<double>(upper), threads, cuts);
    cuts.all_used();
}

// (slices, knots, first knot, step, seed, draw)
using SigregTuple = std::tuple<int64_t, int64_t, double, double, uint64_t, uint64_t>;

ssk::SigregSettings as_sigreg(const SigregTuple& t) {
    return std::apply([](auto... fields) { return ssk::SigregSettings{fields...}; }, t);
}

void sigreg_forward(const ViewTuple& z, const SigregTuple& settings, int threads, uintptr_t sums,
                    const CutsDict& given) {
    const auto pass = ssk::sigreg_forward()(as_view(z).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(as_view(z), as_sigreg(settings), threads, cuts, as_pointer<double>(sums));
    cuts.all_used();
}

void sigreg_backward(uintptr_t grad, const ViewTuple& z, const SigregTuple& settings, int threads,
                     uintptr_t grad_z, const CutsDict& given) {
    const auto pass = ssk::sigreg_backward()(as_view(z).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    pass(as_pointer<double>(grad), as_view(z), as_sigreg(settings), threads, cuts,
         as_pointer<void>(grad_z));
    cuts.all_used();
}

// mean_x, mean_y, factor_x, factor_y, correlation: the rows of a contiguous [5, D].
ssk::BarlowColumns as_columns(uintptr_t data, int64_t d) {
    double* const rows = as_pointer<double>(data);
    return {{rows, rows + d}, {rows + 2 * d, rows + 3 * d}, rows + 4 * d};
}

void barlow_twins_forward(const ViewTuple& x, const ViewTuple& y, double lambda, double eps,
                          bool wide, int threads, uintptr_t terms, uintptr_t columns,
                          uintptr_t gram, const CutsDict& given) {
    const auto pass = ssk::barlow_forward()(as_view(x).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    const ssk::MatrixView first = as_view(x);
    pass(first, as_view(y), lambda, eps, wide, threads, cuts, as_pointer<double>(terms),
         as_columns(columns, first.cols), as_pointer<void>(gram));
    cuts.all_used();
}

void barlow_twins_backward(const std::array<double, 3>& grad, const ViewTuple& x,
                           const ViewTuple& y, double lambda, bool wide, int64_t rows,
                           bool unrounded, int threads, uintptr_t columns, uintptr_t gram,
                           uintptr_t squares, uintptr_t grad_x, uintptr_t grad_y,
                           const CutsDict& given) {
    const auto pass = ssk::barlow_backward()(as_view(x).dtype);
    const ssk::Cuts cuts = as_cuts(given);
    const ReleasedGil released;
    const ssk::MatrixView first = as_view(x);
    void* const grads[2] = {as_pointer<void>(grad_x), as_pointer<void>(grad_y)};
    const ssk::BarlowPart part{rows, unrounded, as_pointer<double>(squares)};
    pass(grad.data(), first, as_view(y), lambda, wide, part, threads, cuts,
         as_columns(columns, first.cols), as_pointer<void>(gram), grads);
    cuts.all_used();
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of sslkernels";
    m.def("available_isas", &ssk::available_isas);
    m.def("detected_isa", &ssk::detected_isa);
    m.def("active_isa", &ssk::active_isa);
    m.def("set_isa_limit", &ssk::set_isa_limit);
    m.def("barlow_twins_forward", &barlow_twins_forward);
    m.def("barlow_twins_backward", &barlow_twins_backward);
    m.def("class_moments_update", &class_moments_update);
    m.def("class_projections", &class_projections);
    m.def("mean_pairs", &mean_pairs);
    m.def("nearest_center", &nearest_center);
    m.def("nt_xent_forward", &nt_xent_forward);
    m.def("nt_xent_backward", &nt_xent_backward);
    m.def("scatter_update", &scatter_update);
    m.def("sigreg_forward", &sigreg_forward);
    m.def("sigreg_backward", &sigreg_backward);
    m.def("vicreg_forward", &vicreg_forward);
    m.def("unit_moments", &unit_moments);
    m.def("vicreg_backward", &vicreg_backward);
}
