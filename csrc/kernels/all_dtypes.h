/* The kernels of one instruction set for every dtype. The last include of each isa_*.c, after the header of its vocabulary; gives
 * it `kernels_of`, by ls_dtype. A symbol of a profile, such as sweep_tile_from_bf16, is X(sweep_tile) in one of the *_template.h,
 * with STORED bf16; the file that it was compiled from tells the instruction set. */
#ifndef LS_ALL_DTYPES_H
#define LS_ALL_DTYPES_H

#include "macros.h"

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

static const ls_dtype_kernels kernels_of[] = {
    [LS_F32] = kernels_from_f32, [LS_F64] = kernels_from_f64, [LS_BF16] = kernels_from_bf16, [LS_F16] = kernels_from_f16};

#endif
