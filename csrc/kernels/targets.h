/* The pass over the targets: everything that a convention means happens there. Private to the kernels. */
#ifndef LS_TARGETS_H
#define LS_TARGETS_H

#include "plan.h"

size_t ls_plan_scratch_bytes(const ls_problem *problem);

/* Checks targets and prior, and makes the plan in `scratch`. Sets *mean_is_nan if `mean` has nothing to divide by. */
ls_status ls_make_plan(const ls_problem *problem, void *scratch, ls_plan *plan, int *mean_is_nan, ls_error *error);

#endif
