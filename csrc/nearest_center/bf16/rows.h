// Rows stored as bf16, for the filters that multiply bf16.
#pragma once

#include "core/convert.h"

namespace ssk {
namespace SSK_ISA {
namespace {

using Element = uint16_t;

// To nearest, ties to even. A NaN may come out as anything: such rows never reach a product that
// counts, their norm is NaN.
inline u32v rounded_bits(f32v t) {
    const u32v bits = (u32v)t;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}

inline f32v stored_value(f32v t) { return (f32v)(rounded_bits(t) & 0xffff0000u); }

inline void store_row(uint16_t* x, f32v t) {
    using u16v = uint16_t __attribute__((vector_size(kVectorBytes / 2)));
    const u16v high = __builtin_convertvector(rounded_bits(t) >> 16, u16v);
    std::memcpy(x, &high, sizeof high);
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
