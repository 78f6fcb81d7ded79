/* Loss, gradient and errors of a call against the reference: limits, and what to record.
 *
 * Used by the checker. Knows the reference, and no kernel. */
#ifndef TEST_COMPARE_H
#define TEST_COMPARE_H

#include "reference.h"

/* 1: limits are what 18 additions of a lane could lose if every one lost half a unit, the same way. For logits that are searched
 * for, as a fuzzer does; 0, the limits of what tests have met, otherwise. */
extern int judge_by_worst_case;

void compare_loss(const sample *asked, const answers *expected, const void *loss, const char *text);
void compare_gradient(const sample *asked, const answers *expected, const void *gradient, float factor, const char *text);
void compare_error(ls_status status, const ls_error *got, const ls_error *expected, const char *text);

/* 1 if `got`, stored in the dtype, is a number within `slack` of the value, rounded; NaN and infinities must be met. */
int is_close(ls_dtype dtype, real got, real value, real slack);

#endif
