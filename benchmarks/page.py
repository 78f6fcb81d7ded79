"""Writes the tables of docs/performance.md from the CSVs: python -m benchmarks.page

What was reached beside what was aimed at, what options cost, AVX2 on a machine that has AVX-512, and the kernels alone. A
figure that misses its goal stands out. Must not know how a figure was measured.
"""

from pathlib import Path

import torch

from . import kernels, options, results
from .goals import AVX2_GOALS, COMPARISONS, COMPILED, FORWARD_GOALS, GOALS, LIMIT, OVERHEAD_MS, Goals
from .providers import COPY, HUGE_PAGES, NATIVE, OURS, READ
from .results import Row
from .table import MODE, by_batch, elements, logits_of, replaced, setting

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
AVX2 = results.DEFAULT.with_name("avx2.csv")

# What the kernels were measured on: rows that stay in the first cache, in two sizes, and a batch that stays in none.
FEW_CLASSES = ("64x10", "256x10"), "65536x10"
IN_CACHE = {
    ("float32", "rows of 10 classes"): FEW_CLASSES,
    ("float32", "long rows"): (("1x1024", "1x3072"), "4096x32000"),
    ("bfloat16", "long rows"): (("1x1024", "1x3072"), "4096x32000"),
    ("float16", "long rows"): (("1x1024", "1x3072"), "4096x32000"),
    ("float64", "long rows"): (("1x512", "1x1536"), "2048x32000"),
}


class Kernels:
    """The figures of the kernels alone."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.isas = list(dict.fromkeys(row.isa for row in rows if row.provider == OURS))
        self._rows = {
            (row.isa if row.provider == OURS else row.provider, row.shape, row.dtype, row.mode, row.threads): row
            for row in rows
        }

    def time(self, isa: str, shape: str, dtype: str, mode: str, threads: int) -> float:
        """In ms; of the copy where it stands for the instruction set."""
        return self._rows[isa, shape, dtype, mode, threads].median

    def in_cache(self, isa: str, dtype: str, sizes: tuple[str, str], mode: str) -> float:
        """ms for each element where memory costs nothing: what the larger of two sizes takes longer. From the low quantiles: a
        limit is what can be reached."""
        less, more = (self._rows[isa, shape, dtype, mode, 1].low for shape in sizes)
        return (more - less) / (elements(sizes[1]) - elements(sizes[0]))

    def limit(self, isa: str, shape: str, dtype: str, mode: str, threads: int) -> float:
        """ms for the elements of a shape, if all of them were in the first cache, and each thread had its share."""
        few = int(shape.split("x")[1]) < 32 and dtype == "float32"
        sizes, _ = IN_CACHE[dtype, "rows of 10 classes" if few else "long rows"]
        kind = kernels.GRADIENT if mode == MODE else kernels.FORWARD
        return self.in_cache(isa, dtype, sizes, kind) * elements(shape) / threads


def judged(value: float, goal: float | None) -> str:
    """The figure, in bold where it misses the goal."""
    text = f"{value:.0f}" if value >= 10 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
    return text if goal is None else f"**{text}** ({goal:.3g})" if value > goal else f"{text} ({goal:.3g})"


def heading(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]


def ratios(rows: list[Row], alone: Kernels, mode: str, limit: str, goals: Goals) -> list[str]:
    """Ours in times of the limits and of the others, for every batch and number of threads."""
    batches = by_batch(rows, mode, "time")
    isa = rows[0].isa
    measured = {name for times in batches.values() for name in times}
    others = (limit, LIMIT, *(name for name in (NATIVE, HUGE_PAGES, COMPILED) if name in measured))
    lines = heading("logits", "threads", *(f"/ {name}" for name in others))
    for (shape, dtype, threads), times in batches.items():
        wanted = dict(goals.get((shape, dtype), {}))
        times = times | {LIMIT: max(times[limit], alone.limit(isa, shape, dtype, mode, threads))}
        if wanted.get(LIMIT) and mode == MODE:
            wanted[LIMIT] += OVERHEAD_MS.get((shape, dtype), 0) / times[LIMIT]
        cells = [judged(times[OURS] / times[name], wanted.get(name)) if name in times else "-" for name in others]
        lines.append(f"| {logits_of(shape, dtype)} | {threads} | " + " | ".join(cells) + " |")
    return [*lines, "", setting(rows)]


def comparisons(rows: list[Row]) -> list[str]:
    """What options and transforms cost, a column for each number of threads."""
    counts = sorted({row.threads for row in rows})
    times = {(row.provider, row.mode, row.shape, row.threads): row.median for row in rows}
    lines = heading("", *(f"{count} thread{'s' * (count > 1)}" for count in counts))
    for each in COMPARISONS:
        cells = []
        for count in counts:
            figure, reference = times.get((*each.figure, count)), times.get((*each.reference, count))
            goal = each.goal if each.goal_threads is None or count in each.goal_threads else None
            cells.append(judged(figure / reference * each.scale, goal) if figure and reference else "-")
        lines.append(f"| {each.name} | " + " | ".join(cells) + " |")
    return [*lines, "", setting(rows)]


def kernels_alone(alone: Kernels) -> list[str]:
    """What an element costs in the first cache, and how many bytes a second a batch moves that is in none."""
    counts = sorted({row.threads for row in alone.rows})
    threads = [f"{count} thread{'s' * (count > 1)}" for count in counts]
    lines = heading("logits", "ISA", "loss, ns", "and gradient, ns", *(f"GB/s, {each} (copy)" for each in threads))
    for (dtype, kind), (sizes, batch) in IN_CACHE.items():
        moved = 2 * elements(batch) * getattr(torch, dtype).itemsize * 1e-6
        for isa in alone.isas:
            cells = [
                f"{alone.in_cache(isa, dtype, sizes, mode) * 1e6:.2f}" for mode in (kernels.FORWARD, kernels.GRADIENT)
            ]
            for count in counts:
                ours, copy = (moved / alone.time(name, batch, dtype, kernels.GRADIENT, count) for name in (isa, COPY))
                cells.append(f"{ours:.1f} ({copy:.1f})")
            lines.append(f"| {dtype}, {kind} | {isa} | " + " | ".join(cells) + " |")
    return [*lines, "", setting(alone.rows)]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows, alone = results.read(results.DEFAULT), Kernels(results.read(kernels.OUTPUT))
    blocks = {
        "shapes": ratios(rows, alone, MODE, COPY, GOALS),
        "forward": ratios(rows, alone, "forward", READ, FORWARD_GOALS),
        "options": comparisons(results.read(options.OUTPUT)),
        "avx2": ratios(results.read(AVX2), alone, MODE, COPY, AVX2_GOALS),
        "kernels": kernels_alone(alone),
    }
    for name, lines in blocks.items():
        begin, end = f"<!-- {name}: written by python -m benchmarks.page -->", f"<!-- end of {name} -->"
        text = replaced(text, "\n".join(lines), begin, end)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
