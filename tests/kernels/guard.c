/* Buffers between two pages that cannot be touched; see guard.h. */
#define _DEFAULT_SOURCE
#include "guard.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FRINGE = 192 };

guarded guarded_create(size_t capacity) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    capacity = (capacity + page - 1) / page * page;
    unsigned char *base = mmap(NULL, capacity + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, capacity, PROT_READ | PROT_WRITE) != 0) {
        fputs("no memory for the test buffers\n", stderr);
        exit(2);
    }
    return (guarded){base + page, base + page + capacity, base + page, 0, 0};
}

static size_t before(const guarded *memory) {
    size_t room = (size_t)(memory->data - memory->begin);
    return room < FRINGE ? room : FRINGE;
}

static size_t after(const guarded *memory) {
    size_t room = (size_t)(memory->end - memory->data) - memory->bytes;
    return room < FRINGE ? room : FRINGE;
}

void guarded_place(guarded *memory, size_t bytes, size_t alignment, placement where, size_t offset, unsigned char fill) {
    if (bytes + offset + FRINGE > (size_t)(memory->end - memory->begin)) {
        fprintf(stderr, "a test needs a buffer of %zu bytes, more than there are\n", bytes);
        exit(2);
    }
    unsigned char *data = memory->begin;
    if (where == AT_END) {
        data = memory->end - bytes;
        data -= (uintptr_t)data % alignment;
    } else if (where == AT_OFFSET) {
        data += offset;
    }
    memory->data = data;
    memory->bytes = bytes;
    memory->fill = fill;
    memset(data - before(memory), fill, before(memory));
    memset(data + bytes, fill, after(memory));
}

#ifdef WITH_MSAN
#include <sanitizer/msan_interface.h>
void guarded_mark(const guarded *memory, int known) { (known ? __msan_unpoison : __msan_poison)(memory->data, memory->bytes); }
#else
void guarded_mark(const guarded *memory, int known) { (void)memory, (void)known; }
#endif

int all_bytes(const unsigned char *data, size_t bytes, unsigned char value) {
    return bytes == 0 || (data[0] == value && memcmp(data, data + 1, bytes - 1) == 0);
}

int guarded_intact(const guarded *memory) {
    return all_bytes(memory->data - before(memory), before(memory), memory->fill) &&
           all_bytes(memory->data + memory->bytes, after(memory), memory->fill);
}
