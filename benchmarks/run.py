"""Measures ls_loss against native, compiled native and other libraries: python -m benchmarks.run [--quick]

Time of every loss next to a copy of the same bytes, memory, page faults and errors, one CSV row each; README.md here
tells the method. Must not know how any loss is computed.
"""

import argparse
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import ls_loss

from . import footprint, huge_pages, results
from .batches import Batch, batches, name_of
from .oracle import ERRORS, TOLERANCE, Oracle
from .providers import COPY, HUGE_PAGES, PROVIDERS, READ, STEPS, Loss, ours
from .timing import copy_of, interleave, read_of, sampler


class Effort(NamedTuple):
    """For one batch and mode, all providers together: so many seconds, or longer where the fewest rounds take longer."""

    seconds: float
    fewest_rounds: int


FULL, SOME, QUICK = Effort(3.0, 5), Effort(2.0, 3), Effort(1.0, 5)
LARGE_BYTES = 64 << 20  # of logits: below, what malloc keeps hides what a step takes


def check_openmp() -> None:
    """A second OpenMP runtime costs milliseconds per call, so that nothing measured beside it counts."""
    runtimes = ls_loss.config()["openmp_runtimes"]
    if len(runtimes) != 1:
        raise SystemExit(f"There must be one OpenMP runtime in the process to time anything, and there are: {runtimes}")


def names_of(batch: Batch, on_all_threads: bool) -> list[str]:
    """Whose losses are measured: large batches, where other libraries take most of the time, have them on all threads only."""
    everyone = on_all_threads or batch.bytes < LARGE_BYTES
    return [name for name, provider in PROVIDERS.items() if everyone or provider.everywhere]


def measure(
    batch: Batch, oracle: Oracle, thp: huge_pages.HugePages | None, effort: Effort,
    names: Collection[str], modes: Collection[str], with_memory: bool,
) -> Iterator[results.Row]:  # fmt: skip
    """The figures of one batch, with these losses."""
    torch.set_num_threads(batch.threads)
    torch._dynamo.reset()
    logits, target = batch.inputs()
    losses = {
        name: provider.make()
        for name, provider in PROVIDERS.items()
        if name in names and provider.serves(batch.shape, batch.dtype)
    }
    for name, loss in losses.items():
        errors = oracle.errors(loss, logits, target)
        if not all(error <= TOLERANCE[name_of(batch.dtype)] for error in errors):
            message = "{} at {}: relative error {:.1e} of the loss, {:.1e} of the gradient".format(name, batch, *errors)
            if loss is ours:
                raise SystemExit(message)
            tqdm.write(message)
        for metric, error in zip(ERRORS, errors, strict=True):
            yield results.row(batch, name, PROVIDERS[name].version, "forward+backward", metric, "relative", error)
    check_openmp()
    for mode in modes:
        yield from measure_time(batch, mode, losses, thp, effort, logits, target)
    if with_memory and batch.bytes >= LARGE_BYTES:
        yield from measure_footprint(batch, losses, logits, target)


def measure_time(
    batch: Batch, mode: str, losses: dict[str, Loss], thp: huge_pages.HugePages | None, effort: Effort,
    logits: torch.Tensor, target: torch.Tensor,
) -> Iterator[results.Row]:  # fmt: skip
    """The time of a step with each loss, and of the limit of that step."""
    torch_version = version("torch")
    versions = {name: PROVIDERS[name].version for name in losses}
    samplers = {name: sampler(STEPS[mode](loss, logits, target)) for name, loss in losses.items()}
    limit, touch = (READ, read_of) if mode == "forward" else (COPY, copy_of)
    samplers[limit] = sampler(touch(logits))
    if thp and batch.dtype == torch.float32:
        samplers[HUGE_PAGES] = thp.sampler(batch, mode)
    for name, timing in interleave(samplers, *effort).items():
        low, high = timing.quantile(0.2) * 1e3, timing.quantile(0.8) * 1e3
        yield results.row(
            batch, name, versions.get(name, torch_version), mode, "time", "ms",
            timing.median * 1e3, low, high, len(timing.samples),
        )  # fmt: skip


def measure_footprint(
    batch: Batch, losses: dict[str, Loss], logits: torch.Tensor, target: torch.Tensor
) -> Iterator[results.Row]:
    """Peak memory and page faults of a training step with each loss."""
    mode = "forward+backward"
    for name, loss in losses.items():
        step = STEPS[mode](loss, logits, target)
        peak, parked = footprint.peak_bytes(step)
        for metric, unit, value in (
            ("peak memory", "MiB", peak / 2**20),
            ("parked memory", "MiB", parked / 2**20),
            ("page faults", "per step", footprint.page_faults(step)),
        ):
            yield results.row(batch, name, PROVIDERS[name].version, mode, metric, unit, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few batches, little time for each")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads; by default 1 and all, or all")
    parser.add_argument(
        "--only", nargs="+", choices=PROVIDERS, help="these losses, forward and backward, in fewer rounds"
    )
    parser.add_argument("--output", type=Path, help="the CSV to write; by default benchmarks/data/results.csv, and with "
                        "--quick or --only build/benchmarks/part.csv")  # fmt: skip
    arguments = parser.parse_args()
    is_part = arguments.quick or arguments.only
    output = arguments.output or (Path("build/benchmarks/part.csv") if is_part else results.DEFAULT)
    effort = QUICK if arguments.quick else SOME if arguments.only else FULL
    modes = ("forward+backward",) if arguments.only else tuple(STEPS)
    todo = batches(arguments.quick, arguments.threads)
    most = max(batch.threads for batch in todo)
    start, rows, oracles = time.monotonic(), [], {}
    with nullcontext() if arguments.only else huge_pages.process() as thp:
        if not thp and not arguments.only:
            print(f"{huge_pages.SETTING} has no effect on this machine: measuring without {HUGE_PAGES}.")
        progress = tqdm(todo, unit="batch")
        for batch in progress:
            progress.set_description(str(batch))
            key = (batch.shape, batch.dtype)
            if key not in oracles:
                oracles = {key: Oracle(*batch.inputs())}
            on_all = batch.threads == most
            names = arguments.only or names_of(batch, on_all)
            rows.extend(measure(batch, oracles[key], thp, effort, names, modes, on_all and not arguments.only))
            results.write(output, rows)
    print(f"{len(rows)} figures in {output}, after {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
