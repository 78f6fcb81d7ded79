/* A sample in memory as the kernels want it; see problem.h. */
#include "problem.h"

#include <stdlib.h>
#include <string.h>

/* Distances for outer, classes, inner. A padded plane is 5 positions wider than needed, a padded row 3 classes. */
static void set_strides(const test_case *o, int64_t stride[3]) {
    int64_t pad = o->strides == STRIDES_PADDED, width = o->inner + (o->inner > 1 ? 5 * pad : 0);
    stride[2] = 1;
    stride[1] = width;
    stride[0] = o->classes * width + 3 * pad;
    if (o->strides == STRIDES_CLASSES_ADJACENT) {
        stride[1] = 1;
        stride[2] = o->classes;
        stride[0] = o->classes * o->inner;
    }
    if (o->strides == STRIDES_BROADCAST) stride[0] = 0;
}

static int64_t span_of(int64_t outer, int64_t classes, int64_t inner, const int64_t stride[3]) {
    if (outer == 0 || classes == 0 || inner == 0) return 0;
    return 1 + (outer - 1) * stride[0] + (classes - 1) * stride[1] + (inner - 1) * stride[2];
}

static void *image(stored_problem *made, int which, int64_t count, size_t item, int filler) {
    size_t bytes = (size_t)count * item;
    made->input[which].image = malloc(bytes + 1);
    if (!made->input[which].image) exit(2);
    memset(made->input[which].image, filler, bytes);
    made->input[which].bytes = bytes;
    made->input[which].item = item;
    return made->input[which].image;
}

static void put_values(const test_case *o, const double *values, void *array, const int64_t stride[3]) {
    for (int64_t row = 0; row < rows_of(o); row++) {
        int64_t first = row / o->inner * stride[0] + row % o->inner * stride[2];
        for (int64_t k = 0; k < o->classes; k++)
            store(o->dtype, array, first + k * stride[1], values[element_index(o, row, k)]);
    }
}

static void put_targets(stored_problem *made, const sample *asked) {
    const test_case *o = &asked->options;
    int64_t *stride = made->problem.target_stride;
    stride[2] = o->target_step;
    stride[0] = o->target_step * (o->inner + (o->strides == STRIDES_PADDED ? 2 : 0));
    void *array = image(made, INPUT_TARGET, span_of(o->outer, 1, o->inner, stride), target_size(o->target_kind), 0x7F);
    for (int64_t row = 0; row < rows_of(o); row++) {
        store_target(o->target_kind, array, row / o->inner * stride[0] + row % o->inner * stride[2], asked->target[row]);
    }
}

static void put_vector(stored_problem *made, int which, const double *values, ls_dtype dtype) {
    int64_t classes = made->problem.num_classes;
    void *array = image(made, which, classes, dtype_size(dtype), 0xFF);
    for (int64_t k = 0; k < classes; k++) store(dtype, array, k, values[k]);
}

stored_problem make_problem(const sample *asked) {
    const test_case *o = &asked->options;
    stored_problem made = {.problem = {.outer = o->outer,
                                       .num_classes = o->classes,
                                       .inner = o->inner,
                                       .dtype = o->dtype,
                                       .target_kind = o->target_kind,
                                       .weight_dtype = o->weight_dtype,
                                       .prior_dtype = o->prior_dtype,
                                       .ignore_index = o->ignore_index,
                                       .label_smoothing = o->label_smoothing,
                                       .reduction = o->reduction,
                                       .convention = o->convention,
                                       .threads = 1,
                                       .loss_dtype = o->loss_dtype}};
    size_t item = dtype_size(o->dtype);
    int64_t *stride = made.problem.logits_stride;
    set_strides(o, stride);
    put_values(o, asked->logits, image(&made, INPUT_LOGITS, span_of(o->outer, o->classes, o->inner, stride), item, 0xFF),
               stride);
    if (asked->probabilities) {
        test_case own = *o;
        if (own.strides == STRIDES_BROADCAST) own.strides = STRIDES_DENSE;
        stride = made.problem.target_stride;
        set_strides(&own, stride);
        put_values(o, asked->probabilities,
                   image(&made, INPUT_TARGET, span_of(o->outer, o->classes, o->inner, stride), item, 0xFF), stride);
    } else {
        put_targets(&made, asked);
    }
    if (asked->weight) put_vector(&made, INPUT_WEIGHT, asked->weight, o->weight_dtype);
    if (asked->prior) put_vector(&made, INPUT_PRIOR, asked->prior, o->prior_dtype);
    return made;
}

void free_problem(stored_problem *made) {
    for (int which = 0; which < INPUTS; which++) free(made->input[which].image);
}
