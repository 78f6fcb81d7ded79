/* Targets are read here, and the pass over them, where everything happens that a convention means. Private to the kernels. */
#ifndef LS_TARGETS_H
#define LS_TARGETS_H

#include "plan.h"

/* n index targets from `first` on that lie `step` apart, as int64. uint64 from 2^63 on becomes negative. */
void ls_read_targets(int64_t *to, const void *target, ls_target_kind kind, int64_t first, int64_t step, int64_t n);

size_t ls_plan_scratch_bytes(const ls_problem *problem);

/* Checks targets and prior, and makes the plan in `scratch`. Sets *mean_is_nan if `mean` has nothing to divide by. */
ls_status ls_make_plan(const ls_problem *problem, void *scratch, ls_plan *plan, int *mean_is_nan, ls_error *error);

/* Gradients of probability targets are as large as their rows' sums of s, negative probabilities aside, and these the run alone
 * knows. Takes the largest: where fp16 has no room for it the plan gets another grad_scale, and 1 says that the run must be
 * repeated, once. */
int ls_make_room(ls_plan *plan, double largest_s_sum);

#endif
