/* libFuzzer entry point of the kernels: bytes become a small problem, and the checker judges it as the tests do: every
 * instruction set against the reference, guard pages, untouched outputs on an error, unchanged inputs.
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

static test_case take_options(byte_source *source) {
    int64_t outer = take_below(source, 10), classes = 1 + take_below(source, 130);
    test_case options =
        plain_case((ls_dtype)take_below(source, 4), outer, classes, take_below(source, 2) ? 1 : take_below(source, 10));
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    judge_by_worst_case = 1;
    byte_source source = {data, size, 0};
    test_case options = take_options(&source);
    sample *made = make_sample(&options);
    edit(made, &source);
    check(made);
    free_sample(made);
    if (failures()) abort();
    return 0;
}
