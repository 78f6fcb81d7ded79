/* The kernels of each instruction set; a build for another architecture has NULL in their place. Private to the kernels. */
#ifndef LS_ISA_H
#define LS_ISA_H

#include "plan.h"

extern const ls_isa_kernels *const ls_kernels_scalar, *const ls_kernels_avx2, *const ls_kernels_avx512, *const ls_kernels_neon;

/* The selected instruction set. */
const ls_isa_kernels *ls_active_kernels(void);

#endif
