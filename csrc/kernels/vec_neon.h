/* The SIMD vocabulary on NEON of aarch64. The names are explained in vec_scalar.h. Only isa_neon.c includes this. */
#ifndef LS_VEC_NEON_H
#define LS_VEC_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "elements.h"

#define LS_TARGET
#define LS_INLINE static inline __attribute__((always_inline))

enum { parts_f32 = 2, parts_f64 = 1, lanes_f32 = 4, unroll_f32 = 4, tile_f32 = 4, lanes_f64 = 2, unroll_f64 = 4, tile_f64 = 1 };
typedef float32x4_t vec_f32;
typedef uint32x4_t mask_f32;

typedef float64x2_t vec_f64;
typedef uint64x2_t mask_f64;

LS_INLINE vec_f32 splat_f32(float x) { return vdupq_n_f32(x); }
LS_INLINE vec_f32 add_f32(vec_f32 a, vec_f32 b) { return vaddq_f32(a, b); }
LS_INLINE vec_f32 sub_f32(vec_f32 a, vec_f32 b) { return vsubq_f32(a, b); }
LS_INLINE vec_f32 mul_f32(vec_f32 a, vec_f32 b) { return vmulq_f32(a, b); }
LS_INLINE vec_f32 fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmaq_f32(c, a, b); }
LS_INLINE vec_f32 fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmsq_f32(c, a, b); }
LS_INLINE mask_f32 less_f32(vec_f32 a, vec_f32 b) { return vcltq_f32(a, b); }
LS_INLINE mask_f32 both_f32(mask_f32 a, mask_f32 b) { return vandq_u32(a, b); }
LS_INLINE int any_f32(mask_f32 m) { return vmaxvq_u32(m) != 0; }
LS_INLINE vec_f32 pick_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return vbslq_f32(m, a, b); }
LS_INLINE vec_f32 max_keep_f32(vec_f32 x, vec_f32 kept) { return pick_f32(less_f32(kept, x), x, kept); }
LS_INLINE vec_f32 zero_if_f32(mask_f32 m, vec_f32 a) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), m)); }
LS_INLINE vec_f32 zero_unless_f32(mask_f32 m, vec_f32 a) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), m));
}
LS_INLINE mask_f32 is_absent_f32(vec_f32 s) { return vceqzq_u32(vreinterpretq_u32_f32(s)); }
LS_INLINE int32x4_t lane_numbers_f32(void) {
    const int32_t numbers[4] = {0, 1, 2, 3};
    return vld1q_s32(numbers);
}
LS_INLINE mask_f32 lanes_below_f32(int64_t n) {
    return vcltq_s32(lane_numbers_f32(), vdupq_n_s32(n < 0 ? 0 : n < 4 ? (int32_t)n : 4));
}
LS_INLINE mask_f32 lanes_but_f32(int64_t lane) {
    return vmvnq_u32(vceqq_s32(lane_numbers_f32(), vdupq_n_s32(lane >= 0 && lane < 4 ? (int32_t)lane : -1)));
}
LS_INLINE vec_f32 power_of_two_f32(vec_f32 magic) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(magic), 23));
}
LS_INLINE float reduce_max_f32(vec_f32 v) { return vmaxvq_f32(v); }
LS_INLINE vec_f64 part_f32(vec_f32 v, int part) { return part ? vcvt_high_f64_f32(v) : vcvt_f64_f32(vget_low_f32(v)); }
LS_INLINE mask_f32 is_index_f32(const int32_t *index, int64_t value) {
    return vceqq_s32(vld1q_s32(index), vdupq_n_s32((int32_t)value));
}

LS_INLINE vec_f32 load_f32(const float *p) { return vld1q_f32(p); }
LS_INLINE void store_f32(float *p, vec_f32 v) { vst1q_f32(p, v); }
LS_INLINE vec_f32 load_bf16(const elem_bf16 *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
LS_INLINE void store_bf16(elem_bf16 *p, vec_f32 v) {
    uint32x4_t bits = vreinterpretq_u32_f32(v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t even = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), even, vdupq_n_u32(0x7fc00000)), 16));
}
LS_INLINE vec_f32 load_f16(const elem_f16 *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
LS_INLINE void store_f16(elem_f16 *p, vec_f32 v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }

LS_INLINE vec_f64 splat_f64(double x) { return vdupq_n_f64(x); }
LS_INLINE vec_f64 add_f64(vec_f64 a, vec_f64 b) { return vaddq_f64(a, b); }
LS_INLINE vec_f64 sub_f64(vec_f64 a, vec_f64 b) { return vsubq_f64(a, b); }
LS_INLINE vec_f64 mul_f64(vec_f64 a, vec_f64 b) { return vmulq_f64(a, b); }
LS_INLINE vec_f64 div_f64(vec_f64 a, vec_f64 b) { return vdivq_f64(a, b); }
LS_INLINE vec_f64 fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmaq_f64(c, a, b); }
LS_INLINE vec_f64 fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmsq_f64(c, a, b); }
LS_INLINE mask_f64 less_f64(vec_f64 a, vec_f64 b) { return vcltq_f64(a, b); }
LS_INLINE mask_f64 both_f64(mask_f64 a, mask_f64 b) { return vandq_u64(a, b); }
LS_INLINE int any_f64(mask_f64 m) { return vmaxvq_u32(vreinterpretq_u32_u64(m)) != 0; }
LS_INLINE vec_f64 pick_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return vbslq_f64(m, a, b); }
LS_INLINE vec_f64 max_keep_f64(vec_f64 x, vec_f64 kept) { return pick_f64(less_f64(kept, x), x, kept); }
LS_INLINE vec_f64 zero_if_f64(mask_f64 m, vec_f64 a) { return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a), m)); }
LS_INLINE vec_f64 zero_unless_f64(mask_f64 m, vec_f64 a) {
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(a), m));
}
LS_INLINE mask_f64 is_absent_f64(vec_f64 s) { return vceqzq_u64(vreinterpretq_u64_f64(s)); }
LS_INLINE int64x2_t lane_numbers_f64(void) {
    const int64_t numbers[2] = {0, 1};
    return vld1q_s64(numbers);
}
LS_INLINE mask_f64 lanes_below_f64(int64_t n) { return vcltq_s64(lane_numbers_f64(), vdupq_n_s64(n)); }
LS_INLINE mask_f64 lanes_but_f64(int64_t lane) {
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vceqq_s64(lane_numbers_f64(), vdupq_n_s64(lane)))));
}
LS_INLINE vec_f64 power_of_two_f64(vec_f64 magic) {
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(magic), 52));
}
LS_INLINE vec_f64 part_f64(vec_f64 v, int part) { return (void)part, v; }
LS_INLINE double reduce_max_f64(vec_f64 v) { return vmaxvq_f64(v); }
LS_INLINE double reduce_add_f64(vec_f64 v) { return vaddvq_f64(v); }
LS_INLINE mask_f64 is_index_f64(const int64_t *index, int64_t value) { return vceqq_s64(vld1q_s64(index), vdupq_n_s64(value)); }
LS_INLINE vec_f64 load_f64(const double *p) { return vld1q_f64(p); }
LS_INLINE void store_f64(double *p, vec_f64 v) { vst1q_f64(p, v); }
LS_INLINE vec_f64 widen_f32(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
LS_INLINE vec_f64 widen_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f32 narrow_f32(const double *p) {
    return vcombine_f32(vcvt_f32_f64(vld1q_f64(p)), vcvt_f32_f64(vld1q_f64(p + 2)));
}
LS_INLINE vec_f64 narrow_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f64 split_exponent_f64(vec_f64 u, vec_f64 *mantissa) {
    const uint64x2_t root_half = vdupq_n_u64(0x3fe6a09e667f3bcd), one = vdupq_n_u64(0x3ff0000000000000);
    uint64x2_t bits = vreinterpretq_u64_f64(u);
    uint64x2_t biased = vshrq_n_u64(vaddq_u64(vsubq_u64(bits, root_half), one), 52);
    *mantissa = vreinterpretq_f64_u64(vaddq_u64(vsubq_u64(bits, vshlq_n_u64(biased, 52)), one));
    return vsubq_f64(vcvtq_f64_u64(biased), vdupq_n_f64(1023.0));
}

/* NEON has no masked access: short ones pass through a buffer. */
LS_INLINE vec_f32 load_n_f32(const float *p, int64_t n) {
    float buffer[4] = {0};
    if (n >= 4) return load_f32(p);
    if (n > 0) memcpy(buffer, p, (size_t)n * sizeof *p);
    return load_f32(buffer);
}
LS_INLINE void store_n_f32(float *p, vec_f32 v, int64_t n) {
    float buffer[4];
    if (n >= 4) return store_f32(p, v);
    store_f32(buffer, v);
    if (n > 0) memcpy(p, buffer, (size_t)n * sizeof *p);
}
LS_INLINE vec_f32 load_n_bf16(const elem_bf16 *p, int64_t n) {
    elem_bf16 buffer[4] = {0};
    if (n >= 4) return load_bf16(p);
    if (n > 0) memcpy(buffer, p, (size_t)n * sizeof *p);
    return load_bf16(buffer);
}
LS_INLINE void store_n_bf16(elem_bf16 *p, vec_f32 v, int64_t n) {
    elem_bf16 buffer[4];
    if (n >= 4) return store_bf16(p, v);
    store_bf16(buffer, v);
    if (n > 0) memcpy(p, buffer, (size_t)n * sizeof *p);
}
LS_INLINE vec_f32 load_n_f16(const elem_f16 *p, int64_t n) {
    elem_f16 buffer[4] = {0};
    if (n >= 4) return load_f16(p);
    if (n > 0) memcpy(buffer, p, (size_t)n * sizeof *p);
    return load_f16(buffer);
}
LS_INLINE void store_n_f16(elem_f16 *p, vec_f32 v, int64_t n) {
    elem_f16 buffer[4];
    if (n >= 4) return store_f16(p, v);
    store_f16(buffer, v);
    if (n > 0) memcpy(p, buffer, (size_t)n * sizeof *p);
}
LS_INLINE vec_f64 load_n_f64(const double *p, int64_t n) {
    double buffer[2] = {0};
    if (n >= 2) return load_f64(p);
    if (n > 0) memcpy(buffer, p, (size_t)n * sizeof *p);
    return load_f64(buffer);
}
LS_INLINE void store_n_f64(double *p, vec_f64 v, int64_t n) {
    double buffer[2];
    if (n >= 2) return store_f64(p, v);
    store_f64(buffer, v);
    if (n > 0) memcpy(p, buffer, (size_t)n * sizeof *p);
}

/* v[i] holds row i's lanes; afterwards v[j] holds lane j of every row. */
LS_INLINE void transpose_f32(vec_f32 v[4]) {
    float32x4_t a = vtrn1q_f32(v[0], v[1]), b = vtrn2q_f32(v[0], v[1]);
    float32x4_t c = vtrn1q_f32(v[2], v[3]), d = vtrn2q_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    v[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    v[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    v[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}
LS_INLINE void load_tile_f32(const float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    for (int i = 0; i < 4; i++) v[i] = load_n_f32(p + i * stride, n);
    transpose_f32(v);
}
LS_INLINE void store_tile_f32(float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    transpose_f32(v);
    for (int i = 0; i < 4; i++) store_n_f32(p + i * stride, v[i], n);
}

#endif
