/* The formula: from the sums over a row's logits to its loss and to the two numbers that make its gradient. It stands here
 * once, for every strategy, dtype and instruction set; lanes are rows, arithmetic is in double. Included by all_dtypes.h.
 *
 * With x the logits, y the target, z = logsumexp(x), p = softmax(x):
 *
 *     loss = alpha (z - x_y) + beta (sum(s) (z - ref) - <s, x - ref>)
 *     grad = A p - alpha onehot(y) - beta s                                   A = alpha + beta sum(s)
 *
 * The target's term is left out of the row's sum and joins it here, so that nothing cancels in a confident row: with
 * t = origin - x_y, where the sum is relative to e^origin, and where the target leads (t < 0),
 *     rest = sum e^t = sum over j != y of exp(x_j - x_y)      z - x_y = log1p(rest)      1 - p_y = rest / (1 + rest)
 * Elsewhere, and where there is no target, everything is relative to the others: z - origin = log(sum + e^-t).
 */
#ifndef LS_ROW_FORMULA_H
#define LS_ROW_FORMULA_H

#include "plan.h"

typedef struct {
    vec_f64 sum, dot, s_sum; /* s_sum: over all classes, the target's included */
    vec_f64 shift, exponent, ref;
    vec_f64 x_y, s_y; /* the target's logit (-inf if there is no target) and s */
    vec_f64 alpha, beta;
    mask_f64 has_target;
} formula_rows;

typedef struct {
    vec_f64 loss;
    vec_f64 exp_scale; /* A exp(origin - z): what a stored exp is multiplied by */
    vec_f64 grad_y;    /* the target's entry of the gradient */
} formula_results;

LS_INLINE formula_results row_formula(formula_rows rows, int smoothed) {
    const vec_f64 zero = splat_f64(0), one = splat_f64(1), infinity = splat_f64((double)INFINITY);
    const vec_f64 shift = rows.shift, exponent = rows.exponent, x_y = rows.x_y, alpha = rows.alpha, beta = rows.beta;
    const mask_f64 has_target = rows.has_target;
    vec_f64 sum = rows.sum, ref = rows.ref;

    /* t = shift + exponent ln 2 - x_y in two parts: one of shift and exponent is 0, so that the first sum is exact. */
    vec_f64 base = fma_f64(exponent, splat_f64(LN2_HIGH_f64), shift);
    vec_f64 t = sub_f64(base, x_y);
    vec_f64 back = sub_f64(t, base);
    vec_f64 lost = sub_f64(sub_f64(base, sub_f64(t, back)), add_f64(x_y, back));
    vec_f64 base_low = mul_f64(exponent, splat_f64(LN2_LOW_f64));
    lost = add_f64(lost, base_low);

    /* Nothing but -inf beside a finite target: the target is the row. A target of +inf or NaN makes the row NaN. */
    mask_f64 alone = both_f64(has_target, both_f64(less_f64(sum, splat_f64(0.5)), less_f64(splat_f64(-(double)INFINITY), x_y)));
    mask_f64 finite = both_f64(less_f64(t, infinity), less_f64(sub_f64(zero, infinity), t));
    lost = zero_unless_f64(finite, lost);
    mask_f64 valid = less_f64(x_y, infinity);
    sum = pick_f64(valid, sum, splat_f64((double)NAN));

    const mask_f64 leads = both_f64(has_target, less_f64(t, zero));
    vec_f64 e = exp_f64(pick_f64(leads, t, sub_f64(zero, t)), splat_f64(MAGIC_f64), splat_f64(MIN_EXPONENT_f64 * LN2));
    e = fma_f64(e, pick_f64(leads, lost, sub_f64(zero, lost)), e);
    vec_f64 norm;
    vec_f64 rest = pick_f64(leads, mul_f64(sum, e), add_f64(sub_f64(sum, one), e));
    vec_f64 log_norm = log1p_f64(rest, &norm);

    vec_f64 z_minus_x_y = pick_f64(leads, log_norm, add_f64(add_f64(log_norm, lost), t));
    vec_f64 loss = zero_unless_f64(has_target, mul_f64(alpha, z_minus_x_y));
    vec_f64 p_y = pick_f64(leads, norm, mul_f64(norm, e));
    vec_f64 not_p_y = pick_f64(leads, mul_f64(rest, norm), sub_f64(one, p_y));
    vec_f64 grad_y = sub_f64(zero, mul_f64(alpha, not_p_y));
    vec_f64 A = alpha;

    if (smoothed) {
        const vec_f64 s_y = rows.s_y, s_sum = rows.s_sum, dot = rows.dot;
        /* <s, x - ref> and sum(s) (z - ref), each without the target's own term where that is large: s_y (x_y - z) is -s_y
         * times the small log_norm. */
        const vec_f64 ref_minus_x_y = zero_if_f64(alone, sub_f64(ref, x_y));
        const vec_f64 of_rest = mul_f64(sub_f64(s_sum, s_y), ref_minus_x_y);
        const vec_f64 of_y = zero_unless_f64(has_target, zero_if_f64(is_absent_f64(s_y), mul_f64(s_y, ref_minus_x_y)));
        const vec_f64 origin_minus_ref = add_f64(sub_f64(base, ref), base_low);
        const vec_f64 if_leading = sub_f64(mul_f64(s_sum, log_norm), add_f64(of_rest, dot));
        const vec_f64 if_not = add_f64(mul_f64(s_sum, add_f64(log_norm, origin_minus_ref)), sub_f64(of_y, dot));
        /* Class weights that are infinite, or whose sum is: every term is, but for rows of NaN. */
        const mask_f64 bounded = both_f64(less_f64(s_sum, infinity), less_f64(sub_f64(zero, infinity), s_sum));
        const vec_f64 uniform = pick_f64(bounded, pick_f64(leads, if_leading, if_not), add_f64(s_sum, mul_f64(log_norm, zero)));
        mask_f64 no_beta = both_f64(less_f64(beta, splat_f64(0x1p-1073)), less_f64(splat_f64(-0x1p-1073), beta));
        loss = add_f64(loss, zero_if_f64(no_beta, mul_f64(beta, uniform)));
        grad_y = add_f64(grad_y, mul_f64(beta, sub_f64(mul_f64(s_sum, p_y), s_y)));
        A = fma_f64(beta, s_sum, alpha);
    }
    return (formula_results){loss, mul_f64(A, pick_f64(leads, mul_f64(e, norm), norm)), grad_y};
}

/* x added to sums of two doubles, of which the second keeps what additions to the first lose. */
LS_INLINE void add_kept(double *high, double *low, vec_f64 x) {
    const vec_f64 before = load_f64(high), sum = add_f64(before, x), back = sub_f64(sum, before);
    const vec_f64 lost = add_f64(sub_f64(before, sub_f64(sum, back)), sub_f64(x, back));
    store_f64(high, sum);
    store_f64(low, add_f64(load_f64(low), lost));
}

/* Losses of rows numbered `slot` and on within their group of LS_SLOTS, added to their slots. */
LS_INLINE void add_losses(ls_sum *total, int slot, vec_f64 loss, int64_t count) {
    add_kept(total->high + slot, total->low + slot, zero_unless_f64(lanes_below_f64(count), loss));
}

/* The same rows' s_sum, for ls_make_room(). What is not finite makes its own row so, and is passed over. */
LS_INLINE void keep_largest(ls_sum *total, int slot, vec_f64 s_sum, int64_t count) {
    const mask_f64 counts = both_f64(lanes_below_f64(count), less_f64(s_sum, splat_f64((double)INFINITY)));
    const vec_f64 x = zero_unless_f64(counts, s_sum);
    store_f64(total->largest_s_sum + slot, max_keep_f64(x, load_f64(total->largest_s_sum + slot)));
}

#endif
