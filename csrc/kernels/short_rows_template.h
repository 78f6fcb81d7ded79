/* Rows of few classes: some are packed side by side, class by class, converted to the type of the arithmetic, handled as a tile
 * of a plane and unpacked. Included after planes_template.h, with the same parameters.
 */

#define T(name) LS_JOIN(name, LS_JOIN(from, LS_JOIN(REAL, ISA)))

/* The last tile of a row begins so much earlier that it is whole, if the row is that long: masks are slow. */
LS_INLINE int64_t X(tile_begin)(int64_t c, int64_t num_classes) {
    return c + V(tile) > num_classes && num_classes >= V(tile) ? num_classes - V(tile) : c;
}

/* Class c of `count` rows to packed[c * LS_PACK + row]. */
LS_INLINE void X(pack)(const S(elem) * x, int64_t row_stride, int64_t count, int64_t num_classes, V(real) * packed,
                       V(real) * flat) {
#ifdef PACK_CONVERTS
    const V(real) *from = flat;
    const int64_t stride = num_classes;
    const int adjacent = row_stride == num_classes; /* as one long row */
    const int64_t rows = adjacent ? 1 : count, length = adjacent ? count * num_classes : num_classes;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < length; i += V(lanes))
            V(store_n)(flat + row * num_classes + i, X(load_some)(x + row * row_stride + i, length - i), length - i);
#else
    const V(real) *from = x;
    const int64_t stride = row_stride;
    (void)flat;
#endif
    int64_t row = 0;
#ifdef PACK_TILES
    for (; row + V(lanes) <= count; row += V(lanes)) {
        for (int64_t next = 0; next < num_classes; next += V(tile)) {
            const int64_t c = X(tile_begin)(next, num_classes);
            V(vec) v[V(tile)];
            V(load_tile)(from + row * stride + c, stride, num_classes - c, v);
            for (int j = 0; j < V(tile) && c + j < num_classes; j++) V(store)(packed + (c + j) * LS_PACK + row, v[j]);
        }
    }
#endif
    for (; row < count; row++)
        for (int64_t c = 0; c < num_classes; c++) packed[c * LS_PACK + row] = from[row * stride + c];
}

LS_INLINE void X(unpack)(S(elem) * x, int64_t count, int64_t num_classes, const V(real) * packed, V(real) * flat) {
#ifdef PACK_CONVERTS
    V(real) *to = flat;
#else
    V(real) *to = x;
    (void)flat;
#endif
    int64_t row = 0;
#ifdef PACK_TILES
    for (; row + V(lanes) <= count; row += V(lanes)) {
        for (int64_t next = 0; next < num_classes; next += V(tile)) {
            const int64_t c = X(tile_begin)(next, num_classes);
            V(vec) v[V(tile)];
            for (int j = 0; j < V(tile); j++) v[j] = V(load)(packed + (c + j < num_classes ? c + j : c) * LS_PACK + row);
            V(store_tile)(to + row * num_classes + c, num_classes, num_classes - c, v);
        }
    }
#endif
    for (; row < count; row++)
        for (int64_t c = 0; c < num_classes; c++) to[row * num_classes + c] = packed[c * LS_PACK + row];
#ifdef PACK_CONVERTS
    for (int64_t i = 0; i < count * num_classes; i += V(lanes)) {
        const int64_t left = count * num_classes - i;
        S(store_n)(x + i, V(load_n)(flat + i, left), left);
    }
#endif
}

/* `count` adjacent rows, in whose place rows of another stride ask for `idle` again and again, which is in cache. */
LS_INLINE ls_prefetch X(prefetch_rows)(const S(elem) * at, int64_t stride, int64_t count, int64_t num_classes,
                                       const V(real) * idle) {
    const int64_t element = sizeof(S(elem));
    return stride == num_classes ? (ls_prefetch){(const char *)at, count * element, element}
                                 : (ls_prefetch){(const char *)idle, 0, 0};
}

/* Scratch: that of ls_tile_bytes(LS_PACK, ...), then packed logits, probabilities and exps, then rows of the
 * arithmetic's type. */
static LS_TARGET void X(short_rows)(const ls_plan *plan, int64_t begin, int64_t end, void *scratch, ls_sum *sum) {
    const ls_problem *problem = plan->problem;
    const int64_t num_classes = problem->num_classes, size = num_classes * LS_PACK;
    const int64_t x_stride = problem->logits_stride[0], q_stride = problem->target_stride[0];
    V(real) *packed = (V(real) *)(void *)((char *)scratch + ls_tile_bytes(LS_PACK, num_classes, sizeof(V(real))));
    V(real) *packed_q = packed + size, *packed_exps = packed_q + size, *flat = packed_exps + size;
    for (int64_t row = begin; row < end; row += LS_PACK) {
        const int64_t count = end - row < LS_PACK ? end - row : LS_PACK, next = row + LS_PACK < problem->outer ? LS_PACK : 0;
        T(tile) tile = {.first_row = row, .positions = count, .x = packed, .x_stride = LS_PACK};
        const S(elem) *x = (const S(elem) *)problem->logits + row * x_stride;
        X(pack)(x, x_stride, count, num_classes, packed, flat);
        tile.prefetch_x = X(prefetch_rows)(x + next * x_stride, x_stride, count, num_classes, packed);
        if (plan->smoothing == LS_DENSE) {
            const S(elem) *q = (const S(elem) *)problem->target + row * q_stride;
            X(pack)(q, q_stride, count, num_classes, packed_q, flat);
            tile.q = packed_q;
            tile.q_stride = LS_PACK;
            tile.prefetch_q = X(prefetch_rows)(q + next * q_stride, q_stride, count, num_classes, packed);
        }
        S(elem) *grad = problem->grad_logits ? (S(elem) *)problem->grad_logits + row * num_classes : NULL;
        if (grad) {
            tile.exps = tile.grad = packed_exps;
            tile.exps_stride = tile.grad_stride = LS_PACK;
            tile.prefetch_grad = X(prefetch_rows)(grad, num_classes, count, num_classes, packed);
        }
        T(do_tile)(plan, &tile, scratch, sum);
        if (grad) X(unpack)(grad, count, num_classes, packed_exps, flat);
    }
}

#undef T
