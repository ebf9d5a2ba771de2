// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): the same numbers on every machine, each
// computed from its position alone.
#pragma once

#include <cstdint>

namespace ssk {
namespace SSK_ISA {
namespace {

constexpr int kPhiloxLanes = 16;

// words[i][lane] holds counter word i on entry and output word i on return.
inline void philox(uint32_t (&words)[4][kPhiloxLanes], uint64_t key) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        for (int l = 0; l < kPhiloxLanes; ++l) {
            const uint64_t p0 = uint64_t{0xD2511F53u} * words[0][l];
            const uint64_t p1 = uint64_t{0xCD9E8D57u} * words[2][l];
            words[0][l] = static_cast<uint32_t>(p1 >> 32) ^ words[1][l] ^ k0;
            words[1][l] = static_cast<uint32_t>(p1);
            words[2][l] = static_cast<uint32_t>(p0 >> 32) ^ words[3][l] ^ k1;
            words[3][l] = static_cast<uint32_t>(p0);
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

}  // namespace
}  // namespace SSK_ISA
}  // namespace ssk
