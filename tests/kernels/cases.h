/* One problem, as options that can be printed and as plain arrays that can be edited before it is checked.
 *
 * Used by the tests, the reference and the checker. Knows no kernel. */
#ifndef TEST_CASES_H
#define TEST_CASES_H

#include "numbers.h"

/* What the logits look like, and the bug that each kind catches. */
typedef enum {
    LOGITS_NORMAL,          /* ordinary */
    LOGITS_SMALL,           /* nearly uniform rows */
    LOGITS_LARGE,           /* x 10: few classes matter */
    LOGITS_HUGE,            /* x 30: rounding of x - ref shows in exp */
    LOGITS_EQUAL,           /* the maximum is not unique: must be left out of the sum once only */
    LOGITS_TIES,            /* two equal maxima */
    LOGITS_ASCENDING,       /* the reference moves again and again */
    LOGITS_DESCENDING,      /* exp underflows along the row */
    LOGITS_OFFSET_1E4,      /* sums of x instead of x - ref lose digits */
    LOGITS_OFFSET_1E7,      /* lse - x loses all digits */
    LOGITS_OFFSET_MINUS,    /* -1e30: a sentinel for "minus infinity" that is too small */
    LOGITS_CONFIDENT,       /* the target far above the rest: loss from log1p, not from lse - x */
    LOGITS_WRONG,           /* another class far above */
    LOGITS_JUMPS,           /* steps of more than 60 upwards: blocks must be rescaled */
    LOGITS_JUMPS_CONFIDENT, /* the same with the target far above: the scale of old blocks underflows */
    LOGITS_RISE,            /* within the margin of a lazy reference: exps far above 1, whose scale is far below */
    LOGITS_LOST,            /* exps of 1, and others just too small to count beside one: sums that stay in fp32 too long */
    LOGITS_SUBNORMAL,       /* flushing to zero, or a changed floating-point mode */
    LOGITS_EXTREME,         /* 0 and +-1e30: overflow of a range reduction */
    LOGITS_MASKED,          /* -inf here and there: 0 times infinity */
    LOGITS_MASKED_START,    /* -inf in front: a reference of -inf */
    LOGITS_MASKED_TARGET,   /* -inf at the target */
    LOGITS_NAN,             /* one NaN: lost in a maximum, or spread to other rows */
    LOGITS_INFINITE,        /* one +inf */
    LOGITS_EMPTY,           /* nothing but -inf */
    LOGITS_MIX,             /* every row of another kind */
} logits_kind;
enum { LOGITS_KINDS = LOGITS_MIX };
enum { CONVENTIONS = LS_FASTAI + 1 }; /* how many there are: one more than the last */

typedef enum { WEIGHT_NONE, WEIGHT_POSITIVE, WEIGHT_MIXED, WEIGHT_ZERO } weight_kind; /* mixed: also 0 and negative */
typedef enum { PRIOR_NONE, PRIOR_POSITIVE, PRIOR_SPARSE } prior_kind;                 /* sparse: zeros over masked logits */
typedef enum { IGNORE_NONE, IGNORE_SOME, IGNORE_ALL } ignore_kind;

typedef enum {
    STRIDES_DENSE,
    STRIDES_PADDED,           /* elements between rows or planes */
    STRIDES_CLASSES_ADJACENT, /* [outer, inner, classes] in memory: channels_last */
    STRIDES_BROADCAST,        /* all of `outer` at one place */
} stride_kind;

typedef struct {
    int64_t outer, classes, inner;
    ls_dtype dtype, loss_dtype, weight_dtype, prior_dtype;
    ls_target_kind target_kind;
    logits_kind logits;
    weight_kind weight;
    prior_kind prior;
    ignore_kind ignored;
    int64_t ignore_index;
    double label_smoothing;
    ls_reduction reduction;
    ls_convention convention;
    stride_kind strides;
    int target_step; /* distance of targets in elements; 0: one target for all */
    uint64_t seed;
} test_case;

/* The values, exactly representable in their dtypes. [outer, classes, inner], dense. */
typedef struct {
    test_case options;
    double *logits, *probabilities; /* probabilities: NULL for index targets */
    double *weight, *prior;         /* NULL if there are none */
    int64_t *target;                /* [outer * inner] */
} sample;

/* fp32 as the dtype gives; no smoothing, weight or prior; LS_NONE, LS_TORCH, int64 targets, dense. */
test_case plain_case(ls_dtype dtype, int64_t outer, int64_t classes, int64_t inner);

/* Replaces every option but shape, dtype and strides by a random one. */
void draw_options(test_case *options, random_source *source);

sample *make_sample(const test_case *options);
void free_sample(sample *made);

int64_t rows_of(const test_case *options);
int64_t elements_of(const test_case *options);
int64_t element_index(const test_case *options, int64_t row, int64_t class_index);

/* One row of a kind: `target` is a class. Not rounded. */
void fill_row(logits_kind kind, random_source *source, double *row, int64_t classes, int64_t target);

/* One line with every option. */
void describe(const test_case *options, char *text, size_t size);

#endif
