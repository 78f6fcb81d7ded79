/* The kernels for AVX-512 (F, BW, DQ, VL). */
#include "isa.h"
#include "macros.h"

#if defined(__x86_64__)

#include "vec_avx512.h"

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

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static const ls_isa_kernels kernels = {
    "avx512",
    has_avx512,
    {[LS_F32] = kernels_from_f32, [LS_F64] = kernels_from_f64, [LS_BF16] = kernels_from_bf16, [LS_F16] = kernels_from_f16}};
const ls_isa_kernels *const ls_kernels_avx512 = &kernels;

#else
const ls_isa_kernels *const ls_kernels_avx512 = 0;
#endif
