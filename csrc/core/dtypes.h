// The one switch over types of elements. Included once per instruction set, like convert.h.
#pragma once

#include "core/convert.h"
#include "core/views.h"

namespace ssk {
namespace SSK_ISA {
namespace {

// f(S{}) for the type S of the elements.
template <class F>
inline auto by_dtype(DType dtype, const F& f) {
    switch (dtype) {
        case DType::f64:
            return f(double{});
        case DType::f16:
            return f(f16{});
        case DType::bf16:
            return f(bf16{});
        default:
            return f(float{});
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk

// Defines a kernel exported as ByDType<Kernel>: function<S> for elements of type S.
#define SSK_BY_DTYPE(Kernel, name, function)                                             \
    Kernel* name(DType dtype) {                                                          \
        return by_dtype(dtype, [](auto s) -> Kernel* { return function<decltype(s)>; }); \
    }
