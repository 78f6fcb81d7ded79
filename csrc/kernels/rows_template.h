/* Whole rows whose classes are adjacent, and long rows whose chunks several threads share. Included after block_template.h and
 * row_formula.h, with the parameters of the former; ends with the functions that ls_dtype_kernels holds.
 */

LS_INLINE int64_t X(row_offset)(const ls_problem *problem, const int64_t stride[3], int64_t row) {
    return problem->inner == 1 ? row * stride[0] : row / problem->inner * stride[0] + row % problem->inner * stride[2];
}

LS_INLINE S(elem) * X(row_grad)(const ls_problem *problem, int64_t row) {
    return (S(elem) *)problem->grad_logits + row * problem->num_classes;
}

LS_INLINE X(part) X(row_part)(const ls_plan *plan, int64_t row) {
    const ls_problem *problem = plan->problem;
    X(part) part = {0};
    part.x = (const S(elem) *)problem->logits + X(row_offset)(problem, problem->logits_stride, row);
    part.s = (const V(real) *)plan->s;
    if (plan->smoothing == LS_DENSE)
        part.q = (const S(elem) *)problem->target + X(row_offset)(problem, problem->target_stride, row);
    part.q_scale = (const V(real) *)plan->q_scale;
    part.q_shift = (const V(real) *)plan->q_shift;
    if (problem->grad_logits) part.grad = X(row_grad)(problem, row);
    return part;
}

/* Where the exps of a row wait for their scale: in the gradient itself, if it can hold them. */
LS_INLINE V(real) * X(exps_of)(const ls_problem *problem, int64_t row, V(real) * scratch) {
    return sizeof(S(elem)) == sizeof(V(real)) ? (V(real) *)(void *)X(row_grad)(problem, row) : scratch;
}

LS_INLINE int64_t X(target_of)(const ls_plan *plan, int64_t row) { return plan->target ? plan->target[row] : -1; }

LS_INLINE void X(set_lane)(const ls_plan *plan, row_lanes *rows, int lane, int64_t row, const ls_row_sums *sums) {
    const X(part) part = X(row_part)(plan, row);
    const int64_t target = X(target_of)(plan, row);
    const int has_target = target >= 0;
    const V(real) *weight = (const V(real) *)plan->class_weight;
    rows->has_target[lane] = has_target;
    rows->alpha[lane] = has_target ? plan->alpha * (weight ? (double)weight[target] : 1) : 0;
    rows->beta[lane] = has_target || !plan->target ? plan->beta : plan->beta_ignored;
    rows->x_y[lane] = has_target ? element_get(part.x + target, S(dtype), 0) : -(double)INFINITY;
    rows->s_y[lane] = has_target && plan->smoothing == LS_VECTOR ? (double)part.s[target] : 1;
    rows->sum[lane] = sums->sum;
    rows->dot[lane] = sums->dot;
    rows->s_sum[lane] = plan->smoothing == LS_DENSE ? sums->s_sum : plan->s_sum;
    rows->shift[lane] = sums->shift;
    rows->exponent[lane] = sums->exponent;
    rows->ref[lane] = sums->ref;
}

LS_INLINE void X(finish_lanes)(const ls_plan *plan, row_lanes *rows, int count, ls_sum *sum) {
    for (int i = 0; i < count; i += lanes_f64) {
        const formula_rows in = {load_f64(rows->sum + i),
                                 load_f64(rows->dot + i),
                                 load_f64(rows->s_sum + i),
                                 load_f64(rows->shift + i),
                                 load_f64(rows->exponent + i),
                                 load_f64(rows->ref + i),
                                 load_f64(rows->x_y + i),
                                 load_f64(rows->s_y + i),
                                 load_f64(rows->alpha + i),
                                 load_f64(rows->beta + i),
                                 less_f64(splat_f64(0), load_f64(rows->has_target + i))};
        const formula_results out = row_formula(in, plan->smoothing != LS_PLAIN);
        store_f64(rows->loss + i, out.loss);
        store_f64(rows->exp_scale + i, out.exp_scale);
        store_f64(rows->grad_y + i, out.grad_y);
        add_losses(sum, i, out.loss, count - i);
        if (plan->problem->dtype == LS_F16 && plan->smoothing == LS_DENSE) keep_largest(sum, i, in.s_sum, count - i);
    }
}

LS_INLINE void X(put_loss)(const ls_problem *problem, int64_t row, double loss) {
    if (problem->reduction == LS_NONE) element_put(problem->loss, problem->loss_dtype, row, loss);
}

/* A row the convention ignores altogether: its logits are not read. */
LS_INLINE int X(is_dead)(const ls_plan *plan, int64_t row) {
    return plan->target && plan->target[row] < 0 && plan->beta_ignored == 0;
}

LS_INLINE void X(bury)(const ls_problem *problem, int64_t row) {
    X(put_loss)(problem, row, 0);
    if (problem->grad_logits) memset(X(row_grad)(problem, row), 0, (size_t)problem->num_classes * sizeof(S(elem)));
}

/* The sums of all chunks of a row, relative to the largest reference, in the order of the chunks. */
LS_INLINE ls_row_sums X(join_chunks)(ls_row_sums *chunks, int64_t count) {
    ls_row_sums total = chunks[0];
    for (int64_t k = 1; k < count; k++) {
        if (chunks[k].ref > total.ref)
            move_sums(&total, chunks[k].shift, chunks[k].exponent, chunks[k].ref);
        else
            move_sums(&chunks[k], total.shift, total.exponent, total.ref);
        total.sum += chunks[k].sum;
        total.dot += chunks[k].dot;
        total.s_sum += chunks[k].s_sum;
    }
    return total;
}

/* The gradient of classes [begin, end) of the row in a lane, from its exps. */
LS_INLINE void X(grad_of_lane)(const ls_plan *plan, int64_t row, const row_lanes *rows, int lane, int64_t begin, int64_t end,
                               V(real) * exps, const ls_frame *frames) {
    const ls_frame final = {rows->shift[lane], rows->exponent[lane]};
    S(elem) *grad = X(row_grad)(plan->problem, row);
    X(scale_exps)(plan, X(row_part)(plan, row), begin, end, exps, grad, frames, final, rows->exp_scale[lane] * plan->grad_scale,
                  rows->beta[lane] * plan->grad_scale);
    const int64_t target = X(target_of)(plan, row);
    if (target >= begin && target < end) element_put(grad, S(dtype), target, rows->grad_y[lane] * plan->grad_scale);
}

LS_INLINE void X(sweep_row_chunk)(const ls_plan *plan, int64_t row, int64_t chunk, V(real) * exps, ls_frame *row_frames,
                                  ls_row_sums *chunk_sums) {
    const int64_t begin = chunk * LS_CHUNK, num_classes = plan->problem->num_classes;
    const int64_t end = begin + LS_CHUNK < num_classes ? begin + LS_CHUNK : num_classes;
    chunk_sums[chunk] =
        X(sweep)(plan, X(row_part)(plan, row), begin, end, X(target_of)(plan, row), exps, row_frames + begin / LS_BLOCK);
}

/* Scratch: frames of `batch` rows, the chunks' sums of one row, and the exps of `batch` rows if the gradient cannot hold them.
 */
static LS_TARGET void X(rows)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum) {
    const ls_problem *problem = plan->problem;
    const int64_t num_classes = problem->num_classes, chunks = ls_chunks(num_classes), blocks = ls_blocks(num_classes);
    const int batch = ls_rows_at_a_time(num_classes), keep = problem->grad_logits != NULL;
    ls_frame *frames = (ls_frame *)scratch;
    ls_row_sums *chunk_sums = (ls_row_sums *)(frames + batch * blocks);
    V(real) *exps_scratch = (V(real) *)(chunk_sums + chunks);

    for (int64_t row = begin; row < end;) {
        row_lanes lanes = {0};
        int64_t row_of[LS_SLOTS];
        int count = 0;
        for (; row < end && count < batch; row++) {
            if (X(is_dead)(plan, row)) {
                X(bury)(problem, row);
                continue;
            }
            V(real) *exps = keep ? X(exps_of)(problem, row, exps_scratch + count * num_classes) : NULL;
            for (int64_t k = 0; k < chunks; k++) X(sweep_row_chunk)(plan, row, k, exps, frames + count * blocks, chunk_sums);
            const ls_row_sums sums = X(join_chunks)(chunk_sums, chunks);
            X(set_lane)(plan, &lanes, count, row, &sums);
            row_of[count++] = row;
        }
        X(finish_lanes)(plan, &lanes, count, sum);
        for (int lane = 0; lane < count; lane++) {
            X(put_loss)(problem, row_of[lane], lanes.loss[lane]);
            if (!keep) continue;
            V(real) *exps = X(exps_of)(problem, row_of[lane], exps_scratch + lane * num_classes);
            X(grad_of_lane)(plan, row_of[lane], &lanes, lane, 0, num_classes, exps, frames + lane * blocks);
        }
    }
}

/* A shared row. Its scratch: the lane, its frames, its chunks' sums, and its exps if the gradient cannot hold them. */
typedef struct {
    row_lanes *lanes;
    ls_frame *frames;
    ls_row_sums *chunk_sums;
    V(real) * exps;
} X(shared_row);

LS_INLINE X(shared_row) X(shared_row_at)(const ls_plan *plan, int64_t row, void *scratch) {
    const int64_t num_classes = plan->problem->num_classes;
    X(shared_row) shared;
    shared.lanes = (row_lanes *)scratch;
    shared.frames = (ls_frame *)(shared.lanes + 1);
    shared.chunk_sums = (ls_row_sums *)(shared.frames + ls_blocks(num_classes));
    shared.exps = plan->problem->grad_logits
                      ? X(exps_of)(plan->problem, row, (V(real) *)(shared.chunk_sums + ls_chunks(num_classes)))
                      : NULL;
    return shared;
}

static LS_TARGET void X(chunk)(const ls_plan *plan, int64_t row, int64_t chunk, void *row_scratch) {
    X(shared_row) shared = X(shared_row_at)(plan, row, row_scratch);
    if (!X(is_dead)(plan, row)) X(sweep_row_chunk)(plan, row, chunk, shared.exps, shared.frames, shared.chunk_sums);
}

static LS_TARGET void X(join)(const ls_plan *plan, int64_t row, void *row_scratch, ls_sum *sum) {
    X(shared_row) shared = X(shared_row_at)(plan, row, row_scratch);
    if (X(is_dead)(plan, row)) {
        X(bury)(plan->problem, row);
        return;
    }
    *shared.lanes = (row_lanes){0};
    const ls_row_sums sums = X(join_chunks)(shared.chunk_sums, ls_chunks(plan->problem->num_classes));
    X(set_lane)(plan, shared.lanes, 0, row, &sums);
    X(finish_lanes)(plan, shared.lanes, 1, sum);
    X(put_loss)(plan->problem, row, shared.lanes->loss[0]);
}

static LS_TARGET void X(chunk_grad)(const ls_plan *plan, int64_t row, int64_t chunk, void *row_scratch) {
    X(shared_row) shared = X(shared_row_at)(plan, row, row_scratch);
    const int64_t begin = chunk * LS_CHUNK, num_classes = plan->problem->num_classes;
    if (!X(is_dead)(plan, row))
        X(grad_of_lane)(plan, row, shared.lanes, 0, begin, begin + LS_CHUNK < num_classes ? begin + LS_CHUNK : num_classes,
                        shared.exps, shared.frames + begin / LS_BLOCK);
}
