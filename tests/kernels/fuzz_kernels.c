/* libFuzzer entry point of the kernels: bytes become a small problem, and the checkers judge it as the tests do: every
 * instruction set against the reference, guard pages, untouched outputs on an error, unchanged inputs. The last byte chooses
 * between ls_cross_entropy, most often, and the two others; one problem in 32 is up to five times larger, that long rows and whole
 * packs of short ones are met, too. What needs more than one thread is left to the tests.
 *
 * `make fuzz-kernels` builds it with clang -fsanitize=fuzzer,address,undefined, and runs it. A finding is replayed by giving its
 * file to the program.
 *
 * clang's OpenMP is not used: the kernels are serial here. Knows the checker and its limits, and no kernel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "compare.h"
#include "report.h"
#include "scaling.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *data;
    size_t size, used;
} byte_source;

/* The bytes again from the start once they are used up. */
static uint64_t take(byte_source *source, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | source->data[source->used++ % source->size];
    return value;
}

static int64_t take_below(byte_source *source, int64_t limit) { return (int64_t)(take(source, 2) % (uint64_t)limit); }

/* Any bit pattern of the dtype. Numbers so large that sums of finite logits overflow are made smaller: where exactly that
 * begins is not promised. */
static double take_logit(byte_source *source, ls_dtype dtype) {
    uint64_t bits = take(source, (int)dtype_size(dtype));
    unsigned char bytes[8];
    memcpy(bytes, &bits, sizeof bytes); /* little endian: the low bytes come first */
    double value = 0;
    union {
        double f64;
        float f32;
        uint16_t f16;
    } stored;
    memcpy(&stored, bytes, sizeof stored);
    value = (double)load(dtype, &stored, 0);
    double limit = dtype == LS_F64 ? 0x1p1010 : 0x1p114;
    return isfinite(value) && fabs(value) > limit ? value / 0x1p16 : value;
}

static double take_smoothing(byte_source *source) {
    static const double common[] = {0, 0.1, 0.5, 1};
    uint64_t choice = take(source, 1);
    return choice < 200 ? common[choice % 4] : (double)take_below(source, 3001) / 1000 - 1;
}

static test_case take_options(byte_source *source, int is_large) {
    int64_t outer = take_below(source, is_large ? 80 : 10);
    int64_t classes = 1 + take_below(source, !is_large ? 130 : outer < 8 ? 3000 : 200);
    ls_dtype dtype = (ls_dtype)take_below(source, 4);
    int64_t inner = take_below(source, 2) ? 1 : take_below(source, is_large ? 3 : 10);
    test_case options = plain_case(dtype, outer, classes, inner);
    options.target_kind = (ls_target_kind)take_below(source, LS_PROBABILITIES + 1);
    int index_target = options.target_kind != LS_PROBABILITIES;
    options.weight = (weight_kind)take_below(source, 4);
    options.prior = (prior_kind)take_below(source, 3);
    options.weight_dtype = (ls_dtype)take_below(source, 4);
    options.prior_dtype = (ls_dtype)take_below(source, 4);
    options.reduction = (ls_reduction)take_below(source, 3);
    options.convention = index_target ? (ls_convention)take_below(source, CONVENTIONS) : LS_TORCH;
    options.strides = (stride_kind)take_below(source, 3);
    options.target_step = 1 + (int)take_below(source, 3);
    options.label_smoothing = take_smoothing(source);
    /* Of torch's convention callers ask for nothing else; sums of s with both signs may cancel to anything. */
    if (!index_target && !(options.label_smoothing >= 0 && options.label_smoothing <= 1)) options.label_smoothing = 0.25;
    options.ignored = take_below(source, 3) == 0 ? IGNORE_SOME : IGNORE_NONE;
    options.ignore_index =
        target_is_signed(options.target_kind) ? take_below(source, classes + 4) - 2 : take_below(source, classes + 2);
    if (options.ignore_index > target_max(options.target_kind)) options.ignore_index = target_max(options.target_kind);
    if (dtype_size(options.dtype) == 2 && take_below(source, 2)) options.loss_dtype = LS_F32;
    /* Weights that sum to 0 make NaN of all but ignored rows; the factor that would suit those is not looked for. */
    if (options.dtype == LS_F16 && options.convention == LS_FASTAI && options.weight == WEIGHT_ZERO)
        options.weight = WEIGHT_NONE;
    options.seed = take(source, 4);
    return options;
}

/* Logits from the bytes, some rows as they are; now and then a target that is no class. */
static void edit(sample *made, byte_source *source) {
    const test_case *o = &made->options;
    for (int64_t row = 0; row < rows_of(o); row++) {
        if (take_below(source, 3) == 0) continue;
        for (int64_t k = 0; k < o->classes; k++) made->logits[element_index(o, row, k)] = take_logit(source, o->dtype);
    }
    if (rows_of(o) > 0 && take_below(source, 8) == 0) {
        int64_t target = target_is_signed(o->target_kind) ? take_below(source, 300) - 128 : take_below(source, 256);
        if (target <= target_max(o->target_kind)) made->target[take_below(source, rows_of(o))] = target;
    }
}

static void fuzz_cross_entropy(byte_source *source, int is_large) {
    test_case options = take_options(source, is_large);
    sample *made = make_sample(&options);
    edit(made, source);
    check(made);
    free_sample(made);
}

static void fuzz_scale(byte_source *source) {
    int64_t outer = take_below(source, 10), classes = 1 + take_below(source, 300);
    scale_case c = {.outer = outer, .classes = classes, .inner = take_below(source, 2) ? 1 : 1 + take_below(source, 70)};
    const int64_t strides[][2] = {{c.inner, 1}, {0, 0}, {1, outer + 1}, {2 * c.inner, 2}, {0, 1}, {1, 0}};
    const int64_t *stride = strides[take_below(source, 6)];
    c.dtype = (ls_dtype)take_below(source, 4);
    c.upstream_dtype = (ls_dtype)take_below(source, 4);
    c.stride[0] = stride[0];
    c.stride[1] = stride[1];
    c.kind = (upstream_kind)take_below(source, UPSTREAM_SPECIAL + 1);
    c.factor = c.dtype == LS_F16 ? ldexpf(1, (int)take_below(source, 20) - 16) : 1;
    c.where = take_below(source, 2) ? AT_END : AT_START;
    c.threads = 1;
    c.target_kind = (ls_target_kind)take_below(source, LS_PROBABILITIES + 1);
    c.ignore_index = target_is_signed(c.target_kind) && take_below(source, 2) ? -100 : 3;
    c.seed = take(source, 4);
    for (int isa = 0; ls_isa_name(isa); isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        set_isa(isa);
        check_scale(&c);
    }
}

static void fuzz_smooth_labels(byte_source *source) {
    static const double bad_priors[] = {0, 0, -0.5, (double)NAN, (double)INFINITY, 3};
    labels_case c = {.rows = take_below(source, LABELS_ROWS), .bad_row = -1};
    c.classes = 1 + take_below(source, LABELS_CLASSES);
    c.kind = (ls_target_kind)take_below(source, LS_PROBABILITIES);
    c.epsilon = (double)take_below(source, 1001) / 1000;
    c.with_prior = (int)take_below(source, 2);
    c.prior_dtype = (ls_dtype)take_below(source, 4);
    c.dtype = (ls_dtype)take_below(source, 4);
    c.bad_target = target_is_signed(c.kind) ? -1 - take_below(source, 128) : c.classes + take_below(source, 3);
    if (c.rows > 0 && take_below(source, 4) == 0 && c.bad_target <= target_max(c.kind)) c.bad_row = take_below(source, c.rows);
    if (c.bad_row < 0) c.bad_prior = bad_priors[take_below(source, 6)];
    c.seed = take(source, 4);
    check_labels(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    judge_by_worst_case = 1;
    byte_source source = {data, size, 0};
    switch (data[size - 1] % 32) {
    case 0:
        fuzz_scale(&source);
        break;
    case 1:
        fuzz_smooth_labels(&source);
        break;
    case 2:
        fuzz_cross_entropy(&source, 1);
        break;
    default:
        fuzz_cross_entropy(&source, 0);
    }
    if (failures()) abort();
    return 0;
}
