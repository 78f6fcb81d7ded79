/* The one file that knows threads. Compiled with -fopenmp where the compiler's OpenMP is the one torch loads (gcc); the caller
 * links without it, so that the process keeps one runtime. Other builds hand over a loop with ls_use_parallel_for. */
#include "parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/stat.h>

#include "ls_kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

static _Atomic(ls_parallel_for) external_loop;

/* libgomp's threads do not survive a fork: in the child of a process that had a pool, whoever made it, a region with more than
 * one thread waits for ever. So forks are watched from the loading of the library on, and a process counts as one that has a
 * pool if it has any other thread. */
static atomic_int has_threads, forked;

static void before_fork(void) {
    /* Linux has two links to the folder of a process's threads, and one more for each thread. */
    struct stat tasks;
    atomic_store(&has_threads, stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink > 3);
}
static void after_fork(void) {
    if (atomic_load(&has_threads)) atomic_store(&forked, 1);
}
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, NULL, after_fork); }

void ls_use_parallel_for(ls_parallel_for loop) { atomic_store(&external_loop, loop); }

const char *ls_threading(void) {
    if (atomic_load(&external_loop)) return "external";
#ifdef _OPENMP
    return "openmp";
#else
    return "serial";
#endif
}

int ls_workers(int threads, int64_t units, int64_t elements) {
    if (threads < 2 || units < 2 || elements < LS_GRAIN) return 1;
    if (atomic_load_explicit(&forked, memory_order_relaxed)) return 1;
    int64_t shares = elements / (LS_GRAIN / 2);
    if (shares > units) shares = units;
    if (shares > threads) shares = threads;
    if (atomic_load_explicit(&external_loop, memory_order_relaxed)) return (int)shares;
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : (int)shares;
#else
    return 1;
#endif
}

typedef struct {
    int workers;
    int64_t units;
    ls_share_body body;
    void *context;
} sharing;

static void do_share(const sharing *all, int worker) {
    int64_t begin = all->units * worker / all->workers, end = all->units * (worker + 1) / all->workers;
    if (begin < end) all->body(all->context, begin, end, worker);
}

static void do_shares(int64_t begin, int64_t end, void *context) {
    for (int64_t worker = begin; worker < end; worker++) do_share((const sharing *)context, (int)worker);
}

void ls_share(int workers, int64_t units, ls_share_body body, void *context) {
    sharing all = {workers, units, body, context};
    ls_parallel_for loop = atomic_load_explicit(&external_loop, memory_order_relaxed);
    if (workers == 1) {
        do_share(&all, 0);
    } else if (loop) {
        loop(0, workers, 1, do_shares, &all);
    } else {
#ifdef _OPENMP
        /* The whole team starts (a team of another size makes libgomp rebuild its pool); it may be larger or smaller than
         * `workers`. */
#pragma omp parallel
        for (int worker = omp_get_thread_num(); worker < all.workers; worker += omp_get_num_threads()) do_share(&all, worker);
#else
        do_shares(0, workers, &all);
#endif
    }
}
