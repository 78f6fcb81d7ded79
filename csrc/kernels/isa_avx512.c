/* The kernels for AVX-512 (F, BW, DQ, VL). */
#include "isa.h"

#if defined(__x86_64__)

#define ISA avx512
#include "vec_avx512.h"
#include "all_dtypes.h"

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static const ls_isa_kernels kernels = {"avx512", has_avx512, kernels_of};
const ls_isa_kernels *const ls_kernels_avx512 = &kernels;

#else
const ls_isa_kernels *const ls_kernels_avx512 = 0;
#endif
