/* The tests of the kernels, one function for each, and how thorough they are.
 *
 * Used by main.c and the tests. */
#ifndef TESTS_H
#define TESTS_H

/* 1, or 8 under "quick": every 8th of the random draws, for emulators and memory checkers. */
extern int test_thinning;

void test_row_sizes(void);
void test_row_offsets(void);
void test_long_rows(void);
void test_many_rows(void);
void test_row_options(void);
void test_row_logits(void);
void test_plane_sizes(void);
void test_wide_planes(void);
void test_plane_logits(void);
void test_threads(void);
void test_special_positions(void);
void test_known_values(void);
void test_bad_arguments(void);
void test_empty(void);
void test_offset_invariance(void);
void test_probability_sums(void);
void test_served_strides(void);
void test_scale(void);
void test_smooth_labels(void);
void test_isa_names(void);
void test_callers(void);
void test_threading_name(void);

#endif
