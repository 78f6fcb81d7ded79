/* Runs ls_scale and ls_smooth_labels and judges the result; see scaling.h. */
#include "scaling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "report.h"

enum { POISON = 0x6B, NAN_BYTE = 0xFF };

static guarded gradient, upstream, target;

static void create_buffers(void) {
    if (gradient.begin) return;
    gradient = guarded_create(16 << 20);
    upstream = guarded_create(16 << 20);
    target = guarded_create(16 << 20);
}

static double upstream_value(upstream_kind kind, float factor, random_source *source) {
    static const double specials[] = {0, -1, 1, (double)NAN, (double)INFINITY, 1e-30, 1e30};
    if (kind == UPSTREAM_ONES) return 1;
    if (kind == UPSTREAM_FACTOR) return 1 / (double)factor;
    return kind == UPSTREAM_RANDOM ? 3 * random_normal(source) : specials[random_below(source, 7)];
}

static real single(ls_dtype dtype, real value) { return round_to(dtype == LS_F64 ? LS_F64 : LS_F32, value); }

static int64_t row_of(const scale_case *c, int64_t i) { return i / (c->classes * c->inner) * c->inner + i % c->inner; }

/* Every third row is zero, and every second one of these ignored. */
static int is_zero(const scale_case *c, int64_t row) { return (row + (int64_t)(c->seed % 6)) % 3 == 0; }
static int is_ignored(const scale_case *c, int64_t row) { return (row + (int64_t)(c->seed % 6)) % 6 == 0; }

/* grad_output comes in its own dtype, the product is formed in fp32 or fp64 and rounded once more when stored. */
static void compare_scaled(const scale_case *c, const void *before, const char *text) {
    for (int64_t i = 0; i < c->outer * c->classes * c->inner; i++) {
        int64_t place = i / (c->classes * c->inner) * c->stride[0] + i % c->inner * c->stride[1];
        real scale = single(c->dtype, single(c->dtype, load(c->upstream_dtype, upstream.data, place)) * c->factor);
        if (!isfinite(scale) && c->target_kind != LS_PROBABILITIES && is_ignored(c, row_of(c, i))) scale = 0;
        real value = load(c->dtype, before, i) * scale, got = load(c->dtype, gradient.data, i);
        real slack = (c->dtype == LS_F64 ? 0x1p-62L : 0x1p-24L) * fabsl(value);
        if (fabsl(value) < 0x1p-125L) slack += 0x1p-149L;
        if (c->dtype == LS_F32) slack = 0;
        if (!is_close(c->dtype, got, value, slack)) {
            fail("scale [%lld] gives %.9Lg, expected %.9Lg: %s", (long long)i, got, value, text);
            return;
        }
        if (isfinite(value) && isfinite(got)) record(FIGURE_SCALE, fabsl(got - value) / ulp_at(c->dtype, value), text);
    }
}

static int every_product_is_one(const scale_case *c) {
    for (int64_t row = 0; row < c->outer * c->inner; row++) {
        int64_t place = row / c->inner * c->stride[0] + row % c->inner * c->stride[1];
        if (load(c->upstream_dtype, upstream.data, place) * c->factor != 1) return 0;
    }
    return 1;
}

void check_scale(const scale_case *c) {
    random_source source = {c->seed};
    int64_t elements = c->outer * c->classes * c->inner, upstreams = 0;
    if (elements) upstreams = 1 + (c->outer - 1) * c->stride[0] + (c->inner - 1) * c->stride[1];
    size_t item = dtype_size(c->dtype), up_item = dtype_size(c->upstream_dtype);
    char text[200];
    snprintf(text, sizeof text,
             "%s [%lld, %lld, %lld], grad_output %s strides %lld %lld kind %d, factor %g, targets %s, threads %d, seed %llu",
             dtype_name(c->dtype), (long long)c->outer, (long long)c->classes, (long long)c->inner,
             dtype_name(c->upstream_dtype), (long long)c->stride[0], (long long)c->stride[1], (int)c->kind, (double)c->factor,
             target_name(c->target_kind), c->threads, (unsigned long long)c->seed);
    create_buffers();
    guarded_place(&gradient, (size_t)elements * item, item, c->where, 0, POISON);
    guarded_place(&upstream, (size_t)upstreams * up_item, up_item, c->where, 0, NAN_BYTE);
    memset(upstream.data, NAN_BYTE, upstream.bytes);
    for (int64_t o = 0; o < c->outer; o++) {
        for (int64_t i = 0; i < c->inner; i++) {
            store(c->upstream_dtype, upstream.data, o * c->stride[0] + i * c->stride[1],
                  upstream_value(c->kind, c->factor, &source));
        }
    }
    for (int64_t i = 0; i < elements; i++) {
        store(c->dtype, gradient.data, i, is_zero(c, row_of(c, i)) ? 0 : random_normal(&source));
    }
    /* Targets and the gaps between them hold what is not ignored, so that one that is read elsewhere is another. */
    const int has_target = c->target_kind != LS_PROBABILITIES;
    size_t target_item = has_target ? target_size(c->target_kind) : 1;
    int64_t targets = has_target && elements ? 2 * c->outer * c->inner - 1 : 0;
    guarded_place(&target, (size_t)targets * target_item, target_item, c->where, 0, POISON);
    for (int64_t i = 0; i < targets; i++)
        store_target(c->target_kind, target.data, i, i % 2 == 0 && is_ignored(c, i / 2) ? c->ignore_index : 1);
    unsigned char *before = malloc(gradient.bytes + 1), *upstream_before = malloc(upstream.bytes + 1);
    if (!before || !upstream_before) exit(2);
    memcpy(before, gradient.data, gradient.bytes);
    memcpy(upstream_before, upstream.data, upstream.bytes);
    ls_scaling scaling = {.outer = c->outer,
                          .num_classes = c->classes,
                          .inner = c->inner,
                          .dtype = c->dtype,
                          .grad = gradient.data,
                          .grad_output_dtype = c->upstream_dtype,
                          .grad_output = upstream.data,
                          .grad_output_stride = {c->stride[0], c->stride[1]},
                          .factor = c->factor,
                          .target_kind = c->target_kind,
                          .target = has_target ? target.data : NULL,
                          .target_stride = {2 * c->inner, 2},
                          .ignore_index = c->ignore_index,
                          .threads = c->threads};
    /* Where every product is 1, the gradient may not even be read: it lies in the guard page. */
    const int is_one = every_product_is_one(c);
    if (is_one) scaling.grad = gradient.end;
    if (ls_scale(&scaling) != (elements > 0 && !is_one)) fail("says wrongly whether it wrote: %s", text);
    record_call();
    compare_scaled(c, before, text);
    if (!guarded_intact(&gradient)) fail("bytes around the scaled gradient changed: %s", text);
    if (memcmp(upstream.data, upstream_before, upstream.bytes) != 0) fail("grad_output changed: %s", text);
    free(before);
    free(upstream_before);
}

static void compare_labels(const labels_case *c, const int64_t *target, const void *prior, const char *text) {
    for (int64_t i = 0; i < c->rows * c->classes; i++) {
        real u = prior ? load(c->prior_dtype, prior, i % c->classes) : 1 / (real)c->classes;
        real hot = i % c->classes == target[i / c->classes], value = (1 - (real)c->epsilon) * hot + c->epsilon * u;
        real got = load(c->dtype, gradient.data, i), slack = 0x1p-51L * (fabsl(value) + 0x1p-50L);
        if (!is_close(c->dtype, got, value, slack)) {
            fail("smooth_labels [%lld] gives %.9Lg, expected %.9Lg: %s", (long long)i, got, value, text);
            return;
        }
    }
}

void check_labels(const labels_case *c) {
    random_source source = {c->seed};
    int64_t classes[LABELS_ROWS], expected_position = -7,
                                  limit = target_max(c->kind) < c->classes ? target_max(c->kind) + 1 : c->classes;
    unsigned char prior[8 * LABELS_CLASSES], stored[8 * LABELS_ROWS];
    const placement where = c->seed % 2 ? AT_START : AT_END;
    double sum = 0;
    char text[200];
    snprintf(text, sizeof text, "labels [%lld, %lld] %s from %s, epsilon %g, prior %s, bad row %lld (%lld), bad prior %g",
             (long long)c->rows, (long long)c->classes, dtype_name(c->dtype), target_name(c->kind), c->epsilon,
             c->with_prior ? dtype_name(c->prior_dtype) : "none", (long long)c->bad_row, (long long)c->bad_target,
             c->bad_prior);
    for (int64_t row = 0; row < c->rows; row++) {
        classes[row] = row == c->bad_row ? c->bad_target : random_below(&source, limit);
        store_target(c->kind, stored, row, classes[row]);
    }
    double values[LABELS_CLASSES];
    for (int64_t k = 0; k < c->classes; k++) sum += values[k] = random_unit(&source);
    for (int64_t k = 0; k < c->classes; k++) store(c->prior_dtype, prior, k, values[k] / sum);
    ls_status expected = c->bad_row >= 0 ? LS_TARGET_OUT_OF_RANGE : LS_OK;
    if (c->bad_row >= 0) expected_position = c->bad_row;
    if (c->with_prior && c->bad_prior != 0) {
        store(c->prior_dtype, prior, c->classes / 2, c->bad_prior);
        expected = c->bad_prior > 0 && isfinite(c->bad_prior) ? LS_PRIOR_SUM : LS_PRIOR_ENTRY;
        expected_position = c->classes / 2;
    }
    create_buffers();
    size_t item = dtype_size(c->dtype), targets = (size_t)c->rows * target_size(c->kind);
    guarded_place(&gradient, (size_t)(c->rows * c->classes) * item, item, where, 0, POISON);
    memset(gradient.data, POISON, gradient.bytes);
    guarded_mark(&gradient, 0);
    guarded_place(&target, targets, target_size(c->kind), where, 0, NAN_BYTE);
    memcpy(target.data, stored, targets);
    size_t prior_item = dtype_size(c->prior_dtype), priors = (size_t)c->classes * prior_item;
    guarded_place(&upstream, priors, prior_item, where, 0, NAN_BYTE);
    memcpy(upstream.data, prior, priors);
    ls_error error = {-7, -7, -7};
    ls_status status = ls_smooth_labels(target.data, c->kind, c->rows, c->classes, c->epsilon,
                                        c->with_prior ? upstream.data : NULL, c->prior_dtype, gradient.data, c->dtype, &error);
    if (status != LS_OK) guarded_mark(&gradient, 1);
    if (status != expected) fail("status %d, expected %d: %s", (int)status, (int)expected, text);
    if (status == LS_OK && expected == LS_OK) compare_labels(c, classes, c->with_prior ? prior : NULL, text);
    if (expected != LS_OK && !all_bytes(gradient.data, gradient.bytes, POISON)) fail("written despite an error: %s", text);
    if (expected != LS_OK && expected != LS_PRIOR_SUM && error.position != expected_position) fail("wrong position: %s", text);
    if (expected == LS_TARGET_OUT_OF_RANGE && error.target != c->bad_target) fail("wrong target named: %s", text);
    if (!guarded_intact(&gradient)) fail("bytes around the labels changed: %s", text);
}
