/* Label-smoothed cross-entropy on the CPU: the public interface of the kernels, and all that a caller may know of them.
 *
 * Plain C11. No torch, no C++, no Python; no allocation, no output, no threads but those of the OpenMP pool (or of the
 * loop handed over with ls_use_parallel_for). Every function is safe to call from several threads at once.
 *
 * For one row of logits x with target y, z = logsumexp(x) and p = softmax(x):
 *
 *     loss = A z - alpha x_y - beta <s, x>            A = alpha + beta sum(s)
 *     grad = A p - alpha onehot(y) - beta s
 *
 * The conventions choose alpha, beta, s and the divisor of `mean`:
 *
 *     LS_TORCH    alpha = (1-e) w[y]                 beta = e/C (or e, with a prior)   s = w (or w u)   divisor sum of w[y]
 *                 over the rows whose target is not ignore_index; the others are zero in loss and gradient.
 *     LS_FASTAI   alpha = (1-e) w[y], 0 if ignored   beta = e/C (or e, with a prior)   s = 1 (or u)     alpha part: sum of
 *                 w[y] over the rows not ignored; beta part: the number of rows, ignored ones included.
 *     probability targets q (LS_PROBABILITIES; LS_TORCH only)
 *                 alpha = 0   beta = 1   s = w (q (1-e) + e/C), or w (q (1-e) + e u)    divisor: the number of rows.
 *
 * with e = label_smoothing, w = weight (ones if NULL), u = prior. A term whose coefficient beta is 0, or whose prior is 0
 * at a class, is absent: it is never 0 times infinity. A class weight of 0 or a probability of 0 at a logit of -inf gives NaN.
 *
 * Special values. A NaN or a +inf in a row, or a row of nothing but -inf, makes that row's loss and gradient NaN and touches
 * no other row. A logit of -inf has probability 0; with beta > 0 the loss is +inf and the gradient finite. The content of an
 * ignored row (LS_TORCH) does not matter and its gradient is exactly 0. `mean` over no rows is NaN, its gradient 0.
 *
 * Determinism. Loss and gradient have the same bits for every thread count: shape, strides, dtype and ISA alone decide the
 * arithmetic. Nothing outside the given elements is read or written, whatever the alignment.
 */
#ifndef LS_KERNELS_H
#define LS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { LS_F32, LS_F64, LS_BF16, LS_F16 } ls_dtype;

typedef enum {
    LS_INT8,
    LS_INT16,
    LS_INT32,
    LS_INT64,
    LS_UINT8,
    LS_UINT16,
    LS_UINT32,
    LS_UINT64,
    LS_PROBABILITIES, /* of the logits' dtype and shape */
} ls_target_kind;

typedef enum { LS_NONE, LS_MEAN, LS_SUM } ls_reduction; /* the numbers of at::Reduction */
typedef enum { LS_TORCH, LS_FASTAI } ls_convention;

typedef enum {
    LS_OK,
    LS_TARGET_OUT_OF_RANGE, /* ls_error: first such row in order, and its target */
    LS_PRIOR_ENTRY,         /* ls_error: the class, and its prior: negative or not finite */
    LS_PRIOR_SUM,           /* ls_error: the sum, further than 1e-2 from 1 */
} ls_status;

/* What was wrong: filled in for every status but LS_OK. */
typedef struct {
    int64_t position; /* row (outer * inner + position within inner), or class */
    int64_t target;
    double value;
} ls_error;

/* One call. The logits are [outer, num_classes, inner]; a row is one (outer, inner) pair. Strides are in elements, for
 * outer, classes and inner in this order; there is at least one class. ls_supports() tells which strides are served. */
typedef struct {
    int64_t outer, num_classes, inner;

    ls_dtype dtype;
    const void *logits;
    int64_t logits_stride[3];

    ls_target_kind target_kind;
    const void *target;
    int64_t target_stride[3]; /* the class stride counts for LS_PROBABILITIES only */

    const void *weight; /* [num_classes], contiguous, or NULL */
    ls_dtype weight_dtype;
    const void *prior; /* [num_classes], contiguous, or NULL */
    ls_dtype prior_dtype;

    int64_t ignore_index;
    double label_smoothing; /* any finite value computes; the caller checks ranges */
    ls_reduction reduction;
    ls_convention convention;

    int threads; /* at most so many threads work on this call; at least 1 */

    /* Results. They may not overlap the inputs. Nothing is written unless the status is LS_OK. */
    ls_dtype loss_dtype;
    void *loss;        /* one value, or [outer * inner] of them for LS_NONE */
    void *grad_logits; /* contiguous [outer, num_classes, inner] of `dtype`, or NULL: loss only */

    /* The gradient is stored divided by this number, a power of two: 1 except for LS_F16, whose small gradients would
     * underflow. NULL if grad_logits is NULL. */
    float *grad_factor;
} ls_problem;

/* 1 if the strides are served: classes adjacent (and, where a gradient is asked for, inner == 1), or positions within inner
 * adjacent and at most INT32_MAX classes. Probability targets must be adjacent the same way. A caller copies the logits
 * otherwise. */
int ls_supports(const ls_problem *problem);

/* The scratch memory that ls_cross_entropy needs for this problem, in bytes. */
size_t ls_scratch_bytes(const ls_problem *problem);

/* Loss, and gradient if asked for. First a pass over the targets (and the prior) that finds everything that is wrong with them
 * and copies them; then one sweep over the logits. `scratch` is aligned to 64 bytes and undefined afterwards. On any status but
 * LS_OK neither loss nor gradient has been touched. */
ls_status ls_cross_entropy(const ls_problem *problem, void *scratch, ls_error *error);

/* grad[o, c, i] *= grad_output[o, i] * factor, computed in fp32 (fp64 for LS_F64) and rounded once; returns at once, without
 * reading `grad`, where every product is 1. grad is contiguous [outer, num_classes, inner]. Strides 0 broadcast grad_output.
 * Returns 1 if `grad` was written, else 0. */
typedef struct {
    int64_t outer, num_classes, inner;
    ls_dtype dtype;
    void *grad;
    ls_dtype grad_output_dtype;
    const void *grad_output;
    int64_t grad_output_stride[2]; /* for outer and inner, in elements */
    float factor;

    /* Index targets, or NULL: the zeros of rows whose target is ignore_index stay zero, even times infinity or NaN. */
    ls_target_kind target_kind;
    const void *target;
    int64_t target_stride[2];
    int64_t ignore_index;

    int threads;
} ls_scaling;

int ls_scale(const ls_scaling *scaling);

/* distribution[i, :] = (1 - epsilon) onehot(target[i]) + epsilon u, u = prior or 1 / num_classes; contiguous, of `dtype`.
 * Every target must lie in [0, num_classes); nothing is written otherwise. target is contiguous, not LS_PROBABILITIES. */
ls_status ls_smooth_labels(const void *target, ls_target_kind target_kind, int64_t rows, int64_t num_classes, double epsilon,
                           const void *prior, ls_dtype prior_dtype, void *distribution, ls_dtype dtype, ls_error *error);

/* Instruction sets: "scalar", "avx2" (with FMA and F16C), "avx512", "neon". The best one that CPU and operating system support
 * is used unless another is selected, but for the AVX-512 of CPUs that slow down for it (no VBMI2): AVX2 is the best there. */
const char *ls_isa(void);
int ls_isa_available(const char *name); /* 1 if this build and this machine have it */
int ls_isa_select(const char *name);    /* 1 if selected, 0 if unavailable (nothing changes); NULL: the best */
const char *ls_isa_name(int index);     /* every name this build knows, worst first; NULL past the last */

/* Threads. By default the OpenMP pool of the process; calls are serial in a forked child, within another parallel region
 * and below about 32 Ki elements. */
typedef void (*ls_loop_body)(int64_t begin, int64_t end, void *context);
typedef void (*ls_parallel_for)(int64_t begin, int64_t end, int64_t grain, ls_loop_body body, void *context);

/* Replaces the OpenMP pool by another loop, for builds whose compiler would bring a second OpenMP runtime. The loop must run
 * `body` over disjoint ranges that cover [begin, end) and return when all are done. NULL restores the default. */
void ls_use_parallel_for(ls_parallel_for loop);
const char *ls_threading(void); /* "openmp", "external" or "serial" */

#ifdef __cplusplus
}
#endif
#endif
