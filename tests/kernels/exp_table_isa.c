/* The kernels' exp of one instruction set, for exp_table.c. Compiled once for each with, for example,
 *
 *     -DVOCABULARY='"vec_avx2.h"' -DEXP_MANY=exp_many_avx2
 *
 * The one file of the tests that includes what is private to the kernels. */
#ifdef VOCABULARY

#include <math.h>

#include VOCABULARY

#include "exp_log.h"

void EXP_MANY(const float *x, float *y, int64_t count, float exponent);

/* y = e^x 2^-exponent. The count is a multiple of any vector's lanes. */
LS_TARGET void EXP_MANY(const float *x, float *y, int64_t count, float exponent) {
    const vec_f32 magic = splat_f32(MAGIC_f32 - exponent);
    const vec_f32 low = splat_f32((exponent + (float)MIN_EXPONENT_f32) * (float)LN2);
    for (int64_t i = 0; i < count; i += lanes_f32) store_f32(y + i, exp_f32(load_f32(x + i), magic, low));
}

#else
typedef int exp_table_needs_a_vocabulary;
#endif
