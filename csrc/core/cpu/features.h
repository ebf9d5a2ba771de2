// Each processor family answers in a file of its own.
#pragma once

#include <set>
#include <string>

namespace ssk {

// What the processor has and the operating system allows.
std::set<std::string> cpu_features();

}  // namespace ssk
