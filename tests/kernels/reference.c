/* The formulas of the public header in long double; see reference.h. */
#include "reference.h"

#include <math.h>
#include <stdlib.h>

ls_dtype arithmetic(ls_dtype dtype) { return dtype == LS_F64 ? LS_F64 : LS_F32; }

real roundoff(ls_dtype dtype) { return dtype == LS_F64 ? 0x1p-53L : 0x1p-24L; }

/* Below this, relative to ref, exp is 0. */
static real smallest_exp(ls_dtype dtype) { return dtype == LS_F64 ? 0x1p-1022L : 0x1p-126L; }

/* A sum with its rounding error carried along (Neumaier). */
typedef struct {
    real sum, lost;
} exact_sum;

static void add(exact_sum *total, real term) {
    real sum = total->sum + term;
    if (isfinite(sum)) {
        total->lost += fabsl(total->sum) >= fabsl(term) ? (total->sum - sum) + term : (term - sum) + total->sum;
    }
    total->sum = sum;
}

static real value_of(exact_sum total) { return total.sum + total.lost; }

typedef struct {
    real alpha, beta;
} coefficients;

/* What is negative here is 2^63 or more in uint64, and no ignore_index. */
static int is_ignored(const sample *asked, int64_t row) {
    if (asked->probabilities || (asked->options.target_kind == LS_UINT64 && asked->target[row] < 0)) return 0;
    return asked->target[row] == asked->options.ignore_index;
}

/* What tells conventions apart: class weights in s; a beta of ignored rows, divided by the number of all. */
static int weights_smoothing(const sample *asked) { return asked->options.convention != LS_FASTAI; }
static int smooths_ignored(const sample *asked) { return asked->options.convention == LS_FASTAI; }

static real weight_of(const sample *asked, int64_t k) { return asked->weight ? (real)asked->weight[k] : 1; }

static ls_status validate(const sample *asked, ls_error *error) {
    const test_case *o = &asked->options;
    exact_sum sum = {0, 0};
    for (int64_t k = 0; asked->prior && k < o->classes; k++) {
        *error = (ls_error){.position = k, .value = asked->prior[k]};
        if (!(asked->prior[k] >= 0 && isfinite(asked->prior[k]))) return LS_PRIOR_ENTRY;
        add(&sum, asked->prior[k]);
    }
    *error = (ls_error){.value = (double)value_of(sum)};
    if (asked->prior && fabsl(value_of(sum) - 1) > 1e-2L) return LS_PRIOR_SUM;
    for (int64_t row = 0; !asked->probabilities && row < rows_of(o); row++) {
        *error = (ls_error){.position = row, .target = asked->target[row]};
        if (!is_ignored(asked, row) && (asked->target[row] < 0 || asked->target[row] >= o->classes)) {
            return LS_TARGET_OUT_OF_RANGE;
        }
    }
    return LS_OK;
}

/* The coefficients of every row, and how many rows count for the mean. */
static int64_t make_coefficients(const sample *asked, coefficients *of_row) {
    const test_case *o = &asked->options;
    int64_t counted = 0;
    real weights = 0, e = o->label_smoothing, spread = asked->prior ? e : e / (real)o->classes;
    for (int64_t row = 0; row < rows_of(o); row++) {
        if (is_ignored(asked, row)) continue;
        counted++;
        weights += asked->probabilities ? 1 : weight_of(asked, asked->target[row]);
    }
    int mean = o->reduction == LS_MEAN;
    real alpha_divisor = mean ? weights : 1;
    real beta_divisor = mean && smooths_ignored(asked) ? (real)rows_of(o) : alpha_divisor;
    for (int64_t row = 0; row < rows_of(o); row++) {
        real alpha = 0, beta = spread == 0 ? 0 : spread / beta_divisor;
        if (asked->probabilities) {
            beta = 1 / beta_divisor;
        } else if (!is_ignored(asked, row)) {
            alpha = (1 - e) * weight_of(asked, asked->target[row]) / alpha_divisor;
        }
        of_row[row] = (coefficients){alpha, beta};
    }
    return counted;
}

/* s of the header. `absent` is set for a class whose term must not be formed at all. */
static real s_of(const sample *asked, int64_t row, int64_t k, real beta, int *absent) {
    const test_case *o = &asked->options;
    real e = o->label_smoothing, weight = weights_smoothing(asked) ? weight_of(asked, k) : 1;
    *absent = 0;
    if (asked->probabilities) {
        real u = asked->prior ? (real)asked->prior[k] : 1 / (real)o->classes;
        return weight * ((real)asked->probabilities[element_index(o, row, k)] * (1 - e) + e * u);
    }
    *absent = beta == 0 || (asked->prior && asked->prior[k] == 0);
    return *absent ? 0 : asked->prior ? weight * asked->prior[k] : weight;
}

/* The row relative to its maximum: d = x - max, exp(d), and their sum without the maximum's own term. */
typedef struct {
    const double *x; /* of class k at x[k * step] */
    int64_t step;
    real *exps;
    real maximum, rest;
    int64_t peak;
    int is_nan;
} row_shape;

static real distance_of(const row_shape *shape, int64_t k) { return (real)shape->x[k * shape->step] - shape->maximum; }

static row_shape shape_of(const sample *asked, int64_t row, real *exps) {
    const test_case *o = &asked->options;
    row_shape shape = {asked->logits + element_index(o, row, 0), o->inner, exps, -(real)INFINITY, 0, -1, 0};
    for (int64_t k = 0; k < o->classes; k++) {
        real x = shape.x[k * shape.step];
        if (isnan(x) || x == (real)INFINITY) shape.is_nan = 1;
        if (x > shape.maximum) {
            shape.maximum = x;
            shape.peak = k;
        }
    }
    if (shape.peak < 0) shape.is_nan = 1;
    exact_sum rest = {0, 0};
    for (int64_t k = 0; !shape.is_nan && k < o->classes; k++) {
        exps[k] = expl(distance_of(&shape, k));
        if (k != shape.peak) add(&rest, exps[k]);
    }
    shape.rest = value_of(rest);
    return shape;
}

/* How far below the largest logit beside the target's a reference may lie that was chosen among the first classes and moves
 * when it is exceeded by 60. Of probabilities it is the largest. */
static real lag_of(const sample *asked, int64_t row, const row_shape *shape) {
    real reference = -(real)INFINITY, largest = -(real)INFINITY;
    for (int64_t k = 0; k < asked->options.classes; k++) {
        if (k == asked->target[row]) continue;
        largest = fmaxl(largest, shape->x[k * shape->step]);
        if (k < 8) reference = fmaxl(reference, shape->x[k * shape->step]);
    }
    return largest > reference ? fminl(60, largest - reference) : 0;
}

static void nan_row(const sample *asked, int64_t row, answer *loss, answer *gradient) {
    *loss = (answer){(real)NAN, 0};
    for (int64_t k = 0; k < asked->options.classes; k++) {
        gradient[element_index(&asked->options, row, k)] = (answer){(real)NAN, 0};
    }
}

typedef struct {
    real sum, magnitude; /* of s, and of |s| */
} s_sums;

static void gradient_of(const sample *asked, int64_t row, coefficients c, const row_shape *shape, s_sums s_sum,
                        answer *gradient) {
    const test_case *o = &asked->options;
    real scale = c.alpha + c.beta * s_sum.sum, scale_of_terms = fabsl(c.alpha) + fabsl(c.beta) * s_sum.magnitude;
    for (int64_t k = 0; k < o->classes; k++) {
        int absent, is_target = !asked->probabilities && k == asked->target[row] && !is_ignored(asked, row);
        real s = s_of(asked, row, k, c.beta, &absent);
        real p = shape->exps[k] / (1 + shape->rest), p_minus_1 = k == shape->peak ? -shape->rest / (1 + shape->rest) : p - 1;
        real value = scale * p - c.beta * s;
        if (is_target) value = c.alpha * p_minus_1 + c.beta * (s_sum.sum * p - s);
        real q = fabsl(c.beta * s) + (is_target ? fabsl(c.alpha) : 0);
        real unit = roundoff(o->dtype) * fmaxl(scale_of_terms * p, q) + scale_of_terms * smallest_exp(o->dtype);
        gradient[k * o->inner] = (answer){value, unit};
    }
}

static void answer_row(const sample *asked, int64_t row, coefficients c, real *exps, answer *loss, answer *gradient,
                       real *row_scale) {
    const test_case *o = &asked->options;
    row_shape shape = shape_of(asked, row, exps);
    if (shape.is_nan) {
        nan_row(asked, row, loss, gradient);
        return;
    }
    exact_sum sum_s = {0, 0}, smooth = {0, 0};
    real z = log1pl(shape.rest), magnitude = 0, sum_of_magnitudes = 0, largest = 0; /* z relative to the maximum */
    for (int64_t k = 0; k < o->classes; k++) {
        int absent;
        real s = s_of(asked, row, k, c.beta, &absent);
        if (absent) continue;
        real distance = z - distance_of(&shape, k);
        add(&sum_s, s);
        add(&smooth, s * distance);
        magnitude += fabsl(s) * fabsl(distance);
        sum_of_magnitudes += fabsl(s);
        largest = fmaxl(largest, fabsl(s));
    }
    int has_target = !asked->probabilities && !is_ignored(asked, row);
    real hard = has_target ? c.alpha * (z - distance_of(&shape, asked->target[row])) : 0, u = roundoff(o->dtype);
    real value = hard + (c.beta == 0 ? 0 : c.beta * value_of(smooth)), unit = ulp_at(arithmetic(o->dtype), value);
    if (c.beta != 0) unit += 2 * u * (fabsl(hard) + fabsl(c.beta) * magnitude - fabsl(value));
    if (!has_target || asked->target[row] != shape.peak) unit += 2 * u * fabsl(c.beta) * sum_of_magnitudes;
    if (asked->probabilities) unit = u * fabsl(c.beta) * (sum_of_magnitudes + magnitude);
    if (c.beta != 0 && !asked->probabilities) unit += u * fabsl(c.beta) * sum_of_magnitudes * lag_of(asked, row, &shape);
    *loss = (answer){value, unit};
    *row_scale = fmaxl(fabsl(c.alpha + c.beta * value_of(sum_s)), fabsl(c.alpha) + fabsl(c.beta) * largest);
    gradient_of(asked, row, c, &shape, (s_sums){value_of(sum_s), sum_of_magnitudes}, gradient + element_index(o, row, 0));
}

static void reduce(const sample *asked, answers *made, const answer *row_loss, int64_t counted) {
    const test_case *o = &asked->options;
    exact_sum total = {0, 0};
    real unit = 0;
    for (int64_t row = 0; row < rows_of(o); row++) {
        add(&total, row_loss[row].value);
        unit += row_loss[row].unit;
        if (o->dtype == LS_F64) unit += fabsl(row_loss[row].value) * roundoff(LS_F64); /* row losses are summed in double */
    }
    made->loss[0] = (answer){value_of(total), unit};
    if (o->reduction == LS_MEAN && counted == 0) made->loss[0] = (answer){(real)NAN, 0};
}

answers make_answers(const sample *asked) {
    const test_case *o = &asked->options;
    int64_t rows = rows_of(o), counted;
    answers made = {.losses = o->reduction == LS_NONE ? rows : 1};
    made.status = validate(asked, &made.error);
    if (made.status != LS_OK) return made;
    answer *row_loss = calloc((size_t)rows + 1, sizeof *row_loss);
    real *exps = calloc((size_t)o->classes, sizeof *exps);
    coefficients *of_row = calloc((size_t)rows + 1, sizeof *of_row);
    made.gradient = calloc((size_t)elements_of(o) + 1, sizeof *made.gradient);
    made.row_scale = calloc((size_t)rows + 1, sizeof *made.row_scale);
    if (!row_loss || !exps || !of_row || !made.gradient || !made.row_scale) exit(2);
    counted = make_coefficients(asked, of_row);
    for (int64_t row = 0; row < rows; row++) {
        if (is_ignored(asked, row) && (!smooths_ignored(asked) || o->label_smoothing == 0)) continue;
        answer_row(asked, row, of_row[row], exps, &row_loss[row], made.gradient, &made.row_scale[row]);
    }
    free(of_row);
    free(exps);
    made.loss = row_loss;
    if (o->reduction != LS_NONE) {
        made.loss = calloc(1, sizeof *made.loss);
        if (!made.loss) exit(2);
        reduce(asked, &made, row_loss, counted);
        free(row_loss);
    }
    return made;
}

void free_answers(answers *made) {
    free(made->loss);
    free(made->gradient);
    free(made->row_scale);
}
