#include "core/isa.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <stdexcept>

#include "core/cpu/features.h"
#include "core/features.h"  // written by CMake

namespace ssk {
namespace {

struct Set {
    const char *name, *features;

    bool within(const std::set<std::string>& offered) const {
        std::istringstream words(features);
        return std::all_of(std::istream_iterator<std::string>(words), {},
                           [&](const std::string& feature) { return offered.count(feature) > 0; });
    }
};

#define SSK_ROW(set, ...) {#set, SSK_FEATURES_##set},
constexpr Set kSets[] = {SSK_SETS_ALL(SSK_ROW)};
#undef SSK_ROW
constexpr int kSetCount = static_cast<int>(std::size(kSets));

std::string best_within(const std::set<std::string>& offered) {
    const char* best = nullptr;
    for (const Set& set : kSets)
        if (set.within(offered)) best = set.name;
    return best;
}

const std::set<std::string>& machine() {
    static const std::set<std::string> features = cpu_features();
    return features;
}

struct Limit {
    std::set<std::string> features = machine();
    bool allowed[kSetCount];

    Limit() {
        const char* wanted = std::getenv("SSLKERNELS_CPU_ISA");
        wanted && *wanted ? lower(wanted) : update();
    }

    void lower(const std::string& name) {
        std::string names;
        for (const Set& set : kSets) {
            names += (names.empty() ? "" : ", ") + std::string(set.name);
            if (name != set.name) continue;
            if (!set.within(machine()))
                throw std::invalid_argument("instruction set " + name +
                                            " is not available here; best is " + detected_isa());
            std::istringstream words(set.features);
            features = {std::istream_iterator<std::string>(words), {}};
            return update();
        }
        throw std::invalid_argument("unknown instruction set '" + name + "'; one of " + names);
    }

  private:
    void update() {
        for (int i = 0; i < kSetCount; ++i) allowed[i] = kSets[i].within(features);
    }
};

Limit& limit() {
    static Limit value;
    return value;
}

}  // namespace

bool allowed(Isa isa) { return limit().allowed[static_cast<int>(isa)]; }

void set_isa_limit(const std::string& name) { limit().lower(name); }

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Set& set : kSets)
        if (set.within(machine())) names.emplace_back(set.name);
    return names;
}

std::string detected_isa() { return best_within(machine()); }

std::string active_isa() { return best_within(limit().features); }

}  // namespace ssk
