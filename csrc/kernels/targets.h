/* Targets are read here, and the pass over them, where everything happens that a convention means. Private to the kernels. */
#ifndef LS_TARGETS_H
#define LS_TARGETS_H

#include "plan.h"

/* n index targets from `first` on that lie `step` apart, as int64. uint64 from 2^63 on becomes negative. */
void ls_read_targets(int64_t *to, const void *target, ls_target_kind kind, int64_t first, int64_t step, int64_t n);

size_t ls_plan_scratch_bytes(const ls_problem *problem);

/* Checks targets and prior, and makes the plan in `scratch`. Sets *mean_is_nan if `mean` has nothing to divide by. */
ls_status ls_make_plan(const ls_problem *problem, void *scratch, ls_plan *plan, int *mean_is_nan, ls_error *error);

/* The largest sum of s, in a row of probability targets, for which the plan's grad_scale leaves room in fp16, whatever the
 * logits: probabilities that sum to about 1 have plenty. Takes what a run has found; returns 1 if that was more and the plan has
 * another grad_scale now, with which the run must be repeated. */
int ls_make_room(ls_plan *plan, double largest_s_sum);

#endif
