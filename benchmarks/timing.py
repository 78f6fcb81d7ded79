"""Times functions against each other: interleaved, so that a busy moment of the machine meets all of them alike.

For the benchmarks and for the examples. Knows nothing of losses.
"""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

SAMPLE_SECONDS = 0.005  # a sample repeats a function that is shorter than this, for the clock and the caches
MOST_ROUNDS = 100


@dataclass(frozen=True)
class Timing:
    """The samples of one function, in seconds per call."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantile(self, share: float) -> float:
        """The sample below which this share of all samples lies; the nearest one, for there may be as few as three."""
        ordered = sorted(self.samples)
        return ordered[round(share * (len(ordered) - 1))]


def sample(function: Callable[[], object], calls: int) -> float:
    """Seconds per call, over so many calls in a row, and one more before them, which does not count: it warms the caches, and
    takes memory that lay free while others ran. A virtual machine may have given that to its host, and getting it back
    costs ten times what zeroing it does."""
    function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def calls_per_sample(function: Callable[[], object]) -> int:
    """Warms the function up, and returns how many calls make a sample."""
    calls = 1
    while (seconds := sample(function, calls)) * calls < SAMPLE_SECONDS and calls < 1 << 20:
        calls = min(calls * 8, int(SAMPLE_SECONDS / seconds) + 1)
    return calls


Sampler = Callable[[], float]


def sampler(function: Callable[[], object]) -> Sampler:
    """A function that takes one sample of this one: what `interleave` asks for. Warms up."""
    calls = calls_per_sample(function)
    return lambda: sample(function, calls)


def interleave(samplers: Mapping[str, Sampler], seconds: float, fewest_rounds: int = 5) -> dict[str, Timing]:
    """Samples all in rounds, in another order each time, for about so many seconds."""
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    order = list(samplers)
    shuffle = random.Random(0).shuffle
    start = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= fewest_rounds and time.perf_counter() - start > seconds:
            break
        shuffle(order)
        for name in order:
            samples[name].append(samplers[name]())
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
            return next(names, platform.machine())
    except OSError:
        return platform.machine()


def machine() -> str:
    """Processor, cores and system in a few words."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def load_average() -> float:
    """What else the machine is doing: the processes that wanted to run in the last minute."""
    return os.getloadavg()[0]


def copy_of(tensor: torch.Tensor) -> Callable[[], object]:
    """The yardstick: copies the tensor's bytes into memory that is already there."""
    source = tensor.detach()
    warm = torch.empty_like(source)
    return lambda: warm.copy_(source)


def read_of(tensor: torch.Tensor) -> Callable[[], object]:
    """The yardstick of what only reads: sums the tensor's bytes as float32 numbers."""
    numbers = tensor.detach().view(-1).view(torch.float32)
    return lambda: numbers.sum()
