/* Sharing of work between threads. Private to the kernels. */
#ifndef LS_PARALLEL_H
#define LS_PARALLEL_H

#include <stdint.h>

/* Elements below which a call stays on its thread: a region costs more than it brings. The same as ATen's grain. */
enum { LS_GRAIN = 32768 };

typedef void (*ls_share_body)(void *context, int64_t begin, int64_t end, int worker);

/* How many workers a loop over `units` units with `elements` elements in all gets: at most `threads`, 1 where sharing does not
 * pay or is not possible. */
int ls_workers(int threads, int64_t units, int64_t elements);

/* Splits [0, units) into one contiguous range a worker. Who does what depends on `workers` only. */
void ls_share(int workers, int64_t units, ls_share_body body, void *context);

#endif
