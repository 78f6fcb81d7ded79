/* ls_scale and ls_smooth_labels against the same in long double, between guard pages.
 *
 * Used by the tests and the fuzzer. Knows the public header, and nothing behind it. */
#ifndef TEST_SCALING_H
#define TEST_SCALING_H

#include "guard.h"
#include "numbers.h"

typedef enum { UPSTREAM_ONES, UPSTREAM_FACTOR, UPSTREAM_RANDOM, UPSTREAM_SPECIAL } upstream_kind;

typedef struct {
    int64_t outer, classes, inner;
    ls_dtype dtype, upstream_dtype;
    int64_t stride[2];
    upstream_kind kind;
    float factor;
    placement where;
    int threads;
    ls_target_kind target_kind; /* LS_PROBABILITIES: no target is given */
    int64_t ignore_index;
    uint64_t seed;
} scale_case;

void check_scale(const scale_case *c);

enum { LABELS_ROWS = 64, LABELS_CLASSES = 512 }; /* the most that a case may have */

typedef struct {
    int64_t rows, classes;
    ls_target_kind kind;
    double epsilon;
    int with_prior;
    ls_dtype prior_dtype, dtype;
    int64_t bad_row, bad_target; /* bad_row -1: none */
    double bad_prior;            /* replaces the middle entry unless 0 */
    uint64_t seed;
} labels_case;

void check_labels(const labels_case *c);

#endif
