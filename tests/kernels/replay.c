/* Earlier findings of the fuzzer, without libFuzzer: every file named on the command line is given to fuzz_kernels.c, which
 * aborts if a check fails. `make test-kernels` runs it on corpus/, with sanitizers and with OpenMP. Exit status 1 if a file
 * cannot be read, or if none is named. Knows the fuzzer's entry point, and neither checker nor kernels. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { LONGEST = 4096 }; /* as -max_len of make fuzz-kernels */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *name) {
    static uint8_t bytes[LONGEST + 1];
    FILE *file = fopen(name, "rb");
    if (!file) return 0;
    size_t size = fread(bytes, 1, sizeof bytes, file);
    int is_whole = !ferror(file) && size > 0 && size <= LONGEST;
    fclose(file);
    if (!is_whole) return 0;
    uint8_t *data = malloc(size); /* no longer than the input: the sanitizers see its end */
    if (!data) return 0;
    for (size_t i = 0; i < size; i++) data[i] = bytes[i];
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        if (replay(names[i])) continue;
        printf("cannot replay %s\n", names[i]);
        return 1;
    }
    printf("replayed %d earlier findings of the fuzzer: nothing found\n", count - 1);
    return count < 2;
}
