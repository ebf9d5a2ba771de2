// How a pass cuts its work, as a value: sizes of slabs, chunks and blocks, numbers of parts. A pass
// chooses each from the shape; a caller may set it by name instead. Tests do, to reach every branch
// of a plan at small sizes.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace ssk {

class Cuts {
  public:
    Cuts() = default;
    explicit Cuts(std::map<std::string, int64_t> given) : given_(std::move(given)) {}

    // The number set for `name`, else `chosen`. Throws std::invalid_argument for one that is not a
    // multiple of `multiple` in [least, most]; `chosen` itself need not be.
    int64_t operator()(const char* name, int64_t chosen, int64_t least, int64_t most,
                       int64_t multiple = 1) const;

    // Threads to put to work: `wanted`, at least one and at most `most`; or those set as `threads`,
    // however little work there is.
    int threads(double wanted, int most) const;

    // Throws std::invalid_argument for a name that no pass has asked for.
    void all_used() const;

  private:
    std::map<std::string, int64_t> given_;
    mutable std::set<std::string> used_;
};

}  // namespace ssk
