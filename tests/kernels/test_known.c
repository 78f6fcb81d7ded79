/* Values that do not come from this project's formulas: published examples, torch's and fastai's figures in fp64, and the table
 * of special values. They guard the reference as much as the kernels.
 *
 * Knows the checker and the public header. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "report.h"
#include "tests.h"

#define NOT_A_NUMBER ((double)NAN)
#define INFINITE ((double)INFINITY)

enum { MAX_ROWS = 5, MAX_CLASSES = 5 };

static const double notebook[] = {0, .2, .7, .1, 0, 0, .9, .2, .2, 1, 1, .2, .7, .9, 1};
static const double spreadsheet[] = {4.2, -2.4, 1.6, -.6, 3.6, 1.2, -.5, .5, -.25, 1.7};
static const double square[] = {4.7, -2.5, .6,  1.2, .4, -1.2, 2.4, 2.6, -.6, 2.34, -2.4, 1.2, 1.1,
                                .8,  1.2,  1.2, .2,  .8, 1.9,  -.6, -.9, -.1, -.2,  -.5,  1.6};
static const double one_to_five[] = {1, 2, 3, 4, 5};

typedef struct {
    const char *name;
    const double *logits;
    int64_t rows, classes;
    double smoothing;
    const double *weight;
    int64_t target[MAX_ROWS];
    ls_convention convention;
    ls_reduction reduction;
    double tolerance;
    double loss[MAX_ROWS];
} published;

static const published examples[] = {
    {"notebook", notebook, 3, 5, .5, NULL, {2, 1, 0}, LS_FASTAI, LS_MEAN, 1e-8, {1.466952797653212}},
    {"notebook", notebook, 3, 5, .5, NULL, {2, 1, 0}, LS_FASTAI, LS_SUM, 1e-8, {4.400858392959636}},
    {"spreadsheet",
     spreadsheet,
     5,
     2,
     .1,
     NULL,
     {0, 1, 1, 0, 0},
     LS_FASTAI,
     LS_NONE,
     5e-5,
     {.3314, 2.1951, 2.3668, 1.2633, 1.9855}},
    {"torch, y",
     square,
     5,
     5,
     .1,
     NULL,
     {0, 1, 2, 3, 4},
     LS_TORCH,
     LS_NONE,
     6e-10,
     {.441292161, 1.304859154, 1.453622827, .859183514, .601881890}},
    {"torch, y", square, 5, 5, .1, NULL, {0, 1, 2, 3, 4}, LS_TORCH, LS_SUM, 6e-10, {4.660839546}},
    {"torch, y, no smoothing", square, 5, 5, 0, NULL, {0, 1, 2, 3, 4}, LS_TORCH, LS_MEAN, 6e-10, {.759127909}},
    {"torch, y, w",
     square,
     5,
     5,
     .1,
     one_to_five,
     {0, 1, 2, 3, 4},
     LS_TORCH,
     LS_NONE,
     6e-10,
     {1.315150594, 2.774884224, 4.224868480, 3.280815703, 2.505433072}},
    {"torch, y, w", square, 5, 5, .1, one_to_five, {0, 1, 2, 3, 4}, LS_TORCH, LS_MEAN, 6e-10, {.940076805}},
    {"torch, yi", square, 5, 5, .1, NULL, {0, -100, 2, 3, 4}, LS_TORCH, LS_MEAN, 6e-10, {.838995098}},
    {"torch, yi, w", square, 5, 5, .1, one_to_five, {0, -100, 2, 3, 4}, LS_TORCH, LS_MEAN, 6e-10, {.871251373}},
    {"torch, yi, w", square, 5, 5, .1, one_to_five, {0, -100, 2, 3, 4}, LS_TORCH, LS_SUM, 6e-10, {11.326267849}},
    {"fastai, y, w",
     square,
     5,
     5,
     .1,
     one_to_five,
     {0, 1, 2, 3, 4},
     LS_FASTAI,
     LS_NONE,
     6e-10,
     {.441292161, 2.362952393, 3.940543914, 2.854979000, 2.185456694}},
    {"fastai, y, w", square, 5, 5, .1, one_to_five, {0, 1, 2, 3, 4}, LS_FASTAI, LS_MEAN, 6e-10, {.951650138}},
    {"fastai, yi", square, 5, 5, .1, NULL, {0, -100, 2, 3, 4}, LS_FASTAI, LS_SUM, 6e-10, {3.602746307}},
    {"fastai, yi", square, 5, 5, .1, NULL, {0, -100, 2, 3, 4}, LS_FASTAI, LS_MEAN, 6e-10, {.838448379}},
    {"fastai, yi, w", square, 5, 5, .1, one_to_five, {0, -100, 2, 3, 4}, LS_FASTAI, LS_SUM, 6e-10, {9.669037686}},
    {"fastai, yi, w", square, 5, 5, .1, one_to_five, {0, -100, 2, 3, 4}, LS_FASTAI, LS_MEAN, 6e-10, {.896973847}},
};

static sample *sample_of(const test_case *options, const double *logits, const double *weight, const double *prior,
                         const int64_t *target) {
    sample *made = make_sample(options);
    memcpy(made->logits, logits, (size_t)elements_of(options) * sizeof *logits);
    memcpy(made->target, target, (size_t)rows_of(options) * sizeof *target);
    if (weight) memcpy(made->weight, weight, (size_t)options->classes * sizeof *weight);
    if (prior) memcpy(made->prior, prior, (size_t)options->classes * sizeof *prior);
    return made;
}

static void check_published(const published *e) {
    test_case options = plain_case(LS_F64, e->rows, e->classes, 1);
    options.label_smoothing = e->smoothing;
    options.weight = e->weight ? WEIGHT_POSITIVE : WEIGHT_NONE;
    options.convention = e->convention;
    options.reduction = e->reduction;
    sample *made = sample_of(&options, e->logits, e->weight, NULL, e->target);
    double loss[MAX_ROWS], gradient[MAX_ROWS * MAX_CLASSES];
    compute(made, loss, gradient);
    for (int i = 0; i < (e->reduction == LS_NONE ? (int)e->rows : 1); i++) {
        if (!(fabs(loss[i] - e->loss[i]) <= e->tolerance))
            fail("%s: loss %.15g, published %.15g", e->name, loss[i], e->loss[i]);
    }
    check(made);
    free_sample(made);
}

/* What is known of the gradient: a value, NaN, or that it is finite. */
#define FINITE 1e300

static const struct {
    const char *name;
    double logits[3];
    double smoothing;
    double weight[3]; /* all 0: none */
    double prior[3];  /* all 0: none */
    int target;
    double loss, gradient[3];
} outcomes[] = {
    {"-inf beside the target", {-INFINITE, 0, 1}, 0, {0}, {0}, 1, 1.3132616875, {0, -.7310585786, .7310585786}},
    {"the same with smoothing", {-INFINITE, 0, 1}, .3, {0}, {0}, 1, INFINITE, {-.1, FINITE, FINITE}},
    {"-inf at the target", {0, -INFINITE, 0}, 0, {0}, {0}, 1, INFINITE, {.5, -1, .5}},
    {"the same with smoothing", {0, -INFINITE, 0}, .3, {0}, {0}, 1, INFINITE, {.4, -.8, .4}},
    {"only the target is not -inf", {-INFINITE, 7, -INFINITE}, 0, {0}, {0}, 1, 0, {0, 0, 0}},
    {"-inf under weight 0, smoothing", {-INFINITE, 0, 1}, .3, {0, 1, 1}, {0}, 1, NOT_A_NUMBER, {FINITE, FINITE, FINITE}},
    {"-inf under weight 0", {-INFINITE, 0, 1}, 0, {0, 1, 1}, {0}, 1, 1.3132616875, {0, FINITE, FINITE}},
    {"-inf under prior 0", {-INFINITE, 0, 1}, .3, {0}, {0, .5, .5}, 1, 1.1632616875, {0, -.58105857863, .58105857863}},
    {"+inf", {0, INFINITE, 1}, .3, {0}, {0}, 0, NOT_A_NUMBER, {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"+inf at the target", {0, INFINITE, 1}, 0, {0}, {0}, 1, NOT_A_NUMBER, {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"NaN", {0, 1, NOT_A_NUMBER}, 0, {0}, {0}, 0, NOT_A_NUMBER, {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"NaN at the target", {NOT_A_NUMBER, 1, 2}, .3, {0}, {0}, 0, NOT_A_NUMBER, {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"NaN and -inf",
     {-INFINITE, -INFINITE, NOT_A_NUMBER},
     0,
     {0},
     {0},
     0,
     NOT_A_NUMBER,
     {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"all -inf", {-INFINITE, -INFINITE, -INFINITE}, .3, {0}, {0}, 2, NOT_A_NUMBER, {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER}},
    {"+-1e30", {1e30, -1e30, 0}, 0, {0}, {0}, 1, 2e30, {1, -1, 0}},
    {"sum out of range", {3e38, -3e38, 0}, 0, {0}, {0}, 0, 0, {0, 0, 0}},
    {"confident", {40, 0, 0}, 0, {0}, {0}, 0, 8.4967085e-18, {-8.4967085e-18, 4.24835426e-18, 4.24835426e-18}},
    {"underflow of exp", {0, 200, -200}, 0, {0}, {0}, 1, 0, {0, 0, 0}},
};

static int is_as_known(double got, double known) {
    if (known >= FINITE && !isinf(known)) return isfinite(got);
    if (isnan(known) || isinf(known)) return isnan(known) ? isnan(got) : got == known;
    return fabs(got - known) <= 1e-6 * fabs(known) + 1e-60 + (known == 0 ? 1e-37 : 0);
}

static void check_outcome(size_t index, ls_dtype dtype) {
    test_case options = plain_case(dtype, 1, 3, 1);
    double weights = 0, priors = 0;
    for (int k = 0; k < 3; k++) weights += outcomes[index].weight[k], priors += outcomes[index].prior[k];
    options.label_smoothing = outcomes[index].smoothing;
    options.weight = weights > 0 ? WEIGHT_POSITIVE : WEIGHT_NONE;
    options.prior = priors > 0 ? PRIOR_POSITIVE : PRIOR_NONE;
    int64_t target = outcomes[index].target;
    sample *made = sample_of(&options, outcomes[index].logits, weights > 0 ? outcomes[index].weight : NULL,
                             priors > 0 ? outcomes[index].prior : NULL, &target);
    double loss, gradient[3];
    compute(made, &loss, gradient);
    loss = (double)load(dtype, &loss, 0);
    if (!is_as_known(loss, outcomes[index].loss))
        fail("%s: loss %g, expected %g", outcomes[index].name, loss, outcomes[index].loss);
    for (int k = 0; k < 3; k++) {
        double got = (double)load(dtype, gradient, k), known = outcomes[index].gradient[k];
        if (!is_as_known(got, known)) fail("%s: gradient[%d] %g, expected %g", outcomes[index].name, k, got, known);
    }
    free_sample(made);
}

/* An ignored row may hold anything; a mean over no rows is NaN, and its gradient 0 or that of fastai's uniform part. */
static void check_ignored(ls_convention convention, double inside, double loss, double gradient) {
    test_case options = plain_case(LS_F64, 2, 2, 1);
    const double logits[] = {inside, 0, 0, 0};
    const int64_t target[] = {-100, -100};
    options.convention = convention;
    options.label_smoothing = .5;
    options.reduction = LS_MEAN;
    sample *made = sample_of(&options, logits, NULL, NULL, target);
    double got[2], got_gradient[4];
    compute(made, got, got_gradient);
    if (!is_as_known(got[0], loss)) fail("all ignored: mean %g, expected %g", got[0], loss);
    if (!is_as_known(got_gradient[0], gradient)) fail("all ignored: gradient %g, expected %g", got_gradient[0], gradient);
    free_sample(made);
}

/* A target that lies far below and has no weight: its own gradient is what the others' smoothing gives its probability. */
static void check_far_below(double below) {
    test_case options = plain_case(LS_F64, 1, 3, 1);
    const double logits[] = {0, below, 1}, weight[] = {1, 0, 2};
    const int64_t target[] = {1};
    options.label_smoothing = .3;
    options.weight = WEIGHT_POSITIVE;
    sample *made = sample_of(&options, logits, weight, NULL, target);
    check(made);
    free_sample(made);
}

/* A target that leads by more than the largest number. */
static void check_wide_lead(void) {
    test_case options = plain_case(LS_F64, 1, 3, 1);
    const double logits[] = {-1e308, 1e308, -1e308};
    const int64_t target[] = {1};
    sample *made = sample_of(&options, logits, NULL, NULL, target);
    double loss, gradient[3];
    compute(made, &loss, gradient);
    if (loss != 0 || gradient[0] != 0 || gradient[1] != 0) fail("a lead of 2e308: loss %g, gradient %g", loss, gradient[1]);
    free_sample(made);
}

void test_known_values(void) {
    for (int isa = 0; ls_isa_name(isa); isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
            set_isa(isa);
            check_published(&examples[i]);
        }
        set_isa(isa);
        for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++) {
            check_outcome(i, LS_F32);
            check_outcome(i, LS_F64);
        }
        check_far_below(-590.7);
        check_far_below(-632.3);
        check_far_below(-1e30);
        check_wide_lead();
        check_ignored(LS_TORCH, NOT_A_NUMBER, NOT_A_NUMBER, 0);
        check_ignored(LS_FASTAI, log(3), NOT_A_NUMBER, .0625);
    }
}
