/* What the row formula works on. Private to the kernels. */
#ifndef LS_ROW_LANES_H
#define LS_ROW_LANES_H

#include "plan.h"

/* Some rows side by side. The first six are those of ls_row_sums. */
typedef struct {
    double sum[LS_SLOTS], dot[LS_SLOTS], s_sum[LS_SLOTS], shift[LS_SLOTS], exponent[LS_SLOTS], ref[LS_SLOTS];
    double x_y[LS_SLOTS], s_y[LS_SLOTS]; /* the target's logit (-inf if there is no target) and s */
    double has_target[LS_SLOTS];         /* 1 or 0 */
    double alpha[LS_SLOTS], beta[LS_SLOTS];
    /* Results. */
    double loss[LS_SLOTS];
    double exp_scale[LS_SLOTS]; /* A exp(origin - z): what a stored exp is multiplied by */
    double grad_y[LS_SLOTS];    /* the target's entry of the gradient */
} row_lanes;

#endif
