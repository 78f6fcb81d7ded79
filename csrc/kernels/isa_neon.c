/* The kernels for NEON, which every aarch64 CPU has. */
#include "isa.h"
#include "macros.h"

#if defined(__aarch64__)

#include "vec_neon.h"

#include "exp_log.h"
#include "frame.h"
#include "row_lanes.h"
#include "row_formula.h"

#define STORED f32
#define REAL f32
#define PACK_TILES
#include "kernels_template.h"

#define STORED f64
#define REAL f64
#include "kernels_template.h"

#define STORED bf16
#define REAL f32
#define PACK_TILES
#define PACK_CONVERTS
#include "kernels_template.h"

#define STORED f16
#define REAL f32
#define PACK_TILES
#define PACK_CONVERTS
#include "kernels_template.h"

static int always(void) { return 1; }

static const ls_isa_kernels kernels = {
    "neon",
    always,
    {[LS_F32] = kernels_from_f32, [LS_F64] = kernels_from_f64, [LS_BF16] = kernels_from_bf16, [LS_F16] = kernels_from_f16}};
const ls_isa_kernels *const ls_kernels_neon = &kernels;

#else
const ls_isa_kernels *const ls_kernels_neon = 0;
#endif
