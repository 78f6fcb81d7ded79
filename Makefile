# Everything one types in this repository. Needs python3 (3.10 or newer), gcc and g++; the first call of a target sets up what
# else it needs, in .venv and build, and the next call finds it there. The compiler's flags are in setup.py.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
JOBS := $(shell nproc)

TOOLS := $(VENV)/.installed
TRAINERS := $(VENV)/.trainers
BUILT := build/.built
SOURCES := $(wildcard csrc/*/*.c csrc/*/*.cpp csrc/*/*.h)

.PHONY: compare-hardening compare-kernels analyze fuzz-kernels fuzz-python mutants test-sanitizers trust bench-kernels exp-table help demo test test-python test-long test-compile test-isa test-huge test-trainers test-kernels test-neon lint format bench bench-quick bench-options train-lm compile-commands docs check-docs support build ops-library clean distclean sdist wheel reproducible lock sbom

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "    make %-17s %s\n", $$1, $$2 }' Makefile

demo: $(BUILT) ## train on handwritten digits with hard and with smoothed labels, then time the loss
	python examples/train_digits.py

test: test-kernels test-python ## the C kernels alone (plain, then with sanitizers), then Python; not what the test-... below take

LONG_TESTS := $(addprefix tests/,test_torch_opinfo.py test_examples.py test_train_lm.py)

test-python: $(BUILT) ops-library ## the Python tests and the examples in the docstrings
	python -m pytest $(LONG_TESTS:%=--ignore=%)

test-long: $(BUILT) ## what `make test` leaves out for its time: torch's own test data, the examples; some minutes
	python -m pytest $(LONG_TESTS)

test-isa: $(BUILT) ops-library ## the Python tests once more with each other instruction set that this machine has; nine minutes each
	@isas=$$(python -c 'import ls_loss; c = ls_loss.config(); print(*[i for i in c["isa_available"] if i != c["isa"]])'); \
	[ -n "$$isas" ] || { echo "this machine has no other instruction set"; exit 1; }; \
	for isa in $$isas; do \
	    echo "== LS_LOSS_ISA=$$isa"; LS_LOSS_ISA=$$isa $(MAKE) --no-print-directory test-python || exit 1; \
	done

test-compile: $(BUILT) ops-library ## what Inductor compiles: every mode, dynamic sizes, AOTInductor packages; some minutes
	python -m pytest --junitxml=build/reports/compile.xml tests/compile

test-huge: $(BUILT) ## sums of 10^8 losses, more than 2^31 elements; needs 18 GiB of memory; minutes
	python -m pytest -q -rPs tests/huge

test-trainers: $(TRAINERS) $(BUILT) ## Hugging Face, Lightning and others, DDP, FSDP2, the pages on them; installs them first
	python -m pytest --junitxml=build/reports/trainers.xml tests/trainers tests/test_docs.py::test_python_runs

lint: $(TOOLS) ## formatting, types, compiler warnings and the rules on who may know what
	tools/lint.sh

format: $(TOOLS) ## rewrite the sources in the project's format
	ruff check --quiet --fix-only .
	ruff format .
	clang-format -i $$(git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cpp')

bench: $(BUILT) ## measure against native, compiled and other losses; tables and figure of README and docs; a quarter of an hour
	@date +%s >build/bench-began
	python -m benchmarks.run
	case $$(python -c "import ls_loss; print(ls_loss.config()['isa'])") in avx512) \
	    LS_LOSS_ISA=avx2 python -m benchmarks.run --only ls_loss native --output benchmarks/data/avx2.csv;; esac
	python -m benchmarks.table --write
	python -m benchmarks.page
	python -m benchmarks.plot
	@echo "All of it took $$((($$(date +%s) - $$(<build/bench-began) + 30) / 60)) minutes."

bench-quick: $(BUILT) ## the same on few sizes
	python -m benchmarks.run --quick

bench-options: $(BUILT) ## what options, transforms and size cost beside the plain call; three minutes
	python -m benchmarks.options
	python -m benchmarks.page

bench-kernels: build/bench_kernels ## the C kernels alone, every instruction set, in the first cache and against a copy; three minutes
	python -m benchmarks.kernels
	python -m benchmarks.page

build/bench_kernels: benchmarks/bench_kernels.c $(BUILT)
	@gcc -std=c11 -D_GNU_SOURCE -O2 -fopenmp $< -Lbuild/archive -lls_kernels -lm -o $@

BEFORE ?= HEAD
COMPARED_ISAS ?= avx512 avx2
COMPARED := gcc -O3 -fPIC -shared -std=c11 -ffp-contract=off -fno-math-errno -fopenmp
PROTECTED := $(COMPARED) -fstack-protector-strong

# $(call compare,compiler and sources before,compiler and sources after)
define compare
	$(1) -lm -o build/compare/before.so & $(2) -lm -o build/compare/after.so && wait $$!
	gcc -std=c11 -D_GNU_SOURCE -O2 benchmarks/compare_kernels.c -ldl -o build/compare/compare_kernels
	for isa in $(COMPARED_ISAS); do build/compare/compare_kernels build/compare/{before,after}.so $$isa 1 0.5 || exit 1; done
endef

compare-kernels: ## what a change of the kernels costs or gains: this tree in times of the commit BEFORE=...; four minutes
	@rm -rf build/compare && mkdir -p build/compare
	git archive $(BEFORE) csrc/kernels | tar -x -C build/compare
	$(call compare,$(PROTECTED) build/compare/csrc/kernels/*.c,$(PROTECTED) csrc/kernels/*.c)

compare-hardening: ## what stack protectors cost the kernels: with them, in times of without; four minutes
	@rm -rf build/compare && mkdir -p build/compare
	$(call compare,$(COMPARED) csrc/kernels/*.c,$(PROTECTED) csrc/kernels/*.c)

train-lm: $(BUILT) ## train a language model with native and with ls_loss: speed, memory, the same losses; four minutes
	python -m benchmarks.train_lm

compile-commands: $(BUILT) ## compile_commands.json, for clangd and other tools that read C and C++
	python tools/compile_commands.py

docs: $(BUILT) $(VENV)/.docs build/mathjax/tex-svg.js ## the documentation as a site, build/docs/index.html
	python -m sphinx -W --keep-going -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

check-docs: docs ## opens every page in a headless Chromium: errors, links, formulas, pictures; screenshots in build/docs-screenshots
	python tools/check_docs.py

support: $(TRAINERS) $(BUILT) ## tries every feature with ls_loss and with native, and writes docs/support.md; a quarter of an hour
	python tools/support_table.py

build: $(BUILT) ## set up .venv and build the extension in place

clean: ## remove what was built, and caches; .venv stays
	rm -rf build dist *.egg-info ls_loss/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)

# Set-up

# What is installed is checked against the hashes in requirements-*.lock; torch, of which there are many builds, is not, nor are
# uv and MathJax, which are for the maintainer's lock and docs alone.

INSTALL := python -m pip install --disable-pip-version-check --progress-bar off
LOCKED := $(INSTALL) --no-deps --require-hashes

$(TOOLS): requirements-dev.txt requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(VENV)/bin/python || { echo "== creating the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "== installing the pinned tools into $(VENV): torch and about 80 small packages, some minutes on a slow network"
	$(LOCKED) -r requirements-dev.lock | sed -u '/^Requirement already/d'
	$(INSTALL) --no-warn-conflicts $$(grep '^torch==' requirements-dev.txt) | sed -u '/^Requirement already/d'
	@touch $@

$(VENV)/.docs: requirements-docs.lock $(TOOLS)
	@echo "== installing the documentation's tools into $(VENV)"
	$(LOCKED) -r requirements-docs.lock | sed -u '/^Requirement already/d'
	@touch $@

$(TRAINERS): requirements-trainers.lock $(TOOLS)
	$(LOCKED) -r requirements-trainers.lock
	@touch $@

UV := build/uv/bin/uv
HASHES := $(UV) pip compile --quiet --universal --no-deps --generate-hashes --no-annotate --custom-compile-command 'make lock' -

lock: $(UV) ## requirements-*.lock, after a pin has changed: the hashes of all files that the registry has of each pin
	grep -hv '^torch==' requirements-dev.txt requirements-peers.txt | $(HASHES) --python-version 3.10 -o requirements-dev.lock
	$(HASHES) --python-version 3.11.5 -o requirements-docs.lock <requirements-docs.txt
	$(HASHES) --python-version 3.10 -o requirements-trainers.lock <requirements-trainers.txt

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --disable-pip-version-check --quiet uv==0.13.9

MATHJAX := 3.2.2

build/mathjax/tex-svg.js:
	@command -v npm >/dev/null || { echo "There is no npm here, which fetches MathJax: apt install npm"; exit 1; }
	@mkdir -p $(@D)
	npm pack --silent --pack-destination $(@D) mathjax@$(MATHJAX)
	tar -xzf $(@D)/mathjax-$(MATHJAX).tgz -C $(@D) --strip-components 2 package/es5/tex-svg.js
	@rm $(@D)/mathjax-$(MATHJAX).tgz
	@touch $@

$(BUILT): $(TOOLS) setup.py pyproject.toml $(SOURCES)
	@echo "== compiling and installing ls_loss in place: a few minutes the first time, later only what changed"
	python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps --editable .
	@touch $@

# The operators without pybind11 and torch_python, for C++ programs: load build/libls_loss_ops.so beside libtorch, and
# torch.ops.ls_loss.* are there. Not into a process that imports ls_loss as well: operators register once.

ops-library: build/libls_loss_ops.so ## build/libls_loss_ops.so, the same operators for C++ programs without Python

build/libls_loss_ops.so: $(BUILT)
	$${CXX:-g++} -shared -Wl,-z,relro,-z,now,-z,noexecstack $$(ls build/objects/csrc/torch/*.o | grep -v /module.o) \
	    -Lbuild/archive -lls_kernels -L$$(python -c 'from torch.utils import cpp_extension as c; print(*c.library_paths())') \
	    -ltorch -ltorch_cpu -lc10 -o $@

# Packages, from the files of the working tree and never from what was built in it: the wheel is compiled anew, from the sdist.

EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)
PACKAGES = SOURCE_DATE_EPOCH=$(EPOCH) python -m build --quiet --no-isolation

sdist: $(TOOLS) ## the source distribution, in dist
	$(PACKAGES) --sdist

wheel: $(TOOLS) ## the source distribution, and the wheel for this Python and torch, in dist; some minutes
	$(PACKAGES)

reproducible: $(TOOLS) ## two wheels, compiled in two folders: are they the same bytes?
	@rm -rf build/reproducible
	@mkdir -p build/reproducible/{one,another}/temporary
	for folder in one another; do \
	    TMPDIR=$(CURDIR)/build/reproducible/$$folder/temporary $(PACKAGES) --outdir build/reproducible/$$folder; done
	cd build/reproducible && sha256sum */*.whl && cmp {one,another}/*.whl
	@echo "the same bytes"

sbom: $(BUILT) ## build/sbom.cdx.json: what ls_loss needs and what the development environment holds, with licences
	python tools/sbom.py build/sbom.cdx.json

# The kernels' own tests: one program, compiled plainly, with sanitizers and for aarch64. No torch and no Python.

OTHER_PROGRAMS := %/exp_table.c %/exp_table_isa.c %/fuzz_kernels.c %/replay.c
KERNEL_TEST_SOURCES := $(filter-out $(OTHER_PROGRAMS),$(wildcard csrc/kernels/*.c tests/kernels/*.c))
KERNEL_TEST_FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -fopenmp -Wall -Wextra -Icsrc/kernels

# $(call kernel_test,variant,compiler,flags)
define kernel_test
build/kernel-tests/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@$(2) $(KERNEL_TEST_FLAGS) $(3) -MMD -c $$< -o $$@

build/kernel-tests/$(1)/test_kernels: $(KERNEL_TEST_SOURCES:%.c=build/kernel-tests/$(1)/%.o)
	@$(2) -fopenmp $(3) $$^ -lm -o $$@
endef
$(eval $(call kernel_test,plain,gcc,-O3))
$(eval $(call kernel_test,sanitized,gcc,-O1 -g1 -fno-omit-frame-pointer -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all))
$(eval $(call kernel_test,neon,aarch64-linux-gnu-gcc,-O3 -static))
-include $(wildcard build/kernel-tests/*/*/*/*.d)

test-kernels: ## the C tests of the kernels alone
	@echo "== compiling the kernel tests"
	@$(MAKE) --no-print-directory -j$(JOBS) build/kernel-tests/{plain,sanitized}/test_kernels \
	    build/kernel-tests/sanitized/replay
	build/kernel-tests/plain/test_kernels
	build/kernel-tests/sanitized/test_kernels quick
	build/kernel-tests/sanitized/replay tests/kernels/corpus/*
	@$(MAKE) --no-print-directory build/kernel-tests/plain/exp_table
	build/kernel-tests/plain/exp_table 1000003

test-neon: ## the same on emulated aarch64; needs the packages gcc-aarch64-linux-gnu and qemu-user-static
	@$(MAKE) --no-print-directory -j$(JOBS) build/kernel-tests/neon/test_kernels
	qemu-aarch64-static build/kernel-tests/neon/test_kernels quick

# exp of every instruction set over all 2^32 floats: the vocabularies compiled each for itself, beside the kernels.

EXP_ISAS := $(if $(filter aarch64,$(shell uname -m)),scalar neon,scalar avx2 avx512)

# $(call exp_table,variant,compiler,flags,instruction sets)
define exp_table
build/kernel-tests/$(1)/exp_table: tests/kernels/exp_table.c tests/kernels/exp_table_isa.c \
    $(patsubst %.c,build/kernel-tests/$(1)/%.o,$(wildcard csrc/kernels/*.c))
	@for isa in $(4); do $(2) $(KERNEL_TEST_FLAGS) $(3) -DVOCABULARY="\"vec_$$$$isa.h\"" -DEXP_MANY=exp_many_$$$$isa \
	    -c tests/kernels/exp_table_isa.c -o $$(@D)/exp_$$$$isa.o; done
	@$(2) $(KERNEL_TEST_FLAGS) $(3) $$$$(for isa in $(4); do echo -DEXP_$$$${isa^^}; done) $$< $(4:%=$$(@D)/exp_%.o) \
	    $$(filter %.o,$$^) -lm -o $$@
endef
$(eval $(call exp_table,plain,gcc,-O3,$(EXP_ISAS)))
$(eval $(call exp_table,neon,aarch64-linux-gnu-gcc,-O3 -static,neon))

exp-table: build/kernel-tests/plain/exp_table $(BUILT) ## accuracy over all floats, into docs/numerics.md; an hour (STEP=n: every n-th float)
	@rm -f build/exp_table*.txt
	$< $(STEP) >build/exp_table.txt
	if command -v qemu-aarch64-static && command -v aarch64-linux-gnu-gcc; then \
	    $(MAKE) --no-print-directory build/kernel-tests/neon/exp_table && \
	    qemu-aarch64-static build/kernel-tests/neon/exp_table 20011 >build/exp_table_neon.txt; fi
	python -m tools.exp_page build/exp_table*.txt

# Trust: what takes longer than `make test`. Each target installs what it needs with apt-get, as root or through sudo, if its tool is
# missing. FUZZ_SECONDS, FUZZ_RUNS and DEEP say for how long; the minutes are those of one core.

CLANG ?= clang-19
CLANG_TIDY ?= clang-tidy-19
FUZZ_SECONDS ?= 3600
FUZZ_RUNS ?= 100000000
DEEP ?= 15000
TRUST_SOURCES := $(wildcard csrc/kernels/*.c) $(filter-out tests/kernels/main.c $(wildcard tests/kernels/test_*.c) \
    $(wildcard tests/kernels/exp_table*.c) tests/kernels/replay.c,$(wildcard tests/kernels/*.c))
CLANG_FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -fno-omit-frame-pointer -w -g1 -Icsrc/kernels

MSAN_FLAGS := -w -O1 -g1 -DWITH_MSAN -fno-openmp -fsanitize-ignorelist=tests/kernels/msan_ignore.txt -fno-omit-frame-pointer -fsanitize=memory
TSAN_FLAGS := -w -O1 -g1 -fno-omit-frame-pointer -fsanitize=thread
WITH_ARCHER = TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
    OMP_TOOL_LIBRARIES=$$($(CLANG) -print-file-name=libarcher.so) setarch -R
$(eval $(call kernel_test,msan,$(CLANG),$(MSAN_FLAGS)))
$(eval $(call kernel_test,tsan,$(CLANG),$(TSAN_FLAGS)))

# Programs with a bug that a sanitizer must report, compiled and run as the tests are: else it sees nothing there, either.
UNINITIALISED := int main(int count, char **names) { volatile int pair[2]; pair[0] = 0; return pair[count] != 0; }
RACE := int main(void) { int sum = 0; _Pragma("omp parallel num_threads(2)") sum++; return sum < 0; }

# $(call canary,variant,program,flags,how to run it,what the report says)
define canary
	@mkdir -p build/kernel-tests/$(1)
	@echo '$(2)' | $(CLANG) $(KERNEL_TEST_FLAGS) $(3) -x c - -o build/kernel-tests/$(1)/canary
	@$(4) build/kernel-tests/$(1)/canary >build/kernel-tests/$(1)/canary.log 2>&1 || true
	@grep -q $(5) build/kernel-tests/$(1)/canary.log || { echo "the canary, $(5), was not found"; exit 1; }
	@echo "the canary, $(5), was found"
endef

build/fuzz/%.o: %.c
	@mkdir -p $(@D)
	@$(CLANG) $(CLANG_FLAGS) -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -MMD -c $< -o $@

build/fuzz/fuzz_kernels: $(TRUST_SOURCES:%.c=build/fuzz/%.o)
	@$(CLANG) -fsanitize=fuzzer,address,undefined $^ -lm -o $@
-include $(wildcard build/fuzz/*/*/*.d)

# libFuzzer's earlier findings without it, by gcc: a part of test-kernels.
build/kernel-tests/sanitized/replay: $(patsubst %.c,build/kernel-tests/sanitized/%.o,$(TRUST_SOURCES) tests/kernels/replay.c)
	@gcc -fopenmp -fsanitize=address,undefined $^ -lm -o $@

PACKAGES_OF_clang-19 := clang-19 llvm-19 libclang-rt-19-dev libomp-19-dev
APT := $(if $(filter 0,$(shell id -u)),,sudo )apt-get

have-%:
	@command -v $* >/dev/null || { echo "== installing $*"; $(APT) -q update && \
	    $(APT) -qy install --no-install-recommends $(or $(PACKAGES_OF_$*),$*); } >&2

fuzz-kernels: have-$(CLANG) ## libFuzzer on the C kernels, every instruction set against the reference; 10^8 executions or an hour
	@$(MAKE) --no-print-directory -j$(JOBS) build/fuzz/fuzz_kernels
	@mkdir -p build/fuzz/corpus
	build/fuzz/fuzz_kernels $(wildcard tests/kernels/corpus/*) >build/fuzz/replay.log 2>&1 || { tail -n 20 build/fuzz/replay.log; exit 1; }
	@echo "replayed $(words $(wildcard tests/kernels/corpus/*)) earlier findings: nothing found"
	cd build/fuzz && ./fuzz_kernels -runs=$(FUZZ_RUNS) -max_total_time=$(FUZZ_SECONDS) -timeout=60 -max_len=4096 \
	    -print_final_stats=1 corpus ../../tests/kernels/corpus >fuzz.log 2>&1 || { grep -vE 'NEW|symboli' fuzz.log | tail -n 40; exit 1; }
	@grep -E 'stat::|^Done' build/fuzz/fuzz.log

fuzz-python: $(BUILT) ## drawn calls against float64, DEEP=15000 for a property, 50 times those of make test; ten minutes
	@echo "DEEP=$(DEEP): so many calls for test_class_indices, a quarter for each of the others"
	LS_LOSS_DEEP=$(DEEP) python -m pytest -q tests/test_properties.py

test-sanitizers: have-$(CLANG) have-valgrind $(BUILT) ## MSan, TSan and valgrind on the C tests, ASan under Python; half an hour
	@$(MAKE) --no-print-directory -j$(JOBS) build/kernel-tests/{plain,msan,tsan}/test_kernels
	@echo "== MSan, without threads"
	$(call canary,msan,$(UNINITIALISED),$(MSAN_FLAGS),,use-of-uninitialized-value)
	build/kernel-tests/msan/test_kernels quick
	@echo "== TSan, with clang's OpenMP and Archer"
	$(call canary,tsan,$(RACE),$(TSAN_FLAGS),$(WITH_ARCHER),data.race)
	$(WITH_ARCHER) build/kernel-tests/tsan/test_kernels quick threads callers bad_arguments many_rows scale
	@echo "== valgrind, to AVX2: of memory alone, its long double is too short to judge values (exit status 1)"
	$(call canary,valgrind,$(UNINITIALISED),-O1 -g1,valgrind --quiet,uninitialised)
	valgrind --quiet --error-exitcode=99 --log-file=build/valgrind.log build/kernel-tests/plain/test_kernels \
	    quick callers row_sizes plane_sizes special_positions empty scale smooth_labels >build/valgrind.out || test $$? -eq 1 || \
	    { cat build/valgrind.log; exit 1; }
	@test ! -s build/valgrind.log && grep -qE '^(ok|FAILED) in' build/valgrind.out && echo "valgrind: nothing found"
	@echo "== ASan under Python"
	tools/asan_python.sh
	LS_LOSS_ISA=scalar tools/asan_python.sh test_special_values.py

analyze: have-$(CLANG_TIDY) have-cppcheck $(BUILT) ## gcc -fanalyzer, clang-tidy, cppcheck on the kernels, tidy on glue
	CLANG_TIDY=$(CLANG_TIDY) tools/analyze.sh

mutants: $(BUILT) ## plants some 200 bugs in kernels and glue and shows which the tests miss; an hour and a half
	python tools/mutate.py

trust: $(BUILT) ## all of these and the measured accuracy, as docs/trust.md; three and a half hours. tools/trust.py takes single parts
	python tools/trust.py
