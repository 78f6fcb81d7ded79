"""Measures what the options and PyTorch's transforms cost beside the plain call: python -m benchmarks.options

Every figure stands beside the one that it is compared with, from the same interleaved rounds: benchmarks/data/options.csv, and
a table on the screen. Shapes, timing and rows are those of the other benchmarks; must not know how any loss is computed.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import ls_loss

from . import results
from .batches import Batch
from .providers import COPY, FUNCTIONS, LEAST, NATIVE, OURS, SMOOTHING, compiled
from .run import check_openmp
from .timing import copy_of, interleave, sampler

OUTPUT = results.DEFAULT.with_name("options.csv")
LARGE, MIDDLE, TINY = (32768, 1000), (256, 1000), (32, 10)
MASKS = (4, 2, 256, 256)
GROWTH = (2**22, 2**26, 2**30)  # elements, in rows of 32768 classes

Steps = dict[tuple[str, str], Callable[[], object]]  # by provider and mode


def backward(
    loss: Callable[..., Tensor], logits: Tensor, *inputs: Tensor, outer: Tensor | None = None, smoothing: float = SMOOTHING,
    **options,
):  # fmt: skip
    """A step: the loss with these options and its gradient, which is freed."""

    def step() -> None:
        loss(logits, *inputs, label_smoothing=smoothing, **options).backward(outer)
        logits.grad = None

    return step


def unsmoothed(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    """A step without label smoothing, of which native has less to do."""
    return backward(loss, logits, target, smoothing=0.0)


def unsmoothed_forward(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    logits = logits.detach()
    return lambda: loss(logits, target)


def option_steps(batch: Batch) -> Steps:
    """The options, each as one difference from the plain call."""
    logits, target = batch.inputs()
    rows, classes = batch.shape
    random = torch.Generator().manual_seed(1)
    ignored = target.masked_fill(torch.rand(rows, generator=random) < 0.1, -100)
    weight, outer = torch.rand(classes, generator=random) + 0.5, torch.rand(rows, generator=random)
    prior = torch.rand(classes, generator=random).softmax(0)
    ascending = logits.detach().sort(1).values.requires_grad_()
    jumps = logits.detach().add(100.0 * (torch.arange(classes) * 8 // classes)).requires_grad_()
    fastai = ls_loss.LabelSmoothingCrossEntropy(SMOOTHING)

    def fastai_step() -> None:
        fastai(logits, target).backward()
        logits.grad = None

    ours = ls_loss.cross_entropy
    steps = {
        "plain": backward(ours, logits, target),
        "ignore_index": backward(ours, logits, ignored),
        "prior": backward(ours, logits, target, prior=prior),
        "fastai": fastai_step,
        "sum": backward(ours, logits, target, reduction="sum"),
        "weight": backward(ours, logits, target, weight=weight),
        "none": backward(ours, logits, target, outer=outer, reduction="none"),
        "grad_output 0.5": backward(ours, logits, target, outer=torch.tensor(0.5)),
        "ascending logits": backward(ours, ascending, target),
        "logits in jumps": backward(ours, jumps, target),
    }
    return {(OURS, mode): step for mode, step in steps.items()}


def probability_steps(batch: Batch) -> Steps:
    """Probability targets beside a copy of both inputs."""
    logits, _ = batch.inputs()
    soft = torch.randn(batch.shape, generator=torch.Generator().manual_seed(2)).softmax(1)
    copies = copy_of(logits), copy_of(soft)
    return {
        (COPY, "logits and probabilities"): lambda: [copy() for copy in copies],
        (OURS, "probability targets"): backward(ls_loss.cross_entropy, logits, soft),
        (NATIVE, "probability targets"): backward(FUNCTIONS[NATIVE], logits, soft),
    }


def per_sample(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    """Per-sample gradients."""
    logits = logits.detach()
    each = torch.vmap(torch.func.grad(lambda x, y: loss(x, y, label_smoothing=SMOOTHING)))
    return lambda: each(logits, target)


def samples(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    """Losses of sixteen samples, without a gradient."""
    logits, target = logits.detach().unflatten(0, (16, -1)), target.unflatten(0, (16, -1))
    each = torch.vmap(lambda x, y: loss(x, y, label_smoothing=SMOOTHING))
    return lambda: each(logits, target)


def in_direction(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    """The forward-mode derivative."""
    logits = logits.detach()
    return lambda: torch.func.jvp(lambda x: loss(x, target, label_smoothing=SMOOTHING), (logits,), (logits,))


def second_derivative(loss: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Callable[[], object]:
    """The gradient of the gradient's squares."""

    def step() -> None:
        logits.grad = None
        value = loss(logits, target, label_smoothing=SMOOTHING)
        (first,) = torch.autograd.grad(value, logits, create_graph=True)
        first.square().sum().backward()

    return step


def least_steps(batch: Batch) -> Steps:
    """The least that forward and backward of anything cost, beside native without label smoothing."""
    logits, target = batch.inputs()

    def step() -> None:
        logits.sum().backward()
        logits.grad = None

    return {
        (NATIVE, "smoothing 0 beside the least step"): unsmoothed(FUNCTIONS[NATIVE], logits, target),
        (LEAST, "least step"): step,
    }


CALLS = {"call": backward, "smoothing 0": unsmoothed, "smoothing 0, forward": unsmoothed_forward}
DERIVATIVES = {
    "vmap(grad)": per_sample,
    "vmap": samples,
    "jvp": in_direction,
    "second derivative": second_derivative,
}


def pair(name: str, make: Callable[..., Callable[[], object]], logits: Tensor, target: Tensor) -> Steps:
    """Native's step and ours."""
    return {(provider, name): make(loss, logits, target) for provider, loss in FUNCTIONS.items()}


def compiled_steps(batch: Batch) -> Steps:
    """The operator in a compiled function beside the eager one."""
    torch._dynamo.reset()
    logits, target = batch.inputs()
    fast = compiled(lambda x, y, label_smoothing: ls_loss.cross_entropy(x, y, label_smoothing=label_smoothing))
    return {
        (OURS, "eager"): backward(ls_loss.cross_entropy, logits, target),
        (OURS, "compiled"): backward(fast, logits, target),
    }


def autocast_steps(batch: Batch) -> Steps:
    """bf16 logits under autocast, whose loss is float32, beside plain ones."""
    logits, target = batch.inputs()
    plain = backward(ls_loss.cross_entropy, logits, target)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            plain()

    return {(OURS, "bfloat16"): plain, (OURS, "bfloat16, autocast"): step}


def ddp_steps(batch: Batch) -> Steps:
    """A step of DistributedDataParallel, alone in its group, whose model is small beside the loss."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    inputs = torch.randn(batch.shape[0], 16, generator=torch.Generator().manual_seed(3))
    target = batch.inputs()[1]
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, batch.shape[1]))

    def step(loss: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            loss(model(inputs), target, label_smoothing=SMOOTHING).backward()
            model.zero_grad()

        return run

    return {(provider, "DDP step"): step(loss) for provider, loss in FUNCTIONS.items()}


def growth_steps(batch: Batch) -> Steps:
    """The plain call beside a copy."""
    logits, target = batch.inputs()
    return {(COPY, "growth"): copy_of(logits), (OURS, "growth"): backward(ls_loss.cross_entropy, logits, target)}


def suites(threads: int) -> Iterator[tuple[Batch, Callable[[Batch], Steps]]]:
    """What is interleaved together; the first step of each is what the others are compared with."""
    single, half = torch.float32, torch.bfloat16
    yield Batch(LARGE, single, threads), option_steps
    yield Batch(LARGE, single, threads), probability_steps
    yield Batch(LARGE, half, threads), autocast_steps
    for shape in (TINY, MIDDLE, LARGE):
        yield Batch(shape, single, threads), compiled_steps
    for shape, kinds in ((TINY, CALLS), (MASKS, CALLS), (MIDDLE, DERIVATIVES)):
        for name, make in kinds.items():
            yield Batch(shape, single, threads), lambda batch, name=name, make=make: pair(name, make, *batch.inputs())
    yield Batch(TINY, single, threads), least_steps
    yield Batch((512, 1000), single, threads), ddp_steps
    for elements in GROWTH:
        yield Batch((elements // 32768, 32768), single, threads), growth_steps


def measure(batch: Batch, make: Callable[[Batch], Steps], seconds: float) -> list[results.Row]:
    torch.set_num_threads(batch.threads)
    check_openmp()
    timings = interleave({key: sampler(step) for key, step in make(batch).items()}, seconds)
    versions = {OURS: str(ls_loss.config()["version"])}
    return [
        results.row(
            batch, provider, versions.get(provider, torch.__version__), mode, "time", "ms",
            timing.median * 1e3, timing.quantile(0.2) * 1e3, timing.quantile(0.8) * 1e3, len(timing.samples),
        )
        for (provider, mode), timing in timings.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads; by default 1 and all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the CSV to write")
    arguments = parser.parse_args()
    start, rows = time.monotonic(), []
    kinds = [each for number in arguments.threads or sorted({1, os.cpu_count() or 1}) for each in suites(number)]
    for batch, make in tqdm(kinds, unit="suite"):
        first, *others = suite = measure(batch, make, seconds=4.0)
        rows += suite
        for row in others:
            share = f"{row.median / first.median:.3f} x {first.provider}, {first.mode}"
            tqdm.write(f"{batch!s:38} {row.provider:8} {row.mode:22} {row.median:9.3f} ms, {share}")
        results.write(arguments.output, rows)
    print(f"{len(rows)} figures in {arguments.output}, after {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
