// The filter by products of bf16, where an instruction set has them: bf16/SET.h says how.
#define SSK_STRING(x) #x
// clang-format off
#define SSK_FILE(set) SSK_STRING(nearest_center/bf16/set.h)
// clang-format on
#define SSK_TILES SSK_FILE(SSK_ISA)
#include "nearest_center/scan.h"

namespace ssk {
namespace SSK_ISA {

FilterKernel nearest_center_filter_bf16() { return kFilter; }

}  // namespace SSK_ISA
}  // namespace ssk
