/* Mismatches and measured maxima of the kernel tests, by instruction set.
 *
 * Used by the checker, the tests and the fuzzer. Knows no kernel but the names of its instruction sets. */
#ifndef TEST_REPORT_H
#define TEST_REPORT_H

#include "numbers.h"

/* What is measured: errors in the units of reference.h where nothing is said, for 16 bits in ULP of the stored value where that is more. */
typedef enum {
    FIGURE_LOSS_F32,
    FIGURE_LOSS_F64,
    FIGURE_SMOOTH_F32,
    FIGURE_SMOOTH_F64,
    FIGURE_PROBABILITIES_F32,
    FIGURE_PROBABILITIES_F64,
    FIGURE_LOSS_BF16,
    FIGURE_LOSS_F16,
    FIGURE_GRADIENT_F32,
    FIGURE_GRADIENT_F64,
    FIGURE_GRADIENT_BF16,
    FIGURE_GRADIENT_F16,
    FIGURE_ROW_SUM_F32,
    FIGURE_ROW_SUM_F64,
    FIGURE_SCALE,
    FIGURES,
} figure;

void set_isa(int index); /* selects the instruction set, and counts what follows for it */
const char *current_isa(void);

void record(figure which, real error, const char *where); /* keeps the largest, and where it was met */
void record_rounding(
    ls_dtype dtype,
    int is_rounded_once); /* share of 16-bit gradients equal to the exact value rounded once, where no terms cancel */
void record_call(void);

/* Counts a mismatch and prints the first few. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int failures(void);
void print_summary(void);

#endif
