#include "core/cpu_features.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ssk {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};

#if defined(__x86_64__)

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
    unsigned r[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
    return (r[reg] >> bit) & 1u;
}

// Linux hands out the 8 KiB of tile state only to processes that ask (since 5.16).
bool amx_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kReqXcompPerm = 0x1023;
    constexpr int kTileData = 18;
    return syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
#else
    return false;
#endif
}

Isa detect() {
    __builtin_cpu_init();
    const bool f16c = cpuid_bit(1, 0, 2, 29);
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c))
        return Isa::portable;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
        return Isa::avx2;
    if (!(cpuid_bit(7, 1, 0, 5) && __builtin_cpu_supports("avx512vnni"))) return Isa::avx512;
    const bool amx = cpuid_bit(7, 0, 3, 22) && cpuid_bit(7, 0, 3, 24);  // AMX-BF16, AMX-TILE
    return amx && amx_permitted() ? Isa::amx : Isa::avx512bf16;
}

#else

Isa detect() { return Isa::portable; }

#endif

Isa parse(const std::string& name, Isa limit) {
    for (int i = 0; i <= static_cast<int>(Isa::amx); ++i) {
        if (name != kNames[i]) continue;
        if (i > static_cast<int>(limit))
            throw std::invalid_argument("instruction set " + name +
                                        " is not available here; best is " +
                                        kNames[static_cast<int>(limit)]);
        return static_cast<Isa>(i);
    }
    throw std::invalid_argument("unknown instruction set '" + name +
                                "'; one of portable, avx2, avx512, avx512bf16, amx");
}

Isa initial() {
    const char* wanted = std::getenv("SSLKERNELS_CPU_ISA");
    return wanted && *wanted ? parse(wanted, detected_isa()) : detected_isa();
}

Isa& limit() {
    static Isa value = initial();
    return value;
}

}  // namespace

Isa detected_isa() {
    static const Isa value = detect();
    return value;
}

Isa active_isa() { return limit(); }

void set_isa_limit(const std::string& name) { limit() = parse(name, detected_isa()); }

std::string isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

}  // namespace ssk
