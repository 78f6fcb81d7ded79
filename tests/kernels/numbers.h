/* The dtypes as exact numbers: conversion, rounding, spacing; and a random source.
 *
 * Used by every file of the kernel tests. Knows the enumerations of the public header, and no kernel. */
#ifndef TEST_NUMBERS_H
#define TEST_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "../../csrc/kernels/ls_kernels.h"

/* Wide enough to judge fp64 (x87: 64 bits of mantissa, AArch64: 113). long_double_is_wide() is 0 under valgrind. */
typedef long double real;
int long_double_is_wide(void);

const char *dtype_name(ls_dtype dtype);
size_t dtype_size(ls_dtype dtype);
real dtype_max(ls_dtype dtype);

real ulp_at(ls_dtype dtype, real value);   /* the spacing of the dtype at that value, subnormals included */
real round_to(ls_dtype dtype, real value); /* to nearest, ties to even; beyond the range an infinity */

real load(ls_dtype dtype, const void *array, int64_t index);
void store(ls_dtype dtype, void *array, int64_t index, real value); /* rounds */

const char *target_name(ls_target_kind kind);
size_t target_size(ls_target_kind kind); /* 0 for LS_PROBABILITIES */
int64_t target_max(ls_target_kind kind);
int target_is_signed(ls_target_kind kind);
void store_target(ls_target_kind kind, void *array, int64_t index, int64_t value);

typedef struct {
    uint64_t state;
} random_source;

uint64_t random_bits(random_source *source);
int64_t random_below(random_source *source, int64_t limit); /* 0 <= result < limit */
int one_in(random_source *source, int64_t count);
double random_unit(random_source *source); /* in (0, 1) */
double random_normal(random_source *source);

#endif
