"""Draws the figures of a results CSV: python -m benchmarks.plot. Must not know how they were measured.

Those in README.md and in docs/ are drawn from the CSVs of the repository alone.
"""

import argparse
import csv as csv_files
from collections.abc import Callable
from pathlib import Path

from . import results
from .pictures import FIGURES, plt, save
from .providers import COPY, HUGE_PAGES, PROVIDERS, READ
from .results import Row
from .table import by_batch, elements, setting

FOLDER = Path("build/benchmarks")
COLOURS = {name: f"C{number}" for number, name in enumerate((*PROVIDERS, HUGE_PAGES))} | {COPY: "black", READ: "black"}
LIMITS = {"forward+backward": COPY, "forward": READ}
CURVES = results.DEFAULT.with_name("train_lm_curves.csv")
README_NAMES = ("ls_loss", "native compiled", "native")
LARGE = 1 << 20  # elements, from which on a copy means much


def draw_cost(
    rows: list[Row],
    threads: int,
    path: Path,
    sources: tuple[Path, ...] = (),
    size: tuple[float, float] = (13, 5.5),
) -> bool:
    """Nanoseconds for each element, over the number of elements: both directions, float32."""
    figure, axes = plt.subplots(1, len(LIMITS), figsize=size, sharey=True, layout="constrained")
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
            title=f"{mode}, float32, {threads} thread{'s' * (threads > 1)}; dashed: {limit}",
            xlabel="elements of the logits",
        )
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("nanoseconds for each element")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=5)
    figure.suptitle(setting(rows), fontsize="x-small")
    save(figure, path, sources)
    return True


def draw_ratios(
    rows: list[Row],
    threads: int,
    path: Path,
    only: tuple[str, ...] = (*PROVIDERS, HUGE_PAGES),
    smallest: int = LARGE,
    sources: tuple[Path, ...] = (),
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
        if len(names) <= len(README_NAMES) or name in README_NAMES:  # more figures would stand on each other
            axis.bar_label(bars, fmt="%.1f", fontsize="x-small")
    axis.axhline(1, color=COLOURS[COPY], linestyle="--", label=COPY)
    labels = [f"[{shape.replace('x', ', ')}]\n{dtype}" for shape, dtype, _ in batches]
    axis.set_xticks([place + 0.45 - width / 2 for place in range(len(batches))], labels, fontsize="small")
    axis.set(
        yscale="log",
        ylabel="time in copies of the logits",
        title=f"forward+backward, {threads} thread{'s' * (threads > 1)}",
    )
    figure.legend(loc="outside lower center", fontsize="small", ncols=5)
    figure.suptitle(setting(rows), fontsize="x-small")
    save(figure, path, sources)
    return True


def draw_training(csv: Path, path: Path) -> None:
    """The losses of two trainings over the steps, and how far they are apart."""
    with csv.open(newline="", encoding="utf-8") as file:
        lines = list(csv_files.DictReader(file))
    figure, (upper, lower) = plt.subplots(2, sharex=True, figsize=(9, 6), height_ratios=(3, 1), layout="constrained")
    numbers = [int(line["step"]) for line in lines]
    names = [name for name in lines[0] if name != "step"]
    both = [[float(line[name]) for line in lines] for name in names]
    for name, values, style in zip(names, both, (dict(linewidth=4, alpha=0.4), dict(linewidth=1)), strict=True):
        upper.plot(numbers, values, label=name, **style)
    apart = [abs(b / a - 1) for a, b in zip(*both, strict=True)]
    lower.semilogy(numbers, [max(value, 1e-9) for value in apart], ".", color="black", markersize=3)
    upper.set(ylabel="smoothed loss, nat", title="A language model, trained with both losses")
    lower.set(xlabel="step", ylabel="relative difference\n(on the floor: none)")
    upper.legend()
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    save(figure, path, [csv], 80)


def draw_table(
    draw: Callable[..., bool], csv: Path, path: Path, keep: Callable[[Row], bool] = lambda row: True, **options: object
) -> None:
    """A picture of the rows that are kept, at all threads that were measured, tied to its CSV."""
    rows = [row for row in results.read(csv) if keep(row)]
    draw(rows, max(row.threads for row in rows), path, sources=(csv,), **options)


# The pictures of README.md and docs/: what each is drawn from, and by what.
DRAWINGS: dict[str, tuple[Path, Callable[[Path, Path], None]]] = {
    "speed": (
        results.DEFAULT,
        lambda csv, path: draw_table(
            draw_ratios,
            csv,
            path,
            lambda row: row.dtype == "float32",
            only=README_NAMES,
            smallest=0,
            size=(10.5, 4.8),
        ),
    ),
    "cost": (results.DEFAULT, lambda csv, path: draw_table(draw_cost, csv, path, size=(10.5, 5.2))),
    "ratios": (results.DEFAULT, lambda csv, path: draw_table(draw_ratios, csv, path, size=(10.5, 5.2))),
    "training": (CURVES, draw_training),
}


def draw_docs(names: tuple[str, ...] = tuple(DRAWINGS), folder: Path = FIGURES) -> None:
    """The pictures of README.md and docs/, all or those named."""
    for name in names:
        csv, draw = DRAWINGS[name]
        draw(csv, folder / f"{name}.png")
        print(folder / f"{name}.png")


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
    draw_docs()


if __name__ == "__main__":
    main()
