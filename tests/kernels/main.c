/* The kernel tests: a plain C program without torch. Prints what failed, the largest errors by instruction set, and the time.
 *
 *     test_kernels [quick] [name of a test]...
 *
 * Exit status 0 if nothing failed. OMP_NUM_THREADS does not matter: five threads are set here, so that the thread counts that
 * the tests ask for exist. */
#ifdef _OPENMP
#include <omp.h>
#endif
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "report.h"
#include "tests.h"

int test_thinning = 1;

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {{"isa_names", test_isa_names},
             {"threading_name", test_threading_name},
             {"callers", test_callers},
             {"row_sizes", test_row_sizes},
             {"row_offsets", test_row_offsets},
             {"long_rows", test_long_rows},
             {"many_rows", test_many_rows},
             {"row_options", test_row_options},
             {"row_logits", test_row_logits},
             {"plane_sizes", test_plane_sizes},
             {"wide_planes", test_wide_planes},
             {"plane_logits", test_plane_logits},
             {"threads", test_threads},
             {"special_positions", test_special_positions},
             {"known_values", test_known_values},
             {"bad_arguments", test_bad_arguments},
             {"empty", test_empty},
             {"offset_invariance", test_offset_invariance},
             {"probability_sums", test_probability_sums},
             {"served_strides", test_served_strides},
             {"scale", test_scale},
             {"smooth_labels", test_smooth_labels}};

static int is_wanted(const char *name, int count, char **names) {
    int named = 0;
    for (int i = 1; i < count; i++) {
        if (strcmp(names[i], "quick") == 0) continue;
        named = 1;
        if (strcmp(names[i], name) == 0) return 1;
    }
    return !named;
}

static double seconds(void) {
    struct timespec now = {0}; /* MemorySanitizer does not know what fills it */
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int count, char **names) {
#ifdef _OPENMP
    omp_set_num_threads(5);
#endif
    for (int i = 1; i < count; i++) {
        if (strcmp(names[i], "quick") == 0) test_thinning = 8;
    }
    printf("threading %s, default isa %s, available:", ls_threading(), ls_isa());
    for (int i = 0; ls_isa_name(i); i++) {
        if (ls_isa_available(ls_isa_name(i))) printf(" %s", ls_isa_name(i));
    }
    putchar('\n');
    double start = seconds();
    for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
        if (!is_wanted(tests[t].name, count, names)) continue;
        int before = failures();
        double begin = seconds();
        tests[t].run();
        printf("%-20s %6.2f s  %s\n", tests[t].name, seconds() - begin, failures() == before ? "ok" : "FAILED");
        fflush(stdout);
    }
    print_summary();
    printf("%s in %.1f s: %d mismatches\n", failures() ? "FAILED" : "ok", seconds() - start, failures());
    return failures() != 0;
}
