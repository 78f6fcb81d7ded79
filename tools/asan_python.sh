#!/usr/bin/env bash
# Python tests against kernels and glue compiled with AddressSanitizer, which is loaded before Python: what an access outside a
# tensor would be found by. Arguments: those of pytest; by default the tests of values, errors, gradients and transforms. Masked
# loads of AVX-512 are not instrumented: LS_LOSS_ISA=scalar sees everything.
#
# First two canaries, else nothing here means anything: every object of the glue must call ASan, and a kernel asked to read one
# row more than there is must be reported. The glue is compiled as by the last `make build`, whose build.ninja says how.
set -eu
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/build/asan
mkdir -p "$work/python/ls_loss"
cp ls_loss/*.py ls_loss/*.pyi "$work/python/ls_loss/"
extension=$(basename ls_loss/_C.*.so)
libraries=$(python -c 'from torch.utils import cpp_extension as c; print(*("-L" + path for path in c.library_paths()))')
kernels=(csrc/kernels/*.c) glue=(csrc/torch/*.cpp)
objects=("${kernels[@]/%.c/.o}" "${glue[@]/%.cpp/.o}")
{
    echo "builddir = build/asan"
    grep -E '^(cxx|cflags|post_cflags) = ' build/objects/build.ninja
    cat <<'EON'
# _FORTIFY_SOURCE puts functions in the place of those that ASan watches.
asan = -O1 -g1 -fPIC -fno-omit-frame-pointer -fsanitize=address -fvisibility=hidden -U_FORTIFY_SOURCE
rule kernel
  command = gcc -MMD -MF $out.d -std=c11 -ffp-contract=off -fno-math-errno -fopenmp $asan -c $in -o $out
  depfile = $out.d
  deps = gcc
rule glue
  command = $cxx -MMD -MF $out.d -Icsrc/kernels $cflags $in -o $out $post_cflags $asan
  depfile = $out.d
  deps = gcc
rule link
  command = g++ -shared $in $libraries -ltorch_python -ltorch -ltorch_cpu -lc10 -o $out
EON
    for file in "${kernels[@]}"; do echo "build build/asan/${file%.c}.o: kernel $file"; done
    for file in "${glue[@]}"; do echo "build build/asan/${file%.cpp}.o: glue $file"; done
    echo "build build/asan/python/ls_loss/$extension: link ${objects[*]/#/build/asan/}"
    echo "  libraries = $libraries"
} >"$work/build.ninja"
ninja --quiet -f "$work/build.ninja" -j "$(nproc)"
for file in "${glue[@]}"; do
    nm "build/asan/${file%.cpp}.o" | grep -q 'U __asan_report_load' || { echo "$file is compiled without ASan"; exit 1; }
done
export PYTHONPATH=$work/python PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
export LD_PRELOAD=$preload
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=99
cd "$work/python"
status=0
python - >/dev/null 2>&1 <<'EOC' || status=$?
import torch, ls_loss
real = torch.zeros(9, 1024)
longer = torch._C._construct_storage_from_data_pointer(real.data_ptr(), real.device, 4 * 10 * 1024)
ls_loss.cross_entropy(torch.empty(0).set_(longer, 0, (10, 1024)), torch.zeros(10, dtype=torch.int64))
EOC
if [ $status -ne 99 ]; then
    echo "the canary, a read past a tensor, was not found: exit status $status"
    exit 1
fi
echo "the canary, a read past a tensor, was found"
default=(forward backward special_values errors bad_inputs properties autograd grad_output grad_ownership ignored_rows routing
    transforms transform_kernel transform_levels vmap_kernel traced last_bits bad_inputs_ours conventions fastai notebook module
    long_rows autocast dispatch sixteen_bits)
if [ $# -eq 0 ]; then set -- "${default[@]/%/.py}" && set -- "${@/#/test_}"; fi
exec python -m pytest -q -p no:cacheprovider --rootdir="$root" -c "$root/pyproject.toml" "${@/#test_/$root/tests/test_}"
