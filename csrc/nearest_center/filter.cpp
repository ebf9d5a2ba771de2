// The filter in float32.
#define SSK_TILES "nearest_center/tiles_f32.h"
#include "nearest_center/scan.h"

namespace ssk {
namespace SSK_ISA {

FilterKernel nearest_center_filter() { return kFilter; }

}  // namespace SSK_ISA
}  // namespace ssk
