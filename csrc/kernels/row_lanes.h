/* Rows collected for the row formula. Private to the kernels. */
#ifndef LS_ROW_LANES_H
#define LS_ROW_LANES_H

#include "plan.h"

/* Some rows side by side: what the formula takes, then what it gives. */
typedef struct {
    double sum[LS_SLOTS], dot[LS_SLOTS], s_sum[LS_SLOTS], shift[LS_SLOTS], exponent[LS_SLOTS], ref[LS_SLOTS];
    double x_y[LS_SLOTS], s_y[LS_SLOTS], alpha[LS_SLOTS], beta[LS_SLOTS];
    double has_target[LS_SLOTS]; /* 1 or 0 */
    double loss[LS_SLOTS], exp_scale[LS_SLOTS], grad_y[LS_SLOTS];
} row_lanes;

#endif
