/* Mismatches and measured maxima; see report.h. */
#include "report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { MAX_ISAS = 8, MAX_PRINTED = 12, WHERE = 120 };

static const char *const figure_names[FIGURES] = {
    "loss f32, no smoothing (ULP)", "loss f64, no smoothing (ULP)",   "loss f32, smoothing (unit)",
    "loss f64, smoothing (unit)",   "loss f32, probabilities (unit)", "loss f64, probabilities (unit)",
    "loss bf16 (unit or ULP)",      "loss f16 (unit or ULP)",         "gradient f32 (unit)",
    "gradient f64 (unit)",          "gradient bf16 (unit or ULP)",    "gradient f16 (unit or ULP)",
    "gradient row sum f32 (unit)",  "gradient row sum f64 (unit)",    "scale (ULP)"};

typedef struct {
    real largest[FIGURES];
    char where[FIGURES][WHERE];
    long long rounded_once[4], rounded[4], calls;
} measured;

static measured results[MAX_ISAS];
static int isa, failure_count;

void set_isa(int index) {
    isa = index;
    if (!ls_isa_select(ls_isa_name(index))) fail("cannot select");
}

const char *current_isa(void) { return ls_isa_name(isa); }

void record(figure which, real error, const char *where) {
    if (!(error > results[isa].largest[which])) return;
    results[isa].largest[which] = error;
    snprintf(results[isa].where[which], WHERE, "%s", where);
}

void record_rounding(ls_dtype dtype, int is_rounded_once) {
    results[isa].rounded[dtype]++;
    results[isa].rounded_once[dtype] += is_rounded_once;
}

void record_call(void) { results[isa].calls++; }

void fail(const char *format, ...) {
    if (failure_count++ >= MAX_PRINTED) return;
    va_list arguments;
    va_start(arguments, format);
    printf("MISMATCH isa %s: ", ls_isa());
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    fflush(stdout);
}

int failures(void) { return failure_count; }

static void print_share(const measured *result, ls_dtype dtype) {
    if (result->rounded[dtype] == 0) return;
    double share = (double)result->rounded_once[dtype] / (double)result->rounded[dtype];
    printf("  gradient %-4s equal to the exact value rounded once: %.4f %%\n", dtype_name(dtype), 100 * share);
    if (result->rounded[dtype] > 100000 && share < 0.999)
        fail("fewer than 99.9 %% of %s gradients rounded once", dtype_name(dtype));
}

void print_summary(void) {
    for (int i = 0; i < MAX_ISAS && ls_isa_name(i); i++) {
        if (results[i].calls == 0) continue;
        isa = i;
        printf("%s: %lld calls; largest errors:\n", ls_isa_name(i), results[i].calls);
        for (int f = 0; f < FIGURES; f++) {
            if (results[i].largest[f] == 0) continue;
            printf("  %-32s %8.3f   %s\n", figure_names[f], (double)results[i].largest[f], results[i].where[f]);
        }
        print_share(&results[i], LS_BF16);
        print_share(&results[i], LS_F16);
    }
    if (failure_count > MAX_PRINTED) printf("... and %d more mismatches\n", failure_count - MAX_PRINTED);
}
