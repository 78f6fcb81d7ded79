/* The SIMD vocabulary on AVX-512 (F, BW, DQ, VL). The names are explained in vec_scalar.h. Only isa_avx512.c includes this. */
#ifndef LS_VEC_AVX512_H
#define LS_VEC_AVX512_H

#include <immintrin.h>

#include "elements.h"

#define LS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define LS_INLINE static inline __attribute__((always_inline)) LS_TARGET

enum {
    parts_f32 = 2,
    parts_f64 = 1,
    lanes_f32 = 16,
    unroll_f32 = 4,
    tile_f32 = 4,
    lanes_f64 = 8,
    unroll_f64 = 4,
    tile_f64 = 1
};
typedef __m512 vec_f32;
typedef __mmask16 mask_f32;
typedef __m512d vec_f64;
typedef __mmask8 mask_f64;

LS_INLINE vec_f32 splat_f32(float x) { return _mm512_set1_ps(x); }
LS_INLINE vec_f32 add_f32(vec_f32 a, vec_f32 b) { return _mm512_add_ps(a, b); }
LS_INLINE vec_f32 sub_f32(vec_f32 a, vec_f32 b) { return _mm512_sub_ps(a, b); }
LS_INLINE vec_f32 mul_f32(vec_f32 a, vec_f32 b) { return _mm512_mul_ps(a, b); }
LS_INLINE vec_f32 fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmadd_ps(a, b, c); }
LS_INLINE vec_f32 fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fnmadd_ps(a, b, c); }
LS_INLINE vec_f32 max_keep_f32(vec_f32 x, vec_f32 kept) { return _mm512_max_ps(x, kept); }
LS_INLINE mask_f32 less_f32(vec_f32 a, vec_f32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
LS_INLINE mask_f32 both_f32(mask_f32 a, mask_f32 b) { return (mask_f32)(a & b); }
LS_INLINE int any_f32(mask_f32 m) { return m != 0; }
LS_INLINE vec_f32 pick_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm512_mask_blend_ps(m, b, a); }
LS_INLINE vec_f32 zero_if_f32(mask_f32 m, vec_f32 a) { return _mm512_maskz_mov_ps((mask_f32)~m, a); }
LS_INLINE vec_f32 zero_unless_f32(mask_f32 m, vec_f32 a) { return _mm512_maskz_mov_ps(m, a); }
LS_INLINE mask_f32 is_absent_f32(vec_f32 s) { return _mm512_testn_epi32_mask(_mm512_castps_si512(s), _mm512_castps_si512(s)); }
LS_INLINE mask_f32 lanes_below_f32(int64_t n) { return n >= 16 ? 0xffff : n > 0 ? (mask_f32)((1u << n) - 1) : 0; }
LS_INLINE mask_f32 lanes_but_f32(int64_t lane) { return lane >= 0 && lane < 16 ? (mask_f32) ~(1u << lane) : 0xffff; }
LS_INLINE vec_f32 power_of_two_f32(vec_f32 magic) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(magic), 23));
}
LS_INLINE float reduce_max_f32(vec_f32 v) { return _mm512_reduce_max_ps(v); }
LS_INLINE vec_f64 part_f32(vec_f32 v, int part) {
    return _mm512_cvtps_pd(part ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v));
}
LS_INLINE mask_f32 is_index_f32(const int32_t *index, int64_t value) {
    return _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(index), _mm512_set1_epi32((int)value));
}

LS_INLINE vec_f32 load_f32(const float *p) { return _mm512_loadu_ps(p); }
LS_INLINE void store_f32(float *p, vec_f32 v) { _mm512_storeu_ps(p, v); }
LS_INLINE vec_f32 load_n_f32(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(lanes_below_f32(n), p); }
LS_INLINE void store_n_f32(float *p, vec_f32 v, int64_t n) { _mm512_mask_storeu_ps(p, lanes_below_f32(n), v); }

LS_INLINE vec_f32 of_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
LS_INLINE __m256i to_bf16(vec_f32 v) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i even = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    even = _mm512_mask_mov_epi32(even, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(even);
}
LS_INLINE vec_f32 load_bf16(const elem_bf16 *p) { return of_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
LS_INLINE void store_bf16(elem_bf16 *p, vec_f32 v) { _mm256_storeu_si256((__m256i *)(void *)p, to_bf16(v)); }
LS_INLINE vec_f32 load_n_bf16(const elem_bf16 *p, int64_t n) {
    return of_bf16(_mm256_maskz_loadu_epi16(lanes_below_f32(n), p));
}
LS_INLINE void store_n_bf16(elem_bf16 *p, vec_f32 v, int64_t n) { _mm256_mask_storeu_epi16(p, lanes_below_f32(n), to_bf16(v)); }
LS_INLINE vec_f32 load_f16(const elem_f16 *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
LS_INLINE void store_f16(elem_f16 *p, vec_f32 v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
LS_INLINE vec_f32 load_n_f16(const elem_f16 *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below_f32(n), p));
}
LS_INLINE void store_n_f16(elem_f16 *p, vec_f32 v, int64_t n) {
    _mm256_mask_storeu_epi16(p, lanes_below_f32(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* Quarter q of v[k] holds four columns of row 4 q + k; afterwards v[j] holds column j of all 16 rows, and the other way round. */
LS_INLINE void transpose_f32(vec_f32 v[4]) {
    const __m512 a = _mm512_unpacklo_ps(v[0], v[1]), b = _mm512_unpackhi_ps(v[0], v[1]);
    const __m512 c = _mm512_unpacklo_ps(v[2], v[3]), d = _mm512_unpackhi_ps(v[2], v[3]);
    v[0] = _mm512_shuffle_ps(a, c, 0x44);
    v[1] = _mm512_shuffle_ps(a, c, 0xee);
    v[2] = _mm512_shuffle_ps(b, d, 0x44);
    v[3] = _mm512_shuffle_ps(b, d, 0xee);
}
LS_INLINE __m128 load_quarter_f32(const float *p, int64_t n) {
    return n < 4 ? _mm_maskz_loadu_ps((__mmask8)lanes_below_f32(n), p) : _mm_loadu_ps(p);
}
LS_INLINE void store_quarter_f32(float *p, __m128 v, int64_t n) {
    if (n < 4)
        _mm_mask_storeu_ps(p, (__mmask8)lanes_below_f32(n), v);
    else
        _mm_storeu_ps(p, v);
}
LS_INLINE void load_tile_f32(const float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    for (int k = 0; k < 4; k++, p += stride) {
        v[k] = _mm512_castps128_ps512(load_quarter_f32(p, n));
        v[k] = _mm512_insertf32x4(v[k], load_quarter_f32(p + 4 * stride, n), 1);
        v[k] = _mm512_insertf32x4(v[k], load_quarter_f32(p + 8 * stride, n), 2);
        v[k] = _mm512_insertf32x4(v[k], load_quarter_f32(p + 12 * stride, n), 3);
    }
    transpose_f32(v);
}
LS_INLINE void store_tile_f32(float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    transpose_f32(v);
    for (int k = 0; k < 4; k++, p += stride) {
        __m128 quarter[4] = {_mm512_castps512_ps128(v[k]), _mm512_extractf32x4_ps(v[k], 1), _mm512_extractf32x4_ps(v[k], 2),
                             _mm512_extractf32x4_ps(v[k], 3)};
        for (int q = 0; q < 4; q++) {
            /* gcc 12 would make one masked vextractf32x4 to memory of both, and that one faults for lanes that are masked off. */
            if (n < 4) __asm__("" : "+v"(quarter[q]));
            store_quarter_f32(p + 4 * q * stride, quarter[q], n);
        }
    }
}

LS_INLINE vec_f64 splat_f64(double x) { return _mm512_set1_pd(x); }
LS_INLINE vec_f64 add_f64(vec_f64 a, vec_f64 b) { return _mm512_add_pd(a, b); }
LS_INLINE vec_f64 sub_f64(vec_f64 a, vec_f64 b) { return _mm512_sub_pd(a, b); }
LS_INLINE vec_f64 mul_f64(vec_f64 a, vec_f64 b) { return _mm512_mul_pd(a, b); }
LS_INLINE vec_f64 div_f64(vec_f64 a, vec_f64 b) { return _mm512_div_pd(a, b); }
LS_INLINE vec_f64 fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmadd_pd(a, b, c); }
LS_INLINE vec_f64 fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fnmadd_pd(a, b, c); }
LS_INLINE vec_f64 max_keep_f64(vec_f64 x, vec_f64 kept) { return _mm512_max_pd(x, kept); }
LS_INLINE mask_f64 less_f64(vec_f64 a, vec_f64 b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
LS_INLINE mask_f64 both_f64(mask_f64 a, mask_f64 b) { return (mask_f64)(a & b); }
LS_INLINE int any_f64(mask_f64 m) { return m != 0; }
LS_INLINE vec_f64 pick_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm512_mask_blend_pd(m, b, a); }
LS_INLINE vec_f64 zero_if_f64(mask_f64 m, vec_f64 a) { return _mm512_maskz_mov_pd((mask_f64)~m, a); }
LS_INLINE vec_f64 zero_unless_f64(mask_f64 m, vec_f64 a) { return _mm512_maskz_mov_pd(m, a); }
LS_INLINE mask_f64 is_absent_f64(vec_f64 s) { return _mm512_testn_epi64_mask(_mm512_castpd_si512(s), _mm512_castpd_si512(s)); }
LS_INLINE mask_f64 lanes_below_f64(int64_t n) { return n >= 8 ? 0xff : n > 0 ? (mask_f64)((1u << n) - 1) : 0; }
LS_INLINE mask_f64 lanes_but_f64(int64_t lane) { return lane >= 0 && lane < 8 ? (mask_f64) ~(1u << lane) : 0xff; }
LS_INLINE vec_f64 power_of_two_f64(vec_f64 magic) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(magic), 52));
}
LS_INLINE vec_f64 part_f64(vec_f64 v, int part) { return (void)part, v; }
LS_INLINE double reduce_max_f64(vec_f64 v) { return _mm512_reduce_max_pd(v); }
LS_INLINE double reduce_add_f64(vec_f64 v) { return _mm512_reduce_add_pd(v); }
LS_INLINE mask_f64 is_index_f64(const int64_t *index, int64_t value) {
    return _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(index), _mm512_set1_epi64(value));
}
LS_INLINE vec_f64 load_f64(const double *p) { return _mm512_loadu_pd(p); }
LS_INLINE void store_f64(double *p, vec_f64 v) { _mm512_storeu_pd(p, v); }
LS_INLINE vec_f64 load_n_f64(const double *p, int64_t n) { return _mm512_maskz_loadu_pd(lanes_below_f64(n), p); }
LS_INLINE void store_n_f64(double *p, vec_f64 v, int64_t n) { _mm512_mask_storeu_pd(p, lanes_below_f64(n), v); }
LS_INLINE vec_f64 widen_f32(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
LS_INLINE vec_f64 widen_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f32 narrow_f32(const double *p) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))),
                              _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
}
LS_INLINE vec_f64 narrow_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f64 split_exponent_f64(vec_f64 u, vec_f64 *mantissa) {
    const __m512i root_half = _mm512_set1_epi64(0x3fe6a09e667f3bcd), one = _mm512_set1_epi64(0x3ff0000000000000);
    __m512i bits = _mm512_castpd_si512(u);
    __m512i biased = _mm512_srli_epi64(_mm512_add_epi64(_mm512_sub_epi64(bits, root_half), one), 52);
    *mantissa = _mm512_castsi512_pd(_mm512_add_epi64(_mm512_sub_epi64(bits, _mm512_slli_epi64(biased, 52)), one));
    return _mm512_sub_pd(_mm512_cvtepi64_pd(biased), _mm512_set1_pd(1023.0));
}

#endif
