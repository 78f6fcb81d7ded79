/* Tiles of positions side by side, from targets to gradients: what comes before and after the sweep of tile_template.h, after
 * which this is included, with the same parameters.
 */

LS_INLINE void X(set_targets)(const ls_plan *plan, const X(tile) * tile, X(work) * work) {
    const int dies = plan->target && plan->beta_ignored == 0;
    int dead = 0;
    for (int64_t i = 0; i < tile->positions; i++) {
        const int64_t target = plan->target ? plan->target[tile->first_row + i] : -1;
        work->has_target[i] = target >= 0;
        work->target[i] = (V(index))(target < 0 && dies ? DEAD_POSITION : target);
        dead |= target < 0;
    }
    for (int64_t i = tile->positions; i < work->padded; i++) work->target[i] = -1, work->has_target[i] = 0;
    work->has_dead = dead && dies;
}

/* What the formula needs of the targets' own classes. */
LS_INLINE void X(gather_targets)(const ls_plan *plan, const X(tile) * tile, X(work) * work) {
    const V(real) *weight = (const V(real) *)plan->class_weight, *s = (const V(real) *)plan->s;
    for (int64_t i = 0; i < tile->positions; i++) {
        const int64_t target = work->target[i];
        work->x_y[i] = target >= 0 ? element_get(tile->x + target * tile->x_stride + i, S(dtype), 0) : -(double)INFINITY;
        work->alpha[i] = target >= 0 ? plan->alpha : 0;
    }
    for (int64_t i = 0; weight && i < tile->positions; i++)
        if (work->target[i] >= 0) work->alpha[i] *= (double)weight[work->target[i]];
    for (int64_t i = 0; plan->smoothing == LS_VECTOR && i < tile->positions; i++)
        work->s_y[i] = work->target[i] >= 0 ? (double)s[work->target[i]] : 1;
}

/* Losses of a tile, and what its gradient needs. */
LS_INLINE void X(finish_tile)(const ls_plan *plan, const X(tile) * tile, X(work) * work, int32_t version, ls_sum *sum) {
    const V(real) *shifts = X(shifts)(work, version), *magics = X(magics)(work, version);
    const vec_f64 zero = splat_f64(0), one = splat_f64(1), s_sum = splat_f64(plan->s_sum), beta = splat_f64(plan->beta);
    const int is_dense = plan->smoothing == LS_DENSE, is_vector = plan->smoothing == LS_VECTOR;
    X(gather_targets)(plan, tile, work);
    for (int64_t i = 0; i < tile->positions; i += lanes_f64) {
        const mask_f64 has_target = less_f64(zero, load_f64(work->has_target + i));
        const formula_rows in = {load_f64(work->sum_all + i),
                                 load_f64(work->dot_all + i),
                                 is_dense ? load_f64(work->s_all + i) : s_sum,
                                 V(widen)(shifts + i),
                                 sub_f64(splat_f64((double)V(MAGIC)), V(widen)(magics + i)),
                                 V(widen)(work->ref + i),
                                 load_f64(work->x_y + i),
                                 is_vector ? load_f64(work->s_y + i) : one,
                                 load_f64(work->alpha + i),
                                 is_dense ? beta : pick_f64(has_target, beta, splat_f64(plan->beta_ignored)),
                                 has_target};
        const formula_results out = row_formula(in, plan->smoothing != LS_PLAIN);
        add_losses(sum, (int)(i % LS_SLOTS), out.loss, tile->positions - i);
        if (is_dense && plan->problem->dtype == LS_F16) keep_largest(sum, (int)(i % LS_SLOTS), in.s_sum, tile->positions - i);
        store_f64(work->exp_scale + i, mul_f64(out.exp_scale, splat_f64(plan->grad_scale)));
        store_f64(work->grad_y + i, mul_f64(out.grad_y, splat_f64(plan->grad_scale)));
        if (plan->problem->reduction != LS_NONE) continue;
        double loss[lanes_f64];
        store_f64(loss, out.loss);
        for (int k = 0; k < lanes_f64 && i + k < tile->positions; k++)
            X(put_loss)(plan->problem, tile->first_row + i + k, loss[k]);
    }
}

/* Exps of a block whose position's scale is small, made smaller, and the scale larger: see SMALL_SCALE. */
static LS_TARGET void X(shrink_block)(const X(tile) * tile, const X(work) * work, int64_t begin, int64_t end, int64_t i,
                                      double scale) {
    for (int64_t c = begin; c < end; c++) tile->exps[c * tile->exps_stride + i] *= (V(real))SMALLER_EXPS;
    work->scale[i] = (V(real))(scale / SMALLER_EXPS);
}

/* What the exps of classes [begin, end), all of one version of the frames, are multiplied by. */
LS_INLINE void X(set_scales)(const X(tile) * tile, const X(work) * work, int32_t version, int32_t final, int64_t begin,
                             int64_t end) {
    const double *scales = work->exp_scale;
    if (version != final) {
        const V(real) *shift = X(shifts)(work, version), *magic = X(magics)(work, version);
        const V(real) *final_shift = X(shifts)(work, final), *final_magic = X(magics)(work, final);
        for (int64_t i = 0; i < tile->positions; i++)
            work->sum_all[i] =
                scales[i] * frame_ratio((double)shift[i], (double)-magic[i], (double)final_shift[i], (double)-final_magic[i]);
        scales = work->sum_all;
    }
    int some_are_small = 0;
    for (int64_t i = 0; i < tile->positions; i += V(lanes)) {
        const V(vec) scale = V(narrow)(scales + i), size = V(max_keep)(scale, V(sub)(V(splat)(0), scale));
        V(store)(work->scale + i, scale);
        some_are_small |= V(any)(V(both)(V(less)(size, V(splat)((V(real))SMALL_SCALE)), V(lanes_below)(tile->positions - i)));
    }
    if (!some_are_small || sizeof(V(real)) == sizeof(double)) return;
    for (int64_t i = 0; i < tile->positions; i++)
        if (fabs(scales[i]) < SMALL_SCALE && scales[i] != 0) X(shrink_block)(tile, work, begin, end, i, scales[i]);
}

/* From exps to gradients, class by class. */
LS_INLINE void X(scale_tile_as)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int32_t final,
                                ls_smoothing smoothing) {
    const int64_t num_classes = plan->problem->num_classes;
    /* Of ignored positions too: beta_ignored is beta, or the position is dead. */
    const V(vec) minus_beta = V(splat)((V(real))(-plan->beta * plan->grad_scale));
    int32_t version = -1;
    for (int64_t c = 0; c < num_classes; c++) {
        if (work->version[c / LS_PLANE_BLOCK] != version) {
            version = work->version[c / LS_PLANE_BLOCK];
            int64_t end = c;
            while (end < num_classes && work->version[end / LS_PLANE_BLOCK] == version) end += LS_PLANE_BLOCK;
            X(set_scales)(tile, work, version, final, c, end < num_classes ? end : num_classes);
        }
        V(vec) s = V(splat)(1), q_scale = V(splat)(0);
        if (smoothing == LS_VECTOR) s = V(splat)(((const V(real) *)plan->s)[c]);
        if (smoothing == LS_DENSE) {
            s = V(splat)(((const V(real) *)plan->q_shift)[c]);
            q_scale = V(splat)(((const V(real) *)plan->q_scale)[c]);
        }
        for (int64_t i = 0; i < tile->positions; i += V(lanes)) {
            const int64_t left = tile->positions - i;
            const int whole = left >= V(lanes);
            const V(real) *exps = tile->exps + c * tile->exps_stride + i;
            V(vec) g = V(mul)(whole ? V(load)(exps) : V(load_n)(exps, left), V(load)(work->scale + i));
            if (smoothing == LS_DENSE) {
                V(vec) q = X(load_some)(tile->q + c * tile->q_stride + i, left);
                g = V(fma)(minus_beta, V(fma)(q, q_scale, s), g);
            } else if (smoothing != LS_PLAIN) {
                g = V(fma)(minus_beta, s, g);
            }
            if (work->has_dead) g = V(zero_if)(V(is_index)(work->target + i, DEAD_POSITION), g);
            S(elem) *grad = tile->grad + c * tile->grad_stride + i;
            if (whole)
                S(store)(grad, g);
            else
                S(store_n)(grad, g, left);
        }
    }
    for (int64_t i = 0; i < tile->positions; i++) {
        const int64_t target = work->target[i];
        if (target >= 0) element_put(tile->grad + target * tile->grad_stride + i, S(dtype), 0, work->grad_y[i]);
    }
}

static LS_TARGET void X(scale_tile)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int32_t version) {
    switch (plan->smoothing) {
    case LS_PLAIN:
        X(scale_tile_as)(plan, tile, work, version, LS_PLAIN);
        break;
    case LS_UNIFORM:
        X(scale_tile_as)(plan, tile, work, version, LS_UNIFORM);
        break;
    case LS_VECTOR:
        X(scale_tile_as)(plan, tile, work, version, LS_VECTOR);
        break;
    case LS_DENSE:
        X(scale_tile_as)(plan, tile, work, version, LS_DENSE);
        break;
    }
}

LS_INLINE void X(do_tile)(const ls_plan *plan, X(tile) * tile, void *scratch, ls_sum *sum) {
    X(work) work = X(carve)(scratch, tile->positions, plan->problem->num_classes);
    X(set_targets)(plan, tile, &work);
    const int32_t version = X(sweep_tile)(plan, tile, &work);
    X(finish_tile)(plan, tile, &work, version, sum);
    if (tile->exps) X(scale_tile)(plan, tile, &work, version);
}

/* The same positions of the next group of classes: too far away for the hardware to look there. */
LS_INLINE ls_prefetch X(next_classes)(const S(elem) * from, int64_t stride) {
    const int64_t element = sizeof(S(elem));
    return (ls_prefetch){(const char *)(from + PLANE_GROUP * stride), stride * element, element};
}

/* Rows [begin, end) of one plane. Scratch: that of ls_tile_bytes(), then exps where the gradient cannot hold them. */
static LS_TARGET void X(planes)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum) {
    const ls_problem *problem = plan->problem;
    const int64_t outer = begin / problem->inner, position = begin % problem->inner;
    X(tile) tile = {.first_row = begin, .positions = end - begin};
    tile.x = (const S(elem) *)problem->logits + outer * problem->logits_stride[0] + position * problem->logits_stride[2];
    tile.x_stride = problem->logits_stride[1];
    tile.prefetch_x = X(next_classes)(tile.x, tile.x_stride);
    if (plan->smoothing == LS_DENSE) {
        tile.q = (const S(elem) *)problem->target + outer * problem->target_stride[0] + position * problem->target_stride[2];
        tile.q_stride = problem->target_stride[1];
        tile.prefetch_q = X(next_classes)(tile.q, tile.q_stride);
    }
    if (problem->grad_logits) {
        tile.grad = (S(elem) *)problem->grad_logits + outer * problem->num_classes * problem->inner + position;
        tile.grad_stride = problem->inner;
        tile.prefetch_grad = X(next_classes)(tile.grad, tile.grad_stride);
        tile.exps =
            sizeof(S(elem)) == sizeof(V(real))
                ? (V(real) *)(void *)tile.grad
                : (V(real) *)(void *)((char *)scratch + ls_tile_bytes(tile.positions, problem->num_classes, sizeof(V(real))));
        tile.exps_stride = sizeof(S(elem)) == sizeof(V(real)) ? problem->inner : tile.positions;
    }
    X(do_tile)(plan, &tile, scratch, sum);
}
