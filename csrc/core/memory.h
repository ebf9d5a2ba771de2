// All memory that kernels take for themselves. It is uninitialised; with SSLKERNELS_POISON=1 in the
// environment it is filled with ones instead, which are NaN in every floating-point type, so that
// whatever is read before it is written shows in the result.
//
// Nothing here is compiled into a kernel's translation unit but what is always inlined: those are
// built for several instruction sets, and the linker would be free to merge copies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssk {

// Memory about to be written in full: faulting it in by 4 KiB can cost more than filling it.
void prefer_huge_pages(void* data, size_t bytes);

// Bytes on a cache line, or on huge pages where they fill one. Throws std::bad_alloc.
class Scratch {
  public:
    explicit Scratch(size_t bytes);
    ~Scratch();
    Scratch(Scratch&& other) noexcept;
    Scratch& operator=(Scratch&& other) noexcept;

    template <class T>
    [[gnu::always_inline]] T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    void* data_;
};

// An array of `count` plain values.
template <class T>
class Array {
  public:
    [[gnu::always_inline]] explicit Array(int64_t count = 0)
        : memory_(static_cast<size_t>(count) * sizeof(T)) {}
    [[gnu::always_inline]] T* get() const { return memory_.as<T>(); }
    [[gnu::always_inline]] T& operator[](int64_t i) const { return get()[i]; }

  private:
    Scratch memory_;
};

}  // namespace ssk
