/* Runs the kernels on a sample, in every variant, and compares with the reference.
 *
 * Used by the tests and the fuzzer. Knows the public header, and nothing behind it. */
#ifndef TEST_CHECK_H
#define TEST_CHECK_H

#include "cases.h"

/* Every instruction set, with and without gradient; the buffers before and after a guard page; from 32 Ki elements on several
 * thread counts and a loop that runs its pieces backwards. The first run is compared with the reference, the others must give
 * its bits. Returns the number of calls made: 0 where the strides are not served. */
int check(const sample *asked);

/* Also every element offset from 0 to 15 after a multiple of 64 bytes. */
int check_offsets(const sample *asked);

/* The bits of the gradient and of the loss that one call gives; NULL gradient: loss only. The arrays hold what the options say.
 * Returns the status. For tests that compare two calls. */
ls_status compute(const sample *asked, void *loss, void *gradient);

/* make_sample, check, free_sample. */
int check_case(const test_case *options);

#endif
