/* The dtypes as exact numbers; see numbers.h. */
#include "numbers.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
    int mantissa_bits, min_exponent;
} formats[] = {{"f32", 4, 23, -126}, {"f64", 8, 52, -1022}, {"bf16", 2, 7, -126}, {"f16", 2, 10, -14}};

static const struct {
    const char *name;
    size_t size;
    int64_t max;
    int is_signed;
} targets[] = {{"int8", 1, INT8_MAX, 1},     {"int16", 2, INT16_MAX, 1},  {"int32", 4, INT32_MAX, 1},
               {"int64", 8, INT64_MAX, 1},   {"uint8", 1, UINT8_MAX, 0},  {"uint16", 2, UINT16_MAX, 0},
               {"uint32", 4, UINT32_MAX, 0}, {"uint64", 8, INT64_MAX, 0}, {"probabilities", 0, 0, 0}};

int long_double_is_wide(void) {
    volatile real one = 1, tiny = 0x1p-60L;
    return one + tiny != one;
}

const char *dtype_name(ls_dtype dtype) { return formats[dtype].name; }

size_t dtype_size(ls_dtype dtype) { return formats[dtype].size; }

real dtype_max(ls_dtype dtype) {
    switch (dtype) {
    case LS_F32:
        return FLT_MAX;
    case LS_F64:
        return DBL_MAX;
    case LS_BF16:
        return 0x1.FEp127L;
    case LS_F16:
        return 65504;
    }
    return 0;
}

real ulp_at(ls_dtype dtype, real value) {
    int exponent = value == 0 ? formats[dtype].min_exponent : ilogbl(value);
    if (exponent < formats[dtype].min_exponent) exponent = formats[dtype].min_exponent;
    return ldexpl(1, exponent - formats[dtype].mantissa_bits);
}

real round_to(ls_dtype dtype, real value) {
    if (!isfinite(value) || value == 0) return value;
    if (dtype == LS_F32) return (float)value;
    if (dtype == LS_F64) return (double)value;
    real spacing = ulp_at(dtype, value), rounded = rintl(value / spacing) * spacing;
    return fabsl(rounded) > dtype_max(dtype) ? copysignl((real)INFINITY, value) : rounded;
}

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static real load_f16(uint16_t bits) {
    int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    real magnitude = exponent == 0    ? ldexpl((real)mantissa, -24)
                     : exponent != 31 ? ldexpl((real)(1024 + mantissa), exponent - 25)
                     : mantissa != 0  ? (real)NAN
                                      : (real)INFINITY;
    return bits >> 15 ? -magnitude : magnitude;
}

static uint16_t f16_bits(real value) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value)) return 0x7E00;
    value = fabsl(round_to(LS_F16, value));
    if (isinf(value)) return (uint16_t)(sign | 0x7C00);
    if (value < 0x1p-14L) return (uint16_t)(sign | (int)ldexpl(value, 24));
    int exponent = ilogbl(value);
    return (uint16_t)(sign | (((exponent + 15) << 10) + (int)ldexpl(value, 10 - exponent) - 1024));
}

static uint16_t bf16_bits(real value) {
    if (isnan(value)) return 0x7FC0;
    float rounded = (float)round_to(LS_BF16, value);
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    return (uint16_t)(bits >> 16);
}

real load(ls_dtype dtype, const void *array, int64_t index) {
    switch (dtype) {
    case LS_F32:
        return ((const float *)array)[index];
    case LS_F64:
        return ((const double *)array)[index];
    case LS_BF16:
        return float_from_bits((uint32_t)((const uint16_t *)array)[index] << 16);
    case LS_F16:
        return load_f16(((const uint16_t *)array)[index]);
    }
    return 0;
}

void store(ls_dtype dtype, void *array, int64_t index, real value) {
    switch (dtype) {
    case LS_F32:
        ((float *)array)[index] = (float)value;
        return;
    case LS_F64:
        ((double *)array)[index] = (double)value;
        return;
    case LS_BF16:
        ((uint16_t *)array)[index] = bf16_bits(value);
        return;
    case LS_F16:
        ((uint16_t *)array)[index] = f16_bits(value);
        return;
    }
}

const char *target_name(ls_target_kind kind) { return targets[kind].name; }

size_t target_size(ls_target_kind kind) { return targets[kind].size; }

int64_t target_max(ls_target_kind kind) { return targets[kind].max; }

int target_is_signed(ls_target_kind kind) { return targets[kind].is_signed; }

void store_target(ls_target_kind kind, void *array, int64_t index, int64_t value) {
    switch (kind) {
    case LS_INT8:
        ((int8_t *)array)[index] = (int8_t)value;
        return;
    case LS_INT16:
        ((int16_t *)array)[index] = (int16_t)value;
        return;
    case LS_INT32:
        ((int32_t *)array)[index] = (int32_t)value;
        return;
    case LS_INT64:
        ((int64_t *)array)[index] = value;
        return;
    case LS_UINT8:
        ((uint8_t *)array)[index] = (uint8_t)value;
        return;
    case LS_UINT16:
        ((uint16_t *)array)[index] = (uint16_t)value;
        return;
    case LS_UINT32:
        ((uint32_t *)array)[index] = (uint32_t)value;
        return;
    case LS_UINT64:
        ((uint64_t *)array)[index] = (uint64_t)value;
        return;
    case LS_PROBABILITIES:
        return;
    }
}

/* splitmix64 */
uint64_t random_bits(random_source *source) {
    uint64_t z = source->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

int64_t random_below(random_source *source, int64_t limit) { return (int64_t)(random_bits(source) % (uint64_t)limit); }

int one_in(random_source *source, int64_t count) { return random_below(source, count) == 0; }

double random_unit(random_source *source) { return ((double)(random_bits(source) >> 12) + 0.5) * 0x1p-52; }

double random_normal(random_source *source) {
    double radius = sqrt(-2 * log(random_unit(source)));
    return radius * cos(6.283185307179586 * random_unit(source));
}
