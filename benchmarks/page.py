"""Writes the tables of docs/performance.md from the CSVs: python -m benchmarks.page

What was reached beside what was aimed at, what options cost, and AVX2 on a machine that has AVX-512. A figure that misses its
goal stands out. Must not know how a figure was measured.
"""

from pathlib import Path

from . import options, results
from .providers import COPY, HUGE_PAGES, NATIVE, OURS, READ
from .results import Row
from .table import MODE, by_batch, logits_of, replaced, setting

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
AVX2 = results.DEFAULT.with_name("avx2.csv")
COMPILED = "native compiled"

# The time of ls_loss, forward and backward, in times of the other column: at most so much. None: no goal.
Goals = dict[str, float | None]
SHAPE_GOALS: dict[tuple[str, str], Goals] = {
    ("32x10", "float32"): {COPY: None, NATIVE: 0.25, HUGE_PAGES: 0.25, COMPILED: 0.27},
    ("128x10", "float32"): {COPY: None, NATIVE: 0.25, HUGE_PAGES: 0.25, COMPILED: 0.27},
    ("256x1000", "float32"): {COPY: None, NATIVE: 0.3, HUGE_PAGES: 0.3, COMPILED: 0.3},
    ("65536x10", "float32"): {COPY: None, NATIVE: 0.04, HUGE_PAGES: 0.04, COMPILED: 0.25},
    ("8x256000", "float32"): {COPY: None, NATIVE: 0.2, HUGE_PAGES: 0.2, COMPILED: 0.25},
    ("32768x1000", "float32"): {COPY: 1.35, NATIVE: 0.05, HUGE_PAGES: 0.12, COMPILED: 0.2},
    ("16x1000x32x32", "float32"): {COPY: 1.6, NATIVE: 0.04, HUGE_PAGES: 0.1, COMPILED: 0.2},
    ("4096x32000", "float32"): {COPY: 1.25, NATIVE: 0.04, HUGE_PAGES: 0.12, COMPILED: 0.18},
    ("4096x32000", "bfloat16"): {COPY: 2, NATIVE: 0.08, COMPILED: None},
    ("4096x32000", "float16"): {COPY: 2, NATIVE: 0.08, COMPILED: None},
    ("4096x32000", "float64"): {COPY: None, NATIVE: 0.2, COMPILED: None},
}

PLAIN, LARGE = "plain", "32768x1000"
# What is compared: its name, what it is (provider, mode, shape), what it is compared with, and the goal.
Key = tuple[str, str, str]
COMPARISONS: list[tuple[str, Key, Key, float | None]] = [
    *(
        (name, (OURS, mode, LARGE), (OURS, PLAIN, LARGE), goal)
        for name, mode, goal in (
            ("10 % of the rows ignored", "ignore_index", 1.15),
            ("`prior`", "prior", 1.15),
            ("fastai's convention", "fastai", 1.15),
            ("reduction sum", "sum", 1.15),
            ("class weights", "weight", 1.25),
            ("reduction none, a grad_output for each row", "none", 1.75),
            ("grad_output 0.5", "grad_output 0.5", 1.75),
            ("logits that ascend", "ascending logits", 2.0),
            ("logits that jump eight times by 100", "logits in jumps", 2.0),
        )
    ),
    (
        "probability targets, in copies of both inputs",
        (OURS, "probability targets", LARGE),
        (COPY, "logits and probabilities", LARGE),
        1.3,
    ),
    (
        "probability targets, in times of native",
        (OURS, "probability targets", LARGE),
        (NATIVE, "probability targets", LARGE),
        0.15,
    ),
    ("bfloat16 under autocast, in times without", (OURS, "bfloat16, autocast", LARGE), (OURS, "bfloat16", LARGE), None),
    *(
        (
            f"compiled, in times of eager, [{shape.replace('x', ', ')}]",
            (OURS, "compiled", shape),
            (OURS, "eager", shape),
            1.1,
        )
        for shape in ("32x10", "256x1000", LARGE)
    ),
    *(
        (
            f"{name}, in times of native, [256, 1000]",
            (OURS, name, "256x1000"),
            (NATIVE, name, "256x1000"),
            goal,
        )
        for name, goal in (("vmap(grad)", 1.1), ("vmap", None), ("jvp", None), ("second derivative", None))
    ),
    (
        "a DDP step, in times of native, [512, 1000]",
        (OURS, "DDP step", "512x1000"),
        (NATIVE, "DDP step", "512x1000"),
        None,
    ),
    *(
        (
            f"in copies, {rows * 32768 // 2**20} Mi elements",
            (OURS, "growth", f"{rows}x32768"),
            (COPY, "growth", f"{rows}x32768"),
            None,
        )
        for rows in (128, 2048, 32768)
    ),
]


def judged(value: float, goal: float | None) -> str:
    """The figure, in bold where it misses the goal."""
    text = f"{value:.0f}" if value >= 10 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
    return text if goal is None else f"**{text}** ({goal:g})" if value > goal else f"{text} ({goal:g})"


def heading(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]


def ratios(rows: list[Row], mode: str, limit: str, goals: dict[tuple[str, str], Goals]) -> list[str]:
    """Ours in times of the limit and of the others, for every batch and number of threads."""
    others = (limit, NATIVE, HUGE_PAGES, COMPILED)
    lines = heading("logits", "threads", *(f"/ {name}" for name in others))
    for (shape, dtype, threads), times in by_batch(rows, mode, "time").items():
        wanted = goals.get((shape, dtype), {})
        cells = [judged(times[OURS] / times[name], wanted.get(name)) if name in times else "-" for name in others]
        lines.append(f"| {logits_of(shape, dtype)} | {threads} | " + " | ".join(cells) + " |")
    return [*lines, "", setting(rows)]


def comparisons(rows: list[Row]) -> list[str]:
    """What options and transforms cost, a column for each number of threads."""
    counts = sorted({row.threads for row in rows})
    times = {(row.provider, row.mode, row.shape, row.threads): row.median for row in rows}
    lines = heading("", *(f"{count} thread{'s' * (count > 1)}" for count in counts))
    for name, what, reference, goal in COMPARISONS:
        lines.append(
            f"| {name} | "
            + " | ".join(judged(times[(*what, count)] / times[(*reference, count)], goal) for count in counts)
            + " |"
        )
    return [*lines, "", setting(rows)]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = {
        "shapes": ratios(results.read(results.DEFAULT), MODE, COPY, SHAPE_GOALS),
        "forward": ratios(results.read(results.DEFAULT), "forward", READ, {}),
        "options": comparisons(results.read(options.OUTPUT)),
        "avx2": ratios(results.read(AVX2), MODE, COPY, {}),
    }
    for name, lines in blocks.items():
        begin, end = f"<!-- {name}: written by python -m benchmarks.page -->", f"<!-- end of {name} -->"
        text = replaced(text, "\n".join(lines), begin, end)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
