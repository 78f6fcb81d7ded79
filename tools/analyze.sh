#!/usr/bin/env bash
# Static analysis of the kernels: what `make analyze` runs. Prints one line for every analyser and, under one that finds
# something, what it found. Exit status 0 if nothing was found. Needs gcc, clang-tidy and cppcheck.
#
# Left out of clang-tidy's lists, with the reason: macro parentheses, names with capitals and swapped arguments (the templates
# form names with macros, and a kernel takes many numbers of one type), integer division in a float context (meant where it
# is), narrowing and sign conversions of counts of lanes.
# Answered findings, left out below by their text: gcc takes `q` and `grad` of a row for NULL where the smoothing is LS_DENSE and a
# gradient is asked for; they are set in exactly these cases (row_part, row_grad). smooth_labels reads no LS_PROBABILITIES, by its
# contract, and read_targets sets what it reads in all other cases. Targets of int8 are meant to be signed. Scratch memory is
# carved from bytes. tree's `sums` are all set by the loop above their use, whose number of turns is a constant of the instruction set.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0
flags=(-std=c11 -ffp-contract=off -fno-math-errno -fopenmp -Icsrc/kernels)

report() { # analyser, findings
    if [ -z "$2" ]; then
        echo "ok      $1"
    else
        echo "FAILED  $1"
        head -n 60 <<<"$2" | sed 's/^/        /'
        failed=1
    fi
}

with_gcc() {
    for file in csrc/kernels/*.c; do gcc "${flags[@]}" -O1 -fanalyzer -Wall -Wextra -c "$file" -o /dev/null 2>&1; done |
        grep -E 'warning:|error:' | grep -vE 'of NULL .{1,3}row\.(q|grad)|uninitialized value .sums\[<unknown>\]' | sort -u
}

with_clang_tidy() {
    local checks='-*,bugprone-*,cert-*,clang-analyzer-*,-bugprone-macro-parentheses,-bugprone-reserved-identifier'
    checks+=',-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result'
    checks+=',-cert-dcl37-c,-cert-dcl51-cpp,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'
    checks+=',-bugprone-assignment-in-if-condition,-bugprone-casting-through-void,-bugprone-signed-char-misuse,-cert-str34-c'
    "${CLANG_TIDY:-clang-tidy-19}" --quiet --checks="$checks" csrc/kernels/*.c -- "${flags[@]:0:3}" -Icsrc/kernels 2>/dev/null |
        grep -E 'warning:|error:' | grep -v "left operand of '<' is a garbage value" | sort -u
}

with_cppcheck() {
    cppcheck --quiet --std=c11 --enable=warning,portability,performance --inline-suppr --suppress=missingIncludeSystem \
        --suppress=normalCheckLevelMaxBranches -Icsrc/kernels -D__x86_64__ csrc/kernels 2>&1 | grep -E '(error|warning|portability|performance):'
}

report "gcc -fanalyzer" "$(with_gcc)"
report "clang-tidy: bugprone, cert, clang-analyzer" "$(with_clang_tidy)"
report "cppcheck" "$(with_cppcheck)"
exit $failed
