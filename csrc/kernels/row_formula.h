/* The formula: from the sums over a row's logits to its loss and to the two numbers that make its gradient. It stands here
 * once, for every strategy, dtype and instruction set; lanes are rows, arithmetic is in double. Included once by each isa_*.c,
 * after exp_log.h.
 *
 * With x the logits, y the target, z = logsumexp(x), p = softmax(x):
 *
 *     loss = alpha (z - x_y) + beta (sum(s) (z - ref) - <s, x - ref>)
 *     grad = A p - alpha onehot(y) - beta s                                   A = alpha + beta sum(s)
 *
 * The target's term is left out of the row's sum and joins it here, so that nothing cancels in a confident row: with
 * t = origin - x_y, where the sum is relative to e^origin,
 *     rest = sum e^t = sum over j != y of exp(x_j - x_y)      z - x_y = log1p(rest)      1 - p_y = rest / (1 + rest)
 * and where x_y lies so far below that rest might overflow, or where there is no target, z - origin = log(sum) instead.
 */
#ifndef LS_ROW_FORMULA_H
#define LS_ROW_FORMULA_H

#include "row_lanes.h"

/* From where on log(sum + e^-t) is log(sum) to the last bit, and e^t is far from overflow. */
#define FAR_BELOW 600.0

LS_INLINE void row_formula(row_lanes *rows, int count, int smoothed) {
    const vec_f64 zero = splat_f64(0), one = splat_f64(1), infinity = splat_f64((double)INFINITY);
    for (int i = 0; i < count; i += lanes_f64) {
        vec_f64 sum = load_f64(rows->sum + i), ref = load_f64(rows->ref + i);
        vec_f64 shift = load_f64(rows->shift + i);
        vec_f64 exponent = load_f64(rows->exponent + i);
        vec_f64 x_y = load_f64(rows->x_y + i), alpha = load_f64(rows->alpha + i), beta = load_f64(rows->beta + i);
        mask_f64 has_target = less_f64(zero, load_f64(rows->has_target + i));

        /* t = shift + exponent ln 2 - x_y in two parts: one of shift and exponent is 0, so that the first sum is exact. */
        vec_f64 base = fma_f64(exponent, splat_f64(LN2_HIGH_f64), shift);
        vec_f64 t = sub_f64(base, x_y);
        vec_f64 back = sub_f64(t, base);
        vec_f64 lost = sub_f64(sub_f64(base, sub_f64(t, back)), add_f64(x_y, back));
        vec_f64 base_low = mul_f64(exponent, splat_f64(LN2_LOW_f64));
        lost = add_f64(lost, base_low);

        /* Nothing but -inf beside a finite target: the target is the row. A target of +inf or NaN makes the row NaN. */
        mask_f64 alone =
            both_f64(has_target, both_f64(less_f64(sum, splat_f64(0.5)), less_f64(splat_f64(-(double)INFINITY), x_y)));
        t = zero_if_f64(alone, t);
        lost = zero_unless_f64(less_f64(t, infinity), zero_if_f64(alone, lost));
        mask_f64 valid = less_f64(x_y, infinity);
        sum = pick_f64(valid, sum, splat_f64((double)NAN));

        mask_f64 near = both_f64(has_target, less_f64(t, splat_f64(FAR_BELOW)));
        vec_f64 e_t = exp_f64(t, splat_f64(MAGIC_f64), splat_f64(MIN_EXPONENT_f64 * LN2));
        e_t = fma_f64(e_t, lost, e_t);
        vec_f64 norm;
        vec_f64 rest = pick_f64(near, mul_f64(sum, e_t), sub_f64(sum, one));
        vec_f64 log_norm = log1p_f64(rest, &norm);

        vec_f64 z_minus_x_y = pick_f64(near, log_norm, add_f64(add_f64(log_norm, lost), t));
        vec_f64 loss = zero_unless_f64(has_target, mul_f64(alpha, z_minus_x_y));
        vec_f64 p_y = pick_f64(near, norm, mul_f64(norm, zero)); /* far below: 0, or NaN in a row of NaN */
        vec_f64 not_p_y = pick_f64(near, mul_f64(rest, norm), sub_f64(one, p_y));
        vec_f64 grad_y = sub_f64(zero, mul_f64(alpha, not_p_y));
        vec_f64 A = alpha;

        if (smoothed) {
            vec_f64 s_y = load_f64(rows->s_y + i);
            vec_f64 s_rest = load_f64(rows->s_sum + i);
            vec_f64 s_sum = add_f64(s_rest, zero_unless_f64(has_target, s_y));
            vec_f64 dot = load_f64(rows->dot + i);
            ref = pick_f64(alone, x_y, ref);
            vec_f64 base_minus_ref = zero_if_f64(alone, add_f64(sub_f64(base, ref), base_low));
            vec_f64 z_minus_origin = pick_f64(near, sub_f64(sub_f64(log_norm, lost), t), log_norm);
            vec_f64 z_minus_ref = add_f64(z_minus_origin, base_minus_ref);
            vec_f64 of_y = zero_unless_f64(has_target, zero_if_f64(is_absent_f64(s_y), mul_f64(s_y, sub_f64(ref, x_y))));
            vec_f64 uniform = add_f64(sub_f64(mul_f64(s_sum, z_minus_ref), dot), of_y);
            mask_f64 no_beta = both_f64(less_f64(beta, splat_f64(0x1p-1073)), less_f64(splat_f64(-0x1p-1073), beta));
            loss = add_f64(loss, zero_if_f64(no_beta, mul_f64(beta, uniform)));
            grad_y = add_f64(grad_y, mul_f64(beta, sub_f64(mul_f64(s_sum, p_y), s_y)));
            A = fma_f64(beta, s_sum, alpha);
        }
        store_f64(rows->loss + i, loss);
        store_f64(rows->exp_scale + i, mul_f64(A, pick_f64(near, mul_f64(e_t, norm), norm)));
        store_f64(rows->grad_y + i, grad_y);
    }
}

/* The losses of `count` lanes added to their slots, with the rounding errors kept. */
LS_INLINE void add_losses(ls_sum *total, const row_lanes *rows, int count) {
    for (int i = 0; i < count; i += lanes_f64) {
        vec_f64 high = load_f64(total->high + i), x = zero_unless_f64(lanes_below_f64(count - i), load_f64(rows->loss + i));
        vec_f64 sum = add_f64(high, x), back = sub_f64(sum, high);
        vec_f64 lost = add_f64(sub_f64(high, sub_f64(sum, back)), sub_f64(x, back));
        store_f64(total->high + i, sum);
        store_f64(total->low + i, add_f64(load_f64(total->low + i), lost));
    }
}

/* Fills in what one row's lane needs of the target pass. `x_y` and `s_y` are read by the caller, who knows where they are. */
LS_INLINE void set_coefficients(const ls_plan *plan, row_lanes *rows, int lane, int64_t target, double weight) {
    int has_target = target >= 0;
    rows->has_target[lane] = has_target;
    rows->alpha[lane] = has_target ? plan->alpha * weight : 0;
    rows->beta[lane] = plan->smoothing == LS_DENSE || has_target ? plan->beta : plan->beta_ignored;
}

#endif
