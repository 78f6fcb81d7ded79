/* Special values at every place of a row, shifted rows, empty problems, and which strides are served.
 *
 * Knows the checker and the public header. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "report.h"
#include "tests.h"

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};

static const double specials[] = {(double)NAN, (double)INFINITY, -(double)INFINITY, 40, -40};

static void check_special(test_case options, int64_t row, int64_t class_index, double value) {
    sample *made = make_sample(&options);
    made->logits[element_index(&options, row, class_index)] = value;
    check(made);
    free_sample(made);
}

/* A lane that is not looked at: in a tail, in a group of short rows, at the end of a block or chunk. Neighbours stay right. */
void test_special_positions(void) {
    random_source source = {10};
    int turn = 0;
    for (int64_t classes = 1; classes <= 130; classes += classes < 40 ? 1 : 30) {
        for (int64_t k = 0; k < classes; k += test_thinning) {
            for (size_t v = 0; v < sizeof specials / sizeof *specials; v++) {
                int is_plane = turn % 2;
                test_case options = plain_case(dtypes[turn / 2 % 4], is_plane ? 1 : 9, classes, is_plane ? 9 : 1);
                options.label_smoothing = turn / 8 % 2 ? 0.1 : 0;
                if (turn % 5 == 4) options.target_kind = LS_PROBABILITIES;
                check_special(options, random_below(&source, 9), k, specials[v]);
                turn++;
            }
        }
    }
    static const int64_t places[] = {0, 63, 64, 1023, 1024, 1499, 2047, 2048, 32767, 32768, 33000};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        for (size_t v = 0; v < sizeof specials / sizeof *specials; v++) {
            int64_t classes = places[i] < 1500 ? 1500 : places[i] < 2049 ? 2049 : 33001;
            test_case options = plain_case(dtypes[(i + v) % 4], 2, classes, 1);
            options.label_smoothing = i % 2 ? 0.1 : 0;
            check_special(options, 1, places[i], specials[v]);
        }
    }
}

/* Multiples of a step, about an offset beside which the dtype can represent them and from which on the kernels subtract. */
static sample *shifted_sample(const test_case *options, double step, double offset) {
    sample *made = make_sample(options);
    random_source source = {options->seed};
    for (int64_t i = 0; i < elements_of(options); i++) {
        made->logits[i] = offset + step * (double)(random_below(&source, 17) - 8);
    }
    return made;
}

static void compare_shifted(const test_case *options, double step, double offset) {
    static unsigned char loss[2][64 * 8], gradient[2][64 * 4096 * 8];
    for (int i = 0; i < 2; i++) {
        sample *made = shifted_sample(options, step, (i + 1) * offset);
        compute(made, loss[i], gradient[i]);
        free_sample(made);
    }
    char text[600];
    describe(options, text, sizeof text);
    size_t loss_bytes = (size_t)rows_of(options) * dtype_size(options->dtype);
    size_t gradient_bytes = (size_t)elements_of(options) * dtype_size(options->dtype);
    if (memcmp(loss[0], loss[1], loss_bytes) != 0) fail("loss changes when logits are shifted by %g: %s", offset, text);
    if (memcmp(gradient[0], gradient[1], gradient_bytes) != 0)
        fail("gradient changes when logits are shifted by %g: %s", offset, text);
}

/* Anything but x - ref in the formulas: the shifted row has other values there. */
void test_offset_invariance(void) {
    static const struct {
        double step, offset;
    } shifts[] = {[LS_F32] = {.125, 16384}, [LS_F64] = {.125, 1e9}, [LS_BF16] = {8, 512}, [LS_F16] = {1, 512}};
    static const int64_t sizes[] = {2, 10, 33, 1000, 3000};
    for (int isa = 0; ls_isa_name(isa); isa++) {
        if (!ls_isa_available(ls_isa_name(isa))) continue;
        for (int i = 0; i < 4 * 5 * 2 * 2; i++) {
            int is_plane = i / 20 % 2;
            test_case options = plain_case(dtypes[i % 4], is_plane ? 1 : 6, sizes[i / 4 % 5], is_plane ? 6 : 1);
            options.label_smoothing = i / 40 ? 0.1 : 0;
            set_isa(isa);
            compare_shifted(&options, shifts[options.dtype].step, shifts[options.dtype].offset);
        }
    }
}

static void check_counts(const int64_t *shape, double sum, double rest, double of_first) {
    test_case options = plain_case(LS_F16, shape[0], shape[1], shape[2]);
    options.target_kind = LS_PROBABILITIES;
    options.label_smoothing = .1;
    options.reduction = LS_MEAN;
    options.logits = LOGITS_WRONG;
    sample *made = make_sample(&options);
    const int64_t last = rows_of(&options) - 1;
    if (last > 0) made->probabilities[element_index(&options, 0, 0)] = of_first;
    for (int64_t k = 0; k < options.classes; k++)
        made->probabilities[element_index(&options, last, k)] = k == 1 ? sum : k == 2 ? rest : 0;
    check(made);
    free_sample(made);
}

/* Counts in place of probabilities. From a sum of 256 on the gradient needs more room in fp16 than a first run leaves: in rows, short
 * rows, planes, and a row that threads share. Sums close above a power of two; and beside a row of NaN. */
void test_probability_sums(void) {
    static const int64_t shapes[][3] = {{5, 2000, 1}, {70, 10, 1}, {2, 10, 30}, {1, 70000, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (double sum = 16; sum <= 4096; sum *= 4) {
            check_counts(shapes[i], sum, 0, 1);
            check_counts(shapes[i], sum, 0x1p-24, 1);
            check_counts(shapes[i], sum, 0, (double)NAN);
        }
    }
}

/* No rows, in every way there is; nothing may be read or divided. */
void test_empty(void) {
    static const int64_t shapes[][3] = {{0, 5, 1}, {0, 5, 4}, {3, 5, 0}, {0, 1, 1}, {0, 40000, 1}};
    for (int i = 0; i < 5 * 3 * 4 * CONVENTIONS * 2; i++) {
        const int64_t *shape = shapes[i % 5];
        test_case options = plain_case(dtypes[i / 15 % 4], shape[0], shape[1], shape[2]);
        options.reduction = (ls_reduction)(i / 5 % 3);
        options.convention = (ls_convention)(i / 60 % CONVENTIONS);
        options.label_smoothing = i / 60 / CONVENTIONS ? 0.1 : 0;
        if (!check_case(&options)) fail("an empty problem is not served");
    }
    for (int reduction = 0; reduction < 3; reduction++) {
        test_case options = plain_case(LS_F32, 0, 7, 1);
        options.reduction = (ls_reduction)reduction;
        options.target_kind = LS_PROBABILITIES;
        check_case(&options);
    }
}

/* Strides as the header promises: a caller that trusts the answer 1 must not get garbage, and 0 must not come where copying is
 * needless. */
void test_served_strides(void) {
    static float memory[4096];
    static int64_t target[64];
    static const struct {
        int64_t outer, classes, inner, stride[3];
        int loss_only, with_gradient;
        const char *what;
    } cases[] = {
        {4, 8, 1, {8, 1, 1}, 1, 1, "contiguous rows"},
        {4, 8, 1, {11, 1, 1}, 1, 1, "rows with a gap"},
        {4, 8, 1, {0, 1, 1}, 1, 1, "one row, expanded"},
        {4, 8, 6, {48, 6, 1}, 1, 1, "contiguous planes"},
        {4, 8, 6, {99, 11, 1}, 1, 1, "planes with gaps"},
        {4, 8, 6, {48, 1, 8}, 1, 0, "channels last"},
        {1, 8, 6, {0, 1, 8}, 1, 0, "channels last, one plane"},
        {4, 8, 6, {96, 12, 2}, 0, 0, "every other position"},
        {4, 1, 6, {6, 6, 1}, 1, 1, "one class"},
        {4, 1, 6, {12, 12, 2}, 0, 0, "one class, other positions"},
        {1, 1, 9, {9, 9, 0}, 0, 0, "one class, expanded"},
        {4, 1, 1, {9, 5, 1}, 1, 1, "one class, rows with a gap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int with_gradient = 0; with_gradient < 2; with_gradient++) {
            ls_problem p = {.outer = cases[i].outer, .num_classes = cases[i].classes, .inner = cases[i].inner, .threads = 1};
            float factor;
            p.logits = memory;
            p.target = target;
            p.target_kind = LS_INT64;
            memcpy(p.logits_stride, cases[i].stride, sizeof p.logits_stride);
            p.target_stride[0] = cases[i].inner;
            p.target_stride[2] = 1;
            p.grad_logits = with_gradient ? memory + 2048 : NULL;
            p.grad_factor = with_gradient ? &factor : NULL;
            int served = ls_supports(&p), expected = with_gradient ? cases[i].with_gradient : cases[i].loss_only;
            if (served != expected)
                fail("%s, %s: ls_supports says %d", cases[i].what, with_gradient ? "with gradient" : "loss only", served);
        }
    }
}
