"""Runs what `make trust` promises and writes docs/trust.md from the results: each with the command, how it ended, its figures.

    python tools/trust.py [name]...        those parts only; the other sections of the page stay as they are

A part that fails is written as failed, and makes the exit status 1. Knows the commands and the lines of their output that are
figures, and measures nothing itself.
"""

import datetime
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

import ls_loss

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trust.md"
INTRODUCTION = """# Trust

What was run to find errors, and what it found; written by `make trust`, section by section. Accuracy is in
[numerics](numerics.md).
"""

# name: (title, command, the lines of the output that are figures)
PARTS = {
    "defects": (
        "Native's thirteen defects",
        "python -m pytest -q -rPs tests/test_native_defects.py",
        r"^defect |^SKIPPED|passed|failed",
    ),
    "bad-inputs": (
        "Bad inputs",
        "python -m pytest -q tests/test_errors.py tests/test_bad_inputs.py tests/test_bad_inputs_ours.py",
        r"passed|failed",
    ),
    "determinism": ("Threads, forks, runtimes", "python -m pytest -q tests/test_openmp.py", r"passed|failed"),
    "faults": (
        "Failing memory, hooks, a soak",
        "LS_LOSS_DEEP=1 python -m pytest -q tests/test_faults.py",
        r"passed|failed|KiB",
    ),
    "kernels": ("The C tests", "make test-kernels", r"ULP|unit\)|rounded once|mismatches"),
    "sanitizers": ("Sanitizers", "make test-sanitizers", r"mismatches|canary|passed|failed|ERROR|WARNING"),
    "analyze": ("Static analysis", "make analyze", r"^(ok|FAILED) "),
    "fuzz-kernels": ("Fuzzing of the kernels", "make fuzz-kernels", r"stat::|Done|ERROR|SUMMARY"),
    "fuzz-python": ("Drawn calls", "make fuzz-python", r"passed|failed"),
    "mutants": ("Planted bugs", "make mutants", r"mutants killed|^survives"),
    "accuracy": ("Accuracy", "python tools/measure_accuracy.py --write", r"^Largest errors"),
}


def section(name):
    title, command, figures = PARTS[name]
    begin = time.monotonic()
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    lines = [line.rstrip()[:160] for line in done.stdout.splitlines() if re.search(figures, line)]
    minutes = (time.monotonic() - begin) / 60
    where = f"{datetime.date.today()}, torch {torch.__version__}, {platform.machine()}, {ls_loss.config()['isa']}"
    verdict = "passed" if done.returncode == 0 else f"FAILED (exit status {done.returncode})"
    shown = "\n".join(lines[:80])
    return (
        done.returncode,
        f"## {title}\n\n`{command}`: {verdict} in {minutes:.0f} minutes; {where}.\n\n```text\n{shown}\n```\n",
    )


def main(chosen):
    """Rewrites the sections one by one, so that what is done stands when a later part is stopped."""
    old = PAGE.read_text() if PAGE.exists() else ""
    sections = {title: text for text in re.split(r"(?m)^(?=## )", old)[1:] for title in [text.splitlines()[0][3:]]}
    failed = 0
    for name in chosen or PARTS:
        status, text = section(name)
        failed |= status != 0
        sections[PARTS[name][0]] = text
        ordered = [sections[title].rstrip("\n") for title, *_ in PARTS.values() if title in sections]
        PAGE.write_text("\n\n".join([INTRODUCTION.rstrip("\n"), *ordered]) + "\n")
        print(text.splitlines()[2], flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
