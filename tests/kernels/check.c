/* Runs the kernels on a sample, in every variant; see check.h. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "guard.h"
#include "problem.h"
#include "report.h"

enum { POISON = 0x6B, NAN_BYTE = 0xFF }; /* 2.8e26 in fp32, and a NaN in every dtype */
enum { LOSS = INPUTS, GRADIENT, FACTOR, SCRATCH, BUFFERS };

typedef struct {
    placement where;
    size_t offset; /* in elements of each buffer */
    int threads;
    int with_gradient;
    int backwards; /* the loop of the caller instead of OpenMP */
} variant;

static guarded buffers[BUFFERS];

static void create_buffers(void) {
    static const size_t mebibytes[BUFFERS] = {40, 40, 4, 4, 8, 40, 1, 256};
    for (int b = 0; b < BUFFERS && !buffers[b].begin; b++) buffers[b] = guarded_create(mebibytes[b] << 20);
}

/* A loop that a host may hand over: pieces of the grain's size, the last one first. */
static void loop_backwards(int64_t begin, int64_t end, int64_t grain, ls_loop_body body, void *context) {
    int64_t piece = grain > 0 ? grain : 1;
    for (int64_t last = end; last > begin; last -= piece) body(last - piece > begin ? last - piece : begin, last, context);
}

static void place_output(int which, int64_t count, ls_dtype dtype, const variant *v) {
    size_t item = dtype_size(dtype);
    guarded_place(&buffers[which], (size_t)count * item, item, v->where, v->offset * item, POISON);
    memset(buffers[which].data, POISON, buffers[which].bytes);
    guarded_mark(&buffers[which], 0);
}

static ls_problem place_all(const stored_problem *stored, const variant *v) {
    ls_problem p = stored->problem;
    for (int b = 0; b < INPUTS; b++) {
        size_t bytes = stored->input[b].bytes, item = stored->input[b].item;
        if (!stored->input[b].image) continue;
        guarded_place(&buffers[b], bytes, item, v->where, v->offset * item, NAN_BYTE);
        memcpy(buffers[b].data, stored->input[b].image, bytes);
    }
    p.logits = buffers[INPUT_LOGITS].data;
    p.target = buffers[INPUT_TARGET].data;
    if (stored->input[INPUT_WEIGHT].image) p.weight = buffers[INPUT_WEIGHT].data;
    if (stored->input[INPUT_PRIOR].image) p.prior = buffers[INPUT_PRIOR].data;
    p.threads = v->threads;
    place_output(LOSS, p.reduction == LS_NONE ? p.outer * p.inner : 1, p.loss_dtype, v);
    place_output(GRADIENT, v->with_gradient ? p.outer * p.num_classes * p.inner : 0, p.dtype, v);
    place_output(FACTOR, v->with_gradient ? 1 : 0, LS_F32, v);
    p.loss = buffers[LOSS].data;
    if (v->with_gradient) {
        p.grad_logits = buffers[GRADIENT].data;
        p.grad_factor = (float *)(void *)buffers[FACTOR].data;
    }
    return p;
}

static void *place_scratch(const ls_problem *p, const variant *v) {
    placement where = v->where == AT_START ? AT_START : AT_END; /* aligned to 64 bytes, always */
    guarded_place(&buffers[SCRATCH], ls_scratch_bytes(p), 64, where, 0, POISON);
    memset(buffers[SCRATCH].data, NAN_BYTE, buffers[SCRATCH].bytes);
    guarded_mark(&buffers[SCRATCH], 0);
    return buffers[SCRATCH].data;
}

static void check_memory(const stored_problem *stored, const char *text) {
    static const char *const names[BUFFERS] = {"logits", "target", "weight", "prior", "loss", "gradient", "factor", "scratch"};
    for (int b = 0; b < BUFFERS; b++) {
        if (b < INPUTS && !stored->input[b].image) continue;
        if (!guarded_intact(&buffers[b])) fail("bytes around %s changed: %s", names[b], text);
        if (b < INPUTS && memcmp(buffers[b].data, stored->input[b].image, stored->input[b].bytes) != 0) {
            fail("%s changed: %s", names[b], text);
        }
    }
}

static void check_untouched(const char *text) {
    for (int b = LOSS; b <= GRADIENT; b++) {
        guarded_mark(&buffers[b], 1);
        if (!all_bytes(buffers[b].data, buffers[b].bytes, POISON)) fail("written despite an error: %s", text);
    }
}

static void describe_variant(const test_case *o, const variant *v, char *text, size_t size) {
    static const char *const places[] = {"before a guard page", "after a guard page", "at offset"};
    describe(o, text, size);
    size_t used = strlen(text);
    snprintf(text + used, size - used, ", %s, %s %zu, threads %d%s", v->with_gradient ? "with gradient" : "loss only",
             places[v->where], v->offset, v->threads, v->backwards ? ", loop of the caller" : "");
}

/* The floating-point mode is the caller's: subnormals must still exist after a call. */
static int subnormals_survive(void) {
    volatile float smallest = 0x1p-126f, half = 0.5f;
    return smallest * half != 0;
}

typedef struct {
    const sample *asked;
    const stored_problem *stored;
    const answers *expected;
    unsigned char *loss, *gradient; /* the bits of the first run */
    float factor;
    int has_bits;
} judgement;

static float stored_factor(void) {
    float factor = 1;
    if (buffers[FACTOR].bytes) memcpy(&factor, buffers[FACTOR].data, sizeof factor);
    return factor;
}

static void judge_first(judgement *j, const char *text) {
    memcpy(j->loss, buffers[LOSS].data, buffers[LOSS].bytes);
    memcpy(j->gradient, buffers[GRADIENT].data, buffers[GRADIENT].bytes);
    j->factor = stored_factor();
    j->has_bits = 1;
    compare_loss(j->asked, j->expected, j->loss, text);
    if (buffers[FACTOR].bytes) compare_gradient(j->asked, j->expected, j->gradient, j->factor, text);
}

static void judge_bits(const judgement *j, const char *text) {
    if (memcmp(j->loss, buffers[LOSS].data, buffers[LOSS].bytes) != 0) fail("other bits in the loss: %s", text);
    if (memcmp(j->gradient, buffers[GRADIENT].data, buffers[GRADIENT].bytes) != 0) fail("other bits in the gradient: %s", text);
    if (j->factor != stored_factor()) fail("another factor: %s", text);
}

static int run(judgement *j, const variant *v) {
    char text[700];
    describe_variant(&j->asked->options, v, text, sizeof text);
    ls_problem p = place_all(j->stored, v);
    ls_error error = {-7, -7, -7};
    if (!ls_supports(&p)) return 0;
    if (v->backwards) ls_use_parallel_for(loop_backwards);
    ls_status status = ls_cross_entropy(&p, place_scratch(&p, v), &error);
    if (v->backwards) ls_use_parallel_for(NULL);
    record_call();
    check_memory(j->stored, text);
    if (!subnormals_survive()) fail("the floating-point mode changed: %s", text);
    if (status != j->expected->status) {
        fail("status %d, expected %d: %s", (int)status, (int)j->expected->status, text);
    } else if (status != LS_OK) {
        compare_error(status, &error, &j->expected->error, text);
        check_untouched(text);
    } else if (!j->has_bits) {
        judge_first(j, text);
    } else {
        judge_bits(j, text);
    }
    return 1;
}

/* All runs of one instruction set that must agree in every bit. */
static int run_all(judgement *j, int with_gradient, int with_offsets) {
    variant v = {AT_END, 0, 1, with_gradient, 0};
    int made = run(j, &v);
    if (!made) return 0;
    v.where = AT_START;
    made += run(j, &v);
    v.where = AT_OFFSET;
    for (v.offset = 0; with_offsets && v.offset < 16; v.offset++) made += run(j, &v);
    if (elements_of(&j->asked->options) < 32768) return made;
    static const int threads[] = {2, 3, 5};
    v = (variant){AT_END, 0, 1, with_gradient, 0};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        v.threads = threads[i];
        made += run(j, &v);
    }
    v.backwards = 1;
    return made + run(j, &v);
}

static int check_all(const sample *asked, int with_offsets) {
    create_buffers();
    stored_problem stored = make_problem(asked);
    answers expected = make_answers(asked);
    judgement j = {.asked = asked, .stored = &stored, .expected = &expected};
    j.loss = malloc((size_t)rows_of(&asked->options) * 8 + 8);
    j.gradient = malloc((size_t)elements_of(&asked->options) * 8 + 8);
    if (!j.loss || !j.gradient) exit(2);
    int made = 0;
    for (int isa = 0; ls_isa_name(isa); isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        set_isa(isa);
        for (int with_gradient = 0; with_gradient < 2; with_gradient++) {
            j.has_bits = 0;
            made += run_all(&j, with_gradient, with_offsets);
        }
    }
    free(j.loss);
    free(j.gradient);
    free_answers(&expected);
    free_problem(&stored);
    return made;
}

int check(const sample *asked) { return check_all(asked, 0); }

int check_offsets(const sample *asked) { return check_all(asked, 1); }

int check_case(const test_case *options) {
    sample *made = make_sample(options);
    int calls = check(made);
    free_sample(made);
    return calls;
}

ls_status compute(const sample *asked, void *loss, void *gradient) {
    create_buffers();
    stored_problem stored = make_problem(asked);
    variant v = {AT_END, 0, 1, gradient != NULL, 0};
    ls_problem p = place_all(&stored, &v);
    ls_error error;
    ls_status status = ls_cross_entropy(&p, place_scratch(&p, &v), &error);
    memcpy(loss, buffers[LOSS].data, buffers[LOSS].bytes);
    if (gradient) memcpy(gradient, buffers[GRADIENT].data, buffers[GRADIENT].bytes);
    free_problem(&stored);
    return status;
}
