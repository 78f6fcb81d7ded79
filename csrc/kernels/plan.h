/* What the pass over the targets (targets.c) makes of a problem: all that the row kernels know of it. No convention is left
 * here. Private to the kernels. */
#ifndef LS_PLAN_H
#define LS_PLAN_H

#include <stdint.h>

#include "ls_kernels.h"

/* Classes to a block, the part of a row whose exps share a frame; classes to a chunk, the part of a long row that one thread
 * works on. Rows are cut at these places whatever the number of threads. */
enum { LS_BLOCK = 1024, LS_CHUNK = 32768 };

static inline int64_t ls_blocks(int64_t num_classes) { return (num_classes + LS_BLOCK - 1) / LS_BLOCK; }
static inline int64_t ls_chunks(int64_t num_classes) { return (num_classes + LS_CHUNK - 1) / LS_CHUNK; }

/* Rows of few classes are packed side by side, LS_PACK at a time: up to LS_VERY_SHORT classes always, up to a limit for each
 * dtype unless there are too few rows to fill vectors. Measured on AVX-512 and AVX2, in times of row by row: 33 floats take 0.3
 * to 0.5, 100 take 0.6 to 1, 136 take 0.6 to 0.8 for the loss and 0.8 to 1 with the gradient, 144 up to 1.1; in 16 bits 160 take
 * 0.6 to 0.8 and 0.9 to 1, 176 up to 1.1; 56 doubles take 0.75 to 0.8 and 0.95 to 1.05, 64 take 1.1 and 1.3. */
enum { LS_PACK = 64, LS_VERY_SHORT = 32, LS_FEW_ROWS = 32 };
static inline int ls_rows_are_short(int64_t rows, int64_t num_classes, ls_dtype dtype) {
    const int64_t limit = dtype == LS_F32 ? 136 : dtype == LS_F64 ? 56 : 160;
    return num_classes <= LS_VERY_SHORT || (rows >= LS_FEW_ROWS && num_classes <= limit);
}

/* Positions side by side take working memory in whole vectors of any instruction set: arrays of doubles, arrays of the type
 * that arithmetic runs in (`bytes` each), and a version of the frames for each block of classes, and one to begin with. */
enum { LS_PLANE_BLOCK = 32, LS_TILE_DOUBLES = 12, LS_TILE_REALS = 3 };
static inline int64_t ls_padded(int64_t positions) { return (positions + 15) / 16 * 16; }
static inline int64_t ls_plane_blocks(int64_t num_classes) { return (num_classes / LS_PLANE_BLOCK + 16) / 16 * 16; }
static inline int64_t ls_tile_bytes(int64_t positions, int64_t num_classes, size_t bytes) {
    const int64_t real = (int64_t)bytes, padded = ls_padded(positions), blocks = ls_plane_blocks(num_classes);
    return padded * (LS_TILE_DOUBLES * (int64_t)sizeof(double) + (LS_TILE_REALS + 1) * real) +
           blocks * (int64_t)sizeof(int32_t) + 2 * (blocks + 1) * padded * real;
}

/* Sums of losses keep this many slots, filled lane by lane, so that their bits do not depend on the width of vectors. */
enum { LS_SLOTS = 8 };

/* Rows whose losses are taken together, before their gradients: those whose exps stay in the nearest caches meanwhile. */
static inline int ls_rows_at_a_time(int64_t num_classes) { return num_classes <= 2 * LS_BLOCK ? LS_SLOTS : 1; }

/* Where s comes from. */
typedef enum {
    LS_PLAIN,   /* beta is 0 in every row: there is no s */
    LS_UNIFORM, /* s = 1 */
    LS_VECTOR,  /* s[c], the same for every row; +0 marks a class whose term is absent, -0 a coefficient of 0 */
    LS_DENSE,   /* s = q_scale[c] q + q_shift[c] with the row's own probabilities q */
} ls_smoothing;

typedef struct {
    const ls_problem *problem;
    ls_smoothing smoothing;

    const int64_t *target; /* [rows]: a class, or -1 for a row without a target's term; NULL for LS_DENSE */

    /* alpha_i = alpha, times class_weight[target] if there is one; 0 where target is -1. beta_i = beta, or beta_ignored where
     * target is -1. The divisor of `mean` is in both. */
    double alpha, beta, beta_ignored;

    /* In the type that arithmetic runs in: double for f64, else float. */
    const void *class_weight, *s, *q_scale, *q_shift;
    const double *s_before; /* LS_VECTOR: sum of s over the classes before each block, and over all */
    double s_sum;           /* of s over all classes; rows have their own for LS_DENSE */

    double grad_scale; /* the power of two by which stored gradients are multiplied */
} ls_plan;

/* Of some rows: the losses, a sum in two doubles a slot; and the largest s_sum, kept for LS_DENSE in fp16 alone. */
typedef struct {
    double high[LS_SLOTS], low[LS_SLOTS], largest_s_sum[LS_SLOTS];
} ls_sum;

/* One column chunk of one row, or a whole row of several chunks: exps relative to e^shift 2^exponent, near the largest
 * logit `ref` met so far (the target's left out). */
typedef struct {
    double sum;   /* of exp(x - shift) 2^-exponent, the target's left out */
    double dot;   /* of s (x - ref), the target's left out */
    double s_sum; /* of s, the target's left out */
    double shift, exponent, ref;
} ls_row_sums;

/* The same for the frame of one block. */
typedef struct {
    double shift, exponent;
} ls_frame;

/* One instruction set's kernels for one dtype. Rows and positions are numbered outer * inner + position within inner. */
typedef struct {
    /* Whole rows, classes adjacent. */
    void (*rows)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum);
    /* The same for rows of few classes, several at a time. */
    void (*short_rows)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum);
    /* Positions within one plane, classes strided. */
    void (*planes)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum);
    /* One long row shared by several threads: its chunks; then its loss; then the gradient of its chunks. */
    void (*chunk)(const ls_plan *plan, int64_t row, int64_t chunk, void *row_scratch);
    void (*join)(const ls_plan *plan, int64_t row, void *row_scratch, ls_sum *sum);
    void (*chunk_grad)(const ls_plan *plan, int64_t row, int64_t chunk, void *row_scratch);
    /* x[i] *= factors[i * step], step 0 or 1, for n adjacent elements; the factors are of the type that arithmetic runs in. */
    void (*scale)(void *x, int64_t n, const void *factors, int step);
} ls_dtype_kernels;

typedef struct {
    const char *name;
    int (*available)(void);
    const ls_dtype_kernels *of; /* by ls_dtype */
} ls_isa_kernels;

#endif
