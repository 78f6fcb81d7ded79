/* A sample in memory as the kernels want it: strided, in its dtypes, as images to be copied next to guard pages.
 *
 * Used by the checker. Knows the public header, and no reference. */
#ifndef TEST_PROBLEM_H
#define TEST_PROBLEM_H

#include "cases.h"

enum { INPUT_LOGITS, INPUT_TARGET, INPUT_WEIGHT, INPUT_PRIOR, INPUTS };

typedef struct {
    ls_problem problem; /* all pointers NULL */
    struct {
        unsigned char *image; /* NULL if there is no such input */
        size_t bytes, item;
    } input[INPUTS];
} stored_problem;

/* Elements that no row owns hold NaN (targets: 0x7F bytes). */
stored_problem make_problem(const sample *asked);
void free_problem(stored_problem *made);

#endif
