"""Draws the figures of a results CSV: python -m benchmarks.plot. Must not know how they were measured.

The one in README.md is drawn from the CSV of the repository alone.
"""

import argparse
import hashlib
from pathlib import Path

import matplotlib

from . import results
from .providers import COPY, HUGE_PAGES, PROVIDERS, READ
from .results import Row
from .table import by_batch, setting

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("build/benchmarks")
COLOURS = {name: f"C{number}" for number, name in enumerate((*PROVIDERS, HUGE_PAGES))} | {COPY: "black", READ: "black"}
LIMITS = {"forward+backward": COPY, "forward": READ}
README_FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "speed.png"
README_NAMES = ("ls_loss", "native compiled", "native")
LARGE = 1 << 20  # elements, from which on a copy means much


def elements(shape: str) -> int:
    product = 1
    for size in shape.split("x"):
        product *= int(size)
    return product


def draw_cost(rows: list[Row], threads: int, path: Path) -> bool:
    """Nanoseconds for each element, over the number of elements: both directions, float32."""
    figure, axes = plt.subplots(1, len(LIMITS), figsize=(13, 5), sharey=True, layout="constrained")
    for axis, (mode, limit) in zip(axes, LIMITS.items(), strict=True):
        batches = {key: times for key, times in by_batch(rows, mode, "time").items() if key[1:] == ("float32", threads)}
        ordered = sorted(batches.items(), key=lambda item: elements(item[0][0]))
        for name in (*PROVIDERS, HUGE_PAGES, limit):
            points = [
                (elements(key[0]), times[name] * 1e6 / elements(key[0])) for key, times in ordered if name in times
            ]
            style = dict(linestyle="--", marker="") if name == limit else dict(marker="o", markersize=4)
            axis.plot(*zip(*points, strict=True), label=name, color=COLOURS[name], **style)
        axis.set(
            xscale="log",
            yscale="log",
            title=f"{mode}, float32, {threads} thread{'s' * (threads > 1)}",
            xlabel="elements of the logits",
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0].set_ylabel("nanoseconds for each element")
    figure.suptitle(setting(rows), fontsize="x-small")
    figure.savefig(path, dpi=110)
    return True


def digest(csv: Path) -> str:
    """What ties a figure to the CSV it was drawn from."""
    return hashlib.sha256(csv.read_bytes()).hexdigest()


def draw_ratios(
    rows: list[Row],
    threads: int,
    path: Path,
    only: tuple[str, ...] = (*PROVIDERS, HUGE_PAGES),
    smallest: int = LARGE,
    metadata: dict[str, str] | None = None,
    size: tuple[float, float] = (13, 5),
) -> bool:
    """Time of a step in copies of the logits, one group of bars for each batch: those of so many elements and more."""
    batches = {
        key: times
        for key, times in by_batch(rows, "forward+backward", "time").items()
        if key[2] == threads and elements(key[0]) >= smallest
    }
    if not batches:
        return False
    names = [name for name in only if any(name in times for times in batches.values())]
    width = 0.9 / len(names)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for number, name in enumerate(names):
        places = [
            (place + number * width, times[name] / times[COPY])
            for place, times in enumerate(batches.values())
            if name in times
        ]
        bars = axis.bar(*zip(*places, strict=True), width, label=name, color=COLOURS[name])
        axis.bar_label(bars, fmt="%.1f", fontsize="x-small")
    axis.axhline(1, color=COLOURS[COPY], linestyle="--", label=COPY)
    labels = [f"[{shape.replace('x', ', ')}]\n{dtype}" for shape, dtype, _ in batches]
    axis.set_xticks([place + 0.45 - width / 2 for place in range(len(batches))], labels, fontsize="small")
    axis.set(
        yscale="log",
        ylabel="time in copies of the logits",
        title=f"forward+backward, {threads} thread{'s' * (threads > 1)}",
    )
    axis.legend(fontsize="small", ncols=4)
    figure.suptitle(setting(rows), fontsize="x-small")
    figure.savefig(path, dpi=110, metadata=metadata)
    return True


def draw_readme(csv: Path = results.DEFAULT, path: Path = README_FIGURE) -> None:
    """ls_loss, native and compiled native beside the limit, at all threads that were measured, for every float32 batch."""
    rows = [row for row in results.read(csv) if row.dtype == "float32"]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_ratios(rows, max(row.threads for row in rows), path, README_NAMES, 0, {"Source": digest(csv)}, (10.5, 4.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, nargs="?", default=results.DEFAULT)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the pictures go; by default {FOLDER}")
    arguments = parser.parse_args()
    rows = results.read(arguments.csv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for threads in sorted({row.threads for row in rows}):
        for name, draw in (("cost", draw_cost), ("ratios", draw_ratios)):
            path = arguments.folder / f"{name}-{threads}.png"
            if draw(rows, threads, path):
                print(path)
    draw_readme()
    print(README_FIGURE)


if __name__ == "__main__":
    main()
