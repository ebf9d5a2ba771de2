#include "core/cuts.h"

#include <algorithm>
#include <stdexcept>

namespace ssk {

int64_t Cuts::operator()(const char* name, int64_t chosen, int64_t least, int64_t most,
                         int64_t multiple) const {
    if (given_.empty()) return chosen;
    const auto at = given_.find(name);
    if (at == given_.end()) return chosen;
    used_.insert(name);
    const int64_t value = at->second;
    if (value < least || value > most || value % multiple != 0)
        throw std::invalid_argument(std::string("cuts: ") + name + ": expected a multiple of " +
                                    std::to_string(multiple) + " in [" + std::to_string(least) +
                                    ", " + std::to_string(most) + "], got " +
                                    std::to_string(value));
    return value;
}

int Cuts::threads(double wanted, int most) const {
    constexpr int64_t kMostThreads = 256;  // that a caller may set
    const auto chosen = static_cast<int64_t>(std::clamp<double>(wanted, 1, most));
    return static_cast<int>((*this)("threads", chosen, 1, kMostThreads));
}

void Cuts::all_used() const {
    for (const auto& item : given_)
        if (!used_.count(item.first))
            throw std::invalid_argument("cuts: " + item.first + ": nothing of that name is cut");
}

}  // namespace ssk
