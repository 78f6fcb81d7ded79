#!/usr/bin/env bash
# What `make lint` checks: format, types, the C compiler's warnings, and who may know what. Prints one line for every check
# and, under a check that fails, what it found (40 lines). Exit status 0 if nothing failed.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0

verdict() { # rule, findings
    if [ -z "$2" ]; then
        echo "ok      $1"
    else
        echo "FAILED  $1"
        head -n 40 <<<"$2" | sed 's/^/        /'
        failed=1
    fi
}

# The command succeeds.
succeeds() {
    local rule=$1 output
    shift
    output=$("$@" 2>&1) && output=""
    verdict "$rule" "${output:-}"
}

# The regular expression is found nowhere: rule, expression, then files and folders for grep.
absent() {
    local rule=$1 expression=$2
    shift 2
    verdict "$rule" "$(grep -rnE --include='*.'{c,h,cpp,py} "$expression" "$@")"
}

sources() { find csrc tests/kernels -name '*.c' -o -name '*.h' -o -name '*.cpp'; }

warnings() {
    for file in csrc/kernels/*.c tests/kernels/*.c; do
        gcc -std=c11 -fopenmp -fsyntax-only -Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes -Werror -Icsrc/kernels "$file" 2>&1
    done | grep -E '(error|warning):' | sort -u
}

# Names in quotes that the glue includes and that are neither its own headers nor the kernels' one public header.
foreign_includes() {
    grep -rhoE '#include *"[^"]*"' csrc/torch | grep -oE '[^"]+\.h' | sort -u | while read -r header; do
        [ "$header" = ls_kernels.h ] || [ -e "csrc/torch/$header" ] || echo "csrc/torch includes $header"
    done
}

long_files() { wc -l $(sources) $(find . -name '*.py' -not -path './.venv/*' -not -path './build/*') | awk '$1 > 400 && $2 != "total"'; }

# Split words, so that this file does not find itself.
machine_paths() { git grep -nIE '/wo[r]k/|/fa[r]m/|/tmp/ba[s]h_jobs|/op[t]/(pypi|wheels)|pypi[.]or[g]|pythonhosted[.]or[g]|download[.]pytorch[.]or[g]'; }

succeeds "ruff check" ruff check --quiet --output-format=concise .
succeeds "ruff format" ruff format --check --quiet --diff .
succeeds "every bug of tools/mutants.py has its place in the sources" python tools/mutate.py --check
succeeds "clang-format" clang-format --dry-run -Werror $(sources)
succeeds "mypy --strict, of the package and of a caller" mypy --no-error-summary ls_loss tests/typed_caller.py
verdict "no compiler warning in the kernels and their tests" "$(warnings)"

absent "kernels know no torch, no Python" '#include *[<"](ATen|c10|torch|Python|pybind11)' csrc/kernels
absent "kernels do not print, exit, allocate or start threads" '\b(f?printf|puts|exit|abort|[mc]alloc|pthread_create)\(' csrc/kernels
absent "OpenMP in parallel.c only" '#pragma omp|_Pragma\("omp|<omp\.h>' csrc --exclude=parallel.c
verdict "the glue sees one header of the kernels" "$(foreign_includes)"
absent "no arithmetic on data in the glue, but for composite.cpp" 'immintrin|arm_neon|\b(exp|log|log1p|expm1)f?\(' csrc/torch \
    --exclude=composite.cpp
absent "no arithmetic in Python" '\.log_softmax\(|\.(logsumexp|exp|log|sum|mean|matmul|gather)\(|[^F]\.softmax\(' ls_loss
absent "the operators are named in one Python file" 'torch\.ops\.ls_loss\.[a-z_]|ops\.load_library' ls_loss --exclude=_library.py
absent "tests use the public package, but for those of registration, dispatch and packaging" \
    'torch\.ops\.ls_loss\.|(from|import) ls_loss\._|from ls_loss import _' tests \
    --exclude={op,test_registration,test_routing,test_dispatch,test_compile_basic,test_packaging}.py
absent "benchmarks take what they compare with from providers.py" 'F\.cross_entropy|CrossEntropyLoss|log_softmax\(' benchmarks \
    --exclude=providers.py
absent "neither machine-dependent flags nor OpenMP settings" 'march=native|ffast-math|-Ofast|set_num_threads|[^_]num_threads\(' \
    setup.py csrc
verdict "no file over 400 lines" "$(long_files)"
verdict "no path or registry of one machine in tracked files" "$(machine_paths)"

exit $failed
