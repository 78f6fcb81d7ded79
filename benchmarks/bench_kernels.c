/* The kernels alone, without torch: every instruction set through the public interface, beside a copy and a read of the same
 * bytes. One row of CSV for each; repetitions interleaved in one process, pages warm. python -m benchmarks.kernels keeps them.
 *
 *     bench_kernels [quick] [seconds for each shape, default 3]
 *
 * The columns ratio_to_copy and ratio_to_read compare with memcpy of the logits, and with reading them, on as many threads.
 * GB/s count the bytes of the logits, and those of the gradient where one is written. Knows the public header of the kernels
 * only. */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../csrc/kernels/ls_kernels.h"

enum { PAGE = 4096, MAX_CANDIDATES = 24, MAX_TOGETHER = 16, MAX_REPETITIONS = 200, MIN_REPETITIONS = 3 };
#define SHORTEST 50e-6 /* seconds: small problems are repeated within one measurement */

typedef struct {
    int64_t outer, classes, inner;
    ls_dtype dtype;
    double smoothing;
    int probabilities;
    int is_quick; /* also measured by "quick" */
} bench_shape;

static const bench_shape shapes[] = {
    {4096, 32000, 1, LS_F32, 0.1, 0, 1},  {4096, 32000, 1, LS_F32, 0, 0, 0},    {32768, 1000, 1, LS_F32, 0.1, 0, 1},
    {16, 1000, 1024, LS_F32, 0.1, 0, 1},  {8, 256000, 1, LS_F32, 0.1, 0, 1},    {65536, 10, 1, LS_F32, 0.1, 0, 1},
    {256, 1000, 1, LS_F32, 0.1, 0, 1},    {128, 10, 1, LS_F32, 0.1, 0, 0},      {32, 10, 1, LS_F32, 0.1, 0, 1},
    {65536, 3, 1, LS_F32, 0.1, 0, 0},     {65536, 33, 1, LS_F32, 0.1, 0, 0},    {32768, 100, 1, LS_F32, 0.1, 0, 0},
    {8, 21, 262144, LS_F32, 0.1, 0, 0},   {4096, 32000, 1, LS_BF16, 0.1, 0, 1}, {32768, 1000, 1, LS_BF16, 0.1, 0, 0},
    {16, 1000, 1024, LS_BF16, 0.1, 0, 0}, {65536, 10, 1, LS_BF16, 0.1, 0, 0},   {4096, 32000, 1, LS_F16, 0.1, 0, 1},
    {2048, 32000, 1, LS_F64, 0.1, 0, 1},  {32768, 1000, 1, LS_F64, 0.1, 0, 0},  {4096, 32000, 1, LS_F32, 0.1, 1, 0},
    {32768, 1000, 1, LS_F32, 0.1, 1, 0},  {16, 1000, 1024, LS_F32, 0.1, 1, 0},
};

/* These stay in a first cache of 32 KiB with their gradient and, in 16 bits, with the row of floats between. In two sizes: from
 * the difference follows what an element costs, without what a call costs. Measured together, on one thread. */
static const bench_shape cached_shapes[] = {
    {1, 1024, 1, LS_F32, 0.1, 0, 1},  {1, 3072, 1, LS_F32, 0.1, 0, 1}, {1, 1024, 1, LS_BF16, 0.1, 0, 1},
    {1, 3072, 1, LS_BF16, 0.1, 0, 1}, {1, 1024, 1, LS_F16, 0.1, 0, 1}, {1, 3072, 1, LS_F16, 0.1, 0, 1},
    {1, 512, 1, LS_F64, 0.1, 0, 1},   {1, 1536, 1, LS_F64, 0.1, 0, 1}, {64, 10, 1, LS_F32, 0.1, 0, 1},
    {256, 10, 1, LS_F32, 0.1, 0, 1},
};

static const char *const dtype_names[] = {"f32", "f64", "bf16", "f16"};
static const size_t dtype_bytes[] = {4, 8, 2, 2};

typedef enum { READ, COPY, LOSS, LOSS_AND_GRADIENT } bench_mode;
static const char *const mode_names[] = {"read", "copy", "loss", "loss+gradient"};

typedef struct {
    bench_mode mode;
    const char *isa; /* NULL for read and copy */
    int threads, repetitions;
    double seconds[MAX_REPETITIONS], total;
} candidate;

typedef struct {
    const bench_shape *shape;
    size_t bytes; /* of the logits */
    char *logits, *gradient, *probabilities;
    int64_t *target;
    void *scratch;
    ls_problem problem;
} bench_data;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time); /* since the start of the machine: a double holds it to the nanosecond */
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *memory(size_t bytes) {
    void *block = aligned_alloc(PAGE, (bytes + PAGE) / PAGE * PAGE);
    if (!block) {
        fputs("not enough memory\n", stderr);
        exit(2);
    }
    return block;
}

static uint16_t half_of(float value) { /* values of moderate size; rounds towards zero */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 112;
    return exponent <= 0 ? 0 : (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

static void put(void *array, ls_dtype dtype, int64_t i, double value) {
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    switch (dtype) {
    case LS_F32:
        ((float *)array)[i] = single;
        return;
    case LS_F64:
        ((double *)array)[i] = value;
        return;
    case LS_BF16:
        ((uint16_t *)array)[i] = (uint16_t)(bits >> 16);
        return;
    case LS_F16:
        ((uint16_t *)array)[i] = half_of(single);
        return;
    }
}

/* Logits within 6 of 0, probabilities that sum to about 1. */
static bench_data make_data(const bench_shape *shape) {
    int64_t rows = shape->outer * shape->inner, elements = rows * shape->classes;
    bench_data data = {.shape = shape, .bytes = (size_t)elements * dtype_bytes[shape->dtype]};
    /* Half a page apart, modulo pages: reads wait for writes at the same place of another page, and malloc places at random. */
    data.logits = memory(2 * data.bytes + 2 * PAGE);
    data.gradient = data.logits + (data.bytes + PAGE - 1) / PAGE * PAGE + PAGE / 2;
    data.probabilities = shape->probabilities ? memory(data.bytes) : NULL;
    data.target = memory((size_t)rows * sizeof *data.target);
    double *loss = memory(sizeof *loss);
    float *factor = memory(sizeof *factor);
#pragma omp parallel for
    for (int64_t i = 0; i < elements; i++) {
        double unit = (double)((uint64_t)(i * 2 + 1) * 0x9E3779B97F4A7C15u >> 40) * 0x1p-24;
        put(data.logits, shape->dtype, i, 12 * unit - 6);
        if (shape->probabilities) put(data.probabilities, shape->dtype, i, 2 * unit / (double)shape->classes);
    }
    for (int64_t row = 0; row < rows; row++) data.target[row] = row * 7919 % shape->classes;
    memset(data.gradient, 0, data.bytes);
    data.problem = (ls_problem){.outer = shape->outer,
                                .num_classes = shape->classes,
                                .inner = shape->inner,
                                .dtype = shape->dtype,
                                .logits = data.logits,
                                .logits_stride = {shape->classes * shape->inner, shape->inner, 1},
                                .target_kind = shape->probabilities ? LS_PROBABILITIES : LS_INT64,
                                .target = shape->probabilities ? (void *)data.probabilities : (void *)data.target,
                                .target_stride = {shape->inner, 0, 1},
                                .ignore_index = -100,
                                .label_smoothing = shape->smoothing,
                                .reduction = LS_MEAN,
                                .loss_dtype = shape->dtype,
                                .loss = loss,
                                .grad_logits = data.gradient,
                                .grad_factor = factor};
    if (shape->probabilities) memcpy(data.problem.target_stride, data.problem.logits_stride, sizeof data.problem.target_stride);
    data.problem.threads = omp_get_max_threads();
    size_t scratch = ls_scratch_bytes(&data.problem);
    data.problem.threads = 1;
    if (ls_scratch_bytes(&data.problem) > scratch) scratch = ls_scratch_bytes(&data.problem);
    data.scratch = memory(scratch + (1 << 20));
    memset(data.scratch, 0, scratch);
    return data;
}

static void free_data(bench_data *data) {
    free(data->logits);
    free(data->probabilities);
    free(data->target);
    free(data->scratch);
    free(data->problem.loss);
    free(data->problem.grad_factor);
}

static uint64_t sum_words(const uint64_t *words, size_t count) {
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= count; i += 8) {
        for (int k = 0; k < 8; k++) sums[k] += words[i + (size_t)k];
    }
    for (int k = 1; k < 8; k++) sums[0] += sums[k];
    return sums[0];
}

/* The same bytes, one share a thread. */
static void read_or_copy(const bench_data *data, bench_mode mode, int threads) {
#pragma omp parallel for schedule(static) if (threads > 1 && data->bytes >= 1 << 17)
    for (int share = 0; share < threads; share++) {
        size_t begin = data->bytes / 64 * (size_t)share / (size_t)threads * 64;
        size_t end = share + 1 == threads ? data->bytes : data->bytes / 64 * (size_t)(share + 1) / (size_t)threads * 64;
        if (mode == COPY) {
            memcpy(data->gradient + begin, data->logits + begin, end - begin);
        } else {
            volatile uint64_t sink = sum_words((const uint64_t *)(const void *)(data->logits + begin), (end - begin) / 8);
            (void)sink;
        }
    }
}

static double measure(bench_data *data, const candidate *c, int inner_repetitions) {
    ls_error error;
    if (c->isa) ls_isa_select(c->isa);
    data->problem.threads = c->threads;
    data->problem.grad_logits = c->mode == LOSS_AND_GRADIENT ? data->gradient : NULL;
    double begin = now();
    for (int i = 0; i < inner_repetitions; i++) {
        if (!c->isa)
            read_or_copy(data, c->mode, c->threads);
        else if (ls_cross_entropy(&data->problem, data->scratch, &error) != LS_OK)
            exit(2);
    }
    return (now() - begin) / inner_repetitions;
}

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(candidate *c, double share) {
    qsort(c->seconds, (size_t)c->repetitions, sizeof *c->seconds, compare_seconds);
    return c->seconds[(int)(share * c->repetitions)];
}

static double median(candidate *c) { return quantile(c, 0.5); }

static int list_candidates(candidate *list, int threads) {
    int count = 0;
    list[count++] = (candidate){.mode = READ, .threads = threads};
    list[count++] = (candidate){.mode = COPY, .threads = threads};
    for (int isa = 0; ls_isa_name(isa) && count + 2 <= MAX_CANDIDATES; isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        list[count++] = (candidate){.mode = LOSS, .isa = ls_isa_name(isa), .threads = threads};
        list[count++] = (candidate){.mode = LOSS_AND_GRADIENT, .isa = ls_isa_name(isa), .threads = threads};
    }
    return count;
}

static void print_row(const bench_data *data, candidate *c, double read, double copy) {
    const bench_shape *s = data->shape;
    double seconds = median(c), elements = (double)data->bytes / (double)dtype_bytes[s->dtype];
    double moved = (double)data->bytes * (1 + (c->mode == COPY || c->mode == LOSS_AND_GRADIENT) + (c->isa && s->probabilities));
    printf("%s,%s,%lld,%lld,%lld,%s,%g,%s,%d,%d,%.5g,%.5g,%.5g,%.4f,%.2f,%.3f,%.3f\n", c->isa ? c->isa : "memory",
           dtype_names[s->dtype], (long long)s->outer, (long long)s->classes, (long long)s->inner,
           s->probabilities ? "probabilities" : "index", s->smoothing, mode_names[c->mode], c->threads, c->repetitions,
           seconds * 1e3, quantile(c, 0.2) * 1e3, quantile(c, 0.8) * 1e3, seconds * 1e9 / elements, moved / seconds * 1e-9,
           seconds / copy, seconds / read);
    fflush(stdout);
}

/* Shapes whose figures are compared are measured together, so that a busy moment of the machine meets them alike. */
static void bench(const bench_shape *together, int number, int threads, double budget) {
    static candidate lists[MAX_TOGETHER][MAX_CANDIDATES];
    static int at_once[MAX_TOGETHER][MAX_CANDIDATES];
    bench_data data[MAX_TOGETHER];
    int count = 0, going = 1;
    for (int s = 0; s < number; s++) {
        data[s] = make_data(&together[s]);
        count = list_candidates(lists[s], threads);
        for (int i = 0; i < count; i++) { /* warms pages and the pool */
            measure(&data[s], &lists[s][i], 1);
            double once = measure(&data[s], &lists[s][i], 1);
            at_once[s][i] = once < SHORTEST ? (int)(SHORTEST / (once + 1e-9)) + 1 : 1;
        }
    }
    while (going) { /* every candidate in turn, until each has had its share of the time */
        going = 0;
        for (int place = 0; place < number * count; place++) {
            int s = place / count, i = place % count;
            candidate *c = &lists[s][i];
            if (c->repetitions == MAX_REPETITIONS) continue;
            if (c->repetitions >= MIN_REPETITIONS && c->total > budget / count) continue;
            double seconds = measure(&data[s], c, at_once[s][i]);
            c->total += seconds * at_once[s][i];
            c->seconds[c->repetitions++] = seconds;
            going = 1;
        }
    }
    for (int s = 0; s < number; s++) {
        double read = median(&lists[s][0]), copy = median(&lists[s][1]);
        for (int i = 0; i < count; i++) print_row(&data[s], &lists[s][i], read, copy);
        free_data(&data[s]);
    }
}

int main(int count, char **arguments) {
    int is_quick = 0;
    double budget = 3;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "quick") == 0)
            is_quick = 1;
        else
            budget = atof(arguments[i]);
    }
    puts(
        "isa,dtype,outer,classes,inner,target,label_smoothing,mode,threads,repetitions,median_ms,low_ms,high_ms,ns_per_element,"
        "gb_per_s,ratio_to_copy,ratio_to_read");
    int threads = omp_get_max_threads();
    bench(cached_shapes, sizeof cached_shapes / sizeof *cached_shapes, 1, budget);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        if (is_quick && !shapes[s].is_quick) continue;
        bench(&shapes[s], 1, 1, budget);
        if (threads > 1) bench(&shapes[s], 1, threads, budget);
    }
    return 0;
}
