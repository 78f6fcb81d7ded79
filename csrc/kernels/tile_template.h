/* The sweep over several rows side by side: lanes are positions, classes are strided. Serves planes ([N, C, H, W]) as they are,
 * and short rows once they are packed that way (short_rows_template.h). Included after block_template.h and row_formula.h, with
 * the same parameters.
 *
 * The same algorithm as in block_template.h, with a frame for every position: a tile of positions is swept class by class, in
 * groups whose sums go on in double, and in blocks of LS_PLANE_BLOCK classes; a block that holds a logit far above its
 * position's reference is done again. Frames are kept in versions: a new one only where some position's frame moved.
 */

#define PLANE_GROUP 8    /* classes swept together, over which sums stay in the type of the arithmetic */
#define PLANE_GUESS 8    /* classes looked at for the first reference */
#define DEAD_POSITION -2 /* in place of the target of a row that is ignored altogether */

/* A tile's inputs and outputs. Strides are from class to class; positions are adjacent. */
typedef struct {
    int64_t first_row, positions;
    const S(elem) * x;
    const S(elem) * q; /* LS_DENSE */
    V(real) * exps;    /* NULL: loss only */
    S(elem) * grad;
    int64_t x_stride, q_stride, exps_stride, grad_stride;
    ls_prefetch prefetch_x, prefetch_q, prefetch_grad;
} X(tile);

/* A tile's working memory: one entry per position, padded to whole vectors. */
typedef struct {
    double *sum_all, *dot_all, *s_all;      /* over the blocks done */
    double *sum, *dot, *s_sum;              /* over one block */
    double *has_target, *x_y, *s_y, *alpha; /* of the targets; has_target: 1 or 0 */
    double *lost;                           /* by sum_all, dot_all and s_all; where x_y, s_y and alpha are afterwards */
    double *exp_scale, *grad_y;             /* results of the formula */
    V(real) * ref, *max;                    /* max of one block */
    V(real) * scale;                        /* of the gradient */
    V(index) * target;                      /* a class, -1, or DEAD_POSITION */
    V(real) * versions;                     /* shift and MAGIC - exponent of each version of the frames */
    int32_t *version;                       /* of each block */
    int64_t padded;
    int has_dead;
} X(work);

LS_INLINE X(work) X(carve)(void *scratch, int64_t positions, int64_t num_classes) {
    X(work) work = {0};
    work.padded = ls_padded(positions);
    double **doubles[LS_TILE_DOUBLES] = {&work.sum_all, &work.dot_all, &work.s_all,      &work.sum,
                                         &work.dot,     &work.s_sum,   &work.has_target, &work.x_y,
                                         &work.s_y,     &work.alpha,   &work.exp_scale,  &work.grad_y};
    V(real) * *reals[LS_TILE_REALS] = {&work.ref, &work.max, &work.scale};
    char *at = (char *)scratch;
    for (int i = 0; i < LS_TILE_DOUBLES; i++, at += work.padded * (int64_t)sizeof(double)) *doubles[i] = (double *)(void *)at;
    for (int i = 0; i < LS_TILE_REALS; i++, at += work.padded * (int64_t)sizeof(V(real))) *reals[i] = (V(real) *)(void *)at;
    work.lost = work.x_y;
    work.target = (V(index) *)(void *)at, at += work.padded * (int64_t)sizeof(V(index));
    work.version = (int32_t *)(void *)at, at += ls_plane_blocks(num_classes) * (int64_t)sizeof(int32_t);
    work.versions = (V(real) *)(void *)at;
    return work;
}

LS_INLINE V(real) * X(shifts)(const X(work) * work, int32_t version) { return work->versions + 2 * version * work->padded; }
LS_INLINE V(real) * X(magics)(const X(work) * work, int32_t version) { return X(shifts)(work, version) + work->padded; }

LS_INLINE V(vec) X(load_some)(const S(elem) * p, int64_t n) { return n >= V(lanes) ? S(load)(p) : S(load_n)(p, n); }

/* max over classes [c, c + count), and of those before unless `first`, by position, the target's class left out. */
LS_INLINE void X(tile_max)(const X(tile) * tile, const X(work) * work, int64_t c, int64_t count, V(real) * max, int first) {
    for (int64_t i = 0; i < tile->positions; i += V(lanes)) {
        const int64_t left = tile->positions - i;
        V(vec) m = first ? V(splat)(V(LEAST)) : V(load)(max + i);
        for (int64_t k = 0; k < count; k++) {
            V(vec) x = X(load_some)(tile->x + (c + k) * tile->x_stride + i, left);
            m = V(max_keep)(V(pick)(V(is_index)(work->target + i, c + k), m, x), m);
        }
        V(store)(max + i, m);
    }
}

/* A sum in double to which 1, 2 or 4 terms are added `together`: a pair, or two pairs, summed in the type of the arithmetic. */
typedef struct {
    vec_f64 all[V(parts)];
    V(vec) pair, single;
} X(sum);

LS_INLINE void X(add_to_all)(X(sum) * to, V(vec) v) {
    for (int part = 0; part < V(parts); part++) to->all[part] = add_f64(to->all[part], V(part)(v, part));
}

LS_INLINE void X(add_kth)(X(sum) * to, int k, V(vec) v, int together) {
    if (together == 1)
        X(add_to_all)(to, v);
    else if (k % 2 == 0)
        to->single = v;
    else if (together == 2)
        X(add_to_all)(to, V(add)(to->single, v));
    else if (k % 4 == 1)
        to->pair = V(add)(to->single, v);
    else
        X(add_to_all)(to, V(add)(to->pair, V(add)(to->single, v)));
}

/* `count` terms have been added. */
LS_INLINE void X(accumulate)(double *sums, X(sum) * from, int count, int together) {
    if (count % together % 2) X(add_to_all)(from, from->single);
    if (count % together >= 2) X(add_to_all)(from, from->pair);
    for (int part = 0; part < V(parts); part++, sums += lanes_f64) store_f64(sums, add_f64(load_f64(sums), from->all[part]));
}

/* What the classes of a group have in common for one vector of positions, and their largest logits and sums. */
typedef struct {
    V(vec) shift, magic, low, ref;
    V(vec) max;
    X(sum) sum, dot, s_sum;
    const char *next_x, *next_q, *next_grad; /* requests, see prefetch.h */
} X(lanes);

/* One vector of positions: class number k of a group, c of all, has its exps stored, and is added. */
LS_INLINE void X(sweep_class)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int64_t c, int k, int64_t i,
                              X(lanes) * lanes, ls_smoothing smoothing, int keep, int whole, int together) {
    const int64_t left = tile->positions - i;
    const V(vec) minus_infinity = V(splat)(-(V(real))INFINITY);
    const V(mask) hit = V(is_index)(work->target + i, c);
    const S(elem) *from = tile->x + c * tile->x_stride + i;
    V(real) *to = keep ? tile->exps + c * tile->exps_stride + i : NULL;
    if (whole) { /* into the second cache, as below: the tile fills the first */
        __builtin_prefetch(lanes->next_x, 0, 2);
        lanes->next_x += tile->prefetch_x.class_step;
    }
    if (whole && keep) {
        __builtin_prefetch(lanes->next_grad, 1, 2);
        lanes->next_grad += tile->prefetch_grad.class_step;
    }
    V(vec) x = whole ? S(load)(from) : S(load_n)(from, left);
    if (!whole) x = V(pick)(V(lanes_below)(left), x, minus_infinity);
    x = V(pick)(hit, minus_infinity, x);
    lanes->max = V(max_keep)(x, lanes->max);
    V(vec) e = V(exp)(V(sub)(x, lanes->shift), lanes->magic, lanes->low);
    X(add_kth)(&lanes->sum, k, e, together);
    if (keep && whole) V(store)(to, e);
    if (keep && !whole) V(store_n)(to, e, left);
    if (smoothing == LS_PLAIN) return;
    V(vec) term = V(sub)(x, lanes->ref);
    if (smoothing == LS_VECTOR) {
        const V(vec) s = V(splat)(((const V(real) *)plan->s)[c]);
        term = V(zero_if)(V(is_absent)(s), V(mul)(s, term));
    }
    if (smoothing == LS_DENSE) {
        const S(elem) *q = tile->q + c * tile->q_stride + i;
        if (whole) {
            __builtin_prefetch(lanes->next_q, 0, 2);
            lanes->next_q += tile->prefetch_q.class_step;
        }
        const V(vec) q_scale = V(splat)(((const V(real) *)plan->q_scale)[c]);
        const V(vec) q_shift = V(splat)(((const V(real) *)plan->q_shift)[c]);
        const V(vec) s = V(fma)(whole ? S(load)(q) : S(load_n)(q, left), q_scale, q_shift);
        X(add_kth)(&lanes->s_sum, k, s, together);
        term = V(mul)(s, term);
    }
    X(add_kth)(&lanes->dot, k, V(zero_if)(hit, term), together);
}

/* One vector of positions: `count` classes from c on, added to the sums of the block, which begins with them, if `first`. */
LS_INLINE void X(sweep_lanes)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int64_t c, int count,
                              const V(real) * shifts, const V(real) * magics, int64_t i, ls_smoothing smoothing, int keep,
                              int whole, int first, int together) {
    X(sum) none;
    for (int part = 0; part < V(parts); part++) none.all[part] = splat_f64(0);
    none.pair = none.single = V(splat)(0);
    X(lanes) lanes = {.shift = V(load)(shifts + i), .magic = V(load)(magics + i), .ref = V(load)(work->ref + i)};
    lanes.sum = lanes.dot = lanes.s_sum = none;
    lanes.next_x = ls_prefetch_at(&tile->prefetch_x, c, i);
    if (smoothing == LS_DENSE) lanes.next_q = ls_prefetch_at(&tile->prefetch_q, c, i);
    if (keep) lanes.next_grad = ls_prefetch_at(&tile->prefetch_grad, c, i);
    /* (exponent + least) ln 2, with exponent = MAGIC - magic. */
    lanes.low = V(mul)(V(sub)(V(splat)(V(MAGIC) + V(MIN_EXPONENT)), lanes.magic), V(splat)((V(real))LN2));
    lanes.max = first ? V(splat)(V(LEAST)) : V(load)(work->max + i);
    if (whole && count == PLANE_GROUP) {
#pragma GCC unroll 8 /* PLANE_GROUP: -O3 finds it too much */
        for (int k = 0; k < PLANE_GROUP; k++)
            X(sweep_class)(plan, tile, work, c + k, k, i, &lanes, smoothing, keep, 1, together);
    } else {
        for (int k = 0; k < count; k++) X(sweep_class)(plan, tile, work, c + k, k, i, &lanes, smoothing, keep, whole, together);
    }
    V(store)(work->max + i, lanes.max);
    X(accumulate)(work->sum + i, &lanes.sum, count, together);
    if (smoothing != LS_PLAIN) X(accumulate)(work->dot + i, &lanes.dot, count, together);
    if (smoothing == LS_DENSE) X(accumulate)(work->s_sum + i, &lanes.s_sum, count, together);
}

LS_INLINE void X(sweep_classes)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int32_t version, int64_t c,
                                int count, ls_smoothing smoothing, int keep, int first, int together) {
    const V(real) *shifts = X(shifts)(work, version), *magics = X(magics)(work, version);
    int64_t i = 0;
    for (; i + V(lanes) <= tile->positions; i += V(lanes))
        X(sweep_lanes)(plan, tile, work, c, count, shifts, magics, i, smoothing, keep, 1, first, together);
    if (i < tile->positions) X(sweep_lanes)(plan, tile, work, c, count, shifts, magics, i, smoothing, keep, 0, first, together);
}

/* One block of classes for all positions: its largest logits, and its sums, in work->max, sum, dot and s_sum. */
LS_INLINE void X(sweep_plane_block)(const ls_plan *plan, const X(tile) * tile, const X(work) * work, int32_t version,
                                    int64_t begin, int64_t end, ls_smoothing smoothing, int keep, int together) {
    int64_t c = begin;
    for (; c + PLANE_GROUP <= end; c += PLANE_GROUP)
        X(sweep_classes)(plan, tile, work, version, c, PLANE_GROUP, smoothing, keep, c == begin, together);
    if (c < end) X(sweep_classes)(plan, tile, work, version, c, (int)(end - c), smoothing, keep, c == begin, together);
}

/* Sum of s over the classes below c, the target's left out. Not for LS_DENSE, whose frames do not move. */
LS_INLINE double X(s_below)(const ls_plan *plan, const X(work) * work, int64_t i, int64_t c, double s_before) {
    const int64_t target = work->target[i];
    if (target < 0 || target >= c) return s_before;
    return s_before - (plan->smoothing == LS_VECTOR ? (double)((const V(real) *)plan->s)[target] : 1);
}

/* LS_VECTOR: sum of s over the classes below `end`, which follow those below c. Few are added here, in `of_block`. */
LS_INLINE double X(s_through)(const ls_plan *plan, int64_t c, int64_t end, double *of_block) {
    if (c % LS_BLOCK == 0) *of_block = 0;
    for (int64_t k = c; k < end; k++) *of_block += (double)((const V(real) *)plan->s)[k];
    return plan->s_before[c / LS_BLOCK] + *of_block;
}

/* A new version of the frames, in which every position with a logit far above its reference moves to it. */
static LS_TARGET void X(move_frames)(const ls_plan *plan, const X(tile) * tile, X(work) * work, int32_t from, int64_t c,
                                     double s_before) {
    const V(real) *old_shift = X(shifts)(work, from), *old_magic = X(magics)(work, from);
    V(real) *shift = X(shifts)(work, from + 1), *magic = X(magics)(work, from + 1);
    for (int64_t i = 0; i < work->padded; i++) {
        shift[i] = old_shift[i];
        magic[i] = old_magic[i];
        if (i >= tile->positions || !(work->max[i] > work->ref[i] + MARGIN)) continue;
        const V(frame) frame = V(frame_at)(work->max[i]);
        ls_row_sums sums = {work->sum_all[i],
                            work->dot_all[i],
                            X(s_below)(plan, work, i, c, s_before),
                            (double)shift[i],
                            (double)(V(MAGIC) - magic[i]),
                            (double)work->ref[i]};
        move_sums(&sums, (double)frame.shift, (double)frame.exponent, (double)frame.ref);
        work->sum_all[i] = sums.sum;
        work->dot_all[i] = sums.dot;
        work->ref[i] = frame.ref;
        shift[i] = frame.shift;
        magic[i] = V(MAGIC) - frame.exponent;
    }
}

LS_INLINE int X(any_far_above)(const X(tile) * tile, const X(work) * work) {
    for (int64_t i = 0; i < tile->positions; i += V(lanes)) {
        V(mask) far = V(less)(V(add)(V(load)(work->ref + i), V(splat)(MARGIN)), V(load)(work->max + i));
        if (V(any)(V(both)(far, V(lanes_below)(tile->positions - i)))) return 1;
    }
    return 0;
}

/* The first references: of probabilities the largest logit there is, see block_template.h. A tile has some position whose largest
 * logit comes in any block, so that none would be spared doing again. */
LS_INLINE void X(guess_frames)(const X(tile) * tile, X(work) * work, int64_t num_classes, ls_smoothing smoothing) {
    for (int64_t c = 0; c < (smoothing == LS_DENSE ? num_classes : 1); c += PLANE_GUESS)
        X(tile_max)(tile, work, c, num_classes - c < PLANE_GUESS ? num_classes - c : PLANE_GUESS, work->ref, c == 0);
}

/* The sums of a block added to those of the blocks before. Doubles have no wider type to go on in: thousands of blocks would
 * lose hundreds of units, if what each addition loses was not kept. */
LS_INLINE void X(add_block)(X(work) * work, int64_t sums) {
    for (int64_t i = 0; i < sums; i += lanes_f64) {
        if (sizeof(V(real)) == sizeof(double))
            add_kept(work->sum_all + i, work->lost + i, load_f64(work->sum + i));
        else
            store_f64(work->sum_all + i, add_f64(load_f64(work->sum_all + i), load_f64(work->sum + i)));
    }
}

/* Adds what was lost to the sums, but beside infinities, where it is NaN. */
LS_INLINE void X(add_lost)(X(work) * work, int64_t sums) {
    for (int64_t i = 0; i < sums; i++) {
        if (fabs(work->lost[i]) < (double)INFINITY) work->sum_all[i] += work->lost[i];
        work->lost[i] = 0;
    }
}

/* All classes of a tile. Returns the version of the frames that the sums are relative to. */
LS_INLINE int32_t X(sweep_tile_as)(const ls_plan *plan, const X(tile) * tile, X(work) * work, ls_smoothing smoothing, int keep,
                                   int together) {
    const int64_t num_classes = plan->problem->num_classes;
    X(guess_frames)(tile, work, num_classes, smoothing);
    for (int64_t i = 0; i < work->padded; i++) {
        const V(frame) frame = V(frame_at)(work->ref[i]);
        X(shifts)(work, 0)[i] = frame.shift;
        X(magics)(work, 0)[i] = V(MAGIC) - frame.exponent;
    }
    /* Those of sum, dot and s_sum that there are, which follow each other, as do those over the blocks done. */
    const int64_t sums = (smoothing == LS_PLAIN ? 1 : smoothing == LS_DENSE ? 3 : 2) * work->padded;
    const size_t bytes = (size_t)sums * sizeof(double);
    const int is_single = num_classes <= LS_PLANE_BLOCK; /* a block, whose sums are all there are */
    if (is_single) work->sum = work->sum_all, work->dot = work->dot_all, work->s_sum = work->s_all;
    const int keeps_lost = !is_single && sizeof(V(real)) == sizeof(double);
    if (!is_single) memset(work->sum_all, 0, bytes);
    if (keeps_lost) memset(work->lost, 0, bytes);
    int32_t version = 0;
    double s_before = 0, s_of_block = 0;
    for (int64_t c = 0; c < num_classes; c += LS_PLANE_BLOCK) {
        const int64_t end = c + LS_PLANE_BLOCK < num_classes ? c + LS_PLANE_BLOCK : num_classes;
        for (;;) {
            memset(work->sum, 0, bytes);
            X(sweep_plane_block)(plan, tile, work, version, c, end, smoothing, keep, together);
            if (!X(any_far_above)(tile, work)) break;
            if (keeps_lost) X(add_lost)(work, sums);
            X(move_frames)(plan, tile, work, version++, c, s_before);
        }
        work->version[c / LS_PLANE_BLOCK] = version;
        if (!is_single) X(add_block)(work, sums);
        if (smoothing == LS_UNIFORM) s_before = (double)end;
        if (smoothing == LS_VECTOR) s_before = X(s_through)(plan, c, end, &s_of_block);
    }
    if (keeps_lost) X(add_lost)(work, sums);
    return version;
}

/* Floats go on in double after one rounding, those of few classes after none, for some row shows each in its last bits. What is
 * stored in 16 bits has bits to spare, and fp64 has no wider type. */
LS_INLINE int32_t X(sweep_tile_of)(const ls_plan *plan, const X(tile) * tile, X(work) * work, ls_smoothing smoothing,
                                   int keep) {
    if (sizeof(S(elem)) != sizeof(float)) return X(sweep_tile_as)(plan, tile, work, smoothing, keep, 4);
    if (plan->problem->num_classes <= LS_PLANE_BLOCK) return X(sweep_tile_as)(plan, tile, work, smoothing, keep, 1);
    return X(sweep_tile_as)(plan, tile, work, smoothing, keep, 2);
}

static LS_TARGET int32_t X(sweep_tile)(const ls_plan *plan, const X(tile) * tile, X(work) * work) {
    switch (plan->smoothing) {
    case LS_PLAIN:
        return tile->exps ? X(sweep_tile_of)(plan, tile, work, LS_PLAIN, 1) : X(sweep_tile_of)(plan, tile, work, LS_PLAIN, 0);
    case LS_UNIFORM:
        return tile->exps ? X(sweep_tile_of)(plan, tile, work, LS_UNIFORM, 1)
                          : X(sweep_tile_of)(plan, tile, work, LS_UNIFORM, 0);
    case LS_VECTOR:
        return tile->exps ? X(sweep_tile_of)(plan, tile, work, LS_VECTOR, 1) : X(sweep_tile_of)(plan, tile, work, LS_VECTOR, 0);
    default:
        return tile->exps ? X(sweep_tile_of)(plan, tile, work, LS_DENSE, 1) : X(sweep_tile_of)(plan, tile, work, LS_DENSE, 0);
    }
}
