/* All kernels of one instruction set for one dtype. Parameters, defined by all_dtypes.h before each inclusion and
 * undefined here:
 *
 *   ISA      avx2, say: the end of every name, so that a profile tells them apart; defined by isa_*.c, for all dtypes
 *   STORED   f32, f64, bf16 or f16: the type of logits and gradient
 *   REAL     f32 or f64: the type that arithmetic runs in
 *   PACK_TILES      if the vocabulary has load_tile for REAL
 *   PACK_CONVERTS   if STORED is not REAL; the kernels of REAL come first then
 */
#define V(name) LS_JOIN(name, REAL)
#define S(name) LS_JOIN(name, STORED)
#define X(name) LS_JOIN(name, LS_JOIN(from, LS_JOIN(STORED, ISA)))

#include "block_template.h"
#include "rows_template.h"
#include "tile_template.h"
#include "planes_template.h"
#include "short_rows_template.h"

static LS_TARGET void X(scale)(void *x, int64_t n, const void *factors, int step) {
    S(elem) *to = (S(elem) *)x;
    const V(real) *factor = (const V(real) *)factors;
    const V(vec) same = V(splat)(*factor);
    for (int64_t i = 0; i < n; i += V(lanes)) {
        const int64_t left = n - i;
        const int whole = left >= V(lanes);
        V(vec) f = !step ? same : whole ? V(load)(factor + i) : V(load_n)(factor + i, left);
        V(vec) v = V(mul)(X(load_some)(to + i, left), f);
        if (whole)
            S(store)(to + i, v);
        else
            S(store_n)(to + i, v, left);
    }
}

static const ls_dtype_kernels X(kernels) = {X(rows), X(short_rows), X(planes), X(chunk), X(join), X(chunk_grad), X(scale)};

#undef V
#undef S
#undef X
#undef STORED
#undef REAL
#undef PACK_TILES
#undef PACK_CONVERTS
