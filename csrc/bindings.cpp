// The only file that knows pybind11. Every binding checks nothing (Python has done that), releases
// the GIL, and calls one pass.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu_features.h"
#include "views.h"

namespace py = pybind11;

namespace {

// (data_ptr, dtype, rows, cols, row_stride, col_stride), as sslkernels/backends/cpu/_views.py makes it.
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

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of sslkernels";
    m.def("detected_isa", [] { return ssk::isa_name(ssk::detected_isa()); });
    m.def("active_isa", [] { return ssk::isa_name(ssk::active_isa()); });
    m.def("set_isa_limit", &ssk::set_isa_limit);
}
