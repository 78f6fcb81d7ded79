#!/usr/bin/env bash
# Static analysis of the kernels and, by clang-tidy, of the glue: what `make analyze` runs. Prints one line for every analyser
# and, under one that finds something, what it found. Exit status 0 if nothing was found. An analyser that is missing, that ends
# with an error or that does not see the canary, a use after free, has failed. Needs gcc, clang-tidy, cppcheck, and the
# build.ninja of the last `make build`, which says where torch's headers are.
#
# Left out of clang-tidy's lists, with the reason: macro parentheses, names with capitals and swapped arguments (the templates
# form names with macros, and a kernel takes many numbers of one type), integer division in a float context (meant where it
# is), narrowing and sign conversions of counts of lanes.
# Answered findings, left out below by their text: gcc takes `q` and `grad` of a row for NULL where the smoothing is LS_DENSE and a
# gradient is asked for; they are set in exactly these cases (row_part, row_grad). smooth_labels reads no LS_PROBABILITIES, by its
# contract, and read_targets sets what it reads in all other cases. Targets of int8 are meant to be signed. Scratch memory is
# carved from bytes. tree's `sums` are all set by the loop above their use, whose number of turns is a constant of the instruction set.
# In the glue that an optional tensor is there is asked by defined(), through which bugprone-unchecked-optional-access does not see.
# shellcheck disable=SC2317  # functions that are called by the names they are given by
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0
flags=(-std=c11 -ffp-contract=off -fno-math-errno -fopenmp -Icsrc/kernels)
canary=build/analyze/canary.c
mkdir -p "${canary%/*}"
cat >$canary <<'EOC'
#include <stdlib.h>
int main(void) {
    int *number = malloc(sizeof *number);
    if (!number) return 1;
    *number = 1;
    free(number);
    int late = *number;
    return late;
}
EOC

report() { # name, analyser, files
    local name=$1 analyser=$2 findings
    shift 2
    findings=$("$analyser" "$@")
    if ! "$analyser" $canary | grep -qE "$canary:7:.*(CWE-416|unix.Malloc|deallocuse)"; then
        findings+=${findings:+$'\n'}"the canary, a use after free, was not found"
    fi
    if [ -z "$findings" ]; then
        echo "ok      $name"
    else
        echo "FAILED  $name"
        head -n 60 <<<"$findings" | sed 's/^/        /'
        failed=1
    fi
}

# Prints what a command prints, and an error if it fails: of itself a tool that is missing prints nothing that is taken for one.
run() {
    local output status=0
    output=$("$@" 2>&1) || status=$?
    echo "$output"
    [ "$status" -eq 0 ] || echo "error: exit status $status of $1: $(tail -n 1 <<<"$output")"
}

with_gcc() {
    for file in "$@"; do run gcc "${flags[@]}" -O1 -fanalyzer -Wall -Wextra -c "$file" -o /dev/null; done |
        grep -E 'warning:|error:' | grep -vE 'of NULL .{1,3}row\.(q|grad)|uninitialized value .sums\[<unknown>\]' | sort -u
}

# Files side by side. Their headers are read with them: most of the kernels are templates.
clang_tidy() { # checks, files, --, flags
    local checks=$1 files=()
    shift
    while [ "$1" != -- ]; do files+=("$1") && shift; done
    printf '%s\n' "${files[@]}" | run xargs -P "$(nproc)" -I{} \
        "${CLANG_TIDY:-clang-tidy-19}" --quiet --checks="$checks" --header-filter=csrc/ {} "$@" | grep -E 'warning:|error:'
}

with_clang_tidy() {
    local checks='-*,bugprone-*,cert-*,clang-analyzer-*,-bugprone-macro-parentheses,-bugprone-reserved-identifier'
    checks+=',-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result'
    checks+=',-cert-dcl37-c,-cert-dcl51-cpp,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'
    checks+=',-bugprone-assignment-in-if-condition,-bugprone-casting-through-void,-bugprone-signed-char-misuse,-cert-str34-c'
    clang_tidy "$checks" "$@" -- "${flags[@]:0:3}" -Icsrc/kernels | grep -v "left operand of '<' is a garbage value" | sort -u
}

with_clang_tidy_on_glue() {
    local compiled language=()
    [[ $1 = *.c ]] || language=(-std=c++20)
    compiled=$(grep -E '^cflags = ' build/objects/build.ninja | tr -d "'" | grep -oE ' -[ID][^ ]+' | sed 's/^ -I/-isystem/')
    # shellcheck disable=SC2086
    clang_tidy '-*,bugprone-*,clang-analyzer-*,-bugprone-easily-swappable-parameters,-bugprone-unchecked-optional-access' \
        "$@" -- "${language[@]}" -Icsrc/kernels $compiled | sort -u
}

with_cppcheck() {
    run cppcheck --quiet --std=c11 --enable=warning,portability,performance --inline-suppr --suppress=missingIncludeSystem \
        --suppress=normalCheckLevelMaxBranches -Icsrc/kernels -D__x86_64__ "$@" |
        grep -E '(error|warning|portability|performance):'
}

report "gcc -fanalyzer" with_gcc csrc/kernels/*.c
report "clang-tidy: bugprone, cert, clang-analyzer" with_clang_tidy csrc/kernels/*.c
report "clang-tidy of the glue: bugprone, clang-analyzer" with_clang_tidy_on_glue csrc/torch/*.cpp
report "cppcheck" with_cppcheck csrc/kernels
exit $failed
