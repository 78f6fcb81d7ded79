/* The kernels for avx512: none in this build. */
#include "isa.h"

const ls_isa_kernels *const ls_kernels_avx512 = 0;
