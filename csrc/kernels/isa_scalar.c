/* The kernels for any CPU, in portable C. */
#include "isa.h"

#define ISA scalar
#include "vec_scalar.h"
#include "all_dtypes.h"

static int always(void) { return 1; }

static const ls_isa_kernels kernels = {"scalar", always, kernels_of};
const ls_isa_kernels *const ls_kernels_scalar = &kernels;
