// Which instruction set the kernels use on this machine.
#pragma once

#include <string>

namespace ssk {

// In order of preference; a kernel compiled for fewer sets uses the best it has below the limit.
enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3, amx = 4 };

// What the processor and the operating system offer. For AMX this asks the kernel once for
// permission to use the tile registers.
Isa detected_isa();

// The limit in force: detected_isa(), lowered by the environment variable SSLKERNELS_CPU_ISA
// (portable, avx2, avx512, avx512bf16, amx) or by set_isa_limit. Throws std::invalid_argument for
// an unknown name or for one the machine does not have.
Isa active_isa();
void set_isa_limit(const std::string& name);

std::string isa_name(Isa isa);

}  // namespace ssk
