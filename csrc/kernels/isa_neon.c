/* The kernels for NEON, which every aarch64 CPU has. */
#include "isa.h"

#if defined(__aarch64__)

#define ISA neon
#include "vec_neon.h"
#include "all_dtypes.h"

static int always(void) { return 1; }

static const ls_isa_kernels kernels = {"neon", always, kernels_of};
const ls_isa_kernels *const ls_kernels_neon = &kernels;

#else
const ls_isa_kernels *const ls_kernels_neon = 0;
#endif
