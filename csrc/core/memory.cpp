#include "core/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ssk {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kCacheLine = 64;

bool poisoned() {
    static const bool value = [] {
        const char* set = std::getenv("SSLKERNELS_POISON");
        return set && *set && std::strcmp(set, "0") != 0;
    }();
    return value;
}

}  // namespace

void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
    if (data && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)data;
    (void)bytes;
#endif
}

Scratch::Scratch(size_t bytes) : data_(nullptr) {
    if (bytes == 0) return;
    const size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    data_ = std::aligned_alloc(alignment, bytes);
    if (!data_) throw std::bad_alloc();
    if (alignment == kHugePage) prefer_huge_pages(data_, bytes);
    if (poisoned()) std::memset(data_, 0xff, bytes);
}

Scratch::~Scratch() { std::free(data_); }

Scratch::Scratch(Scratch&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}

Scratch& Scratch::operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
}

}  // namespace ssk
