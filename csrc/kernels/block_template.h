/* A piece of one row whose classes are adjacent: its sweep, with one exp per element, and its scaling. rows_template.h uses it.
 * kernels_template.h names the parameters.
 *
 * A block is swept with the frame of the block before. Only if it holds a logit more than MARGIN above ref does the frame move
 * there, and the block is done again: logits that keep ascending cost twice, others nothing. e^MARGIN times the classes of a
 * block is far from overflow, and precision does not depend on how far below the maximum ref is; but that of probabilities does:
 * they are mostly the leading class's, whose term x - ref must then cancel with log(sum). So ref follows the maximum there.
 */
#define DENSE_MARGIN 2

/* A piece has four sums in each lane, which are added to each other and go on in double: of floats as soon as each holds one term,
 * after two roundings, of few classes after none, for some row shows each in its last bits; else after 64 vectors, for what is
 * stored in 16 bits has bits to spare, and fp64 has no wider type. */
#define PIECE_VECTORS 64
#define PIECE_SUMS 4
#define SINGLE_TERMS (sizeof(S(elem)) == sizeof(float))
#define FEW_CLASSES 256

/* One row's inputs, or a part's: pointers to its first class. */
typedef struct {
    const S(elem) * x;
    const S(elem) * q;       /* LS_DENSE */
    const V(real) * s;       /* LS_VECTOR */
    const V(real) * q_scale; /* LS_DENSE */
    const V(real) * q_shift; /* LS_DENSE */
    const S(elem) * grad;    /* fetched by the sweep where exps wait elsewhere; NULL without a gradient */
} X(part);

LS_INLINE X(part) X(part_at)(X(part) row, int64_t c, ls_smoothing smoothing) {
    row.x += c;
    if (row.grad) row.grad += c;
    if (smoothing == LS_VECTOR) row.s += c;
    if (smoothing == LS_DENSE) row.q += c, row.q_scale += c, row.q_shift += c;
    return row;
}

typedef struct {
    V(vec) shift, magic, low, ref;
} X(frame_vectors);

/* Largest logits of a block, and sums over a piece of it. */
typedef struct {
    V(vec) max[V(unroll)], sum[PIECE_SUMS], dot[PIECE_SUMS], s_sum[PIECE_SUMS];
} X(accumulators);

LS_INLINE void X(add_term)(V(vec) * sum, V(vec) term) { *sum = SINGLE_TERMS ? term : V(add)(*sum, term); }

/* Sums over a block, lane by lane. */
typedef struct {
    double sum[V(lanes)], dot[V(lanes)], s_sum[V(lanes)];
} X(lane_sums);

/* `unroll` vectors at class i, added to the sums from `first` on. `whole`: all lanes are within the part and none is the
 * target's. */
LS_INLINE void X(sweep_group)(X(part) part, int first, int64_t i, int64_t n, int64_t target, V(real) * exps,
                              const X(frame_vectors) * frame, X(accumulators) * to, ls_smoothing smoothing, int keep,
                              int whole) {
    for (int u = 0; u < V(unroll); u++, i += V(lanes)) {
        const int k = first + u;
        int64_t left = n - i;
        V(mask) in = V(lanes_below)(left);
        V(mask) counts = whole ? in : V(both)(in, V(lanes_but)(target - i));
        /* Floats between logits and gradient are a third stream, beside which the hardware reads less far ahead; where there
         * are two it does so better than this would. The gradient is for the scaling sweep. */
        if (keep && whole && sizeof(S(elem)) != sizeof(V(real))) {
            __builtin_prefetch(part.x + i + LS_BLOCK, 0, 2);
            __builtin_prefetch(part.grad + i, 1);
        }
        V(vec) x = whole ? S(load)(part.x + i) : V(pick)(counts, S(load_n)(part.x + i, left), V(splat)(-(V(real))INFINITY));
        to->max[u] = V(max_keep)(x, to->max[u]);
        V(vec) e = V(exp)(V(sub)(x, frame->shift), frame->magic, frame->low);
        X(add_term)(&to->sum[k], e);
        if (keep && whole) V(store)(exps + i, e);
        if (keep && !whole) V(store_n)(exps + i, e, left);
        if (smoothing == LS_PLAIN) continue;
        V(vec) term = V(sub)(x, frame->ref);
        if (smoothing == LS_VECTOR) {
            V(vec) s = whole ? V(load)(part.s + i) : V(load_n)(part.s + i, left);
            term = V(zero_if)(V(is_absent)(s), V(mul)(s, term));
        }
        if (smoothing == LS_DENSE) {
            V(vec) q = whole ? S(load)(part.q + i) : S(load_n)(part.q + i, left);
            V(vec) scale = whole ? V(load)(part.q_scale + i) : V(load_n)(part.q_scale + i, left);
            V(vec) s = V(fma)(q, scale, whole ? V(load)(part.q_shift + i) : V(load_n)(part.q_shift + i, left));
            term = V(mul)(s, term);
            X(add_term)(&to->s_sum[k], s);
        }
        X(add_term)(&to->dot[k], whole ? term : V(zero_unless)(counts, term));
    }
}

LS_INLINE V(real) X(largest)(const S(elem) * x, int64_t n, int64_t target) {
    V(vec) max[4];
    for (int k = 0; k < 4; k++) max[k] = V(splat)(V(LEAST));
    int64_t i = 0;
    for (; i + 4 * V(lanes) <= n && !(target >= i && target < n); i += 4 * V(lanes))
        for (int k = 0; k < 4; k++) max[k] = V(max_keep)(S(load)(x + i + k * V(lanes)), max[k]);
    for (; i < n; i += V(lanes)) {
        V(mask) counts = V(both)(V(lanes_below)(n - i), V(lanes_but)(target - i));
        max[0] = V(max_keep)(V(pick)(counts, S(load_n)(x + i, n - i), max[0]), max[0]);
    }
    return V(reduce_max)(V(max_keep)(V(max_keep)(max[0], max[1]), V(max_keep)(max[2], max[3])));
}

/* The four sums added to those in double, and to each other before or after that. */
LS_INLINE void X(add_four)(double *to, const V(vec) * v, int in_double) {
    const V(vec) pairs[2] = {V(add)(v[0], v[2]), V(add)(v[1], v[3])}, four = V(add)(pairs[0], pairs[1]);
    for (int part = 0; part < V(parts); part++, to += lanes_f64) {
        vec_f64 sum = V(part)(four, part);
        if (in_double)
            sum = add_f64(add_f64(V(part)(v[0], part), V(part)(v[2], part)), add_f64(V(part)(v[1], part), V(part)(v[3], part)));
        store_f64(to, add_f64(load_f64(to), sum));
    }
}

/* Lets the sums of a piece go on in double, and begins them anew. */
LS_INLINE void X(flush)(X(accumulators) * to, X(lane_sums) * sums, ls_smoothing smoothing, int in_double) {
    X(add_four)(sums->sum, to->sum, in_double);
    if (smoothing != LS_PLAIN) X(add_four)(sums->dot, to->dot, in_double);
    if (smoothing == LS_DENSE) X(add_four)(sums->s_sum, to->s_sum, in_double);
    for (int k = 0; k < PIECE_SUMS; k++) to->sum[k] = to->dot[k] = to->s_sum[k] = V(splat)(0);
}

/* Adds a piece of n classes of a block, whose exps it stores. `target` is relative to the piece, and out of [0, n) if it is
 * elsewhere. A group that fills only some of the sums goes to the first ones if it is whole, else to the last: no sum gets many
 * more terms than the others. */
LS_INLINE void X(sweep_piece)(X(part) part, int64_t n, int64_t target, V(real) * exps, const X(frame_vectors) * frame,
                              X(accumulators) * to, X(lane_sums) * sums, ls_smoothing smoothing, int keep, int in_double) {
    const int64_t group = V(unroll) * V(lanes);
    const int groups = PIECE_SUMS / V(unroll);
    _Static_assert(PIECE_SUMS == 4 && PIECE_SUMS % V(unroll) == 0, "a group fills some of a piece's four sums, or all");
    const int64_t whole = n - n % group;
    int64_t i = 0, stop = target >= 0 && target < whole ? target - target % group : whole;
    for (;;) {
        for (; i + groups * group <= stop; i += groups * group) {
            for (int g = 0; g < groups; g++)
                X(sweep_group)(part, g * V(unroll), i + g * group, n, target, exps, frame, to, smoothing, keep, 1);
            if (SINGLE_TERMS) X(flush)(to, sums, smoothing, in_double);
        }
        for (; groups > 1 && i < stop; i += group) {
            X(sweep_group)(part, 0, i, n, target, exps, frame, to, smoothing, keep, 1);
            if (SINGLE_TERMS) X(flush)(to, sums, smoothing, in_double);
        }
        if (i >= n) break;
        X(sweep_group)(part, PIECE_SUMS - V(unroll), i, n, target, exps, frame, to, smoothing, keep, 0);
        if (SINGLE_TERMS) X(flush)(to, sums, smoothing, in_double);
        i += group;
        stop = whole;
    }
    if (!SINGLE_TERMS) X(flush)(to, sums, smoothing, 0);
}

LS_INLINE double X(add_lanes)(const double *sums) {
    vec_f64 sum = splat_f64(0);
    for (int lane = 0; lane < V(lanes); lane += lanes_f64) sum = add_f64(sum, load_f64(sums + lane));
    return reduce_add_f64(sum);
}

/* Sums over n classes of a block, whose exps it stores; returns its largest logit. */
LS_INLINE V(real) X(sweep_block)(X(part) part, int64_t n, int64_t target, V(real) * exps, V(frame) frame, ls_row_sums *block,
                                 ls_smoothing smoothing, int keep, int in_double) {
    const V(real) magic = V(MAGIC) - frame.exponent;
    const V(real) low = (frame.exponent + V(MIN_EXPONENT)) * (V(real))LN2;
    const X(frame_vectors) vectors = {V(splat)(frame.shift), V(splat)(magic), V(splat)(low), V(splat)(frame.ref)};
    X(accumulators) to;
    X(lane_sums) sums = {{0}, {0}, {0}};
    for (int k = 0; k < PIECE_SUMS; k++) to.sum[k] = to.dot[k] = to.s_sum[k] = V(splat)(0);
    for (int u = 0; u < V(unroll); u++) to.max[u] = V(splat)(V(LEAST));
    const int64_t piece = PIECE_VECTORS * V(lanes);
    for (int64_t at = 0; at < n; at += piece) {
        const int64_t length = n - at < piece ? n - at : piece;
        X(sweep_piece)(X(part_at)(part, at, smoothing), length, target - at, keep ? exps + at : NULL, &vectors, &to, &sums,
                       smoothing, keep, in_double);
    }
    block->sum = X(add_lanes)(sums.sum);
    if (smoothing != LS_PLAIN) block->dot = X(add_lanes)(sums.dot);
    if (smoothing == LS_DENSE) block->s_sum = X(add_lanes)(sums.s_sum);
    for (int u = 1; u < V(unroll); u++) to.max[0] = V(max_keep)(to.max[u], to.max[0]);
    return V(reduce_max)(to.max[0]);
}

/* Sum of s over classes [begin, end) of a row, the target's left out. `begin` is the start of a block and `end` of another one,
 * or the number of classes. */
LS_INLINE double X(sum_of_s)(const ls_plan *plan, int64_t begin, int64_t end, int64_t target, ls_smoothing smoothing) {
    int holds_target = target >= begin && target < end;
    if (smoothing == LS_UNIFORM) return (double)(end - begin - holds_target);
    if (smoothing == LS_VECTOR) {
        double all = plan->s_before[(end + LS_BLOCK - 1) / LS_BLOCK] - plan->s_before[begin / LS_BLOCK];
        return holds_target ? all - (double)((const V(real) *)plan->s)[target] : all;
    }
    return 0;
}

/* Sweeps classes [begin, end) of a row, at most a chunk. `frames` gets one entry per block. */
LS_INLINE ls_row_sums X(sweep_chunk)(const ls_plan *plan, X(part) row, int64_t begin, int64_t end, int64_t target,
                                     V(real) * exps, ls_frame *frames, ls_smoothing smoothing, int keep) {
    const int in_double = SINGLE_TERMS && plan->problem->num_classes <= FEW_CLASSES;
    const int64_t looked_at = smoothing == LS_DENSE ? LS_BLOCK : 64, guess = looked_at < end - begin ? looked_at : end - begin;
    const V(real) margin = smoothing == LS_DENSE ? DENSE_MARGIN : MARGIN;
    V(frame) frame = V(frame_at)(X(largest)(row.x + begin, guess, target - begin));
    ls_row_sums total = {0, 0, 0, (double)frame.shift, (double)frame.exponent, (double)frame.ref};
    for (int64_t c = begin; c < end; c += LS_BLOCK) {
        const int64_t n = end - c < LS_BLOCK ? end - c : LS_BLOCK;
        X(part) part = X(part_at)(row, c, smoothing);
        V(real) *to = keep ? exps + c : NULL;
        ls_row_sums block;
        for (;;) {
            block = (ls_row_sums){0};
            const V(real) max = X(sweep_block)(part, n, target - c, to, frame, &block, smoothing, keep, in_double);
            if (!(max > frame.ref + margin)) break;
            frame = V(frame_at)(max);
            move_sums(&total, (double)frame.shift, (double)frame.exponent, (double)frame.ref);
        }
        if (smoothing != LS_DENSE) block.s_sum = X(sum_of_s)(plan, c, c + n, target, smoothing);
        total.sum += block.sum;
        total.dot += block.dot;
        total.s_sum += block.s_sum;
        frames[(c - begin) / LS_BLOCK] = (ls_frame){total.shift, total.exponent};
    }
    return total;
}

/* A scale this small would lose bits as a float, while exps may be large: then exps are made smaller first. Those that
 * underflow thereby belong to gradients that do so too. */
#define SMALL_SCALE 0x1p-100
#define SMALLER_EXPS 0x1p-90

LS_INLINE void X(shrink)(V(real) * exps, int64_t n) {
    for (int64_t i = 0; i < n; i++) exps[i] *= (V(real))SMALLER_EXPS;
}

/* One vector at class i of a part whose exps and gradient are given. */
LS_INLINE void X(scale_vector)(X(part) part, int64_t i, int64_t n, const V(real) * exps, S(elem) * grad, V(vec) scale,
                               V(vec) minus_beta, ls_smoothing smoothing, int whole) {
    const int64_t left = n - i;
    const V(vec) e = whole ? V(load)(exps + i) : V(load_n)(exps + i, left);
    V(vec) g = smoothing == LS_UNIFORM ? V(fma)(e, scale, minus_beta) : V(mul)(e, scale);
    if (smoothing == LS_VECTOR) g = V(fma)(minus_beta, whole ? V(load)(part.s + i) : V(load_n)(part.s + i, left), g);
    if (smoothing == LS_DENSE) {
        V(vec) q = whole ? S(load)(part.q + i) : S(load_n)(part.q + i, left);
        V(vec) q_scale = whole ? V(load)(part.q_scale + i) : V(load_n)(part.q_scale + i, left);
        V(vec) q_shift = whole ? V(load)(part.q_shift + i) : V(load_n)(part.q_shift + i, left);
        g = V(fma)(minus_beta, V(fma)(q, q_scale, q_shift), g);
    }
    if (whole)
        S(store)(grad + i, g);
    else
        S(store_n)(grad + i, g, left);
}

/* Turns the stored exps of classes [begin, end) into the gradient, the target's entry left out. */
LS_INLINE void X(scale_chunk)(X(part) row, int64_t begin, int64_t end, V(real) * exps, S(elem) * grad, const ls_frame *frames,
                              ls_frame final, double exp_scale, double beta, ls_smoothing smoothing) {
    const V(vec) minus_beta = V(splat)((V(real)) - beta);
    for (int64_t c = begin; c < end; c += LS_BLOCK) {
        const int64_t n = end - c < LS_BLOCK ? end - c : LS_BLOCK;
        const ls_frame frame = frames[(c - begin) / LS_BLOCK];
        const double ratio = frame_ratio(frame.shift, frame.exponent, final.shift, final.exponent);
        double block_scale = exp_scale * ratio;
        if (fabs(block_scale) < SMALL_SCALE && block_scale != 0 && sizeof(V(real)) == sizeof(float)) {
            X(shrink)(exps + c, n);
            block_scale /= SMALLER_EXPS;
        }
        const V(vec) scale = V(splat)((V(real))block_scale);
        const X(part) part = X(part_at)(row, c, smoothing);
        int64_t i = 0;
        for (; i + V(unroll) * V(lanes) <= n; i += V(unroll) * V(lanes))
            for (int u = 0; u < V(unroll); u++)
                X(scale_vector)(part, i + u * V(lanes), n, exps + c, grad + c, scale, minus_beta, smoothing, 1);
        for (; i < n; i += V(lanes)) X(scale_vector)(part, i, n, exps + c, grad + c, scale, minus_beta, smoothing, 0);
    }
}

/* The sweep and the scaling with what a call's rows have in common made constant. */
static LS_TARGET ls_row_sums X(sweep)(const ls_plan *plan, X(part) row, int64_t begin, int64_t end, int64_t target,
                                      V(real) * exps, ls_frame *frames) {
    switch (plan->smoothing) {
    case LS_PLAIN:
        return exps ? X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_PLAIN, 1)
                    : X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_PLAIN, 0);
    case LS_UNIFORM:
        return exps ? X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_UNIFORM, 1)
                    : X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_UNIFORM, 0);
    case LS_VECTOR:
        return exps ? X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_VECTOR, 1)
                    : X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_VECTOR, 0);
    default:
        return exps ? X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_DENSE, 1)
                    : X(sweep_chunk)(plan, row, begin, end, target, exps, frames, LS_DENSE, 0);
    }
}

static LS_TARGET void X(scale_exps)(const ls_plan *plan, X(part) row, int64_t begin, int64_t end, V(real) * exps,
                                    S(elem) * grad, const ls_frame *frames, ls_frame final, double exp_scale, double beta) {
    switch (plan->smoothing) {
    case LS_PLAIN:
        X(scale_chunk)(row, begin, end, exps, grad, frames, final, exp_scale, beta, LS_PLAIN);
        break;
    case LS_UNIFORM:
        X(scale_chunk)(row, begin, end, exps, grad, frames, final, exp_scale, beta, LS_UNIFORM);
        break;
    case LS_VECTOR:
        X(scale_chunk)(row, begin, end, exps, grad, frames, final, exp_scale, beta, LS_VECTOR);
        break;
    case LS_DENSE:
        X(scale_chunk)(row, begin, end, exps, grad, frames, final, exp_scale, beta, LS_DENSE);
        break;
    }
}
