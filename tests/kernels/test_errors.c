/* Targets and priors that must be refused: status, position and value, nothing written, and the next call is right.
 *
 * Knows the checker and the public header. */
#include <limits.h>
#include <math.h>

#include "check.h"
#include "report.h"
#include "tests.h"

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};

static void check_targets(test_case options, const int64_t *rows, const int64_t *values, int count) {
    sample *made = make_sample(&options);
    for (int i = 0; i < count; i++) made->target[rows[i]] = values[i];
    check(made);
    free_sample(made);
    options.seed++;
    check_case(&options);
}

/* Off by one at the upper end, signs lost, values truncated to 32 bits before they are compared. */
static void check_values(void) {
    static const int64_t values[] = {7,
                                     8,
                                     -1,
                                     -7,
                                     127,
                                     -128,
                                     255,
                                     32767,
                                     65535,
                                     INT32_MAX,
                                     INT32_MIN,
                                     UINT32_MAX,
                                     INT64_MAX,
                                     INT64_MIN,
                                     1ll << 32,
                                     (1ll << 62) + 3,
                                     -100 - (1ll << 32)};
    for (int kind = 0; kind < LS_PROBABILITIES; kind++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            test_case options = plain_case(dtypes[v % 4], 3, 7, v % 3 == 2 ? 5 : 1);
            options.target_kind = (ls_target_kind)kind;
            options.convention = (ls_convention)(v % CONVENTIONS);
            options.reduction = (ls_reduction)(v % 3);
            int64_t row = rows_of(&options) - 1;
            int64_t limit = target_max(options.target_kind);
            if (values[v] > limit || values[v] < (target_is_signed(options.target_kind) ? -limit - 1 : 0)) continue;
            check_targets(options, &row, &values[v], 1);
        }
    }
}

/* 2^63 and more in uint64 is no negative number, and not ignore_index. */
static void check_huge_unsigned(void) {
    test_case options = plain_case(LS_F32, 3, 7, 1);
    options.target_kind = LS_UINT64;
    int64_t row = 1, values[] = {INT64_MIN + 5, -100, -1};
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) check_targets(options, &row, &values[v], 1);
}

/* The first of several in order of rows, also where threads share the pass; ignored targets are no errors. */
static void check_order(void) {
    static const int64_t first[] = {0, 1, 4999, 50000, 69999};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        test_case options = plain_case(LS_F32, 70000, 2, 1);
        if (i % 2) {
            options.outer = 700;
            options.inner = 100;
        }
        options.ignored = IGNORE_SOME;
        options.ignore_index = 5;
        int64_t rows[] = {first[i], first[i] + 1 < 70000 ? first[i] + 1 : first[i], 69999}, values[] = {9, 9, 9};
        values[2] = first[i] == 69999 ? 9 : -3;
        check_targets(options, rows, values, 3);
    }
}

/* An ignore_index that is not a class is no excuse for its neighbours. */
static void check_beside_ignored(void) {
    static const int64_t ignored[] = {-100, -1, 7, 6, 1000000000000};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        test_case options = plain_case(LS_F32, 9, 7, 1);
        options.ignored = IGNORE_SOME;
        options.ignore_index = ignored[i];
        int64_t row = 4, value = ignored[i] == 6 ? 7 : ignored[i] - 1;
        check_targets(options, &row, &value, 1);
    }
}

static void check_prior(test_case options, int64_t k, double value) {
    sample *made = make_sample(&options);
    made->prior[k] = (double)round_to(options.prior_dtype, value);
    check(made);
    free_sample(made);
    check_case(&options);
}

static void check_priors(void) {
    static const double values[] = {-1e-3, (double)NAN, (double)INFINITY, -(double)INFINITY, 0.5, -0.0, 1.5};
    for (int i = 0; i < 7 * 4 * 3; i++) {
        test_case options = plain_case(LS_F32, 3, 50, 1);
        options.prior = PRIOR_POSITIVE;
        options.prior_dtype = dtypes[i / 7 % 4];
        options.label_smoothing = i / 28 == 0 ? 0 : 0.1;
        options.target_kind = i / 28 == 2 ? LS_PROBABILITIES : LS_INT64;
        check_prior(options, i % 3 * 24, values[i % 7]);
    }
    test_case options = plain_case(LS_F64, 3, 2, 1);
    options.prior = PRIOR_POSITIVE;
    options.label_smoothing = 0.1;
    for (int i = -1; i <= 1; i += 2) { /* the tolerance of the sum, from both sides */
        sample *made = make_sample(&options);
        made->prior[0] = 0.25;
        made->prior[1] = 0.75 + i * 0.0099;
        check(made);
        made->prior[1] = 0.75 + i * 0.0101;
        check(made);
        free_sample(made);
    }
}

void test_bad_arguments(void) {
    check_values();
    check_huge_unsigned();
    check_order();
    check_beside_ignored();
    check_priors();
}
