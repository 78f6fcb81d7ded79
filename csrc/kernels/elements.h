/* Element types, and one element converted to or from double with a single rounding: for what is done once a row or once a
 * class. Any kernel source may use this; it knows nothing of losses. */
#ifndef LS_ELEMENTS_H
#define LS_ELEMENTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ls_kernels.h"

typedef float elem_f32;
typedef double elem_f64;
typedef uint16_t elem_bf16;
typedef uint16_t elem_f16;

/* The type that arithmetic on f32, bf16 and f16 logits runs in, and on f64. */
typedef float real_f32;
typedef double real_f64;

/* Targets as compared lane by lane with logits of that type. */
typedef int32_t index_f32;
typedef int64_t index_f64;

static const ls_dtype dtype_f32 = LS_F32, dtype_f64 = LS_F64, dtype_bf16 = LS_BF16, dtype_f16 = LS_F16;

static inline uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To float with the last bit set if inexact (round to odd): rounding that again to a shorter type is then the same as
 * rounding x once. */
static inline float float_to_odd(double x) {
    float nearest = (float)x;
    if (isnan(x) || isinf(nearest) || (double)nearest == x) return nearest;
    uint32_t bits = float_bits(nearest);
    if (fabs((double)nearest) > fabs(x)) bits--;
    return float_of_bits(bits | 1);
}

static inline double double_of_bf16(uint16_t h) { return (double)float_of_bits((uint32_t)h << 16); }

static inline uint16_t bf16_of_float(float x) {
    uint32_t bits = float_bits(x);
    if (isnan(x)) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline double double_of_f16(uint16_t h) {
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    double magnitude = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                       : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                      : ldexp(mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

static inline uint16_t f16_of_float(float x) {
    uint32_t bits = float_bits(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* from 65520 on */
    if (magnitude < 0x38800000) { /* below 2^-14: adding 1/2 leaves units of 2^-24 in the low bits */
        float shifted = float_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_bits(shifted) - 0x3f000000));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
}

static inline double element_get(const void *data, ls_dtype dtype, int64_t i) {
    switch (dtype) {
    case LS_F32:
        return (double)((const float *)data)[i];
    case LS_F64:
        return ((const double *)data)[i];
    case LS_BF16:
        return double_of_bf16(((const uint16_t *)data)[i]);
    case LS_F16:
        return double_of_f16(((const uint16_t *)data)[i]);
    }
    return 0;
}

static inline void element_put(void *data, ls_dtype dtype, int64_t i, double x) {
    switch (dtype) {
    case LS_F32:
        ((float *)data)[i] = (float)x;
        break;
    case LS_F64:
        ((double *)data)[i] = x;
        break;
    case LS_BF16:
        ((uint16_t *)data)[i] = bf16_of_float(float_to_odd(x));
        break;
    case LS_F16:
        ((uint16_t *)data)[i] = f16_of_float(float_to_odd(x));
        break;
    }
}

static inline size_t element_bytes(ls_dtype dtype) { return dtype == LS_F64 ? 8 : dtype == LS_F32 ? 4 : 2; }

#endif
