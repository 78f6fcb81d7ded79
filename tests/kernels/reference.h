/* What the kernels must compute: the formulas of the public header in long double, with the unit in which an error counts.
 *
 * Used by the checker and the fuzzer. Knows samples, and no kernel.
 *
 * Error model. u is 2^-24 (2^-53 for LS_F64): half a unit in the last place of the arithmetic, whatever is stored. Per row,
 * with T = |alpha| (z - x_y) + |beta| sum |s_k| |z - x_k|, the sum of the magnitudes of all terms:
 *
 *     loss without smoothing     unit = ulp(loss)                                  exp 2 ULP, log1p in double: no term cancels
 *     loss with smoothing        unit = ulp(loss) + 2u (T - |loss|)                T > |loss| only where terms cancel
 *                                plus 2u |beta| sum |s_k|, an error of 2u in z,    unless the target's term, left out of the
 *                                                                                  sum of exps, is the largest
 *                                plus u |beta| sum |s_k| (max x - ref)             where ref lags behind
 *     probability targets        unit = u |beta| sum |s_k| (1 + |z - x_k|)
 *     gradient of class k        unit = u max(|A| p_k, |alpha| [k = y] + |beta s_k|) + what underflow in exp may lose
 *
 * A target whose coefficient is 0 while its logit is -inf makes the loss NaN, as natively. A reduced loss has the sum of its
 * rows' units. */
#ifndef TEST_REFERENCE_H
#define TEST_REFERENCE_H

#include "cases.h"

typedef struct {
    real value; /* may be NaN or infinite, and then must be met as such */
    real unit;
} answer;

typedef struct {
    ls_status status;
    ls_error error;
    int64_t losses; /* 1, or the number of rows for LS_NONE */
    answer *loss;
    answer *gradient; /* [outer, classes, inner] */
    real *row_scale;  /* [outer * inner]: no gradient of the row is larger */
} answers;

answers make_answers(const sample *asked);
void free_answers(answers *made);

/* u of the arithmetic that serves a dtype, and that arithmetic. */
real roundoff(ls_dtype dtype);
ls_dtype arithmetic(ls_dtype dtype);

#endif
