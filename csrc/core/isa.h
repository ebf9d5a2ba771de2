// Which copies of the kernels this machine runs.
//
// An instruction set is a name and the features that it needs of the processor. CMake compiles a
// kernel once per set of a group, in `namespace ssk::SET`; a header exports it with one line:
//
//     using Forward = void(const MatrixView& z, double* out);
//     SSK_EXPORT(Forward, forward, VECTORS)
//
// declares ssk::SET::forward for every set of the group, and ssk::forward(), which returns the best
// copy within the limit in force. The sets are listed in csrc/core/cpu/PROCESSOR.cmake, the
// features looked for in PROCESSOR.cpp beside it; nothing else knows their names.
#pragma once

#include <string>
#include <vector>

#include "core/sets.h"  // written by CMake
#include "core/views.h"

namespace ssk {

#define SSK_NAMED(set, ...) set,
enum class Isa : int { SSK_SETS_ALL(SSK_NAMED) };
#undef SSK_NAMED

// Whether the limit allows copies compiled for a set. The limit is the machine's features, lowered
// to those of one set by the environment variable SSLKERNELS_CPU_ISA or by set_isa_limit. Throws
// std::invalid_argument for a set that is unknown or that the machine does not have.
bool allowed(Isa isa);
void set_isa_limit(const std::string& name);

// All sets of the machine, the best of them, and the best within the limit.
std::vector<std::string> available_isas();
std::string detected_isa();
std::string active_isa();

#define SSK_DECLARE(set, type, name) \
    namespace set {                  \
    type name;                       \
    }
#define SSK_TAKE(set, type, name) \
    if (allowed(Isa::set)) best = set::name;

// Null where no set of the group is allowed. The preferred sets come last.
// clang-format off
#define SSK_EXPORT(type, name, group)         \
    SSK_SETS_##group(SSK_DECLARE, type, name) \
    inline auto name() {                      \
        type* best = nullptr;                 \
        SSK_SETS_##group(SSK_TAKE, type, name) \
        return best;                          \
    }
// clang-format on

// A kernel with a version for each type of element: SSK_BY_DTYPE (core/dtypes.h) defines it.
template <class Kernel>
using ByDType = Kernel*(DType dtype);

// What a set offers together.
template <class Kernels>
using Table = Kernels();

}  // namespace ssk
