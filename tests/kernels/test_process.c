/* Instruction sets by name, callers with threads of their own, regions within regions, and a forked child.
 *
 * Knows the checker and the public header. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "problem.h"
#include "report.h"
#include "tests.h"

void test_isa_names(void) {
    static const char *const known[] = {"scalar", "avx2", "avx512", "neon"};
    int count = 0;
    for (; ls_isa_name(count); count++) {
        int is_known = 0;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) is_known |= strcmp(ls_isa_name(count), known[i]) == 0;
        if (!is_known) fail("unknown name %s", ls_isa_name(count));
        for (int i = 0; i < count; i++) {
            if (strcmp(ls_isa_name(i), ls_isa_name(count)) == 0) fail("%s is there twice", ls_isa_name(i));
        }
    }
    if (count == 0 || strcmp(ls_isa_name(0), "scalar") != 0) fail("scalar is not the first");
    if (ls_isa_name(count + 1) || ls_isa_name(-1) || ls_isa_name(1000)) fail("a name past the end");
    if (!ls_isa_available("scalar") || ls_isa_available("avx1024") || ls_isa_available("")) fail("wrong availability");
    for (int i = 0; i < count; i++) {
        const char *before = ls_isa(), *name = ls_isa_name(i);
        int selected = ls_isa_select(name);
        if (selected != ls_isa_available(name)) fail("select and available disagree on %s", name);
        if (strcmp(ls_isa(), selected ? name : before) != 0) fail("%s is used after %s was asked for", ls_isa(), name);
    }
    const char *before = ls_isa();
    if (ls_isa_select("avx1024") || ls_isa_select("") || strcmp(ls_isa(), before) != 0) fail("an unknown name was selected");
    if (!ls_isa_select(NULL) || !ls_isa_available(ls_isa())) fail("the best one is not available");
}

/* One problem in ordinary memory, with outputs of its own: what a thread of the caller works on. */
typedef struct {
    stored_problem stored;
    ls_problem problem;
    void *scratch;
    size_t loss_bytes, gradient_bytes;
    float factor;
} own_call;

static own_call make_call(const sample *asked) {
    const test_case *o = &asked->options;
    own_call call = {.stored = make_problem(asked)};
    call.problem = call.stored.problem;
    call.loss_bytes = (size_t)rows_of(o) * dtype_size(o->dtype);
    call.gradient_bytes = (size_t)elements_of(o) * dtype_size(o->dtype);
    call.problem.logits = call.stored.input[INPUT_LOGITS].image;
    call.problem.target = call.stored.input[INPUT_TARGET].image;
    call.problem.loss = malloc(call.loss_bytes);
    call.problem.grad_logits = malloc(call.gradient_bytes);
    call.problem.threads = 3;
    call.scratch = aligned_alloc(64, (ls_scratch_bytes(&call.problem) + 127) / 64 * 64);
    if (!call.problem.loss || !call.problem.grad_logits || !call.scratch) exit(2);
    return call;
}

static void free_call(own_call *call) {
    free(call->problem.loss);
    free(call->problem.grad_logits);
    free(call->scratch);
    free_problem(&call->stored);
}

static void *run_call(void *argument) {
    own_call *call = argument;
    ls_error error;
    call->problem.grad_factor = &call->factor;
    for (int repeat = 0; repeat < 5; repeat++) ls_cross_entropy(&call->problem, call->scratch, &error);
    return NULL;
}

static int same_bits(const own_call *a, const own_call *b) {
    return memcmp(a->problem.loss, b->problem.loss, a->loss_bytes) == 0 &&
           memcmp(a->problem.grad_logits, b->problem.grad_logits, a->gradient_bytes) == 0;
}

enum { CALLERS = 4 };

static void start_threads(own_call *calls) {
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        if (pthread_create(&threads[i], NULL, run_call, &calls[i]) != 0) exit(2);
    }
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
}

static void start_region(own_call *calls) {
#ifdef _OPENMP
#pragma omp parallel for
#endif
    for (int i = 0; i < CALLERS; i++) run_call(&calls[i]);
}

/* A worker that waits for threads which only the parent has hangs: the alarm ends it. */
static void start_child(own_call *call) {
    pid_t child = fork();
    if (child == 0) {
        own_call before = *call;
        alarm(30);
        call->problem.loss = malloc(call->loss_bytes);
        call->problem.grad_logits = malloc(call->gradient_bytes);
        run_call(call);
        _exit(same_bits(call, &before) ? 0 : 1);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child) exit(2);
    if (WIFSIGNALED(status))
        fail("a forked child was ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        fail("a forked child computes other bits");
}

/* Scratch or a lazily filled table that is shared; a barrier that counts another team. */
void test_callers(void) {
    static const int64_t shapes[][3] = {{3000, 20, 1}, {3, 40000, 1}, {2, 50, 700}};
    ls_isa_select(NULL);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        test_case options = plain_case(LS_F32, shapes[s][0], shapes[s][1], shapes[s][2]);
        options.label_smoothing = 0.1;
        sample *made = make_sample(&options);
        own_call alone = make_call(made), calls[CALLERS];
        run_call(&alone);
        for (int i = 0; i < CALLERS; i++) calls[i] = make_call(made);
        for (int way = 0; way < 2; way++) {
            for (int i = 0; i < CALLERS; i++) memset(calls[i].problem.grad_logits, 0, calls[i].gradient_bytes);
            if (way == 0)
                start_threads(calls);
            else
                start_region(calls);
            for (int i = 0; i < CALLERS; i++) {
                if (!same_bits(&alone, &calls[i]))
                    fail("other bits %s", way ? "in a parallel region" : "in concurrent threads");
            }
        }
        start_child(&alone);
        for (int i = 0; i < CALLERS; i++) free_call(&calls[i]);
        free_call(&alone);
        free_sample(made);
    }
}

static void loop_at_once(int64_t begin, int64_t end, int64_t grain, ls_loop_body body, void *context) {
    (void)grain;
    body(begin, end, context);
}

void test_threading_name(void) {
    const char *before = ls_threading();
    if (strcmp(before, "openmp") != 0 && strcmp(before, "serial") != 0) fail("threading is %s", before);
    ls_use_parallel_for(loop_at_once);
    if (strcmp(ls_threading(), "external") != 0) fail("threading is %s with a loop of the caller", ls_threading());
    ls_use_parallel_for(NULL);
    if (strcmp(ls_threading(), before) != 0) fail("threading is %s after NULL", ls_threading());
}
