#include "core/cpu/features.h"

namespace ssk {

std::set<std::string> cpu_features() { return {}; }

}  // namespace ssk
