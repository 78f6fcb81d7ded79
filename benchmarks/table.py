"""Writes the figures of a results CSV as Markdown: python -m benchmarks.table [--write]

With --write they replace the block between the markers in README.md, so that no figure there is typed by hand. Must not know
how they were measured.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import results
from .oracle import ERRORS, TOLERANCE
from .providers import COPY, HUGE_PAGES, OURS, READ
from .results import Row

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures: written by python -m benchmarks.table --write -->", "<!-- end of figures -->"
OTHERS = ("ls_loss compiled", "native", HUGE_PAGES, "native compiled", "fastai", "timm", "transformers")
MODE = "forward+backward"

Times = dict[str, float]


def by_batch(rows: Iterable[Row], mode: str, metric: str) -> dict[tuple[str, str, int], Times]:
    """The medians of all providers, for every shape, dtype and number of threads."""
    found: dict[tuple[str, str, int], Times] = {}
    for row in rows:
        if (row.mode, row.metric) == (mode, metric):
            found.setdefault((row.shape, row.dtype, row.threads), {})[row.provider] = row.median
    return found


def digits(value: float) -> str:
    """Two or three digits that count, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}".removesuffix(".0")


def elements(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))


def logits_of(shape: str, dtype: str) -> str:
    return f"[{shape.replace('x', ', ')}]" + (f" {dtype}" if dtype != "float32" else "")


def ratio(times: Times, name: str, wrong: set[str]) -> str:
    """How many times as long as ls_loss; less than 1 stands out, and so does what is not right."""
    if name not in times:
        return "-"
    value = times[name] / times[OURS]
    return (digits(value) if value >= 1 else f"**{value:.2f}**") + " (!)" * (name in wrong)


def wrong_losses(rows: list[Row]) -> dict[tuple[str, str, int], set[str]]:
    """Who computes something else than the loss, for every batch."""
    wrong: dict[tuple[str, str, int], set[str]] = {}
    for row in rows:
        if row.metric in ERRORS and not row.median <= TOLERANCE[row.dtype]:
            wrong.setdefault((row.shape, row.dtype, row.threads), set()).add(row.provider)
    return wrong


def time_table(rows: list[Row], mode: str, limit: str) -> Iterator[str]:
    """One line for every batch: the time of ls_loss, its ratio to the limit, and the others' to it."""
    yield f"| logits | threads | ls_loss, ms | / {limit} | " + " | ".join(OTHERS) + " |"
    yield "|---|" + "---:|" * (3 + len(OTHERS))
    wrong = wrong_losses(rows)
    for key, times in by_batch(rows, mode, "time").items():
        shape, dtype, threads = key
        cells = [logits_of(shape, dtype), str(threads), digits(times[OURS]), f"{times[OURS] / times[limit]:.2f}"]
        yield "| " + " | ".join(cells + [ratio(times, name, wrong.get(key, set())) for name in OTHERS]) + " |"


def slower(rows: list[Row]) -> str:
    """Where something else is faster, in words."""
    places = [
        f"{name} at [{shape.replace('x', ', ')}] {dtype}, {mode}, {threads} thread{'s' * (threads > 1)}"
        for mode in (MODE, "forward")
        for (shape, dtype, threads), times in by_batch(rows, mode, "time").items()
        for name in OTHERS
        if name.startswith("native") and times.get(name, times[OURS]) < times[OURS]
    ]
    return (
        "Native is faster nowhere in these figures."
        if not places
        else "Faster than ls_loss: " + "; ".join(places) + "."
    )


def inaccurate(rows: list[Row]) -> str:
    """What the mark in the table means, where there is one."""
    limits = ", ".join(
        f"{TOLERANCE[dtype]:g} for {dtype}" for dtype in sorted({dtype for _, dtype, _ in wrong_losses(rows)})
    )
    return f"(!): relative error of the loss or of the gradient above {limits}, infinite included." if limits else ""


def memory(rows: list[Row], threads: int) -> str:
    """What a step of the largest float32 batch takes beyond the logits, in words."""
    kinds = {key for key in by_batch(rows, MODE, "peak memory") if key[1:] == ("float32", threads)}
    if not kinds:
        return ""
    peaks, parked, faults = (by_batch(rows, MODE, metric) for metric in ("peak memory", "parked memory", "page faults"))
    key = max(kinds, key=lambda kind: peaks[kind][OURS])
    named = [name for name in (OURS, "native", "native compiled") if name in peaks[key]]
    kept = f" ({parked[key][OURS]:.0f} of them stay parked for the next step)" if key in parked else ""
    return (
        f"Peak memory beyond the logits, [{key[0].replace('x', ', ')}]: "
        + ", ".join(f"{name} {peaks[key][name]:.0f} MiB{kept * (name == OURS)}" for name in named)
        + "; page faults of a step: "
        + ", ".join(f"{name} {faults[key][name]:.0f}" for name in named)
        + "."
    )


def setting(rows: list[Row]) -> str:
    """Machine, versions, commit and date, in words."""
    first, last = rows[0], rows[-1]
    versions = sorted(
        {f"{row.provider} {row.version}" for row in rows if row.provider in ("fastai", "timm", "transformers")}
    )
    dates = first.date if first.date == last.date else f"{first.date} to {last.date}"
    isas = ", ".join(dict.fromkeys(row.isa for row in rows))
    commits = [f"commit {row.commit}".replace("+", " with changes") for row in rows if row.commit]
    low, high = min(row.load for row in rows), max(row.load for row in rows)
    busy = (
        " The machine was busy with other work: rough figures." if high > max(row.threads for row in rows) + 1 else ""
    )
    return (
        f"{dates}, {first.machine}, {isas}, load average {low:g} to {high:g}; "
        + ", ".join([f"ls_loss {first.ls_loss}", *dict.fromkeys(commits), f"torch {first.torch}", *versions])
        + f".{busy}"
    )


def markdown(rows: list[Row]) -> str:
    """What README.md has room for: the times on all threads; those on one are in the CSV and in the plots."""
    threads = max(row.threads for row in rows)
    return "\n".join(
        [
            f"Forward and backward, label smoothing 0.1, float32 unless said. `/ {COPY}`: the time of ls_loss in copies of the "
            "logits. The other columns: the time of that loss in times of ls_loss; at 20, ls_loss is 20 times as fast.",
            "",
            *time_table([row for row in rows if row.threads == threads], MODE, COPY),
            "",
            *(f"- {said}" for said in (slower(rows), inaccurate(rows), memory(rows, threads), setting(rows)) if said),
        ]
    )


def replaced(text: str, block: str, begin: str = BEGIN, end: str = END) -> str:
    """The text with the block between the markers."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"There are no markers {begin} and {end} to write between.")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("csv", type=Path, nargs="?", default=results.DEFAULT)
    parser.add_argument("--write", action="store_true", help="into README.md, instead of printing")
    parser.add_argument("--forward", action="store_true", help="print the times of the forward pass alone")
    arguments = parser.parse_args()
    rows = results.read(arguments.csv)
    if arguments.forward:
        print(*time_table(rows, "forward", READ), sep="\n")
    elif arguments.write:
        README.write_text(replaced(README.read_text(encoding="utf-8"), markdown(rows)), encoding="utf-8")
    else:
        print(markdown(rows))


if __name__ == "__main__":
    main()
