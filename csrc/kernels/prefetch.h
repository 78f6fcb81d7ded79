/* Memory that is asked for while a tile is swept: one request with each vector of a class. Private to the kernels.
 *
 * All at once, the logits of a packed group of 21 classes are 84 lines, and those of its gradient as many: more than a core can
 * wait for beside its work. The vectors only set the pace; what a request asks for need not be of their class and positions. */
#ifndef LS_PREFETCH_H
#define LS_PREFETCH_H

#include <stdint.h>

typedef struct {
    const char *at;
    int64_t class_step, position_step; /* bytes */
} ls_prefetch;

/* The request that goes with class c and position i; the next class's is class_step further on. */
static inline const char *ls_prefetch_at(const ls_prefetch *prefetch, int64_t c, int64_t i) {
    return prefetch->at + c * prefetch->class_step + i * prefetch->position_step;
}

#endif
