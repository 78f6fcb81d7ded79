"""Measures ls_loss against native, compiled native and other libraries: python -m benchmarks.run [--quick]

Time of every loss next to a copy of the same bytes, memory, page faults and errors, one CSV row each; README.md here
tells the method. Must not know how any loss is computed.
"""

import argparse
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

import ls_loss

from . import footprint, huge_pages, results
from .batches import Batch, batches, name_of
from .oracle import ERRORS, TOLERANCE, Oracle
from .providers import COPY, HUGE_PAGES, PROVIDERS, READ, STEPS, Loss, ours
from .timing import copy_of, interleave, read_of, sampler

SECONDS = 4.0  # for one batch and mode, all providers together; large batches take longer, for their fewest rounds
QUICK_SECONDS = 1.0
FOOTPRINT_BYTES = 64 << 20  # of logits: below, what malloc keeps hides what a step takes


def check_openmp() -> None:
    """A second OpenMP runtime costs milliseconds per call, so that nothing measured beside it counts."""
    runtimes = ls_loss.config()["openmp_runtimes"]
    if len(runtimes) != 1:
        raise SystemExit(f"There must be one OpenMP runtime in the process to time anything, and there are: {runtimes}")


def measure(batch: Batch, oracle: Oracle, thp: huge_pages.HugePages | None, seconds: float) -> Iterator[results.Row]:
    """All figures of one batch."""
    torch.set_num_threads(batch.threads)
    torch._dynamo.reset()
    logits, target = batch.inputs()
    losses = {
        name: provider.make() for name, provider in PROVIDERS.items() if provider.serves(batch.shape, batch.dtype)
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
    for mode in STEPS:
        yield from measure_time(batch, mode, losses, thp, seconds, logits, target)
    if batch.bytes >= FOOTPRINT_BYTES:
        yield from measure_footprint(batch, losses, logits, target)


def measure_time(
    batch: Batch, mode: str, losses: dict[str, Loss], thp: huge_pages.HugePages | None, seconds: float,
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
    for name, timing in interleave(samplers, seconds).items():
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
        peak, faults = footprint.peak_bytes(step), footprint.page_faults(step)
        yield results.row(batch, name, PROVIDERS[name].version, mode, "peak memory", "MiB", peak / 2**20)
        yield results.row(batch, name, PROVIDERS[name].version, mode, "page faults", "per step", faults)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few batches, little time for each")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads; by default 1 and all, or all")
    parser.add_argument("--output", type=Path, help="the CSV to write; by default benchmarks/data/results.csv, and for "
                        "--quick build/benchmarks/quick.csv")  # fmt: skip
    arguments = parser.parse_args()
    output = arguments.output or (Path("build/benchmarks/quick.csv") if arguments.quick else results.DEFAULT)
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    start, rows, oracles = time.monotonic(), [], {}
    with huge_pages.process() as thp:
        if not thp:
            print(f"{huge_pages.SETTING} has no effect on this machine: measuring without {HUGE_PAGES}.")
        progress = tqdm(batches(arguments.quick, arguments.threads), unit="batch")
        for batch in progress:
            progress.set_description(str(batch))
            key = (batch.shape, batch.dtype)
            if key not in oracles:
                oracles = {key: Oracle(*batch.inputs())}
            rows.extend(measure(batch, oracles[key], thp, seconds))
            results.write(output, rows)
    print(f"{len(rows)} figures in {output}, after {time.monotonic() - start:.0f} s.")
    print("python -m benchmarks.table shows them as a table, python -m benchmarks.plot draws them.")


if __name__ == "__main__":
    main()
