/* Rows of logits of every kind that has caught a bug somewhere; see cases.h. Knows no dtype and no layout. */
#include "cases.h"

#include <math.h>

/* log1p(exp(-gap)) goes from an ordinary loss (1) over the last bit of fp32 (16, 17) to underflow of exp (87, 88, 104). */
static const double gaps[] = {1, 2, 5, 10, 16, 17, 20, 30, 60, 87, 88, 104};

static double any_gap(random_source *source) { return gaps[random_below(source, sizeof gaps / sizeof *gaps)]; }

static void fill_normal(random_source *source, double *row, int64_t classes, double offset, double scale) {
    for (int64_t k = 0; k < classes; k++) row[k] = offset + scale * random_normal(source);
}

static void fill_peak(random_source *source, double *row, int64_t classes, int64_t peak) {
    fill_normal(source, row, classes, 0, 0.1);
    row[peak] = any_gap(source) + log((double)classes);
}

/* Rises by 61 to 120 at about four random places; the last rise may lie in the last classes. */
static void fill_jumps(random_source *source, double *row, int64_t classes) {
    double level = -150;
    for (int64_t k = 0; k < classes; k++) {
        if (one_in(source, classes / 4 + 1)) level += 61 + 59 * random_unit(source);
        row[k] = level + random_normal(source);
    }
}

static void fill_masked(random_source *source, double *row, int64_t classes, int64_t target) {
    static const int percents[] = {10, 50, 99};
    int64_t percent = percents[random_below(source, 3)];
    fill_normal(source, row, classes, 0, 1);
    for (int64_t k = 0; k < classes; k++) {
        if (k != target && random_below(source, 100) < percent) row[k] = -(double)INFINITY;
    }
}

static double maximum(const double *row, int64_t classes) {
    double largest = row[0];
    for (int64_t k = 1; k < classes; k++) largest = fmax(largest, row[k]);
    return largest;
}

void fill_row(logits_kind kind, random_source *source, double *row, int64_t classes, int64_t target) {
    int64_t somewhere = random_below(source, classes), elsewhere = random_below(source, classes);
    double slope = (20 + 200 * random_unit(source)) / (double)classes;
    double rise = 10 + 50 * random_unit(source);
    switch (kind) {
    case LOGITS_MIX:
    case LOGITS_NORMAL:
        fill_normal(source, row, classes, 0, 1);
        return;
    case LOGITS_SMALL:
        fill_normal(source, row, classes, 0, 0.1);
        return;
    case LOGITS_LARGE:
        fill_normal(source, row, classes, 0, 10);
        return;
    case LOGITS_HUGE:
        fill_normal(source, row, classes, 0, 30);
        return;
    case LOGITS_EQUAL:
        fill_normal(source, row, classes, 3.7, 0);
        return;
    case LOGITS_TIES:
        fill_normal(source, row, classes, 0, 1);
        row[somewhere] = row[elsewhere] = 5;
        return;
    case LOGITS_ASCENDING:
        for (int64_t k = 0; k < classes; k++) row[k] = slope * (double)k - 50;
        return;
    case LOGITS_DESCENDING:
        for (int64_t k = 0; k < classes; k++) row[k] = 50 - slope * (double)k;
        return;
    case LOGITS_OFFSET_1E4:
        fill_normal(source, row, classes, 1e4, 1);
        return;
    case LOGITS_OFFSET_1E7:
        fill_normal(source, row, classes, 1e7, 4);
        return;
    case LOGITS_OFFSET_MINUS:
        fill_normal(source, row, classes, -1e30, 1);
        return;
    case LOGITS_CONFIDENT:
        fill_peak(source, row, classes, target);
        return;
    case LOGITS_WRONG:
        fill_peak(source, row, classes, somewhere);
        return;
    case LOGITS_JUMPS:
        fill_jumps(source, row, classes);
        return;
    case LOGITS_JUMPS_CONFIDENT:
        fill_jumps(source, row, classes);
        row[target] = maximum(row, classes) + any_gap(source);
        return;
    case LOGITS_RISE:
        fill_normal(source, row, classes, 0, 1);
        for (int64_t k = somewhere; k < classes; k++) row[k] += rise;
        if (one_in(source, 2)) row[target] = rise + any_gap(source);
        return;
    case LOGITS_LOST:
        for (int64_t k = 0; k < classes; k++) row[k] = k < 16 ? 0 : -16.65; /* a vector of any instruction set */
        return;
    case LOGITS_SUBNORMAL:
        fill_normal(source, row, classes, 0, one_in(source, 2) ? 0x1p-130 : 0x1p-16);
        return;
    case LOGITS_EXTREME:
        for (int64_t k = 0; k < classes; k++) row[k] = (double)(random_below(source, 3) - 1) * 1e30;
        return;
    case LOGITS_MASKED:
        fill_masked(source, row, classes, target);
        return;
    case LOGITS_MASKED_START:
        fill_normal(source, row, classes, 0, 1);
        for (int64_t k = 0; k < somewhere; k++) row[k] = -(double)INFINITY;
        return;
    case LOGITS_MASKED_TARGET:
        fill_normal(source, row, classes, 0, 1);
        row[target] = -(double)INFINITY;
        return;
    case LOGITS_NAN:
        fill_normal(source, row, classes, 0, 1);
        row[somewhere] = (double)NAN;
        return;
    case LOGITS_INFINITE:
        fill_normal(source, row, classes, 0, 1);
        row[somewhere] = (double)INFINITY;
        return;
    case LOGITS_EMPTY:
        for (int64_t k = 0; k < classes; k++) row[k] = -(double)INFINITY;
        return;
    }
}
