/* Gradients times grad_output, in place: what backward does when grad_output is not 1. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "elements.h"
#include "isa.h"
#include "parallel.h"
#include "targets.h"

/* Factors converted at a time, and elements to a unit of work. */
enum { FACTORS = 512, UNIT = 65536 };

typedef struct {
    const ls_scaling *scaling;
    const ls_dtype_kernels *kernels;
    int64_t rows_a_unit;
} context;

typedef union {
    float f32[FACTORS];
    double f64[FACTORS];
} factors;

static double factor_at(const ls_scaling *scaling, int64_t outer, int64_t position) {
    const int64_t at = outer * scaling->grad_output_stride[0] + position * scaling->grad_output_stride[1];
    return element_get(scaling->grad_output, scaling->grad_output_dtype, at) * (double)scaling->factor;
}

static int is_ignored(const ls_scaling *scaling, int64_t outer, int64_t position) {
    if (!scaling->target) return 0;
    int64_t target;
    const int64_t at = outer * scaling->target_stride[0] + position * scaling->target_stride[1];
    ls_read_targets(&target, scaling->target, scaling->target_kind, at, 0, 1);
    return target == scaling->ignore_index;
}

static int is_finite(const ls_scaling *scaling, double factor) {
    return fabs(factor) <= (scaling->dtype == LS_F64 ? DBL_MAX : (double)FLT_MAX);
}

static double factor_of(const ls_scaling *scaling, int64_t outer, int64_t position) {
    const double factor = factor_at(scaling, outer, position);
    return is_finite(scaling, factor) || !is_ignored(scaling, outer, position) ? factor : 1;
}

static void put_factor(const ls_scaling *scaling, factors *to, int64_t i, double factor) {
    if (scaling->dtype == LS_F64)
        to->f64[i] = factor;
    else
        to->f32[i] = (float)factor;
}

static char *grad_at(const ls_scaling *scaling, int64_t i) {
    return (char *)scaling->grad + i * (int64_t)element_bytes(scaling->dtype);
}

/* One factor for everything: units are pieces of the flat gradient. */
static void scale_flat(void *user, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const context *all = (const context *)user;
    const ls_scaling *scaling = all->scaling;
    const int64_t elements = scaling->outer * scaling->num_classes * scaling->inner;
    factors factor;
    put_factor(scaling, &factor, 0, factor_at(scaling, 0, 0));
    const int64_t first = begin * UNIT, last = end * UNIT < elements ? end * UNIT : elements;
    all->kernels->scale(grad_at(scaling, first), last - first, &factor, 0);
}

/* One factor a row, classes adjacent: units are groups of rows. */
static void scale_rows(void *user, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const context *all = (const context *)user;
    const ls_scaling *scaling = all->scaling;
    int64_t last = end * all->rows_a_unit;
    if (last > scaling->outer) last = scaling->outer;
    for (int64_t row = begin * all->rows_a_unit; row < last; row++) {
        const double factor = factor_of(scaling, row, 0);
        factors one;
        put_factor(scaling, &one, 0, factor);
        if (factor != 1) all->kernels->scale(grad_at(scaling, row * scaling->num_classes), scaling->num_classes, &one, 0);
    }
}

/* One factor a position, positions adjacent: units are outer indices. */
static void scale_planes(void *user, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const context *all = (const context *)user;
    const ls_scaling *scaling = all->scaling;
    for (int64_t outer = begin; outer < end; outer++) {
        for (int64_t first = 0; first < scaling->inner; first += FACTORS) {
            const int64_t n = scaling->inner - first < FACTORS ? scaling->inner - first : FACTORS;
            factors of_positions;
            for (int64_t i = 0; i < n; i++) put_factor(scaling, &of_positions, i, factor_of(scaling, outer, first + i));
            for (int64_t c = 0; c < scaling->num_classes; c++)
                all->kernels->scale(grad_at(scaling, (outer * scaling->num_classes + c) * scaling->inner + first), n,
                                    &of_positions, 1);
        }
    }
}

static int all_ones(const ls_scaling *scaling) {
    const int64_t outer = scaling->grad_output_stride[0] ? scaling->outer : 1,
                  inner = scaling->grad_output_stride[1] ? scaling->inner : 1;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++)
            if (factor_at(scaling, o, i) != 1) return 0;
    return 1;
}

int ls_scale(const ls_scaling *scaling) {
    const int64_t elements = scaling->outer * scaling->num_classes * scaling->inner;
    if (elements == 0 || all_ones(scaling)) return 0;
    context all = {scaling, &ls_active_kernels()->of[scaling->dtype], 1 + UNIT / (scaling->num_classes + 1)};
    const int same = scaling->grad_output_stride[0] == 0 && (scaling->grad_output_stride[1] == 0 || scaling->inner == 1) &&
                     is_finite(scaling, factor_at(scaling, 0, 0));
    ls_share_body body = same ? scale_flat : scaling->inner == 1 ? scale_rows : scale_planes;
    const int64_t units = same                  ? (elements + UNIT - 1) / UNIT
                          : scaling->inner == 1 ? (scaling->outer + all.rows_a_unit - 1) / all.rows_a_unit
                                                : scaling->outer;
    ls_share(ls_workers(scaling->threads, units, elements), units, body, &all);
    return 1;
}
