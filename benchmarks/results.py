"""The table of results, benchmarks/data/results.csv: one row for each figure, with all that makes it comparable.

Writes and reads rows; must not know how a figure is measured or shown.
"""

import csv
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch

import ls_loss

from .batches import Batch, name_of
from .timing import load_average, machine

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "benchmarks" / "data" / "results.csv"
# Written by the benchmarks themselves: what differs in them does not change what is measured.
GENERATED = ("benchmarks/data", "benchmarks/README.md", "README.md", "docs/performance.md", "docs/figures")


@dataclass(frozen=True)
class Row:
    """One figure: the median of the samples and the quantiles 0.2 and 0.8."""

    date: str
    machine: str
    load: float  # processes that wanted to run in the minute before
    python: str
    torch: str
    ls_loss: str
    isa: str
    threads: int
    provider: str
    version: str
    shape: str  # as in 4096x32000, classes second
    dtype: str
    mode: str  # a step of providers.py; copy and read stand with the one whose limit they are
    metric: str  # time, peak memory, parked memory, page faults, loss error, gradient error
    unit: str
    median: float
    low: float
    high: float
    samples: int
    commit: str = ""  # with a + where tracked files differed from it; empty outside git


KINDS = {"load": float, "threads": int, "median": float, "low": float, "high": float, "samples": int}


@cache
def commit() -> str:
    """What was checked out when this process first asked."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", ROOT, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT.resolve():
            return ""  # sources without a history, unpacked within another project
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in GENERATED))
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def row(
    batch: Batch, provider: str, version: str, mode: str, metric: str, unit: str, median: float,
    low: float | None = None, high: float | None = None, samples: int = 1,
) -> Row:  # fmt: skip
    """A figure taken in this process, now."""
    return Row(
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=machine(),
        load=round(load_average(), 1),
        python=platform.python_version(),
        torch=torch.__version__,
        ls_loss=str(ls_loss.config()["version"]),
        isa=str(ls_loss.config()["isa"]),
        threads=batch.threads,
        provider=provider,
        version=version,
        shape="x".join(map(str, batch.shape)),
        dtype=name_of(batch.dtype),
        mode=mode,
        metric=metric,
        unit=unit,
        median=_digits(median),
        low=_digits(median if low is None else low),
        high=_digits(median if high is None else high),
        samples=samples,
        commit=commit(),
    )


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes all rows; a file that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read(path: Path) -> list[Row]:
    """The rows of a file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: KINDS.get(name, str)(text) for name, text in line.items()}) for line in csv.DictReader(file)
        ]
