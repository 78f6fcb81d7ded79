/* Which instruction set runs. Chosen once, from what CPU and operating system support; can be read, and lowered. */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "isa.h"

enum { ISAS = 4 };

/* Worst first. */
static const ls_isa_kernels *isa_at(int index) {
    const ls_isa_kernels *const all[ISAS] = {ls_kernels_scalar, ls_kernels_neon, ls_kernels_avx2, ls_kernels_avx512};
    return all[index];
}

/* Whether an available instruction set should be chosen unasked. Intel's first AVX-512 machines (before Ice Lake, the first
 * with VBMI2) lower their clock for 512-bit vectors by more than wider vectors bring here. AMD's never do. */
static int is_worth_it(const ls_isa_kernels *isa) {
#ifdef __x86_64__
    if (isa == ls_kernels_avx512) return __builtin_cpu_supports("avx512vbmi2");
#endif
    (void)isa;
    return 1;
}

static _Atomic(const ls_isa_kernels *) active;

static const ls_isa_kernels *best_isa(void) {
    for (int i = ISAS - 1; i > 0; i--) {
        const ls_isa_kernels *isa = isa_at(i);
        if (isa && isa->available() && is_worth_it(isa)) return isa;
    }
    return ls_kernels_scalar;
}

const ls_isa_kernels *ls_active_kernels(void) {
    const ls_isa_kernels *isa = atomic_load_explicit(&active, memory_order_acquire);
    if (!isa) {
        isa = best_isa();
        atomic_store_explicit(&active, isa, memory_order_release);
    }
    return isa;
}

const char *ls_isa(void) { return ls_active_kernels()->name; }

static const ls_isa_kernels *find(const char *name) {
    for (int i = 0; i < ISAS; i++) {
        const ls_isa_kernels *isa = isa_at(i);
        if (isa && strcmp(isa->name, name) == 0 && isa->available()) return isa;
    }
    return NULL;
}

int ls_isa_available(const char *name) { return find(name) != NULL; }

int ls_isa_select(const char *name) {
    const ls_isa_kernels *isa = name ? find(name) : best_isa();
    if (isa) atomic_store_explicit(&active, isa, memory_order_release);
    return isa != NULL;
}

const char *ls_isa_name(int index) {
    for (int i = 0; i < ISAS; i++) {
        const ls_isa_kernels *isa = isa_at(i);
        if (isa && index-- == 0) return isa->name;
    }
    return NULL;
}
