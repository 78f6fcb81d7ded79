/* The kernels of one instruction set for every dtype. The last include of each isa_*.c, after ISA and the header of its vocabulary;
 * gives it `kernels_of`, by ls_dtype. A symbol of a profile, such as sweep_tile_from_bf16_avx2, is X(sweep_tile) in one of the
 * *_template.h, with STORED bf16 and ISA avx2. */
#ifndef LS_ALL_DTYPES_H
#define LS_ALL_DTYPES_H

#include "macros.h"

#include "exp_log.h"
#include "frame.h"
#include "prefetch.h"
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

/* The places in which positions and losses wait their turn are whole vectors of any instruction set. */
_Static_assert(LS_SLOTS % lanes_f64 == 0, "slots of losses are filled vector by vector");
_Static_assert(16 % lanes_f32 == 0 && LS_PACK % lanes_f32 == 0, "ls_padded() and LS_PACK hold whole vectors");

static const ls_dtype_kernels kernels_of[] = {[LS_F32] = LS_JOIN(kernels_from_f32, ISA),
                                              [LS_F64] = LS_JOIN(kernels_from_f64, ISA),
                                              [LS_BF16] = LS_JOIN(kernels_from_bf16, ISA),
                                              [LS_F16] = LS_JOIN(kernels_from_f16, ISA)};

#endif
