/* The pass over the targets: validates them, copies them, counts rows, sums weights, and makes of a convention the numbers in
 * ls_plan. The only place that knows conventions, weights, priors and ignore_index.
 *
 * The copy is what later serves as an address: a target that changes under a running call can then do no harm.
 */
#include "targets.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "elements.h"
#include "parallel.h"

/* Rows to a piece of the pass. Sums of weights are taken piece by piece, in order, whatever the number of threads. */
enum { PIECE = 8192 };

typedef struct {
    int64_t first_bad, bad_target; /* first_bad is -1 if there is none */
    int64_t counted;
    double weight_sum, weight_lost; /* the sum and its rounding errors */
} piece_result;

typedef struct {
    const ls_problem *problem;
    const double *weight; /* or NULL */
    int64_t *copy;
    piece_result *results;
} pass_context;

static int64_t rows_of(const ls_problem *problem) { return problem->outer * problem->inner; }
static int64_t pieces_of(const ls_problem *problem) { return (rows_of(problem) + PIECE - 1) / PIECE; }
static int has_index_targets(const ls_problem *problem) { return problem->target_kind != LS_PROBABILITIES; }
static size_t real_bytes(const ls_problem *problem) { return problem->dtype == LS_F64 ? 8 : 4; }

void ls_read_targets(int64_t *to, const void *target, ls_target_kind kind, int64_t first, int64_t step, int64_t n) {
    switch (kind) {
    case LS_INT8:
        for (int64_t i = 0; i < n; i++) to[i] = ((const int8_t *)target)[first + i * step];
        break;
    case LS_INT16:
        for (int64_t i = 0; i < n; i++) to[i] = ((const int16_t *)target)[first + i * step];
        break;
    case LS_INT32:
        for (int64_t i = 0; i < n; i++) to[i] = ((const int32_t *)target)[first + i * step];
        break;
    case LS_INT64:
        for (int64_t i = 0; i < n; i++) to[i] = ((const int64_t *)target)[first + i * step];
        break;
    case LS_UINT8:
        for (int64_t i = 0; i < n; i++) to[i] = ((const uint8_t *)target)[first + i * step];
        break;
    case LS_UINT16:
        for (int64_t i = 0; i < n; i++) to[i] = ((const uint16_t *)target)[first + i * step];
        break;
    case LS_UINT32:
        for (int64_t i = 0; i < n; i++) to[i] = ((const uint32_t *)target)[first + i * step];
        break;
    case LS_UINT64:
        for (int64_t i = 0; i < n; i++) to[i] = (int64_t)((const uint64_t *)target)[first + i * step];
        break;
    case LS_PROBABILITIES:
        break;
    }
}

/* Copies rows [first, last): plane by plane, where positions have a stride of their own. */
static void copy_targets(const ls_problem *problem, int64_t *copy, int64_t first, int64_t last) {
    const int64_t inner = problem->inner, *stride = problem->target_stride;
    if (inner == 1) {
        ls_read_targets(copy + first, problem->target, problem->target_kind, first * stride[0], stride[0], last - first);
        return;
    }
    for (int64_t row = first; row < last;) {
        const int64_t position = row % inner, left = inner - position, n = left < last - row ? left : last - row;
        ls_read_targets(copy + row, problem->target, problem->target_kind, row / inner * stride[0] + position * stride[2],
                        stride[2], n);
        row += n;
    }
}

/* sum += x, with what that loses added to `lost`. */
static void add_exactly(double *sum, double *lost, double x) {
    const double total = *sum + x, back = total - *sum;
    *lost += (*sum - (total - back)) + (x - back);
    *sum = total;
}

/* What a target is held against. The two tests below read sign bits of differences where comparisons would be plainer: this file is
 * compiled for SSE2, which does not compare 64-bit integers, and the loop over them must vectorise. */
typedef struct {
    uint64_t num_classes, ignore_index;
    uint64_t beyond; /* all ones if targets are uint64: one that is negative as an int64 is not ignore_index */
} target_range;

/* 1 or 0. */
static inline uint64_t is_counted(target_range range, uint64_t target) {
    const uint64_t apart = target ^ range.ignore_index;
    return (apart | (0 - apart) | (target & range.beyond)) >> 63;
}
static inline uint64_t is_outside(target_range range, uint64_t target) {
    return (target | (range.num_classes - 1 - target)) >> 63;
}

static void pass_pieces(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const pass_context *pass = (const pass_context *)context;
    const ls_problem *problem = pass->problem;
    const int64_t rows = rows_of(problem), ignore_index = problem->ignore_index;
    const target_range range = {(uint64_t)problem->num_classes, (uint64_t)ignore_index,
                                problem->target_kind == LS_UINT64 ? UINT64_MAX : 0};
    for (int64_t piece = begin; piece < end; piece++) {
        const int64_t first = piece * PIECE, last = first + PIECE < rows ? first + PIECE : rows;
        piece_result result = {.first_bad = -1};
        int64_t *copy = pass->copy;
        uint64_t bad = 0, counted = 0;
        copy_targets(problem, copy, first, last);
        for (int64_t row = first; row < last; row++) {
            const uint64_t counts = is_counted(range, (uint64_t)copy[row]);
            bad |= counts & is_outside(range, (uint64_t)copy[row]);
            counted += counts;
        }
        result.counted = (int64_t)counted;
        for (int64_t row = first; bad && row < last; row++) {
            if (!(is_counted(range, (uint64_t)copy[row]) & is_outside(range, (uint64_t)copy[row]))) continue;
            result.first_bad = row;
            result.bad_target = copy[row];
            break;
        }
        const int some_are_ignored = result.counted < last - first;
        for (int64_t row = first; !bad && some_are_ignored && row < last; row++)
            copy[row] = copy[row] == ignore_index ? -1 : copy[row];
        for (int64_t row = first; !bad && pass->weight && row < last; row++)
            if (copy[row] >= 0) add_exactly(&result.weight_sum, &result.weight_lost, pass->weight[copy[row]]);
        pass->results[piece] = result;
    }
}

static void to_double(double *to, const void *from, ls_dtype dtype, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = element_get(from, dtype, i);
}

static void to_real(void *to, const ls_problem *problem, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) element_put(to, problem->dtype == LS_F64 ? LS_F64 : LS_F32, i, from[i]);
}

static ls_status check_prior(const void *prior, ls_dtype dtype, int64_t num_classes, ls_error *error) {
    double sum = 0;
    for (int64_t c = 0; c < num_classes; c++) {
        const double u = element_get(prior, dtype, c);
        if (!(u >= 0 && u <= DBL_MAX)) {
            *error = (ls_error){.position = c, .value = u};
            return LS_PRIOR_ENTRY;
        }
        sum += u;
    }
    if (!(fabs(sum - 1) <= 1e-2)) {
        *error = (ls_error){.value = sum};
        return LS_PRIOR_SUM;
    }
    return LS_OK;
}

/* s over the classes before each block, and over all. */
static void sum_blocks(double *before, const void *s, ls_dtype real, int64_t num_classes) {
    double sum = 0, lost = 0;
    for (int64_t c = 0; c < num_classes; c++) {
        if (c % LS_BLOCK == 0) before[c / LS_BLOCK] = isfinite(sum) ? sum + lost : sum;
        add_exactly(&sum, &lost, element_get(s, real, c));
    }
    before[ls_blocks(num_classes)] = isfinite(sum) ? sum + lost : sum;
}

/* What is carved from the scratch memory of a plan. */
typedef struct {
    int64_t *copy;
    piece_result *results;
    double *weight, *prior, *s_before;
    void *class_weight, *s, *q_scale, *q_shift;
} plan_memory;

static size_t lay_out(const ls_problem *problem, char *base, plan_memory *memory) {
    const size_t classes = (size_t)problem->num_classes, rows = (size_t)rows_of(problem);
    const int vectors = problem->weight || problem->prior || !has_index_targets(problem);
    size_t used = 0;
#define CARVE(member, bytes) memory->member = (void *)(base + used), used += ((bytes) + 63) / 64 * 64
    CARVE(copy, has_index_targets(problem) ? rows * sizeof(int64_t) : 0);
    CARVE(results, (size_t)pieces_of(problem) * sizeof(piece_result));
    CARVE(weight, problem->weight ? classes * sizeof(double) : 0);
    CARVE(prior, problem->prior ? classes * sizeof(double) : 0);
    CARVE(class_weight, problem->weight ? classes * real_bytes(problem) : 0);
    CARVE(s, vectors ? classes * real_bytes(problem) : 0);
    CARVE(s_before, vectors ? ((size_t)ls_blocks(problem->num_classes) + 1) * sizeof(double) : 0);
    CARVE(q_scale, has_index_targets(problem) ? 0 : classes * real_bytes(problem));
    CARVE(q_shift, has_index_targets(problem) ? 0 : classes * real_bytes(problem));
#undef CARVE
    return used;
}

size_t ls_plan_scratch_bytes(const ls_problem *problem) {
    plan_memory memory;
    char origin;
    return lay_out(problem, &origin, &memory);
}

/* s = w, u or w u by class; +0 where u is 0: that class has no term. */
static void make_s(ls_plan *plan, plan_memory *memory, const double *weight, const double *prior) {
    const ls_problem *problem = plan->problem;
    const ls_dtype real = problem->dtype == LS_F64 ? LS_F64 : LS_F32;
    for (int64_t c = 0; c < problem->num_classes; c++) {
        double s = (weight ? weight[c] : 1) * (prior ? prior[c] : 1);
        const int absent = prior && prior[c] == 0;
        element_put(memory->s, real, c, absent ? 0.0 : s);
        if (!absent && element_get(memory->s, real, c) == 0) element_put(memory->s, real, c, -0.0);
    }
    sum_blocks(memory->s_before, memory->s, real, problem->num_classes);
    plan->smoothing = LS_VECTOR;
    plan->s = memory->s;
    plan->s_before = memory->s_before;
    plan->s_sum = memory->s_before[ls_blocks(problem->num_classes)];
}

/* The power of two that brings gradients of at most `bound` close below 2^15, the largest that fp16 holds being 65504. */
#define HALF_BOUND 0x1p15
static double half_scale(double bound) {
    if (!(bound > 0 && bound <= DBL_MAX)) return 1;
    int above; /* bound <= 2^above; log2 would round what lies close above a power of two down to it */
    if (frexp(bound, &above) == 0.5) above--;
    const int exponent = 15 - above;
    return ldexp(1, exponent > 120 ? 120 : exponent < -120 ? -120 : exponent);
}

/* Times the bound of gradients of probabilities that sum to 1. More than that is found by the run: see ls_make_room(). */
#define PROBABILITY_ROOM 64

static double largest(const void *values, ls_dtype real, int64_t n) {
    double max = 0;
    for (int64_t i = 0; i < n; i++) {
        const double value = fabs(element_get(values, real, i));
        if (value > max) max = value; /* as fmax() gcc 12 for aarch64 fails to vectorize it: an internal error */
    }
    return max;
}

static void plan_index_targets(const ls_problem *problem, plan_memory *memory, const double *weight, const double *prior,
                               ls_plan *plan, int *mean_is_nan) {
    const double e = problem->label_smoothing, rows = (double)rows_of(problem);
    int64_t counted = 0;
    double weight_sum = 0, weight_lost = 0;
    for (int64_t piece = 0; piece < pieces_of(problem); piece++) {
        counted += memory->results[piece].counted;
        add_exactly(&weight_sum, &weight_lost, memory->results[piece].weight_sum);
        weight_lost += memory->results[piece].weight_lost;
    }
    if (isfinite(weight_sum)) weight_sum += weight_lost; /* lost is NaN once a sum is infinite */
    if (!weight) weight_sum = (double)counted;
    const int mean = problem->reduction == LS_MEAN, torch = problem->convention == LS_TORCH;
    *mean_is_nan = mean && counted == 0;

    plan->target = memory->copy;
    if (weight) plan->class_weight = memory->class_weight;
    plan->alpha = counted == 0 ? 0 : (1 - e) / (mean ? weight_sum : 1);
    plan->beta = (prior ? e : e / (double)problem->num_classes) / (!mean ? 1 : torch ? weight_sum : rows);
    plan->beta_ignored = torch ? 0 : plan->beta;
    plan->smoothing = LS_UNIFORM;
    plan->s_sum = (double)problem->num_classes;
    if (e == 0) {
        plan->smoothing = LS_PLAIN;
        plan->beta = plan->beta_ignored = 0;
    } else if (prior || (weight && torch)) {
        make_s(plan, memory, torch ? weight : NULL, prior);
    }
    if (problem->dtype == LS_F16) {
        double s_max = plan->smoothing == LS_VECTOR ? largest(plan->s, LS_F32, problem->num_classes) : 1;
        double alpha = fabs(plan->alpha) * (weight ? largest(memory->class_weight, LS_F32, problem->num_classes) : 1);
        plan->grad_scale = half_scale(alpha + fabs(plan->beta) * (fabs(plan->s_sum) + s_max));
    }
}

static void plan_probabilities(const ls_problem *problem, plan_memory *memory, const double *weight, const double *prior,
                               ls_plan *plan, int *mean_is_nan) {
    const double e = problem->label_smoothing, rows = (double)rows_of(problem);
    const ls_dtype real = problem->dtype == LS_F64 ? LS_F64 : LS_F32;
    *mean_is_nan = problem->reduction == LS_MEAN && rows == 0;
    for (int64_t c = 0; c < problem->num_classes; c++) {
        double w = weight ? weight[c] : 1;
        element_put(memory->q_scale, real, c, w * (1 - e));
        element_put(memory->q_shift, real, c, w * (prior ? e * prior[c] : e / (double)problem->num_classes));
    }
    plan->smoothing = LS_DENSE;
    plan->q_scale = memory->q_scale;
    plan->q_shift = memory->q_shift;
    plan->beta = problem->reduction == LS_MEAN ? 1 / rows : 1;
    if (problem->dtype == LS_F16) {
        double shift_sum = 0;
        for (int64_t c = 0; c < problem->num_classes; c++) shift_sum += fabs(element_get(memory->q_shift, real, c));
        plan->grad_scale =
            half_scale(PROBABILITY_ROOM * plan->beta * (largest(memory->q_scale, real, problem->num_classes) + shift_sum));
    }
}

int ls_make_room(ls_plan *plan, double largest_s_sum) {
    const ls_problem *problem = plan->problem;
    if (problem->dtype != LS_F16 || has_index_targets(problem) || !problem->grad_logits) return 0;
    const double bound = plan->beta * largest_s_sum;
    if (!(bound * plan->grad_scale > HALF_BOUND)) return 0;
    plan->grad_scale = half_scale(bound);
    return 1;
}

ls_status ls_make_plan(const ls_problem *problem, void *scratch, ls_plan *plan, int *mean_is_nan, ls_error *error) {
    plan_memory memory;
    lay_out(problem, (char *)scratch, &memory);
    *plan = (ls_plan){.problem = problem, .grad_scale = 1};
    const double *weight = problem->weight ? memory.weight : NULL, *prior = problem->prior ? memory.prior : NULL;
    if (weight) {
        to_double(memory.weight, problem->weight, problem->weight_dtype, problem->num_classes);
        to_real(memory.class_weight, problem, memory.weight, problem->num_classes);
    }
    if (prior) {
        to_double(memory.prior, problem->prior, problem->prior_dtype, problem->num_classes);
        ls_status status = check_prior(problem->prior, problem->prior_dtype, problem->num_classes, error);
        if (status != LS_OK) return status;
    }
    if (!has_index_targets(problem)) {
        plan_probabilities(problem, &memory, weight, prior, plan, mean_is_nan);
        return LS_OK;
    }
    pass_context pass = {problem, weight, memory.copy, memory.results};
    const int64_t pieces = pieces_of(problem);
    ls_share(ls_workers(problem->threads, pieces, rows_of(problem)), pieces, pass_pieces, &pass);
    for (int64_t piece = 0; piece < pieces; piece++) {
        if (memory.results[piece].first_bad >= 0) {
            *error = (ls_error){.position = memory.results[piece].first_bad, .target = memory.results[piece].bad_target};
            return LS_TARGET_OUT_OF_RANGE;
        }
    }
    plan_index_targets(problem, &memory, weight, prior, plan, mean_is_nan);
    return LS_OK;
}

ls_status ls_smooth_labels(const void *target, ls_target_kind target_kind, int64_t rows, int64_t num_classes, double epsilon,
                           const void *prior, ls_dtype prior_dtype, void *distribution, ls_dtype dtype, ls_error *error) {
    if (prior) {
        const ls_status status = check_prior(prior, prior_dtype, num_classes, error);
        if (status != LS_OK) return status;
    }
    int64_t y;
    for (int64_t row = 0; row < rows; row++) {
        ls_read_targets(&y, target, target_kind, row, 1, 1);
        if (y < 0 || y >= num_classes) {
            *error = (ls_error){.position = row, .target = y};
            return LS_TARGET_OUT_OF_RANGE;
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        ls_read_targets(&y, target, target_kind, row, 1, 1);
        for (int64_t c = 0; c < num_classes; c++) {
            double u = prior ? element_get(prior, prior_dtype, c) : 1 / (double)num_classes;
            element_put(distribution, dtype, row * num_classes + c, (c == y ? 1 - epsilon : 0) + epsilon * u);
        }
    }
    return LS_OK;
}
