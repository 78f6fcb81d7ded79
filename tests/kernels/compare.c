/* Loss, gradient and errors of a call against the reference; see compare.h. */
#include "compare.h"

#include <math.h>

#include "report.h"

/* Limits in units of reference.h, before the last rounding, which adds half an ULP of what is stored.
 *
 * fp32. An exp has at most 2.2 units (2.4 in portable C), a term of its sum goes through at most two roundings to fp32, of a unit
 * each, before it goes on in double: 4.4 units for a loss without smoothing in the worst case; terms that do not all err one way
 * stay within 2.5. With smoothing most of the loss comes from terms x - ref, which have a rounding of their own and two in the
 * sum, but average out: 1 unit, where no terms of both signs cancel, and 5 in the worst case. A gradient has the exp, the sum, its
 * scale and the product, 8 units in the worst case; what its row sums to has not the exps' errors: 4 units, and 6.
 *
 * 16-bit logits. A term goes through at most 18 roundings, which only a lane that holds all of the row's weight comes near to; a
 * bit or two beyond what is stored. With probabilities s is rounded, too, and summed: 22 units in the worst case.
 *
 * fp64. Sums go on in the same precision: 16 more roundings in a block of 1024 classes, which all go one way where many exps are
 * equal, and one for each block. Where positions lie side by side, six in a block of 32 classes, and none from block to block. */
typedef struct {
    real loss, gradient, row_sum;
} limits;

static int has_mixed_signs(const test_case *options) {
    return options->weight == WEIGHT_MIXED || options->label_smoothing < 0 || options->label_smoothing > 1;
}

/* Of 16-bit logits the usual: no lane holds a row's whole weight, no x - ref spans the range of exp. */
static int is_ordinary(const test_case *options) {
    switch (options->logits) {
    case LOGITS_DESCENDING:
    case LOGITS_HUGE:
    case LOGITS_WRONG:
    case LOGITS_JUMPS:
    case LOGITS_JUMPS_CONFIDENT:
    case LOGITS_RISE:
    case LOGITS_EXTREME:
    case LOGITS_MIX:
        return options->dtype == LS_F32;
    default:
        return 1;
    }
}

static int is_16_bit(ls_dtype dtype) { return dtype == LS_BF16 || dtype == LS_F16; }

int judge_by_worst_case;

static limits limits_of(const sample *asked) {
    const test_case *o = &asked->options;
    const int is_f32 = o->dtype == LS_F32, is_f64 = o->dtype == LS_F64;
    limits of = {.loss = 2.5L, .gradient = 7, .row_sum = 7};
    if (is_f32) of = (limits){.loss = 2.5L, .gradient = 6, .row_sum = 4};
    if (o->label_smoothing != 0 && !is_f64) of.loss = is_ordinary(o) && !has_mixed_signs(o) ? 1 : 1.75L;
    if (asked->probabilities) of = (limits){.loss = 8, .gradient = 11, .row_sum = is_f32 ? 4 : 11};
    if (judge_by_worst_case) of = is_f32 && !asked->probabilities ? (limits){5, 8, 6} : (limits){13, 13, 13};
    if (judge_by_worst_case && asked->probabilities && is_16_bit(o->dtype)) of.loss = 22;
    if (is_f64) {
        real additions = o->inner > 1 ? 0 : (real)o->classes / 2048;
        of = (limits){of.loss + 4 + additions, of.gradient + 7 + additions, of.row_sum + 7 + additions};
    }
    if (is_f64 && !long_double_is_wide()) of = (limits){of.loss + 8, of.gradient + 8, of.row_sum + 8};
    return of;
}

int is_close(ls_dtype dtype, real got, real value, real slack) {
    if (isnan(value)) return isnan(got);
    if (isinf(value)) return got == value;
    if (fabsl(got - value) <= slack) return 1;
    return got >= round_to(dtype, value - slack) && got <= round_to(dtype, value + slack);
}

static int is_smooth(const sample *asked) { return asked->options.label_smoothing != 0; }

static figure loss_figure(const sample *asked) {
    const test_case *o = &asked->options;
    if (o->loss_dtype == LS_BF16) return FIGURE_LOSS_BF16;
    if (o->loss_dtype == LS_F16) return FIGURE_LOSS_F16;
    int is_f64 = o->dtype == LS_F64;
    return (figure)((asked->probabilities ? FIGURE_PROBABILITIES_F32
                     : is_smooth(asked)   ? FIGURE_SMOOTH_F32
                                          : FIGURE_LOSS_F32) +
                    is_f64);
}

void compare_loss(const sample *asked, const answers *expected, const void *loss, const char *text) {
    ls_dtype dtype = asked->options.loss_dtype;
    real limit = limits_of(asked).loss;
    for (int64_t i = 0; i < expected->losses; i++) {
        answer wanted = expected->loss[i];
        real got = load(dtype, loss, i), error = fabsl(got - wanted.value);
        if (!is_close(dtype, got, wanted.value, limit * wanted.unit)) {
            fail("loss[%lld] %.9Lg, expected %.21Lg, error %.3Lg units (limit %.3Lg): %s", (long long)i, got, wanted.value,
                 error / wanted.unit, limit, text);
            return;
        }
        if (!isfinite(wanted.value) || wanted.value == 0 || !isfinite(got)) continue;
        record(loss_figure(asked), error / (is_16_bit(dtype) ? fmaxl(wanted.unit, ulp_at(dtype, wanted.value)) : wanted.unit),
               text);
    }
}

/* A power of two; 1 except for LS_F16, where it must bring the largest gradients into the upper part of the range and none
 * beyond its end. A mean that is NaN, of no row or of weights that sum to 0, can leave gradients of the smoothing of ignored
 * rows; the factor that would suit those is not looked for. */
static void compare_factor(const sample *asked, const answers *expected, float factor, const char *text) {
    int exponent;
    real largest = 0;
    for (int64_t row = 0; row < rows_of(&asked->options); row++) {
        if (!isfinite(expected->row_scale[row])) largest = (real)INFINITY;
        largest = fmaxl(largest, expected->row_scale[row]);
    }
    if (!(factor > 0) || !isfinite(factor) || frexpf(factor, &exponent) != 0.5f) {
        fail("factor %g is no power of two: %s", (double)factor, text);
    } else if (asked->options.dtype != LS_F16 && factor != 1) {
        fail("factor %g, expected 1: %s", (double)factor, text);
    } else if (asked->options.dtype == LS_F16 && largest > 0 && isfinite(largest)) {
        int is_nan_mean = asked->options.reduction == LS_MEAN && isnan(expected->loss[0].value);
        if (largest / factor > 65504 || (largest / factor < 0.25L && !is_nan_mean)) {
            fail("factor %g for gradients up to %.3Lg: %s", (double)factor, largest, text);
        }
    }
}

static void compare_row_sum(const sample *asked, const answers *expected, const void *gradient, int64_t row, real limit,
                            const char *text) {
    const test_case *o = &asked->options;
    real sum = 0, magnitude = 0, underflow = 0;
    for (int64_t k = 0; k < o->classes; k++) {
        answer wanted = expected->gradient[element_index(o, row, k)];
        sum += load(o->dtype, gradient, element_index(o, row, k));
        magnitude += fabsl(wanted.value);
        underflow += ulp_at(o->dtype, 0);
    }
    if (isnan(sum) || magnitude == 0) return;
    real unit = roundoff(o->dtype) * fmaxl(expected->row_scale[row], magnitude / 2) + underflow;
    if (fabsl(sum) > limit * unit) {
        fail("gradient of row %lld sums to %.3Lg, %.3Lg units: %s", (long long)row, sum, fabsl(sum) / unit, text);
    }
    record(o->dtype == LS_F64 ? FIGURE_ROW_SUM_F64 : FIGURE_ROW_SUM_F32, fabsl(sum) / unit, text);
}

static int compare_element(const sample *asked, answer wanted, real got, real limit, const char *text) {
    static const figure figures[] = {FIGURE_GRADIENT_F32, FIGURE_GRADIENT_F64, FIGURE_GRADIENT_BF16, FIGURE_GRADIENT_F16};
    ls_dtype dtype = asked->options.dtype;
    real unit = wanted.unit;
    int is_exact = 0;
    if (is_16_bit(dtype) && isfinite(wanted.value)) {
        is_exact = got == round_to(dtype, wanted.value);
        int cancels = fabsl(wanted.value) < unit / roundoff(dtype) / 4;
        if (!cancels) record_rounding(dtype, is_exact);
        unit = fmaxl(unit, ulp_at(dtype, wanted.value));
    }
    if (!is_exact && !is_close(dtype, got, wanted.value, limit * wanted.unit)) return 0;
    if (isfinite(wanted.value) && unit > 0) record(figures[dtype], fabsl(got - wanted.value) / unit, text);
    return 1;
}

void compare_gradient(const sample *asked, const answers *expected, const void *gradient, float factor, const char *text) {
    const test_case *o = &asked->options;
    const limits limit = limits_of(asked);
    compare_factor(asked, expected, factor, text);
    real scale = 1 / (real)factor; /* a power of two */
    for (int64_t i = 0; i < elements_of(o); i++) {
        answer wanted = {expected->gradient[i].value * scale, expected->gradient[i].unit * scale};
        real got = load(o->dtype, gradient, i);
        if (!compare_element(asked, wanted, got, limit.gradient, text)) {
            fail("gradient[%lld] (outer %lld, class %lld, inner %lld; target %lld) %.9Lg, expected %.21Lg, error %.4Lg units "
                 "(limit %.3Lg): %s",
                 (long long)i, (long long)(i / (o->classes * o->inner)), (long long)(i / o->inner % o->classes),
                 (long long)(i % o->inner), (long long)asked->target[i / (o->classes * o->inner) * o->inner + i % o->inner],
                 got, wanted.value, fabsl(got - wanted.value) / wanted.unit, limit.gradient, text);
            return;
        }
    }
    if (is_16_bit(o->dtype)) return;
    for (int64_t row = 0; row < rows_of(o); row++) compare_row_sum(asked, expected, gradient, row, limit.row_sum, text);
}

void compare_error(ls_status status, const ls_error *got, const ls_error *expected, const char *text) {
    if (status != LS_PRIOR_SUM && got->position != expected->position) {
        fail("error at %lld, expected %lld: %s", (long long)got->position, (long long)expected->position, text);
    }
    if (status == LS_TARGET_OUT_OF_RANGE && got->target != expected->target) {
        fail("error names target %lld, expected %lld: %s", (long long)got->target, (long long)expected->target, text);
    }
    int same = isnan(expected->value) ? isnan(got->value)
                                      : is_close(LS_F64, got->value, expected->value, 1e-6L * fabsl((real)expected->value));
    if (status != LS_TARGET_OUT_OF_RANGE && !same) fail("error names %g, expected %g: %s", got->value, expected->value, text);
}
