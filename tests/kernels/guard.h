/* Buffers between two pages that cannot be touched, and the bytes around them.
 *
 * Used by the checker. Knows no kernel and no dtype. */
#ifndef TEST_GUARD_H
#define TEST_GUARD_H

#include <stddef.h>

typedef enum {
    AT_END,    /* the first byte after the buffer cannot be touched */
    AT_START,  /* nor, here, the last byte before it */
    AT_OFFSET, /* so many bytes after a multiple of 64 */
} placement;

typedef struct {
    unsigned char *begin, *end; /* the memory between the two guard pages */
    unsigned char *data;        /* the buffer placed there last, */
    size_t bytes;               /* its size, */
    unsigned char fill;         /* and what the bytes around it were filled with */
} guarded;

guarded guarded_create(size_t capacity); /* exits with a message if the system has no memory */

/* Places a buffer, aligned down to `alignment`, and fills what is around it. NULL data for 0 bytes never happens: the
 * pointer then is one that cannot be read. */
void guarded_place(guarded *memory, size_t bytes, size_t alignment, placement where, size_t offset, unsigned char fill);

/* 1 if the bytes around the buffer are as guarded_place left them. */
int guarded_intact(const guarded *memory);

/* Under MemorySanitizer (WITH_MSAN): what the buffer holds counts as never written, so that a use of it is reported, or, if
 * `known`, as written. The bytes stay as they are. */
void guarded_mark(const guarded *memory, int known);

/* 1 if all bytes equal `value`. */
int all_bytes(const unsigned char *data, size_t bytes, unsigned char value);

#endif
