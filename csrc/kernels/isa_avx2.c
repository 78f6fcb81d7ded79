/* The kernels for AVX2, FMA and F16C. */
#include "isa.h"

#if defined(__x86_64__)

#define ISA avx2
#include "vec_avx2.h"
#include "all_dtypes.h"

static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static const ls_isa_kernels kernels = {"avx2", has_avx2, kernels_of};
const ls_isa_kernels *const ls_kernels_avx2 = &kernels;

#else
const ls_isa_kernels *const ls_kernels_avx2 = 0;
#endif
