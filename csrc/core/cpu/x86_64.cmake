# The instruction sets of x86-64, by the features that each adds.
macro(ssk_add name group)  # FEATURES..., named as the compiler's flags for them are
  list(APPEND features ${ARGN})
  list(TRANSFORM features PREPEND -m OUTPUT_VARIABLE flags)
  if("avx512f" IN_LIST features)
    list(APPEND flags -mprefer-vector-width=512)
  endif()
  ssk_set(${name} ${group} "${features}" "${flags}")
endmacro()

ssk_add(avx2 VECTORS avx2 fma f16c)
ssk_add(avx512 VECTORS avx512f avx512bw avx512dq avx512vl)
ssk_add(avx512bf16 BF16 avx512bf16)
ssk_add(amx BF16 amx-tile amx-bf16)
