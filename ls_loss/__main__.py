"""What this installation is, whether it computes what it should, and how fast it is here: python -m ls_loss

For bug reports, in ten seconds. May use the public functions and native torch. Must not do arithmetic on tensors.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from .diagnostics import config
from .functional import cross_entropy, native_cross_entropy

SMOOTHING = 0.1
SECONDS = 2.0  # for the speed of one shape
SHAPES = ((32, 10), (4096, 1000), (1024, 32000))

Check = tuple[str, Callable[[], None]]
Loss = Callable[..., Tensor]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and targets: the same on every run."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    return logits, torch.randint(shape[1], (shape[0], *shape[2:]), generator=random)


def loss_and_gradient(loss: Loss, logits: Tensor, target: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    value = loss(logits, target, label_smoothing=SMOOTHING, **options)
    return value.detach(), torch.autograd.grad(value, logits)[0]


# Above the rounding of a result to the dtype, below what a wrong coefficient or a forgotten row makes: relative, absolute.
TOLERANCES = {
    torch.float64: (1e-12, 1e-15),
    torch.float32: (1e-5, 1e-8),
    torch.bfloat16: (1e-2, 1e-6),
    torch.float16: (2e-3, 1e-6),
}


def agrees_with_native(shape: tuple[int, ...], dtype: torch.dtype, ignored: bool, weighted: bool) -> None:
    """Raises unless loss and gradient are those of native in float64, for the same logits."""
    logits, target = inputs(shape, dtype)
    if ignored:
        target.view(-1)[::3] = -100
    weight = torch.linspace(0.5, 2, shape[1], dtype=torch.float64).to(dtype) if weighted else None
    exact = logits.detach().double().requires_grad_()
    ours = loss_and_gradient(cross_entropy, logits, target, weight=weight)
    native = loss_and_gradient(native_cross_entropy, exact, target, weight=None if weight is None else weight.double())
    relative, absolute = TOLERANCES[dtype]
    for name, mine, theirs in zip(("loss", "gradient"), ours, native, strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, rtol=relative, atol=absolute, msg=partial("{}: {}".format, name)
        )


def has_the_same_bits_on_every_number_of_threads() -> None:
    threads = torch.get_num_threads()
    logits, target = inputs((16, 70000))
    try:
        many = loss_and_gradient(cross_entropy, logits, target)
        torch.set_num_threads(1)
        one = loss_and_gradient(cross_entropy, logits, target)
    finally:
        torch.set_num_threads(threads)
    if not all(map(torch.equal, many, one)):
        raise AssertionError(f"{threads} threads and one thread differ")


def raises_for_a_bad_target() -> None:
    logits, target = inputs((4, 5))
    target[2] = 5
    try:
        cross_entropy(logits, target)
    except IndexError:
        return
    raise AssertionError("a target of 5 was accepted among 5 classes")


def runs_in_one_openmp_runtime() -> None:
    runtimes = config()["openmp_runtimes"]
    if isinstance(runtimes, list) and len(runtimes) > 1:
        raise AssertionError(f"two runtimes slow each other down: {runtimes}")


def checks() -> Iterator[Check]:
    """What is checked, in words, and a function that raises if it is not so."""
    shapes = {"": (33, 1000), ", few classes": (300, 7), ", a long row": (2, 70000), ", images": (2, 21, 16, 16)}
    kinds = {"": (False, False), ", ignored rows": (True, False), ", weights": (True, True)}
    for dtype in TOLERANCES:
        for shape_name, shape in shapes.items():
            for kind_name, (ignored, weighted) in kinds.items():
                name = f"{str(dtype).removeprefix('torch.')}{shape_name}{kind_name}"
                yield name, partial(agrees_with_native, shape, dtype, ignored, weighted)
    yield "the same bits on every number of threads", has_the_same_bits_on_every_number_of_threads
    yield "an IndexError for a target out of range", raises_for_a_bad_target
    yield "one OpenMP runtime in the process", runs_in_one_openmp_runtime


def self_test() -> bool:
    """Runs all checks, prints those that fail, and returns whether none did."""
    failed = 0
    everything = list(checks())
    for name, check in everything:
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"    FAILED  {name}: {error}")
    print(f"    {len(everything) - failed} of {len(everything)} checks passed")
    return not failed


def seconds(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """The time of one forward and backward."""
    start = time.perf_counter()
    torch.autograd.backward(loss(logits, target, label_smoothing=SMOOTHING))
    logits.grad = None
    return time.perf_counter() - start


def speed(shape: tuple[int, ...]) -> tuple[float, float]:
    """The median time of a step with ours and with native, in milliseconds; taken in turn, after one that does not count."""
    logits, target = inputs(shape)
    samples: tuple[list[float], list[float]] = [], []
    start = time.perf_counter()
    while len(samples[0]) < 4 or time.perf_counter() - start < SECONDS:
        for loss, taken in zip((cross_entropy, native_cross_entropy), samples, strict=True):
            taken.append(seconds(loss, logits, target))
    ours, native = (1e3 * statistics.median(taken[1:]) for taken in samples)
    return ours, native


def main() -> int:
    """Prints all of it; 1 if a check failed."""
    argparse.ArgumentParser(prog="python -m ls_loss", description=(__doc__ or "").partition("\n")[0]).parse_args()
    print(config(), "", "Self-test against native in float64", sep="\n")
    passed = self_test()
    threads = torch.get_num_threads()
    print(
        f"\nForward and backward, label smoothing {SMOOTHING}, float32, {threads} thread{'s' * (threads > 1)}, medians"
    )
    print(f"    {'logits':<16}{'ls_loss, ms':>12}{'native, ms':>12}{'native / ls_loss':>18}")
    for shape in SHAPES:
        ours, native = speed(shape)
        print(f"    {list(shape)!s:<16}{ours:12.3f}{native:12.3f}{native / ours:18.1f}", flush=True)
    return not passed


if __name__ == "__main__":
    sys.exit(main())
