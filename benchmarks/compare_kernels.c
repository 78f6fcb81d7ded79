/* Two builds of the kernels, side by side: what a change of theirs costs or gains. Samples alternate in one process; printed is
 * the median time of the second library, in times of the first, for each shape, with smoothing and loss alone, or with gradient,
 * of class indices and of probabilities.
 *
 *     compare_kernels <before.so> <after.so> <instruction set> <threads> <seconds for each figure>
 *
 * make compare-kernels builds both. Knows the public header of the kernels only, by the names that dlsym finds. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../csrc/kernels/ls_kernels.h"

enum { MAX_SAMPLES = 400, MIN_SAMPLES = 11 };
#define SHORTEST 2e-4 /* seconds: short calls are repeated within one sample */

typedef struct {
    ls_status (*cross_entropy)(const ls_problem *, void *, ls_error *);
    size_t (*scratch_bytes)(const ls_problem *);
    int (*select)(const char *);
} library;

typedef struct {
    int64_t outer, classes, inner;
    ls_dtype dtype;
} shape;

static const shape shapes[] = {
    {16, 100, 1, LS_F32},    {1, 3072, 1, LS_F32},     {32, 10, 1, LS_F32},      {65536, 2, 1, LS_F32},
    {65536, 10, 1, LS_F32},  {65536, 10, 1, LS_BF16},  {65536, 10, 1, LS_F64},   {16384, 33, 1, LS_F32},
    {16384, 100, 1, LS_F32}, {16384, 100, 1, LS_BF16}, {4, 21, 65536, LS_F32},   {4, 1000, 1024, LS_F32},
    {4, 1000, 1024, LS_F16}, {256, 1000, 1, LS_F32},   {8192, 1000, 1, LS_F32},  {8192, 1000, 1, LS_BF16},
    {8192, 1000, 1, LS_F64}, {512, 32000, 1, LS_F32},  {512, 32000, 1, LS_BF16},
};
static const char *const dtypes[] = {"f32", "f64", "bf16", "f16"};
static const size_t bytes_of[] = {4, 8, 2, 2};

static void *must(void *p, const char *what) {
    if (p) return p;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static library load(const char *path, const char *isa) {
    library of;
    void *handle = must(dlopen(path, RTLD_NOW | RTLD_LOCAL), path);
    *(void **)&of.cross_entropy = must(dlsym(handle, "ls_cross_entropy"), "no ls_cross_entropy");
    *(void **)&of.scratch_bytes = must(dlsym(handle, "ls_scratch_bytes"), "no ls_scratch_bytes");
    *(void **)&of.select = must(dlsym(handle, "ls_isa_select"), "no ls_isa_select");
    must(of.select(isa) ? handle : NULL, "no such instruction set here");
    return of;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Logits between -8 and 8 in the dtype's own bits. */
static void fill(void *x, int64_t n, ls_dtype dtype) {
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        const float value = (float)(int32_t)state * (8.0f / 2147483648.0f);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (dtype == LS_F32) ((float *)x)[i] = value;
        if (dtype == LS_F64) ((double *)x)[i] = (double)value;
        if (dtype == LS_BF16) ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
        if (dtype == LS_F16) ((uint16_t *)x)[i] = (uint16_t)((bits >> 16 & 0x8000) | (0x3000 + (bits >> 13 & 0xfff)));
    }
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static double sample(const library *of, const ls_problem *problem, void *scratch, int calls) {
    const double begin = now();
    ls_error error;
    for (int i = 0; i < calls; i++) of->cross_entropy(problem, scratch, &error);
    return (now() - begin) / calls;
}

static double compare(const library *libraries, const ls_problem *problem, double seconds) {
    static double times[2][MAX_SAMPLES];
    size_t bytes = 0;
    for (int i = 0; i < 2; i++) {
        const size_t needed = libraries[i].scratch_bytes(problem);
        if (needed > bytes) bytes = needed;
    }
    void *scratch = must(aligned_alloc(64, (bytes + 64) / 64 * 64), "no memory");
    int calls = 1, samples = 0;
    for (int i = 0; i < 2; i++) sample(&libraries[i], problem, scratch, 1);
    const double one = sample(&libraries[0], problem, scratch, 1);
    if (one < SHORTEST) calls = (int)(SHORTEST / one) + 1;
    const double end = now() + seconds;
    while (samples < MAX_SAMPLES && (samples < MIN_SAMPLES || now() < end)) {
        for (int i = 0; i < 2; i++) {
            const int which = (i + samples) % 2;
            times[which][samples] = sample(&libraries[which], problem, scratch, calls);
        }
        samples++;
    }
    free(scratch);
    return median(times[1], samples) / median(times[0], samples);
}

int main(int count, char **arguments) {
    if (count != 6) return fprintf(stderr, "usage: compare_kernels before.so after.so isa threads seconds\n"), 2;
    const library libraries[] = {load(arguments[1], arguments[3]), load(arguments[2], arguments[3])};
    const int threads = atoi(arguments[4]);
    const double seconds = atof(arguments[5]);
    printf("%s, %d threads; after in times of before\n%-26s %17s   %17s\n%-26s %8s %8s   %8s %8s\n", arguments[3], threads, "",
           "class indices", "probabilities", "", "loss", "gradient", "loss", "gradient");
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const shape at = shapes[k];
        const int64_t rows = at.outer * at.inner, n = rows * at.classes;
        void *x = must(malloc((size_t)n * bytes_of[at.dtype]), "no memory"),
             *grad = must(malloc((size_t)n * bytes_of[at.dtype]), "");
        int64_t *target = must(malloc((size_t)rows * sizeof *target), "no memory");
        void *zeros = must(calloc((size_t)n, bytes_of[at.dtype]), "no memory");
        double loss;
        float factor;
        fill(x, n, at.dtype);
        for (int64_t i = 0; i < rows; i++) target[i] = i * 7919 % at.classes;
        ls_problem problem = {.outer = at.outer, .num_classes = at.classes, .inner = at.inner, .dtype = at.dtype, .logits = x};
        problem.logits_stride[0] = at.classes * at.inner;
        problem.logits_stride[1] = at.inner;
        problem.logits_stride[2] = 1;
        problem.target_kind = LS_INT64;
        problem.target = target;
        problem.target_stride[0] = at.inner;
        problem.target_stride[2] = 1;
        problem.ignore_index = -100;
        problem.label_smoothing = 0.1;
        problem.reduction = LS_MEAN;
        problem.threads = threads;
        problem.loss_dtype = at.dtype;
        problem.loss = &loss;
        double ratio[2][2]; /* of indices and of probabilities: loss alone, with gradient */
        for (int kind = 0; kind < 2; kind++) {
            if (kind == 1) {
                problem.target_kind = LS_PROBABILITIES;
                problem.target = zeros;
                memcpy(problem.target_stride, problem.logits_stride, sizeof problem.target_stride);
            }
            problem.grad_logits = NULL;
            problem.grad_factor = NULL;
            ratio[kind][0] = compare(libraries, &problem, seconds);
            problem.grad_logits = grad;
            problem.grad_factor = &factor;
            ratio[kind][1] = compare(libraries, &problem, seconds);
        }
        char name[64];
        snprintf(name, sizeof name, "[%lld, %lld, %lld] %s", (long long)at.outer, (long long)at.classes, (long long)at.inner,
                 dtypes[at.dtype]);
        printf("%-26s %8.3f %8.3f   %8.3f %8.3f\n", name, ratio[0][0], ratio[0][1], ratio[1][0], ratio[1][1]);
        fflush(stdout);
        free(x);
        free(grad);
        free(target);
        free(zeros);
    }
    return 0;
}
