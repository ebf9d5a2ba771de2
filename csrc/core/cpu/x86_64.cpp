#include <cpuid.h>

#include "core/cpu/features.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ssk {
namespace {

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
    unsigned r[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
    return (r[reg] >> bit) & 1u;
}

// Linux hands out the 8 KiB of tile state only to processes that ask (since 5.16).
bool tiles_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kReqXcompPerm = 0x1023;
    constexpr int kTileData = 18;
    return syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace

// cpuid where compilers that are still in use do not know a feature's name.
std::set<std::string> cpu_features() {
    __builtin_cpu_init();
    std::set<std::string> out;
    const auto add = [&](const char* name, bool has) {
        if (has) out.insert(name);
    };
    add("avx2", __builtin_cpu_supports("avx2"));
    add("fma", __builtin_cpu_supports("fma"));
    add("f16c", cpuid_bit(1, 0, 2, 29));
    add("avx512f", __builtin_cpu_supports("avx512f"));
    add("avx512bw", __builtin_cpu_supports("avx512bw"));
    add("avx512dq", __builtin_cpu_supports("avx512dq"));
    add("avx512vl", __builtin_cpu_supports("avx512vl"));
    add("avx512bf16", cpuid_bit(7, 1, 0, 5));
#if defined(SSK_EMULATE_AMX)
    add("amx-emulated", true);
#endif
    if (!cpuid_bit(7, 0, 3, 24) || !tiles_permitted()) return out;
    add("amx-tile", true);
    add("amx-bf16", cpuid_bit(7, 0, 3, 22));
    return out;
}

}  // namespace ssk
