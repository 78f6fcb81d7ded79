/* ls_scale and ls_smooth_labels: shapes, strides, dtypes and targets, drawn.
 *
 * Knows the checker of scaling.h. */
#include <math.h>

#include "compare.h"
#include "report.h"
#include "scaling.h"
#include "tests.h"

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};

static void draw_scale(int64_t outer, int64_t classes, int64_t inner, random_source *source) {
    static const float factors[] = {1, 0x1p-10f, 0x1p-16f, 8};
    int64_t strides[][2] = {{inner, 1}, {0, 0}, {1, outer > 0 ? outer : 1}, {2 * inner, 2}, {0, 1}, {1, 0}};
    const int64_t *stride = strides[random_below(source, 6)];
    scale_case c = {outer,
                    classes,
                    inner,
                    dtypes[random_below(source, 4)],
                    dtypes[random_below(source, 4)],
                    {stride[0], stride[1]},
                    (upstream_kind)random_below(source, 4),
                    1,
                    one_in(source, 2) ? AT_END : AT_START,
                    1 + (int)random_below(source, 5),
                    (ls_target_kind)random_below(source, LS_PROBABILITIES + 1),
                    3,
                    random_bits(source)};
    if (one_in(source, 2) && target_is_signed(c.target_kind)) c.ignore_index = -100;
    if (c.dtype == LS_F16) c.factor = factors[random_below(source, 4)];
    check_scale(&c);
}

/* A NaN with all of its bits set: half a unit, as rounding adds it, would carry into the sign and make it -0. */
static void check_largest_nan(void) {
    const uint32_t largest_nan = 0x7fffffff;
    double grad[33];
    for (int d = 0; d < 4; d++) {
        for (int i = 0; i < 33; i++) store(dtypes[d], grad, i, 1);
        ls_scaling scaling = {.outer = 1,
                              .num_classes = 33,
                              .inner = 1,
                              .dtype = dtypes[d],
                              .grad = grad,
                              .grad_output_dtype = LS_F32,
                              .grad_output = &largest_nan,
                              .factor = 1,
                              .threads = 1};
        ls_scale(&scaling);
        for (int i = 0; i < 33; i++)
            if (!isnan(load(dtypes[d], grad, i))) fail("%s [%d] of a NaN is a number", dtype_name(dtypes[d]), i);
    }
}

void test_scale(void) {
    static const int64_t big[][3] = {{5000, 10, 1}, {70, 1000, 1}, {2, 40000, 1}, {1, 100003, 1}, {3, 50, 400}, {1, 9, 5000}};
    random_source source = {11};
    for (int isa = 0; ls_isa_name(isa); isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        set_isa(isa);
        check_largest_nan();
        for (int64_t classes = 1; classes <= 130; classes += test_thinning) {
            for (int draw = 0; draw < 24; draw++) draw_scale(random_below(&source, 6), classes, 1, &source);
            for (int draw = 0; draw < 12; draw++)
                draw_scale(1 + random_below(&source, 3), 1 + random_below(&source, 5), classes, &source);
        }
        for (int draw = 0; draw < 60 / test_thinning; draw++) {
            const int64_t *shape = big[draw % 6];
            draw_scale(shape[0], shape[1], shape[2], &source);
        }
    }
}

void test_smooth_labels(void) {
    static const double epsilons[] = {0, .1, .3, 1};
    static const double bad_priors[] = {-0.5, (double)NAN, (double)INFINITY, 3};
    random_source source = {12};
    for (int draw = 0; draw < 4000 / test_thinning; draw++) {
        labels_case c = {random_below(&source, 20),
                         1 + random_below(&source, draw % 10 ? 40 : 300),
                         (ls_target_kind)random_below(&source, LS_PROBABILITIES),
                         epsilons[draw % 4],
                         one_in(&source, 2),
                         dtypes[random_below(&source, 4)],
                         dtypes[random_below(&source, 4)],
                         -1,
                         0,
                         0,
                         random_bits(&source)};
        if (c.rows > 0 && one_in(&source, 5)) {
            c.bad_row = random_below(&source, c.rows);
            c.bad_target = c.classes;
            if (target_is_signed(c.kind)) c.bad_target = one_in(&source, 2) ? -1 : -100;
            if (c.bad_target > target_max(c.kind)) c.bad_row = -1;
        } else if (c.with_prior && one_in(&source, 5)) {
            c.bad_prior = bad_priors[random_below(&source, 4)];
        }
        check_labels(&c);
    }
}
