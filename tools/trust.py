"""Runs what `make trust` promises and writes docs/trust.md from the results: each with the command, how it ended, its figures.

    python tools/trust.py [name]...        those parts only; the other sections of the page stay as they are
    python tools/trust.py --page           the page alone, from the parts that are there

Every part writes a file of its own, build/trust/<name>.md, and the page is put together from all of them, so that several
processes can run parts side by side. A part that fails is written as failed, and makes the exit status 1; one that has not run
is listed as such. Knows the commands and the lines of their output that are figures, and measures nothing itself.
"""

import datetime
import fcntl
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trust.md"
INDEX = ROOT / "docs" / "index.md"
PARTS_DONE = ROOT / "build" / "trust"
LINES = 100  # of figures, for one part
WIDTH = 200  # of a line
INTRODUCTION = """# Trust

What was run to find errors, and what it found; written by `make trust` from the output of each run. Nothing here is written by
hand but the sentences that say what a run is. A part can be repeated alone, by the command under its title. Accuracy is in
[numerics](numerics.md), every feature beside native's in [support](support.md).
"""

# name: (title, what it is, command, the lines of the output that are figures)
PARTS = {
    "defects": (
        "Native's thirteen defects",
        "Each of the defects of native cross_entropy that are known as A to M: ours must be right against float64; native's "
        "figure stands beside it. Skipped, with that line, is what this torch has mended.",
        "python -m pytest -q -rPs tests/test_native_defects.py",
        r"^defect |^SKIPPED|passed|failed",
    ),
    "bad-inputs": (
        "Bad inputs",
        "What native rejects must raise native's type and text, asked of native in the same test; what only ours has, a "
        "text that names the argument. After each, nothing has changed and the next call is right.",
        "python -m pytest -q tests/test_errors.py tests/test_bad_inputs.py tests/test_bad_inputs_ours.py",
        r"passed|failed|^FAILED|^ERROR",
    ),
    "determinism": (
        "Threads, forks, runtimes",
        "No OpenMP runtime beside torch's in any order of imports, torch's settings obeyed, the same bits for any number of "
        "threads; forks, spawned processes, interrupts and calls from parallel regions survived, and the end of the process, "
        "but for daemon threads within a call. Native's figures are defects J and M above.",
        "python -m pytest -q tests/test_determinism.py tests/test_openmp.py tests/test_processes.py",
        r"passed|failed|^FAILED|^ERROR",
    ),
    "neighbours": (
        "Beside numpy, scipy and scikit-learn",
        "Calls of theirs in turn with losses, in one process: the median time of the one, in times of that with a sweep over "
        "memory in place of the other. Threads of OpenMP and OpenBLAS spin for some milliseconds after their work, on cores "
        "that the other's threads want: that is what the first half of the table shows, of native as of ls_loss. Told to "
        "sleep, they are hardly in each other's way; how: [threads and processes](how-to/threads-and-processes.md).",
        "python -m benchmarks.neighbours",
        r"^\||threads",
    ),
    "huge": (
        "Sums of 10^8 losses, and more than 2^31 elements",
        "Against float64: the sums in ULP of the result; of the large batches the first rows, the last, and those at element "
        "2^31.",
        "make test-huge",
        r"losses, smoothing|: right|passed|failed|^SKIPPED|^FAILED|^ERROR",
    ),
    "faults": (
        "Faults injected",
        "The address space ended at six distances above what is in use, and at losses, copies and scratch: an error or the "
        "right loss; pages of the kept gradient taken back by the system; hooks that raise; 10^5 "
        "calls, with planes, probabilities, priors and hooks among them and one in nine with a bad target, after which the "
        "process may hold 2 MiB more. Native is not measured.",
        "LS_LOSS_DEEP=1 python -m pytest -q -rP tests/test_faults.py tests/test_grad_buffer.py",
        r"passed|failed|KiB|^FAILED|^ERROR",
    ),
    "kernels": (
        "The C tests",
        "Every instruction set against a reference in long double, between guard pages; once more with gcc's ASan and UBSan, "
        "which earlier findings of the fuzzer meet, too. The figures are the largest errors of all, each with the beginning "
        "of the problem that has it; unit: that of the error model in tests/kernels/reference.h, which grows where terms "
        "cancel; unit or ULP: the larger of the two.",
        "make test-kernels",
        r"^threading openmp|^  .*(ULP|unit)\)|rounded once|mismatches|replayed",
    ),
    "sanitizers": (
        "Sanitizers",
        "The C tests under MSan, to which results and scratch memory count as never written; those of threads under TSan; of "
        "each strategy some under valgrind, without AVX-512; and Python under ASan: values, gradients, errors, transforms, "
        "not forks nor the end of the process. Each must first find a canary.",
        "make test-sanitizers",
        r"^==|mismatches|canary|passed|failed|^FAILED|ERROR|WARNING|valgrind:",
    ),
    "analyze": (
        "Static analysis",
        "An analyser with findings would show them below its name; "
        "those answered are named in `tools/analyze.sh`, with the answer.",
        "make analyze",
        r"^(ok|FAILED) |^  ",
    ),
    "fuzz-kernels": (
        "Fuzzing of the kernels",
        "libFuzzer under ASan and UBSan; an execution is one problem, which every instruction set solves with and without "
        "gradient and at both ends of a buffer, judged against long double; one in 32 is large, two in 32 are for the scaling "
        "of gradients and for smooth_labels. One thread. It ends after 10^8 executions or an hour.",
        "make fuzz-kernels",
        r"stat::|Done|ERROR|SUMMARY|runtime error|replayed",
    ),
    "fuzz-python": (
        "Drawn calls",
        "hypothesis draws calls of the Python interface anew, which are judged against float64 within the error model.",
        "make fuzz-python",
        r"DEEP=|passed|failed|^FAILED|^ERROR|Falsifying",
    ),
    "mutants-kernels": (
        "Bugs planted in the kernels",
        "Slips planted one at a time in copies of the sources (`tools/mutants.py` has them): do the C tests find them, or a "
        "minute of Python tests? Portable C and AVX2 are compiled; what only AVX-512 or NEON reads has no slips. The sources "
        "as they are must pass in the same way. The lines are the totals, and every survivor with the answer to it; the run "
        "has failed while one has none.",
        "python tools/mutate.py kernels",
        r"^the unchanged|mutants .*killed|^survives|^    answer|not found",
    ),
    "mutants-glue": (
        "Bugs planted in the glue",
        "The same for the C++ files and the Python tests.",
        "python tools/mutate.py glue",
        r"^the unchanged|mutants .*killed|^survives|^    answer|not found",
    ),
    "supply-chain": (
        "Supply chain",
        "What is built twice, in two folders, has the same bytes; the tests are of hardening flags, of the hashes of what is "
        "installed, of the bill of materials and of the workflows.",
        "make ops-library && python -m pytest -q tests/test_supply_chain.py && make reproducible",
        r"passed|failed|the same bytes|differ|^FAILED|^ERROR",
    ),
    "accuracy": (
        "Accuracy",
        "Errors of ours and of native in ULP, as tables in [numerics](numerics.md).",
        "python tools/measure_accuracy.py --write",
        r"^\||^Largest errors",
    ),
}


def where():
    """Machine and versions, asked in another process: this one is not to load torch for days."""
    code = "import torch, ls_loss; print('torch', torch.__version__ + ',', ls_loss.config()['isa'])"
    versions = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = ("git", "status", "--porcelain", "--", ".", ":!docs")  # docs: other parts write the page meanwhile
    dirty = subprocess.run(changed, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    describe = ("git", "rev-parse", "--short", "HEAD")
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    commit += " with changes" if dirty else ""
    return f"{datetime.date.today()}, commit {commit}, {versions.stdout.strip()}, {platform.machine()}"


def largest(lines):
    """Of lines that give an error under the same name only the one with the largest."""
    kept = {}
    for line in lines:
        error = re.match(r"  (\S.*(?:ULP|unit)\)) +([0-9.]+) ", line)
        name, size = (error[1], float(error[2])) if error else (len(kept), 0.0)
        if name not in kept or size > kept[name][0]:
            kept[name] = size, line
    return [line for _, line in kept.values()]


def run_part(name):
    """Runs one part and writes its section; the whole output stays beside it."""
    title, what, command, figures = PARTS[name]
    log = PARTS_DONE / f"{name}.log"
    begin, stated = time.monotonic(), where()  # before, for the sources may change meanwhile
    with log.open("w") as output:
        status = subprocess.run(
            command, shell=True, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = time.monotonic() - begin
    took = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    verdict = "passed" if status == 0 else f"**FAILED** (exit status {status})"
    found = largest(line.rstrip() for line in log.read_text(errors="replace").splitlines() if re.search(figures, line))
    if len(found) > LINES:
        found = [*found[: LINES - 1], f"... and {len(found) - LINES + 1} more lines"]
    if status != 0:
        found += log.read_text(errors="replace").splitlines()[-5:]  # how it ended
    shown = "\n".join(line.replace(str(ROOT), ".")[:WIDTH] for line in found) or "no figures"
    text = f"## {title}\n\n{what}\n\n`{command}`: {verdict} in {took}; {stated}.\n\n```text\n{shown}\n```\n"
    new = PARTS_DONE / f"{name}.md.{os.getpid()}"
    new.write_text(text)
    new.replace(PARTS_DONE / f"{name}.md")
    print(f"{name}: {verdict} in {took}", flush=True)
    return status


def write_page():
    """From the parts that are there; of the others, what the page said before, or that they have not run."""
    with (PARTS_DONE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = PAGE.read_text() if PAGE.exists() else ""
        before = {text.splitlines()[0][3:]: text for text in re.split(r"(?m)^(?=## )", old)[1:]}
        sections = []
        for name, (title, what, command, _) in PARTS.items():
            part = PARTS_DONE / f"{name}.md"
            unknown = f"## {title}\n\n{what}\n\n`{command}`: not run yet.\n"
            sections.append((part.read_text() if part.exists() else before.get(title, unknown)).rstrip("\n"))
        new = PAGE.with_suffix(".new")
        new.write_text("\n\n".join([INTRODUCTION.rstrip("\n"), *sections]) + "\n")
        new.replace(PAGE)
        index = INDEX.read_text()
        if "\ntrust\n" not in index:  # Sphinx takes no contents without the page, and no page outside the contents
            INDEX.write_text(index.replace("\ndesign\n", "\ndesign\ntrust\n", 1))


def main(arguments):
    chosen = [a for a in arguments if a != "--page"]
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise SystemExit(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    PARTS_DONE.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in chosen or ([] if "--page" in arguments else PARTS):
        failed |= run_part(name) != 0
        write_page()
    write_page()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
