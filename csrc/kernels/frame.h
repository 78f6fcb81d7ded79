/* What exps are taken relative to. Included by all_dtypes.h.
 *
 * A frame is what exps are taken relative to: e^(x - shift) 2^-exponent. It is chosen near a reference logit `ref` so that x -
 * shift is exact wherever the exp matters: shift is 0 unless |ref| is so large that logits near ref differ from it exactly
 * (Sterbenz). So no rounding of x - ref enters the exps, and a frame moves by an exact power of two.
 */
#ifndef LS_FRAME_H
#define LS_FRAME_H

#include <math.h>

#include "plan.h"

/* How far above a frame's reference logits may lie. Exps of that size, summed over any number of classes, are far from
 * overflow. */
#define MARGIN 60

/* Above twice the depth from where on exps are 0 (87 and 708), logits that matter lie within a factor of 2 of ref. */
#define PLAIN_SHIFT_f32 256
#define PLAIN_SHIFT_f64 2048

#define LEAST_f32 (-3.402823466e38f)
#define LEAST_f64 (-1.7976931348623157e308)

typedef struct {
    float shift, exponent, ref;
} frame_f32;
typedef struct {
    double shift, exponent, ref;
} frame_f64;

LS_INLINE frame_f32 frame_at_f32(float ref) {
    float shift = fabsf(ref) < PLAIN_SHIFT_f32 ? 0 : ref;
    return (frame_f32){shift, ((ref - shift) * (float)LOG2E + 12582912.0f) - 12582912.0f, ref};
}
LS_INLINE frame_f64 frame_at_f64(double ref) {
    double shift = fabs(ref) < PLAIN_SHIFT_f64 ? 0 : ref;
    return (frame_f64){shift, ((ref - shift) * LOG2E + 6755399441055744.0) - 6755399441055744.0, ref};
}

/* exp(origin of a - origin of b). */
LS_INLINE double frame_ratio(double shift_a, double exponent_a, double shift_b, double exponent_b) {
    if (shift_a == shift_b) return exponent_a == exponent_b ? 1 : exp2(exponent_a - exponent_b);
    return exp((shift_a - shift_b) + (exponent_a - exponent_b) * LN2);
}

/* Makes `sums` relative to another reference. The sums of an empty or all -inf row are zero, -inf or NaN and stay so. */
LS_INLINE void move_sums(ls_row_sums *sums, double shift, double exponent, double ref) {
    sums->sum *= frame_ratio(sums->shift, sums->exponent, shift, exponent);
    if (sums->s_sum != 0) sums->dot += sums->s_sum * (sums->ref - ref);
    sums->shift = shift;
    sums->exponent = exponent;
    sums->ref = ref;
}
#endif
