/* Samples from options; see cases.h. Knows no kernel. */
#include "cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const logits_names[] = {
    "normal",           "small",      "large",      "huge",         "equal",     "ties",   "ascending",
    "descending",       "offset 1e4", "offset 1e7", "offset -1e30", "confident", "wrong",  "jumps",
    "jumps, confident", "rise",       "lost",       "subnormal",    "extreme",   "masked", "masked start",
    "masked target",    "NaN",        "infinite",   "empty",        "mix"};
static const char *const weight_names[] = {"none", "positive", "mixed", "zero"};
static const char *const prior_names[] = {"none", "positive", "sparse"};
static const char *const ignore_names[] = {"none", "some", "all"};
static const char *const stride_names[] = {"dense", "padded", "classes adjacent", "broadcast"};
static const char *const convention_names[CONVENTIONS] = {"torch", "fastai"};
static const char *const reduction_names[] = {"none", "mean", "sum"};

test_case plain_case(ls_dtype dtype, int64_t outer, int64_t classes, int64_t inner) {
    return (test_case){.outer = outer,
                       .classes = classes,
                       .inner = inner,
                       .dtype = dtype,
                       .loss_dtype = dtype,
                       .weight_dtype = dtype,
                       .prior_dtype = dtype,
                       .target_kind = LS_INT64,
                       .ignore_index = -100,
                       .reduction = LS_NONE,
                       .target_step = 1,
                       .seed = (uint64_t)(outer * 1000003 + classes * 1009 + inner)};
}

static int64_t draw_ignore_index(const test_case *options, random_source *source) {
    int64_t valid = random_below(source, options->classes), outside = options->classes + 3;
    if (valid > target_max(options->target_kind)) valid = target_max(options->target_kind);
    if (one_in(source, 3)) return valid;
    if (!target_is_signed(options->target_kind)) return outside > target_max(options->target_kind) ? valid : outside;
    if (one_in(source, 4) && options->target_kind == LS_INT64) return 1000000000000;
    return one_in(source, 4) ? -1 : -100;
}

/* torch's twice as often as each of the others. */
static ls_convention draw_convention(random_source *source) {
    int64_t drawn = random_below(source, CONVENTIONS + 1);
    return drawn < CONVENTIONS - 1 ? (ls_convention)(drawn + 1) : LS_TORCH;
}

void draw_options(test_case *options, random_source *source) {
    static const double smoothings[] = {0, 0.1, 0.1, 0.3, 1, -0.2, 1.5};
    static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};
    options->seed = random_bits(source);
    options->target_kind = one_in(source, 4) ? LS_PROBABILITIES : (ls_target_kind)random_below(source, LS_PROBABILITIES);
    int index_target = options->target_kind != LS_PROBABILITIES;
    options->logits = one_in(source, 3) ? LOGITS_NORMAL : LOGITS_MIX;
    options->label_smoothing = smoothings[random_below(source, index_target ? 7 : 5)];
    options->weight = one_in(source, 2) ? WEIGHT_NONE : one_in(source, 2) ? WEIGHT_POSITIVE : WEIGHT_MIXED;
    if (one_in(source, 40)) options->weight = WEIGHT_ZERO;
    options->prior = one_in(source, 2) ? PRIOR_NONE : one_in(source, 2) ? PRIOR_POSITIVE : PRIOR_SPARSE;
    options->ignored = !index_target || one_in(source, 2) ? IGNORE_NONE : one_in(source, 8) ? IGNORE_ALL : IGNORE_SOME;
    options->ignore_index = index_target ? draw_ignore_index(options, source) : -100;
    options->reduction = (ls_reduction)random_below(source, 3);
    options->convention = index_target ? draw_convention(source) : LS_TORCH;
    options->target_step = (int)random_below(source, 4);
    options->loss_dtype = options->dtype;
    if ((options->dtype == LS_BF16 || options->dtype == LS_F16) && one_in(source, 2)) options->loss_dtype = LS_F32;
    options->weight_dtype = one_in(source, 2) ? options->dtype : dtypes[random_below(source, 4)];
    options->prior_dtype = one_in(source, 2) ? options->dtype : dtypes[random_below(source, 4)];
}

int64_t rows_of(const test_case *options) { return options->outer * options->inner; }

int64_t elements_of(const test_case *options) { return rows_of(options) * options->classes; }

int64_t element_index(const test_case *options, int64_t row, int64_t class_index) {
    return (row / options->inner * options->classes + class_index) * options->inner + row % options->inner;
}

static double *doubles(int64_t count) {
    double *array = calloc((size_t)count + 1, sizeof *array);
    if (!array) exit(2);
    return array;
}

/* A finite value stays finite: 1e30 becomes the largest number of a dtype that has none such. */
static double rounded(ls_dtype dtype, double value) {
    if (isfinite(value)) value = (double)fminl(fmaxl(value, -dtype_max(dtype)), dtype_max(dtype));
    return (double)round_to(dtype, value);
}

static void fill_weight(sample *made, random_source *source) {
    const test_case *o = &made->options;
    if (o->weight == WEIGHT_NONE) return;
    made->weight = doubles(o->classes);
    for (int64_t k = 0; k < o->classes; k++) {
        double value = o->weight == WEIGHT_ZERO ? 0 : 0.2 + 2 * random_unit(source);
        if (o->weight == WEIGHT_MIXED && one_in(source, 5)) value = 0;
        if (o->weight == WEIGHT_MIXED && one_in(source, 5)) value = -0.7 * value;
        made->weight[k] = rounded(o->weight_dtype, value);
    }
}

static void fill_prior(sample *made, random_source *source) {
    const test_case *o = &made->options;
    if (o->prior == PRIOR_NONE) return;
    made->prior = doubles(o->classes);
    int64_t kept = random_below(source, o->classes);
    double sum = 0;
    for (int64_t k = 0; k < o->classes; k++) {
        made->prior[k] = o->prior == PRIOR_SPARSE && k != kept && one_in(source, 2) ? 0 : 0.1 + random_unit(source);
        sum += made->prior[k];
    }
    for (int64_t k = 0; k < o->classes; k++) made->prior[k] = rounded(o->prior_dtype, made->prior[k] / sum);
}

static void fill_targets(sample *made, random_source *source) {
    const test_case *o = &made->options;
    int64_t limit = target_max(o->target_kind) < o->classes - 1 ? target_max(o->target_kind) + 1 : o->classes;
    if (limit <= 0) limit = o->classes;
    for (int64_t row = 0; row < rows_of(o); row++) {
        int ignored = o->ignored == IGNORE_ALL || (o->ignored == IGNORE_SOME && one_in(source, 3));
        made->target[row] = ignored ? o->ignore_index : random_below(source, limit);
        if (o->target_step == 0) made->target[row] = made->target[0];
    }
}

static void fill_probabilities(sample *made, random_source *source) {
    const test_case *o = &made->options;
    made->probabilities = doubles(elements_of(o));
    for (int64_t row = 0; row < rows_of(o); row++) {
        int one_hot = one_in(source, 4), zeros = o->prior != PRIOR_SPARSE && one_in(source, 4);
        for (int64_t k = 0; k < o->classes; k++) {
            double value = one_hot ? k == made->target[row] : 2 * random_unit(source) / (double)o->classes;
            if (zeros && one_in(source, 2)) value = 0;
            made->probabilities[element_index(o, row, k)] = rounded(o->dtype, value);
        }
    }
}

/* Masks some logits whose prior is 0: their term must be absent, not 0 times infinity. With probability targets the class
 * still has a probability, and the loss is infinite. */
static void mask_by_prior(const sample *made, random_source *source, double *row, int64_t target) {
    if (made->options.prior != PRIOR_SPARSE || one_in(source, 2)) return;
    for (int64_t k = 0; k < made->options.classes; k++) {
        if (made->prior[k] == 0 && k != target) row[k] = -(double)INFINITY;
    }
}

/* Rows that make everything NaN are rare in a mix, so that sums and means remain worth checking. */
static logits_kind kind_of_row(const sample *made, random_source *source) {
    if (made->options.logits != LOGITS_MIX) return made->options.logits;
    if (one_in(source, 40)) return (logits_kind)(LOGITS_MASKED + random_below(source, LOGITS_KINDS - LOGITS_MASKED));
    return (logits_kind)random_below(source, LOGITS_MASKED);
}

static void fill_logits(sample *made, random_source *source) {
    const test_case *o = &made->options;
    double *row_values = doubles(o->classes);
    for (int64_t row = 0; row < rows_of(o); row++) {
        int64_t target = made->target[row];
        if (target < 0 || target >= o->classes) target = random_below(source, o->classes);
        fill_row(kind_of_row(made, source), source, row_values, o->classes, target);
        mask_by_prior(made, source, row_values, target);
        int64_t copied = o->strides == STRIDES_BROADCAST ? row % o->inner : row;
        for (int64_t k = 0; k < o->classes; k++) {
            made->logits[element_index(o, row, k)] =
                copied != row ? made->logits[element_index(o, copied, k)] : rounded(o->dtype, row_values[k]);
        }
    }
    free(row_values);
}

sample *make_sample(const test_case *options) {
    random_source source = {options->seed};
    sample *made = calloc(1, sizeof *made);
    if (!made) exit(2);
    made->options = *options;
    made->logits = doubles(elements_of(options));
    made->target = calloc((size_t)rows_of(options) + 1, sizeof *made->target);
    if (!made->target) exit(2);
    fill_weight(made, &source);
    fill_prior(made, &source);
    fill_targets(made, &source);
    if (options->target_kind == LS_PROBABILITIES) fill_probabilities(made, &source);
    fill_logits(made, &source);
    return made;
}

void free_sample(sample *made) {
    free(made->logits);
    free(made->probabilities);
    free(made->weight);
    free(made->prior);
    free(made->target);
    free(made);
}

void describe(const test_case *o, char *text, size_t size) {
    snprintf(text, size,
             "%s [%lld, %lld, %lld] strides %s, logits %s, target %s step %d, ignored %s (%lld), smoothing %g, weight %s %s, "
             "prior %s %s, %s %s, loss %s, seed %llu",
             dtype_name(o->dtype), (long long)o->outer, (long long)o->classes, (long long)o->inner, stride_names[o->strides],
             logits_names[o->logits], target_name(o->target_kind), o->target_step, ignore_names[o->ignored],
             (long long)o->ignore_index, o->label_smoothing, weight_names[o->weight], dtype_name(o->weight_dtype),
             prior_names[o->prior], dtype_name(o->prior_dtype), convention_names[o->convention], reduction_names[o->reduction],
             dtype_name(o->loss_dtype), (unsigned long long)o->seed);
}
