/* The SIMD vocabulary in portable C, one lane wide, and the explanation of its names for every instruction set.
 *
 * Each name exists twice, for arithmetic in fp32 (`_f32`) and in fp64 (`_f64`); loads and stores exist for each stored type
 * (`_f32`, `_f64`, `_bf16`, `_f16`), the 16-bit ones converting from and to fp32, rounding to nearest even. An instruction set
 * is one such header and one isa_*.c that instantiates the templates with it.
 *
 *   lanes, unroll, tile     lanes of a vector; vectors handled at a time (1, 2 or 4); columns that load_tile moves at a time (1: not
 *                           offered)
 *   fma(a, b, c)            a b + c; fnma: c - a b. Fused where the instruction set does so.
 *   max_keep(x, kept)       the larger one; `kept` where x is NaN, so that a NaN never hides a maximum
 *   less(a, b)              mask, false where either is NaN
 *   zero_if, zero_unless    +0 where the mask is set (is not set), whatever the value
 *   is_absent(s)            mask of the lanes that hold +0 (not -0): coefficients whose term is left out
 *   lanes_below(n)          mask of the lanes numbered below n; lanes_but(k): of all but lane k (all, if there is no lane k)
 *   power_of_two(m)         2^k for m = magic + k, the constant of exp_log.h: the low bits of m moved to the exponent's place
 *   part(v, k)              the k-th of `parts` parts of v, in double: as many lanes as a vec_f64 has
 *   is_index(p, c)          mask of the lanes where p[lane] == c
 *   load_n, store_n         the first n lanes only (all, if n is larger); nothing beyond them is touched; others load as 0
 *   load_tile(p, stride, n, v)  v[j] = column j < n of `lanes` rows, the rows being `stride` apart; store_tile is its inverse
 *   widen(p), narrow(p)     `lanes` values of the type of the arithmetic as doubles (those of a vec_f64), and doubles as such
 *   split_exponent(u, &m)   u = 2^k m for positive u, m in [sqrt(1/2), sqrt(2)); returns k
 */
#ifndef LS_VEC_SCALAR_H
#define LS_VEC_SCALAR_H

#include <stdint.h>
#include <string.h>

#include "elements.h"

#define LS_TARGET
#define LS_INLINE static inline __attribute__((always_inline))

enum { parts_f32 = 1, parts_f64 = 1, lanes_f32 = 1, unroll_f32 = 4, tile_f32 = 1, lanes_f64 = 1, unroll_f64 = 4, tile_f64 = 1 };
typedef float vec_f32;
typedef int mask_f32;
typedef double vec_f64;
typedef int mask_f64;

LS_INLINE vec_f32 splat_f32(float x) { return x; }
LS_INLINE vec_f32 add_f32(vec_f32 a, vec_f32 b) { return a + b; }
LS_INLINE vec_f32 sub_f32(vec_f32 a, vec_f32 b) { return a - b; }
LS_INLINE vec_f32 mul_f32(vec_f32 a, vec_f32 b) { return a * b; }
LS_INLINE vec_f32 fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return a * b + c; }
LS_INLINE vec_f32 fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return c - a * b; }
LS_INLINE vec_f32 max_keep_f32(vec_f32 x, vec_f32 kept) { return x > kept ? x : kept; }
LS_INLINE mask_f32 less_f32(vec_f32 a, vec_f32 b) { return a < b; }
LS_INLINE mask_f32 both_f32(mask_f32 a, mask_f32 b) { return a & b; }
LS_INLINE int any_f32(mask_f32 m) { return m; }
LS_INLINE vec_f32 pick_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return m ? a : b; }
LS_INLINE vec_f32 zero_if_f32(mask_f32 m, vec_f32 a) { return m ? 0 : a; }
LS_INLINE vec_f32 zero_unless_f32(mask_f32 m, vec_f32 a) { return m ? a : 0; }
LS_INLINE mask_f32 is_absent_f32(vec_f32 s) { return float_bits(s) == 0; }
LS_INLINE mask_f32 lanes_below_f32(int64_t n) { return n > 0; }
LS_INLINE mask_f32 lanes_but_f32(int64_t lane) { return lane != 0; }
LS_INLINE vec_f32 power_of_two_f32(vec_f32 magic) { return float_of_bits(float_bits(magic) << 23); }
LS_INLINE float reduce_max_f32(vec_f32 v) { return v; }
LS_INLINE vec_f64 part_f32(vec_f32 v, int part) { return (void)part, (double)v; }
LS_INLINE mask_f32 is_index_f32(const int32_t *index, int64_t value) { return *index == value; }

LS_INLINE vec_f32 load_f32(const float *p) { return *p; }
LS_INLINE void store_f32(float *p, vec_f32 v) { *p = v; }
LS_INLINE vec_f32 load_bf16(const elem_bf16 *p) { return (float)double_of_bf16(*p); }
LS_INLINE void store_bf16(elem_bf16 *p, vec_f32 v) { *p = bf16_of_float(v); }
LS_INLINE vec_f32 load_f16(const elem_f16 *p) { return (float)double_of_f16(*p); }
LS_INLINE void store_f16(elem_f16 *p, vec_f32 v) { *p = f16_of_float(v); }

LS_INLINE vec_f64 splat_f64(double x) { return x; }
LS_INLINE vec_f64 add_f64(vec_f64 a, vec_f64 b) { return a + b; }
LS_INLINE vec_f64 sub_f64(vec_f64 a, vec_f64 b) { return a - b; }
LS_INLINE vec_f64 mul_f64(vec_f64 a, vec_f64 b) { return a * b; }
LS_INLINE vec_f64 div_f64(vec_f64 a, vec_f64 b) { return a / b; }
LS_INLINE vec_f64 fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return a * b + c; }
LS_INLINE vec_f64 fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return c - a * b; }
LS_INLINE vec_f64 max_keep_f64(vec_f64 x, vec_f64 kept) { return x > kept ? x : kept; }
LS_INLINE mask_f64 less_f64(vec_f64 a, vec_f64 b) { return a < b; }
LS_INLINE mask_f64 both_f64(mask_f64 a, mask_f64 b) { return a & b; }
LS_INLINE int any_f64(mask_f64 m) { return m; }
LS_INLINE vec_f64 pick_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return m ? a : b; }
LS_INLINE vec_f64 zero_if_f64(mask_f64 m, vec_f64 a) { return m ? 0 : a; }
LS_INLINE vec_f64 zero_unless_f64(mask_f64 m, vec_f64 a) { return m ? a : 0; }
LS_INLINE uint64_t bits_f64(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
LS_INLINE double of_bits_f64(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
LS_INLINE mask_f64 is_absent_f64(vec_f64 s) { return bits_f64(s) == 0; }
LS_INLINE mask_f64 lanes_below_f64(int64_t n) { return n > 0; }
LS_INLINE mask_f64 lanes_but_f64(int64_t lane) { return lane != 0; }
LS_INLINE vec_f64 power_of_two_f64(vec_f64 magic) { return of_bits_f64(bits_f64(magic) << 52); }
LS_INLINE vec_f64 part_f64(vec_f64 v, int part) { return (void)part, v; }
LS_INLINE double reduce_max_f64(vec_f64 v) { return v; }
LS_INLINE double reduce_add_f64(vec_f64 v) { return v; }
LS_INLINE mask_f64 is_index_f64(const int64_t *index, int64_t value) { return *index == value; }
LS_INLINE vec_f64 load_f64(const double *p) { return *p; }
LS_INLINE void store_f64(double *p, vec_f64 v) { *p = v; }
LS_INLINE vec_f64 widen_f32(const float *p) { return (double)*p; }
LS_INLINE vec_f64 widen_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f32 narrow_f32(const double *p) { return (float)*p; }
LS_INLINE vec_f64 narrow_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f64 split_exponent_f64(vec_f64 u, vec_f64 *mantissa) {
    const uint64_t root_half = 0x3fe6a09e667f3bcd, one = 0x3ff0000000000000;
    uint64_t biased = (bits_f64(u) - root_half + one) >> 52;
    *mantissa = of_bits_f64(bits_f64(u) - (biased << 52) + one);
    return (double)biased - 1023.0;
}

/* Short accesses are asked for 0 lanes only where an unrolled group reaches past a row. */
LS_INLINE vec_f32 load_n_f32(const float *p, int64_t n) { return n > 0 ? *p : 0; }
LS_INLINE void store_n_f32(float *p, vec_f32 v, int64_t n) {
    if (n > 0) *p = v;
}
LS_INLINE vec_f32 load_n_bf16(const elem_bf16 *p, int64_t n) { return n > 0 ? load_bf16(p) : 0; }
LS_INLINE void store_n_bf16(elem_bf16 *p, vec_f32 v, int64_t n) {
    if (n > 0) store_bf16(p, v);
}
LS_INLINE vec_f32 load_n_f16(const elem_f16 *p, int64_t n) { return n > 0 ? load_f16(p) : 0; }
LS_INLINE void store_n_f16(elem_f16 *p, vec_f32 v, int64_t n) {
    if (n > 0) store_f16(p, v);
}
LS_INLINE vec_f64 load_n_f64(const double *p, int64_t n) { return n > 0 ? *p : 0; }
LS_INLINE void store_n_f64(double *p, vec_f64 v, int64_t n) {
    if (n > 0) *p = v;
}
LS_INLINE void load_tile_f32(const float *p, int64_t stride, int64_t n, vec_f32 v[1]) {
    (void)stride;
    v[0] = load_n_f32(p, n);
}
LS_INLINE void store_tile_f32(float *p, int64_t stride, int64_t n, vec_f32 v[1]) {
    (void)stride;
    store_n_f32(p, v[0], n);
}

#endif
