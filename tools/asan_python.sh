#!/usr/bin/env bash
# Python tests against kernels and glue compiled with AddressSanitizer, which is loaded before Python: what an access outside a
# tensor would be found by. Arguments: those of pytest; by default the tests of values and of errors. Masked loads
# of AVX-512 are not instrumented: LS_LOSS_ISA=scalar sees everything.
#
# First a canary: a kernel asked to read one row more than there is must be reported, else nothing here means anything.
set -eu
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/build/asan
mkdir -p "$work/python/ls_loss"
cp ls_loss/*.py ls_loss/*.pyi "$work/python/ls_loss/"
flags=(-O1 -g1 -fPIC -fno-omit-frame-pointer -fsanitize=address -fvisibility=hidden)
for file in csrc/kernels/*.c; do
    gcc -std=c11 -ffp-contract=off -fno-math-errno -fopenmp "${flags[@]}" -c "$file" -o "$work/$(basename "$file" .c).o"
done
extension=$(basename ls_loss/_C.*.so)
libraries=$(python -c 'from torch.utils import cpp_extension as c; print(*("-L" + path for path in c.library_paths()))')
# shellcheck disable=SC2086
g++ -shared "$work"/*.o build/objects/csrc/torch/*.o $libraries -ltorch_python -ltorch -ltorch_cpu -lc10 \
    -o "$work/python/ls_loss/$extension"
export PYTHONPATH=$work/python PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
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
if [ $# -eq 0 ]; then set -- test_forward.py test_backward.py test_special_values.py test_errors.py test_bad_inputs.py test_properties.py; fi
exec python -m pytest -q -p no:cacheprovider --rootdir="$root" -c "$root/pyproject.toml" "${@/#test_/$root/tests/test_}"
