/* The call: plan, choice of strategy, sharing between threads, final sum. The one place where a strategy is chosen; it follows
 * from shape, strides and dtype, and the work is cut into units that follow from these alone. The number of threads decides who
 * computes a unit, or which part of a row (SHARED_ROWS), never what is computed, so that loss and gradient keep their bits.
 */
#include <math.h>
#include <string.h>

#include "elements.h"
#include "isa.h"
#include "parallel.h"
#include "row_lanes.h"
#include "targets.h"

typedef enum {
    SHORT_ROWS,  /* few classes, adjacent: several rows side by side */
    ROWS,        /* classes adjacent: row by row */
    SHARED_ROWS, /* the same arithmetic for rows so few and long that threads share one */
    PLANES,      /* positions adjacent: a plane, or a tile of one, at a time */
} strategy;

enum { UNIT_ELEMENTS = 16384, LARGEST_TILE = 1024, SMALLEST_TILE = 64, FEWEST_UNITS = 16 };

typedef struct {
    strategy how;
    int64_t rows, unit_rows, units;
    int64_t tile; /* PLANES: positions to a unit, the last of a plane having fewer */
    int workers;
    size_t worker_bytes; /* scratch of one worker; of one row for SHARED_ROWS */
    int64_t wave;        /* SHARED_ROWS: rows shared at a time */
} schedule;

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Exps are kept beside the gradient where that is shorter than they are. */
static int needs_exps(const ls_problem *problem) { return problem->grad_logits && element_bytes(problem->dtype) < 4; }

static int64_t choose_tile(const ls_problem *problem, size_t real) {
    /* Both sweeps over a tile should find it in cache: a share of the last level for planes as they are, half of the second
     * level where exps pass through scratch. */
    const int64_t bytes = needs_exps(problem) ? 512 << 10 : 4 << 20;
    int64_t tile = bytes / (problem->num_classes * (int64_t)real + 1);
    tile = tile > LARGEST_TILE ? LARGEST_TILE : tile < SMALLEST_TILE ? SMALLEST_TILE : tile;
    while (tile > 2 * SMALLEST_TILE && problem->outer * (problem->inner / tile + 1) < FEWEST_UNITS) tile /= 2;
    const int64_t tiles = (problem->inner + tile - 1) / tile;
    return ls_padded((problem->inner + tiles - 1) / tiles);
}

static schedule make_schedule(const ls_problem *problem) {
    const int64_t num_classes = problem->num_classes, elements = problem->outer * num_classes * problem->inner;
    const size_t real = problem->dtype == LS_F64 ? 8 : 4, classes = (size_t)num_classes;
    const size_t exps = needs_exps(problem) ? classes * real : 0;
    schedule plan = {.rows = problem->outer * problem->inner};
    if (problem->logits_stride[1] != 1 && problem->inner > 1) {
        plan.how = PLANES;
        plan.tile = choose_tile(problem, real);
        plan.units = problem->outer * ((problem->inner + plan.tile - 1) / plan.tile);
        plan.worker_bytes = (size_t)ls_tile_bytes(plan.tile, num_classes, real) + exps * (size_t)plan.tile;
    } else {
        const int are_short = problem->inner == 1 && ls_rows_are_short(plan.rows, num_classes, problem->dtype);
        const int at_a_time = are_short ? LS_PACK : ls_rows_at_a_time(num_classes);
        plan.how = are_short ? SHORT_ROWS : ROWS;
        plan.unit_rows = UNIT_ELEMENTS / (num_classes + 1) / at_a_time * at_a_time;
        if (plan.unit_rows < at_a_time) plan.unit_rows = at_a_time;
        plan.units = (plan.rows + plan.unit_rows - 1) / plan.unit_rows;
        if (plan.how == SHORT_ROWS)
            plan.worker_bytes = (size_t)ls_tile_bytes(LS_PACK, num_classes, real) + 4 * LS_PACK * classes * real;
        else
            plan.worker_bytes = (size_t)at_a_time * ((size_t)ls_blocks(num_classes) * sizeof(ls_frame) + exps) +
                                (size_t)ls_chunks(num_classes) * sizeof(ls_row_sums);
    }
    plan.workers = ls_workers(problem->threads, plan.units, elements);
    const int64_t chunks = ls_chunks(num_classes);
    if (plan.how == ROWS && chunks > 1 && plan.rows < 4 * (int64_t)problem->threads) {
        const int workers = ls_workers(problem->threads, chunks * plan.rows, elements);
        if (workers > 1) {
            plan.how = SHARED_ROWS;
            plan.workers = workers;
            plan.wave = (2 * workers + chunks - 1) / chunks;
            if (plan.wave > plan.rows) plan.wave = plan.rows;
            plan.worker_bytes = sizeof(row_lanes) + (size_t)ls_blocks(num_classes) * sizeof(ls_frame) +
                                (size_t)chunks * sizeof(ls_row_sums) + exps;
        }
    }
    plan.worker_bytes = aligned(plan.worker_bytes);
    return plan;
}

typedef struct {
    const ls_plan *plan;
    const ls_dtype_kernels *kernels;
    const schedule *schedule;
    ls_sum *sums; /* one a unit */
    char *scratch;
    int64_t first_row; /* SHARED_ROWS: of the wave */
} run;

static void run_units(void *context, int64_t begin, int64_t end, int worker) {
    const run *all = (const run *)context;
    const schedule *schedule = all->schedule;
    void *scratch = all->scratch + (size_t)worker * schedule->worker_bytes;
    for (int64_t unit = begin; unit < end; unit++) {
        memset(&all->sums[unit], 0, sizeof(ls_sum));
        if (schedule->how == PLANES) {
            const int64_t inner = all->plan->problem->inner, tiles = (inner + schedule->tile - 1) / schedule->tile;
            const int64_t plane = unit / tiles * inner, first = unit % tiles * schedule->tile;
            const int64_t last = first + schedule->tile < inner ? first + schedule->tile : inner;
            all->kernels->planes(all->plan, plane + first, plane + last, scratch, &all->sums[unit]);
        } else {
            const int64_t first = unit * schedule->unit_rows, last = first + schedule->unit_rows;
            (schedule->how == SHORT_ROWS ? all->kernels->short_rows : all->kernels->rows)(
                all->plan, first, last < schedule->rows ? last : schedule->rows, scratch, &all->sums[unit]);
        }
    }
}

static void *row_scratch(const run *all, int64_t row) {
    return all->scratch + (size_t)(row - all->first_row) * all->schedule->worker_bytes;
}

static void run_chunks(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const run *all = (const run *)context;
    const int64_t chunks = ls_chunks(all->plan->problem->num_classes);
    for (int64_t k = begin; k < end; k++) {
        const int64_t row = all->first_row + k / chunks;
        all->kernels->chunk(all->plan, row, k % chunks, row_scratch(all, row));
    }
}

static void run_chunk_grads(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const run *all = (const run *)context;
    const int64_t chunks = ls_chunks(all->plan->problem->num_classes);
    for (int64_t k = begin; k < end; k++) {
        const int64_t row = all->first_row + k / chunks;
        all->kernels->chunk_grad(all->plan, row, k % chunks, row_scratch(all, row));
    }
}

static void run_waves(run *all) {
    const schedule *schedule = all->schedule;
    const int64_t chunks = ls_chunks(all->plan->problem->num_classes);
    for (int64_t first = 0; first < schedule->rows; first += schedule->wave) {
        const int64_t last = first + schedule->wave < schedule->rows ? first + schedule->wave : schedule->rows;
        all->first_row = first;
        ls_share(schedule->workers, (last - first) * chunks, run_chunks, all);
        for (int64_t row = first; row < last; row++) {
            memset(&all->sums[row], 0, sizeof(ls_sum));
            all->kernels->join(all->plan, row, row_scratch(all, row), &all->sums[row]);
        }
        if (all->plan->problem->grad_logits) ls_share(schedule->workers, (last - first) * chunks, run_chunk_grads, all);
    }
}

static void run_all(run *all) {
    const schedule *schedule = all->schedule;
    if (schedule->how == SHARED_ROWS)
        run_waves(all);
    else
        ls_share(schedule->workers, schedule->units, run_units, all);
}

static double total_of(const ls_sum *sums, int64_t units) {
    double high = 0, low = 0;
    for (int64_t unit = 0; unit < units; unit++) {
        for (int slot = 0; slot < LS_SLOTS; slot++) {
            const double x = sums[unit].high[slot], sum = high + x, back = sum - high;
            low += (high - (sum - back)) + (x - back) + sums[unit].low[slot];
            high = sum;
        }
    }
    return isfinite(high) ? high + low : high; /* low is NaN once high is infinite */
}

static double largest_s_sum(const ls_sum *sums, int64_t units) {
    double largest = 0;
    for (int64_t unit = 0; unit < units; unit++)
        for (int slot = 0; slot < LS_SLOTS; slot++)
            if (sums[unit].largest_s_sum[slot] > largest) largest = sums[unit].largest_s_sum[slot];
    return largest;
}

int ls_supports(const ls_problem *problem) {
    const int64_t *x = problem->logits_stride, *q = problem->target_stride;
    const int has_q = problem->target_kind == LS_PROBABILITIES, single = problem->num_classes == 1;
    const int alone = single && problem->inner == 1;
    const int rows = (x[1] == 1 || alone) && (problem->inner == 1 || !problem->grad_logits) && (!has_q || q[1] == 1 || alone);
    const int planes =
        problem->inner > 1 && x[2] == 1 && x[1] != 1 && (!has_q || q[2] == 1) && problem->num_classes <= INT32_MAX;
    return rows || planes || problem->outer * problem->inner == 0;
}

size_t ls_scratch_bytes(const ls_problem *problem) {
    const schedule plan = make_schedule(problem);
    const size_t areas = plan.how == SHARED_ROWS ? (size_t)plan.wave : (size_t)plan.workers;
    return aligned(ls_plan_scratch_bytes(problem)) + (size_t)plan.units * sizeof(ls_sum) + areas * plan.worker_bytes;
}

ls_status ls_cross_entropy(const ls_problem *problem, void *scratch, ls_error *error) {
    const schedule schedule = make_schedule(problem);
    ls_plan plan;
    int mean_is_nan = 0;
    const ls_status status = ls_make_plan(problem, scratch, &plan, &mean_is_nan, error);
    if (status != LS_OK) return status;

    ls_sum *sums = (ls_sum *)(void *)((char *)scratch + aligned(ls_plan_scratch_bytes(problem)));
    run all = {&plan, &ls_active_kernels()->of[problem->dtype], &schedule, sums, (char *)(sums + schedule.units), 0};
    run_all(&all);
    if (ls_make_room(&plan, largest_s_sum(sums, schedule.units))) run_all(&all);

    if (problem->reduction != LS_NONE)
        element_put(problem->loss, problem->loss_dtype, 0, mean_is_nan ? (double)NAN : total_of(sums, schedule.units));
    if (problem->grad_factor) *problem->grad_factor = (float)(1 / plan.grad_scale);
    return LS_OK;
}
