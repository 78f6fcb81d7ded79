/* Logits of [outer, classes, inner]: lanes are positions, and whole planes are swept. Also threads, for every layout.
 *
 * Knows the checker and no kernel. */
#include <stddef.h>

#include "check.h"
#include "report.h"
#include "tests.h"

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};

static void draw_strides(test_case *options, random_source *source) {
    options->strides = one_in(source, 3) ? STRIDES_PADDED : one_in(source, 20) ? STRIDES_BROADCAST : STRIDES_DENSE;
    if (one_in(source, 8)) options->strides = STRIDES_CLASSES_ADJACENT;
}

static void check_drawn(test_case options, random_source *source) {
    draw_options(&options, source);
    draw_strides(&options, source);
    if (!check_case(&options))
        fail("planes are not served: %s [%lld, %lld, %lld]", dtype_name(options.dtype), (long long)options.outer,
             (long long)options.classes, (long long)options.inner);
}

/* Every tail of positions, with numbers of classes around the unrolling of the sweep over classes. */
void test_plane_sizes(void) {
    static const int64_t classes[] = {1, 2, 3, 5, 7, 8, 9, 10, 15, 16, 17, 19, 33, 65, 100, 130};
    random_source source = {6};
    for (int64_t inner = 1; inner <= 70; inner++) {
        for (int draw = 0; draw < 24 / test_thinning; draw++) {
            int64_t count = classes[random_below(&source, 16)];
            check_drawn(plain_case(dtypes[draw % 4], 1 + random_below(&source, 3), count, inner), &source);
        }
    }
}

/* Stripes of positions end within a plane; few positions have many classes. */
void test_wide_planes(void) {
    static const struct {
        int64_t outer, classes, inner;
    } shapes[] = {{1, 3, 1023},  {2, 19, 1024}, {1, 7, 1025},  {1, 5, 1040},  {3, 10, 784},  {1, 21, 4099},
                  {2, 1, 1030},  {1, 2, 20001}, {1, 1000, 3},  {2, 2500, 17}, {1, 1024, 64}, {3, 257, 129},
                  {1, 40000, 2}, {1, 33000, 5}, {5, 100, 196}, {70, 3, 170}};
    random_source source = {7};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int draw = 0; draw < 8 / (test_thinning > 2 ? 2 : 1); draw++) {
            check_drawn(plain_case(dtypes[draw % 4], shapes[s].outer, shapes[s].classes, shapes[s].inner), &source);
        }
    }
}

/* A lane that must be rescaled must not disturb the others. */
void test_plane_logits(void) {
    static const struct {
        int64_t outer, classes, inner;
    } shapes[] = {{2, 3, 9}, {1, 10, 33}, {2, 33, 17}, {1, 100, 64}, {1, 1000, 9}};
    random_source source = {8};
    for (int kind = 0; kind < LOGITS_KINDS; kind++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (int draw = 0; draw < 24; draw += test_thinning > 1 ? 5 : 1) {
                test_case options = plain_case(dtypes[draw % 4], shapes[s].outer, shapes[s].classes, shapes[s].inner);
                options.logits = (logits_kind)kind;
                options.seed = random_bits(&source);
                options.label_smoothing = draw / 4 % 2 ? 0.1 : 0;
                if (draw / 8 == 2) options.target_kind = LS_PROBABILITIES;
                check_case(&options);
            }
        }
    }
}

/* Shapes that a pool shares in different ways: many rows, few long rows, one row, planes, one plane. The checker compares the
 * bits of 1, 2, 3 and 5 threads and of a loop that runs backwards; plain options, so that nothing hides in NaN. */
void test_threads(void) {
    static const struct {
        int64_t outer, classes, inner;
    } shapes[] = {{6000, 10, 1}, {500, 100, 1}, {70, 1000, 1}, {5, 32769, 1}, {1, 100001, 1}, {3, 70000, 1},
                  {9, 12, 600},  {2, 200, 256}, {1, 40, 2000}, {1, 2000, 33}, {40, 1000, 2}};
    random_source source = {9};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int draw = 0; draw < 9; draw += test_thinning > 1 ? 5 : 1) {
            test_case options = plain_case(dtypes[draw % 4], shapes[s].outer, shapes[s].classes, shapes[s].inner);
            options.seed = random_bits(&source);
            options.label_smoothing = 0.1 * (draw % 3);
            options.reduction = (ls_reduction)(draw / 4 % 3);
            options.weight = draw % 2 ? WEIGHT_POSITIVE : WEIGHT_NONE;
            options.ignored = draw % 5 == 0 ? IGNORE_SOME : IGNORE_NONE;
            if (draw % 7 == 6) options.target_kind = LS_PROBABILITIES;
            if (draw % 7 == 5) options.logits = LOGITS_ASCENDING;
            if (draw % 7 == 4) options.logits = LOGITS_JUMPS;
            check_case(&options);
        }
    }
}
