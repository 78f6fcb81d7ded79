/* exp and log1p on the SIMD vocabulary: schemes, coefficients, bounds. Included by all_dtypes.h, after the vocabulary.
 *
 * Coefficients: tools/derive_polynomials.py prints them with the approximation errors quoted here.
 *
 * exp. e^d 2^-n0 for an integer n0 (a frame, see frame.h): with n = round(d log2 e) and r = d - n ln 2,
 *     e^d 2^-n0 = 2^(n - n0) + (2^(n - n0) r) q(r)
 * Adding `magic` = 1.5 2^(mantissa bits) + bias - n0 to d log2 e rounds to n and leaves n - n0 + bias in the low bits of
 * the sum, ready to be moved to the exponent's place. ln 2 is split in two so that n times the high part is exact for |n| <
 * 2^11 (fp32: also without fused multiply-add): r then has one rounding, that of the low part, and no error of d itself enters.
 * Below `low`, where 2^(n - n0) would not be a normal number, the result is exactly 0; the comparison is false for NaN, which
 * passes through. -inf gives NaN in r and is cleared by the comparison.
 *
 * log1p. u = 1 + x = 2^k m, m in [sqrt(1/2), sqrt(2)); f = m - 1, s = f / (2 + f), z = s^2:
 *     log(m) = f - (f^2 / 2 - s (f^2 / 2 + z l(z)))
 * plus k ln 2, plus the part of x lost in 1 + x, divided by u. NaN for x <= -1 and for NaN.
 */
#ifndef LS_EXP_LOG_H
#define LS_EXP_LOG_H

/* 1.5 2^23 + 127 and 1.5 2^52 + 1023: a number added to them is rounded to an integer, biased as an exponent. */
#define MAGIC_f32 12583039.0f
#define MAGIC_f64 6755399441056767.0
#define MIN_EXPONENT_f32 (-126)
#define MIN_EXPONENT_f64 (-1022)

#define LOG2E 0x1.71547652b82fep+0
#define LN2 0x1.62e42fefa39efp-1

/* ln 2 to 12 and 40 bits, and the rest. */
#define LN2_HIGH_f32 0x1.62ep-1f
#define LN2_LOW_f32 0x1.0bfbe8p-15f
#define LN2_HIGH_f64 0x1.62e42fefa2000p-1
#define LN2_LOW_f64 0x1.9ef35793c7673p-41

/* q of degree 5 in r, so exp of degree 6: 0.06 x 2^-24 on [-ln2/2, ln2/2]. q(0) is 1. */
LS_INLINE vec_f32 exp_rest_f32(vec_f32 r) {
    vec_f32 q = fma_f32(splat_f32(0x1.6a2448p-10f), r, splat_f32(0x1.1239d4p-7f));
    q = fma_f32(q, r, splat_f32(0x1.5558f2p-5f));
    q = fma_f32(q, r, splat_f32(0x1.555492p-3f));
    q = fma_f32(q, r, splat_f32(0x1.fffffcp-2f));
    return fma_f32(q, r, splat_f32(1.0f));
}

/* Degree 10, so exp of degree 11: 0.10 x 2^-53. */
LS_INLINE vec_f64 exp_rest_f64(vec_f64 r) {
    vec_f64 q = fma_f64(splat_f64(0x1.ad7f7d7f315d1p-26), r, splat_f64(0x1.28ad688d6e686p-22));
    q = fma_f64(q, r, splat_f64(0x1.71df2536f93afp-19));
    q = fma_f64(q, r, splat_f64(0x1.a0199a170c33bp-16));
    q = fma_f64(q, r, splat_f64(0x1.a01a012a6c2d6p-13));
    q = fma_f64(q, r, splat_f64(0x1.6c16c18426540p-10));
    q = fma_f64(q, r, splat_f64(0x1.1111111127b90p-7));
    q = fma_f64(q, r, splat_f64(0x1.555555555088dp-5));
    q = fma_f64(q, r, splat_f64(0x1.55555555554fap-3));
    q = fma_f64(q, r, splat_f64(0x1.000000000000ap-1));
    return fma_f64(q, r, splat_f64(1.0));
}

LS_INLINE vec_f32 exp_f32(vec_f32 d, vec_f32 magic, vec_f32 low) {
    vec_f32 sum = fma_f32(d, splat_f32((float)LOG2E), magic);
    vec_f32 scale = power_of_two_f32(sum);
    vec_f32 n = sub_f32(sum, magic);
    vec_f32 r = fnma_f32(n, splat_f32(LN2_LOW_f32), fnma_f32(n, splat_f32(LN2_HIGH_f32), d));
    return zero_if_f32(less_f32(d, low), fma_f32(mul_f32(r, scale), exp_rest_f32(r), scale));
}

LS_INLINE vec_f64 exp_f64(vec_f64 d, vec_f64 magic, vec_f64 low) {
    vec_f64 sum = fma_f64(d, splat_f64(LOG2E), magic);
    vec_f64 scale = power_of_two_f64(sum);
    vec_f64 n = sub_f64(sum, magic);
    vec_f64 r = fnma_f64(n, splat_f64(LN2_LOW_f64), fnma_f64(n, splat_f64(LN2_HIGH_f64), d));
    return zero_if_f64(less_f64(d, low), fma_f64(mul_f64(r, scale), exp_rest_f64(r), scale));
}

/* l of degree 6 in z: 0.02 x 2^-53 of log(m). */
LS_INLINE vec_f64 log_rest_f64(vec_f64 z) {
    vec_f64 l = fma_f64(splat_f64(0x1.2f0568aa7b742p-3), z, splat_f64(0x1.39a1ba28a87b6p-3));
    l = fma_f64(l, z, splat_f64(0x1.74663eee9895ep-3));
    l = fma_f64(l, z, splat_f64(0x1.c71c52093a996p-3));
    l = fma_f64(l, z, splat_f64(0x1.24924941f157ap-2));
    l = fma_f64(l, z, splat_f64(0x1.999999997fdb3p-2));
    return fma_f64(l, z, splat_f64(0x1.5555555555592p-1));
}

/* log(1 + x), and 1 / (1 + x) as a by-product. */
LS_INLINE vec_f64 log1p_f64(vec_f64 x, vec_f64 *reciprocal) {
    const vec_f64 one = splat_f64(1.0);
    vec_f64 u = add_f64(one, x), m;
    vec_f64 k = split_exponent_f64(u, &m);
    vec_f64 lost = pick_f64(less_f64(x, one), sub_f64(x, sub_f64(u, one)), sub_f64(one, sub_f64(u, x)));
    *reciprocal = div_f64(one, u);
    lost = mul_f64(lost, *reciprocal);
    vec_f64 f = sub_f64(m, one);
    vec_f64 s = div_f64(f, add_f64(f, splat_f64(2.0)));
    vec_f64 z = mul_f64(s, s);
    vec_f64 half_square = mul_f64(mul_f64(f, f), splat_f64(0.5));
    vec_f64 low = fma_f64(k, splat_f64(LN2_LOW_f64), lost);
    vec_f64 tail = fma_f64(s, fma_f64(z, log_rest_f64(z), half_square), low);
    return fma_f64(k, splat_f64(LN2_HIGH_f64), sub_f64(f, sub_f64(half_square, tail)));
}

#endif
