/* Rows with adjacent classes: sizes around the vector widths, the blocks and the column chunks, alignment, options, logits.
 *
 * Knows the checker and no kernel. */
#include <stddef.h>

#include "check.h"
#include "report.h"
#include "tests.h"

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16};

static void check_drawn(test_case options, random_source *source) {
    draw_options(&options, source);
    if (!check_case(&options))
        fail("rows are not served: %s [%lld, %lld]", dtype_name(options.dtype), (long long)options.outer,
             (long long)options.classes);
}

/* Every tail of every vector width, and the rows that are computed several at a time: their last group is smaller. */
void test_row_sizes(void) {
    static const int64_t rows[] = {1, 2, 3, 5, 7, 9, 16, 17, 33, 67};
    random_source source = {1};
    for (int64_t classes = 1; classes <= 163; classes++) {
        for (int draw = 0; draw < 32 / test_thinning; draw++) {
            test_case options = plain_case(dtypes[draw % 4], rows[random_below(&source, 10)], classes, 1);
            options.strides = one_in(&source, 4) ? STRIDES_PADDED : one_in(&source, 20) ? STRIDES_BROADCAST : STRIDES_DENSE;
            check_drawn(options, &source);
        }
    }
}

/* Loads that assume alignment; arithmetic that depends on it. */
void test_row_offsets(void) {
    random_source source = {2};
    for (int64_t classes = 1; classes <= 130; classes += test_thinning) {
        for (int d = 0; d < 4; d++) {
            test_case options = plain_case(dtypes[d], 1 + random_below(&source, 9), classes, 1);
            draw_options(&options, &source);
            sample *made = make_sample(&options);
            check_offsets(made);
            free_sample(made);
        }
    }
}

/* Around multiples of a block (1024) and of a column chunk (32768): the last one is short, the target lies on either side. */
void test_long_rows(void) {
    static const int64_t sizes[] = {1000,  1023,  1024,  1025,  1039,  1041,  2047,  2048,  2049,  3071,  3073,  4097,
                                    32000, 32767, 32768, 32769, 32785, 33792, 65535, 65536, 65537, 98303, 98305, 131089};
    random_source source = {3};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int draw = 0; draw < (sizes[s] < 20000 ? 32 : 6) / (test_thinning > 2 ? 4 : 1); draw++) {
            test_case options = plain_case(dtypes[draw % 4], 1 + random_below(&source, sizes[s] < 20000 ? 5 : 2), sizes[s], 1);
            options.strides = one_in(&source, 4) ? STRIDES_PADDED : STRIDES_DENSE;
            check_drawn(options, &source);
        }
    }
}

/* Enough rows for several threads and for more than one block of the sum of row losses. */
void test_many_rows(void) {
    static const struct {
        int64_t rows, classes;
    } shapes[] = {{70000, 1}, {20000, 2}, {12000, 3}, {9001, 10}, {4099, 16}, {2050, 33}, {700, 100}, {40, 1000}, {17, 2500}};
    random_source source = {4};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int draw = 0; draw < 8 / (test_thinning > 2 ? 4 : 1); draw++) {
            check_drawn(plain_case(dtypes[draw % 4], shapes[s].rows, shapes[s].classes, 1), &source);
        }
    }
}

static void check_reductions_and_targets(test_case options) {
    for (int reduction = 0; reduction < 3; reduction++) {
        for (int kind = 0; kind <= LS_PROBABILITIES; kind++) {
            options.reduction = (ls_reduction)reduction;
            options.target_kind = (ls_target_kind)kind;
            if (kind == LS_PROBABILITIES && (options.convention != LS_TORCH || options.ignored != IGNORE_NONE)) continue;
            if (options.ignored != IGNORE_NONE && !target_is_signed(options.target_kind)) continue;
            options.seed += 17;
            check_case(&options);
        }
    }
}

/* The product of all options: a convention, a divisor or a coefficient mixed up with another. */
void test_row_options(void) {
    static const double smoothings[] = {0, 0.1, 1};
    static const struct {
        int64_t rows, classes;
    } shapes[] = {{6, 5}, {5, 37}};
    test_case options;
    for (int i = 0; i < 2 * 4 * 3 * 4 * 3 * CONVENTIONS * 3; i += test_thinning > 1 ? 5 : 1) {
        int rest = i, shape = rest % 2;
        options = plain_case(dtypes[(rest /= 2) % 4], shapes[shape].rows, shapes[shape].classes, 1);
        options.label_smoothing = smoothings[(rest /= 4) % 3];
        options.weight = (weight_kind)((rest /= 3) % 4);
        options.prior = (prior_kind)((rest /= 4) % 3);
        options.convention = (ls_convention)((rest /= 3) % CONVENTIONS);
        options.ignored = (ignore_kind)((rest /= CONVENTIONS) % 3);
        check_reductions_and_targets(options);
    }
}

/* Every kind of logits by itself, so that the largest errors are seen, over sizes for every strategy. */
void test_row_logits(void) {
    static const int64_t sizes[] = {1, 2, 3, 10, 31, 32, 33, 64, 100, 1000, 2500, 33001, 70001};
    random_source source = {5};
    for (int kind = 0; kind < LOGITS_KINDS; kind++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            int is_long = sizes[s] > 20000;
            for (int draw = 0; draw < (is_long ? 2 : 24); draw += test_thinning > 1 ? 5 : 1) {
                ls_dtype dtype = is_long ? dtypes[random_below(&source, 4)] : dtypes[draw % 4];
                test_case options = plain_case(dtype, is_long ? 1 : sizes[s] < 1000 ? 11 : 3, sizes[s], 1);
                options.logits = (logits_kind)kind;
                options.seed = random_bits(&source);
                options.label_smoothing = (is_long ? draw : draw / 4) % 2 ? 0.1 : 0;
                if (draw / 8 == 2) options.target_kind = LS_PROBABILITIES;
                check_case(&options);
            }
        }
    }
}
