"""What was aimed at: at most so many times as long as something else. Set before the first kernel was written; page.py shows
which figures miss them. Must not know how a figure is measured or shown.
"""

from dataclasses import dataclass

from .providers import COPY, HUGE_PAGES, LEAST, NATIVE, OURS

COMPILED = "native compiled"
LIMIT = (
    "limit"  # the larger of copy (forward: read) and the kernel's own time in the first cache, shared by the threads
)

# The time of ls_loss in times of what stands in that column, by shape and dtype. None, or no entry: no goal.
Goals = dict[tuple[str, str], dict[str, float | None]]
GOALS: Goals = {
    ("32x10", "float32"): {COPY: None, NATIVE: 0.25, HUGE_PAGES: 0.25, COMPILED: 0.27},
    ("128x10", "float32"): {COPY: None, NATIVE: 0.25, HUGE_PAGES: 0.25, COMPILED: 0.27},
    ("256x1000", "float32"): {COPY: None, NATIVE: 0.3, HUGE_PAGES: 0.3, COMPILED: 0.3},
    ("65536x10", "float32"): {COPY: None, NATIVE: 0.04, HUGE_PAGES: 0.04, COMPILED: 0.25},
    ("8x256000", "float32"): {LIMIT: 1.3, NATIVE: 0.2, HUGE_PAGES: 0.2, COMPILED: 0.25},
    ("32768x1000", "float32"): {COPY: 1.35, NATIVE: 0.05, HUGE_PAGES: 0.12, COMPILED: 0.2},
    ("16x1000x32x32", "float32"): {COPY: 1.6, NATIVE: 0.04, HUGE_PAGES: 0.1, COMPILED: 0.2},
    ("4096x32000", "float32"): {COPY: 1.25, NATIVE: 0.04, HUGE_PAGES: 0.12, COMPILED: 0.18},
    ("4096x32000", "bfloat16"): {COPY: 2, NATIVE: 0.08, COMPILED: None},
    ("4096x32000", "float16"): {COPY: 2, NATIVE: 0.08, COMPILED: None},
    ("4096x32000", "float64"): {COPY: None, NATIVE: 0.2, COMPILED: None},
}
OVERHEAD_MS = {("8x256000", "float32"): 0.04}  # may come on top of the limit: a second parallel region, and autograd
AVX2_GOALS: Goals = {
    kind: goals | ({COPY: 2.5} if kind[1] in ("bfloat16", "float16") else {}) for kind, goals in GOALS.items()
}
TINY = (("32x10", "float32"), ("128x10", "float32"))
FORWARD_GOALS: Goals = {
    kind: {NATIVE: 0.45, HUGE_PAGES: 0.45} if kind in TINY else {LIMIT: 1.2, COMPILED: 0.6} for kind in GOALS
}


Key = tuple[str, str, str]  # provider, mode and shape of a figure in options.csv


@dataclass(frozen=True)
class Comparison:
    """What an option or a transform costs: one figure in times of another."""

    name: str
    figure: Key
    reference: Key
    goal: float | None = None
    scale: float = 1.0
    goal_threads: tuple[int, ...] | None = None  # the goal holds for these only; None: for all


def beside(name: str, mode: str, goal: float | None, shape: str, reference: str | None = None) -> Comparison:
    """Ours beside the plain call, or another mode of ours, on the same shape."""
    return Comparison(name, (OURS, mode, shape), (OURS, reference or "plain", shape), goal)


def of_native(mode: str, goal: float | None, shape: str, name: str | None = None) -> Comparison:
    """Ours beside native's."""
    text = f"{name or mode}, in times of native, [{shape.replace('x', ', ')}]"
    return Comparison(text, (OURS, mode, shape), (NATIVE, mode, shape), goal)


def of_copy(name: str, mode: str, goal: float | None, shape: str, copy: str | None = None) -> Comparison:
    return Comparison(name, (OURS, mode, shape), (COPY, copy or mode, shape), goal)


TINY_CALL, MIDDLE, LARGE, MASKS = "32x10", "256x1000", "32768x1000", "4x2x256x256"
SMALLEST, LARGEST = "128x32768", "32768x32768"
COMPARISONS = (
    beside("10 % of the rows ignored", "ignore_index", 1.15, LARGE),
    beside("`prior`", "prior", 1.15, LARGE),
    beside("fastai's convention", "fastai", 1.15, LARGE),
    beside("reduction sum", "sum", 1.15, LARGE),
    beside("class weights", "weight", 1.25, LARGE),
    beside("reduction none, a grad_output for each row", "none", 1.75, LARGE),
    beside("grad_output 0.5", "grad_output 0.5", 1.75, LARGE),
    beside("logits that ascend", "ascending logits", 2.0, LARGE),
    beside("logits that jump eight times by 100", "logits in jumps", 2.0, LARGE),
    of_copy(
        "probability targets, in copies of both inputs", "probability targets", 1.3, LARGE, "logits and probabilities"
    ),
    of_native("probability targets", 0.15, LARGE),
    beside("bfloat16 under autocast, in times without", "bfloat16, autocast", None, LARGE, "bfloat16"),
    *(
        beside(f"compiled, in times of eager, [{shape.replace('x', ', ')}]", "compiled", 1.1, shape, "eager")
        for shape in (TINY_CALL, MIDDLE, LARGE)
    ),
    of_native("smoothing 0, forward", 1.1, TINY_CALL, "label_smoothing 0, forward alone"),
    of_native("smoothing 0", 0.6, TINY_CALL, "label_smoothing 0"),
    Comparison(
        f"`x.sum().backward()`, in times of native with label_smoothing 0, [{TINY_CALL.replace('x', ', ')}]",
        (LEAST, "least step", TINY_CALL),
        (NATIVE, "smoothing 0 beside the least step", TINY_CALL),
    ),
    of_native("call", None, MASKS, "masks of two classes"),
    of_native("smoothing 0", None, MASKS, "masks of two classes, label_smoothing 0"),
    of_native("smoothing 0, forward", None, MASKS, "masks of two classes, label_smoothing 0, forward alone"),
    of_native("vmap(grad)", 1.1, MIDDLE),
    of_native("vmap", None, MIDDLE),
    of_native("jvp", None, MIDDLE),
    of_native("second derivative", None, MIDDLE),
    of_native("DDP step", None, "512x1000", "a DDP step"),
    of_copy("in copies, 4 Mi elements", "growth", None, SMALLEST),
    of_copy("in copies, 64 Mi elements", "growth", None, "2048x32768"),
    of_copy("in copies, 1024 Mi elements", "growth", None, LARGEST),
    Comparison(
        "time per element, 1024 Mi in times of 4 Mi",
        (OURS, "growth", LARGEST),
        (OURS, "growth", SMALLEST),
        1.3,
        1 / 256,
        (1,),
    ),
)
