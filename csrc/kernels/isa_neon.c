/* The kernels for neon: none in this build. */
#include "isa.h"

const ls_isa_kernels *const ls_kernels_neon = 0;
