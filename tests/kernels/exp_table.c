/* Accuracy over all fp32 inputs, by instruction set, as a Markdown table: exp alone, and the row of two logits (x, 0) through
 * the public interface with the target on either. A program of its own; takes minutes.
 *
 *     exp_table [step]         step: every so manieth bit pattern only
 *
 * Compiled with EXP_SCALAR, EXP_AVX2, EXP_AVX512 or EXP_NEON for each exp_table_isa.c that is linked. The truth comes from the
 * C library's exp and log1p in double: below one part in 2^52 off. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/kernels/ls_kernels.h"

enum { BATCH = 1 << 16 };

/* In the units of the table. An exponential is within 2 x 2^-24 of the truth, which is at most 2 ULP. A loss has the error of one
 * exponential, for the rest is in double, and its own rounding; an entry of the gradient, that of the exponential, and those of
 * its factor and of the product, each 2^-24. Where they are passed, or a special value is wrong, the exit status is 1. */
#define BOUND_EXP 2
#define BOUND_LOSS 2.5
#define BOUND_GRADIENT 4

typedef void (*exp_many)(const float *x, float *y, int64_t count, float exponent);
void exp_many_scalar(const float *x, float *y, int64_t count, float exponent);
void exp_many_avx2(const float *x, float *y, int64_t count, float exponent);
void exp_many_avx512(const float *x, float *y, int64_t count, float exponent);
void exp_many_neon(const float *x, float *y, int64_t count, float exponent);

static const struct {
    const char *isa;
    exp_many exp;
} variants[] = {
#ifdef EXP_SCALAR
    {"scalar", exp_many_scalar},
#endif
#ifdef EXP_AVX2
    {"avx2", exp_many_avx2},
#endif
#ifdef EXP_AVX512
    {"avx512", exp_many_avx512},
#endif
#ifdef EXP_NEON
    {"neon", exp_many_neon},
#endif
    {NULL, NULL}};

typedef struct {
    double largest; /* error in the column's unit */
    float at;
    long long inputs, wrong; /* wrong: not NaN where it must be, not 0 where it must be */
} column;

static void widen(column *into, double error, float at) {
    if (error > into->largest) {
        into->largest = error;
        into->at = at;
    }
}

static void merge(column *into, const column *part) {
    widen(into, part->largest, part->at);
    into->inputs += part->inputs;
    into->wrong += part->wrong;
}

static double ulp_f32(double value) {
    int exponent;
    frexp(value, &exponent);
    return ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
}

static int64_t fill(float *x, int64_t first, int64_t step) {
    int64_t count = 0;
    for (; count < BATCH && first + count * step < 1ll << 32; count++) {
        uint32_t bits = (uint32_t)(first + count * step);
        memcpy(&x[count], &bits, sizeof bits);
    }
    for (int64_t i = count; i < BATCH; i++) x[i] = 0;
    return count;
}

/* The smallest exp that is not 0, relative to the frame, and the largest that frames let occur. */
static const double lowest = -126 * 0.6931471805599453, highest = 88;

static void exp_batch(exp_many exp_of, const float *x, int64_t count, float exponent, column *into) {
    static _Thread_local float y[BATCH];
    exp_of(x, y, BATCH, exponent);
    for (int64_t i = 0; i < count; i++) {
        double d = (double)x[i] - (double)exponent * 0.6931471805599453;
        into->inputs++;
        if (isnan(x[i]))
            into->wrong += !isnan(y[i]);
        else if (d < lowest - 1e-4)
            into->wrong += y[i] != 0;
        else if (d > lowest + 1e-4 && d < highest) {
            double truth = exp((double)x[i]) * exp2(-(double)exponent);
            widen(into, fabs((double)y[i] - truth) / ulp_f32(truth), x[i]);
        }
    }
}

typedef struct {
    float logits[2 * BATCH], loss[BATCH], gradient[2 * BATCH];
    char target[BATCH];
    double scratch[1 << 20];
} row_buffers;

/* Rows (x, 0); the loss in ULP, the gradient in units of 2^-24 max(p, q), both at the target on x (0) or on 0 (1). */
static void row_batch(const float *x, int64_t count, int target, row_buffers *b, column *loss, column *gradient) {
    float factor;
    ls_error error;
    for (int64_t i = 0; i < BATCH; i++) {
        b->logits[2 * i] = x[i];
        b->logits[2 * i + 1] = 0;
        b->target[i] = (char)target;
    }
    ls_problem p = {.outer = BATCH,
                    .num_classes = 2,
                    .inner = 1,
                    .dtype = LS_F32,
                    .logits = b->logits,
                    .logits_stride = {2, 1, 1},
                    .target_kind = LS_INT8,
                    .target = b->target,
                    .target_stride = {1, 1, 1},
                    .ignore_index = -100,
                    .reduction = LS_NONE,
                    .threads = 1,
                    .loss_dtype = LS_F32,
                    .loss = b->loss,
                    .grad_logits = b->gradient,
                    .grad_factor = &factor};
    if (ls_scratch_bytes(&p) > sizeof b->scratch - 64) {
        fputs("more scratch memory than expected\n", stderr);
        exit(2);
    }
    char *scratch = (char *)b->scratch;
    scratch += (64 - (size_t)scratch % 64) % 64;
    ls_cross_entropy(&p, scratch, &error);
    for (int64_t i = 0; i < count; i++) {
        double gap = target ? (double)x[i] : -(double)x[i]; /* the other logit above the target's */
        loss->inputs++;
        gradient->inputs++;
        if (isnan(x[i]) || x[i] == INFINITY) {
            loss->wrong += !isnan(b->loss[i]);
            gradient->wrong += !isnan(b->gradient[2 * i]) || !isnan(b->gradient[2 * i + 1]);
            continue;
        }
        if (isinf(x[i])) continue;
        double other = 1 / (1 + exp(-gap)), truth = gap > 0 ? gap + log1p(exp(-gap)) : log1p(exp(gap));
        widen(loss, fabs((double)b->loss[i] - truth) / ulp_f32(truth), x[i]);
        double unit = 0x1p-24 * other + 0x1p-126;
        widen(gradient, fabs((double)b->gradient[2 * i + !target] - other) / unit, x[i]);
        widen(gradient, fabs((double)b->gradient[2 * i + target] + other) / 0x1p-24, x[i]);
    }
}

/* Returns whether that is within the bound, and no special value wrong. */
static int print(const char *isa, const char *what, const char *unit, const column *c, double bound) {
    printf("| %s | %s | %.3f %s | %.9g | %lld | %lld |\n", isa, what, c->largest, unit, (double)c->at, c->inputs, c->wrong);
    fflush(stdout);
    return c->largest <= bound && c->wrong == 0;
}

static int exp_rows(int64_t step, int v, float exponent) {
    column all = {0};
    int64_t batches = ((1ll << 32) / step + BATCH - 1) / BATCH;
#pragma omp parallel
    {
        static _Thread_local float x[BATCH];
        column own = {0};
#pragma omp for schedule(dynamic, 16)
        for (int64_t batch = 0; batch < batches; batch++) {
            int64_t count = fill(x, batch * BATCH * step, step);
            exp_batch(variants[v].exp, x, count, exponent, &own);
        }
#pragma omp critical
        merge(&all, &own);
    }
    char what[64];
    snprintf(what, sizeof what, exponent == 0 ? "exp" : "exp in the frame 2^%g", (double)exponent);
    return print(variants[v].isa, what, "ULP", &all, BOUND_EXP);
}

static int row_rows(int64_t step, int v) {
    column all[4] = {{0}};
    int64_t batches = ((1ll << 32) / step + BATCH - 1) / BATCH;
    ls_isa_select(variants[v].isa);
#pragma omp parallel
    {
        static _Thread_local float x[BATCH];
        row_buffers *b = malloc(sizeof *b);
        if (!b) exit(2);
        column own[4] = {{0}};
#pragma omp for schedule(dynamic, 16)
        for (int64_t batch = 0; batch < batches; batch++) {
            int64_t count = fill(x, batch * BATCH * step, step);
            for (int target = 0; target < 2; target++) row_batch(x, count, target, b, &own[2 * target], &own[2 * target + 1]);
        }
#pragma omp critical
        for (int i = 0; i < 4; i++) merge(&all[i], &own[i]);
        free(b);
    }
    int within = print(variants[v].isa, "loss of (x, 0), target x", "ULP", &all[0], BOUND_LOSS);
    within &= print(variants[v].isa, "gradient of (x, 0), target x", "x 2^-24 max(p, q)", &all[1], BOUND_GRADIENT);
    within &= print(variants[v].isa, "loss of (x, 0), target 0", "ULP", &all[2], BOUND_LOSS);
    within &= print(variants[v].isa, "gradient of (x, 0), target 0", "x 2^-24 max(p, q)", &all[3], BOUND_GRADIENT);
    return within;
}

int main(int count, char **arguments) {
    int64_t step = count > 1 ? atoll(arguments[1]) : 1;
    int within = 1;
    if (step < 1) step = 1;
    puts("| ISA | function | largest error | at x | inputs | wrong special values |\n|---|---|---|---|---|---|");
    for (int v = 0; variants[v].isa; v++) {
        if (!ls_isa_available(variants[v].isa)) continue;
        within &= exp_rows(step, v, 0);
        within &= exp_rows(step * 16, v, -100);
        within &= exp_rows(step * 16, v, 100);
        within &= row_rows(step, v);
    }
    if (!within) fputs("beyond the bounds of docs/numerics.md, or a special value is wrong\n", stderr);
    return !within;
}
