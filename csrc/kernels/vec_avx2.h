/* The SIMD vocabulary on AVX2, FMA and F16C. The names are explained in vec_scalar.h. Only isa_avx2.c includes this. */
#ifndef LS_VEC_AVX2_H
#define LS_VEC_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "elements.h"

#define LS_TARGET __attribute__((target("avx2,fma,f16c")))
#define LS_INLINE static inline __attribute__((always_inline)) LS_TARGET

enum { parts_f32 = 2, parts_f64 = 1, lanes_f32 = 8, unroll_f32 = 2, tile_f32 = 4, lanes_f64 = 4, unroll_f64 = 2, tile_f64 = 1 };
typedef __m256 vec_f32;
typedef __m256 mask_f32;

typedef __m256d vec_f64;
typedef __m256d mask_f64;

LS_INLINE vec_f32 splat_f32(float x) { return _mm256_set1_ps(x); }
LS_INLINE vec_f32 add_f32(vec_f32 a, vec_f32 b) { return _mm256_add_ps(a, b); }
LS_INLINE vec_f32 sub_f32(vec_f32 a, vec_f32 b) { return _mm256_sub_ps(a, b); }
LS_INLINE vec_f32 mul_f32(vec_f32 a, vec_f32 b) { return _mm256_mul_ps(a, b); }
LS_INLINE vec_f32 fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmadd_ps(a, b, c); }
LS_INLINE vec_f32 fnma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fnmadd_ps(a, b, c); }
LS_INLINE vec_f32 max_keep_f32(vec_f32 x, vec_f32 kept) { return _mm256_max_ps(x, kept); }
LS_INLINE mask_f32 less_f32(vec_f32 a, vec_f32 b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
LS_INLINE mask_f32 both_f32(mask_f32 a, mask_f32 b) { return _mm256_and_ps(a, b); }
LS_INLINE int any_f32(mask_f32 m) { return _mm256_movemask_ps(m) != 0; }
LS_INLINE vec_f32 pick_f32(mask_f32 m, vec_f32 a, vec_f32 b) { return _mm256_blendv_ps(b, a, m); }
LS_INLINE vec_f32 zero_if_f32(mask_f32 m, vec_f32 a) { return _mm256_andnot_ps(m, a); }
LS_INLINE vec_f32 zero_unless_f32(mask_f32 m, vec_f32 a) { return _mm256_and_ps(m, a); }
LS_INLINE mask_f32 is_absent_f32(vec_f32 s) {
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_castps_si256(s), _mm256_setzero_si256()));
}
LS_INLINE __m256i lane_numbers_f32(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
LS_INLINE mask_f32 lanes_below_f32(int64_t n) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), lane_numbers_f32()));
}
LS_INLINE mask_f32 lanes_but_f32(int64_t lane) {
    int l = lane >= 0 && lane < 8 ? (int)lane : -1;
    __m256i hit = _mm256_cmpeq_epi32(_mm256_set1_epi32(l), lane_numbers_f32());
    return _mm256_castsi256_ps(_mm256_xor_si256(hit, _mm256_set1_epi32(-1)));
}
LS_INLINE vec_f32 power_of_two_f32(vec_f32 magic) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(magic), 23));
}
LS_INLINE float reduce_max_f32(vec_f32 v) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
LS_INLINE double reduce_add_f64(vec_f64 v) {
    __m128d a = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a)));
}
LS_INLINE vec_f64 part_f32(vec_f32 v, int part) {
    return _mm256_cvtps_pd(part ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v));
}
LS_INLINE mask_f32 is_index_f32(const int32_t *index, int64_t value) {
    return _mm256_castsi256_ps(
        _mm256_cmpeq_epi32(_mm256_loadu_si256((const __m256i *)(const void *)index), _mm256_set1_epi32((int)value)));
}

LS_INLINE vec_f32 load_f32(const float *p) { return _mm256_loadu_ps(p); }
LS_INLINE void store_f32(float *p, vec_f32 v) { _mm256_storeu_ps(p, v); }
LS_INLINE vec_f32 load_n_f32(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, _mm256_castps_si256(lanes_below_f32(n)));
}
LS_INLINE void store_n_f32(float *p, vec_f32 v, int64_t n) {
    _mm256_maskstore_ps(p, _mm256_castps_si256(lanes_below_f32(n)), v);
}

LS_INLINE vec_f32 load_bf16(const elem_bf16 *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
LS_INLINE void store_bf16(elem_bf16 *p, vec_f32 v) {
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i even = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    even = _mm256_blendv_epi8(even, _mm256_set1_epi32(0x7fc0), nan);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packus_epi32(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1)));
}
LS_INLINE vec_f32 load_f16(const elem_f16 *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
LS_INLINE void store_f16(elem_f16 *p, vec_f32 v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
/* AVX2 has no masked access to 16-bit elements: short ones pass through a buffer. */
LS_INLINE size_t bytes_of_16(int64_t n) { return n <= 0 ? 0 : n < 8 ? (size_t)n * 2 : 16; }
LS_INLINE vec_f32 load_n_bf16(const elem_bf16 *p, int64_t n) {
    elem_bf16 buffer[8] = {0};
    memcpy(buffer, p, bytes_of_16(n));
    return load_bf16(buffer);
}
LS_INLINE vec_f32 load_n_f16(const elem_f16 *p, int64_t n) {
    elem_f16 buffer[8] = {0};
    memcpy(buffer, p, bytes_of_16(n));
    return load_f16(buffer);
}
LS_INLINE void store_n_bf16(elem_bf16 *p, vec_f32 v, int64_t n) {
    elem_bf16 buffer[8];
    store_bf16(buffer, v);
    memcpy(p, buffer, bytes_of_16(n));
}
LS_INLINE void store_n_f16(elem_f16 *p, vec_f32 v, int64_t n) {
    elem_f16 buffer[8];
    store_f16(buffer, v);
    memcpy(p, buffer, bytes_of_16(n));
}

/* Half h of v[k] holds four columns of row 4 h + k; afterwards v[j] holds column j of all 8 rows, and the other way round. */
LS_INLINE void transpose_f32(vec_f32 v[4]) {
    const __m256 a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
    const __m256 c = _mm256_unpacklo_ps(v[2], v[3]), d = _mm256_unpackhi_ps(v[2], v[3]);
    v[0] = _mm256_shuffle_ps(a, c, 0x44);
    v[1] = _mm256_shuffle_ps(a, c, 0xee);
    v[2] = _mm256_shuffle_ps(b, d, 0x44);
    v[3] = _mm256_shuffle_ps(b, d, 0xee);
}
LS_INLINE __m128i quarter_below_f32(int64_t n) { return _mm_cmpgt_epi32(_mm_set1_epi32((int)n), _mm_setr_epi32(0, 1, 2, 3)); }
LS_INLINE __m128 load_quarter_f32(const float *p, int64_t n) {
    return n < 4 ? _mm_maskload_ps(p, quarter_below_f32(n)) : _mm_loadu_ps(p);
}
LS_INLINE void store_quarter_f32(float *p, __m128 v, int64_t n) {
    if (n < 4)
        _mm_maskstore_ps(p, quarter_below_f32(n), v);
    else
        _mm_storeu_ps(p, v);
}
LS_INLINE void load_tile_f32(const float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    for (int k = 0; k < 4; k++, p += stride)
        v[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(load_quarter_f32(p, n)), load_quarter_f32(p + 4 * stride, n), 1);
    transpose_f32(v);
}
LS_INLINE void store_tile_f32(float *p, int64_t stride, int64_t n, vec_f32 v[4]) {
    transpose_f32(v);
    for (int k = 0; k < 4; k++, p += stride) {
        store_quarter_f32(p, _mm256_castps256_ps128(v[k]), n);
        store_quarter_f32(p + 4 * stride, _mm256_extractf128_ps(v[k], 1), n);
    }
}

LS_INLINE vec_f64 splat_f64(double x) { return _mm256_set1_pd(x); }
LS_INLINE vec_f64 add_f64(vec_f64 a, vec_f64 b) { return _mm256_add_pd(a, b); }
LS_INLINE vec_f64 sub_f64(vec_f64 a, vec_f64 b) { return _mm256_sub_pd(a, b); }
LS_INLINE vec_f64 mul_f64(vec_f64 a, vec_f64 b) { return _mm256_mul_pd(a, b); }
LS_INLINE vec_f64 div_f64(vec_f64 a, vec_f64 b) { return _mm256_div_pd(a, b); }
LS_INLINE vec_f64 fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fmadd_pd(a, b, c); }
LS_INLINE vec_f64 fnma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fnmadd_pd(a, b, c); }
LS_INLINE vec_f64 max_keep_f64(vec_f64 x, vec_f64 kept) { return _mm256_max_pd(x, kept); }
LS_INLINE mask_f64 less_f64(vec_f64 a, vec_f64 b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
LS_INLINE mask_f64 both_f64(mask_f64 a, mask_f64 b) { return _mm256_and_pd(a, b); }
LS_INLINE int any_f64(mask_f64 m) { return _mm256_movemask_pd(m) != 0; }
LS_INLINE vec_f64 pick_f64(mask_f64 m, vec_f64 a, vec_f64 b) { return _mm256_blendv_pd(b, a, m); }
LS_INLINE vec_f64 zero_if_f64(mask_f64 m, vec_f64 a) { return _mm256_andnot_pd(m, a); }
LS_INLINE vec_f64 zero_unless_f64(mask_f64 m, vec_f64 a) { return _mm256_and_pd(m, a); }
LS_INLINE mask_f64 is_absent_f64(vec_f64 s) {
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_castpd_si256(s), _mm256_setzero_si256()));
}
LS_INLINE __m256i lane_numbers_f64(void) { return _mm256_setr_epi64x(0, 1, 2, 3); }
LS_INLINE mask_f64 lanes_below_f64(int64_t n) {
    return _mm256_castsi256_pd(_mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane_numbers_f64()));
}
LS_INLINE mask_f64 lanes_but_f64(int64_t lane) {
    __m256i hit = _mm256_cmpeq_epi64(_mm256_set1_epi64x(lane), lane_numbers_f64());
    return _mm256_castsi256_pd(_mm256_xor_si256(hit, _mm256_set1_epi64x(-1)));
}
LS_INLINE vec_f64 power_of_two_f64(vec_f64 magic) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(magic), 52));
}
LS_INLINE vec_f64 part_f64(vec_f64 v, int part) { return (void)part, v; }
LS_INLINE double reduce_max_f64(vec_f64 v) {
    __m128d a = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(a, _mm_unpackhi_pd(a, a)));
}
LS_INLINE mask_f64 is_index_f64(const int64_t *index, int64_t value) {
    return _mm256_castsi256_pd(
        _mm256_cmpeq_epi64(_mm256_loadu_si256((const __m256i *)(const void *)index), _mm256_set1_epi64x(value)));
}
LS_INLINE vec_f64 load_f64(const double *p) { return _mm256_loadu_pd(p); }
LS_INLINE void store_f64(double *p, vec_f64 v) { _mm256_storeu_pd(p, v); }
LS_INLINE vec_f64 load_n_f64(const double *p, int64_t n) {
    return _mm256_maskload_pd(p, _mm256_castpd_si256(lanes_below_f64(n)));
}
LS_INLINE void store_n_f64(double *p, vec_f64 v, int64_t n) {
    _mm256_maskstore_pd(p, _mm256_castpd_si256(lanes_below_f64(n)), v);
}
LS_INLINE vec_f64 widen_f32(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
LS_INLINE vec_f64 widen_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f32 narrow_f32(const double *p) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(_mm256_loadu_pd(p))),
                                _mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), 1);
}
LS_INLINE vec_f64 narrow_f64(const double *p) { return load_f64(p); }
LS_INLINE vec_f64 split_exponent_f64(vec_f64 u, vec_f64 *mantissa) {
    const __m256i root_half = _mm256_set1_epi64x(0x3fe6a09e667f3bcd), one = _mm256_set1_epi64x(0x3ff0000000000000);
    __m256i bits = _mm256_castpd_si256(u);
    __m256i biased = _mm256_srli_epi64(_mm256_add_epi64(_mm256_sub_epi64(bits, root_half), one), 52);
    *mantissa = _mm256_castsi256_pd(_mm256_add_epi64(_mm256_sub_epi64(bits, _mm256_slli_epi64(biased, 52)), one));
    const __m256d two52 = _mm256_set1_pd(4503599627370496.0);
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(biased, _mm256_castpd_si256(two52))),
                         _mm256_set1_pd(4503599627370496.0 + 1023.0));
}

#endif
