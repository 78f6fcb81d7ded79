"""Native in a process of its own whose malloc asks for huge pages, for part of native's cost is 4 KiB page faults.

The process serves one batch at a time and takes a sample when told, so that it can be interleaved with the others. While one
process measures the threads of the other must sleep: OpenMP's spin for milliseconds after a call, on cores that are not theirs.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

import torch

from .batches import Batch
from .providers import STEPS, native
from .timing import Sampler, sampler

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
SPIN_SECONDS = 0.02  # threads of libgomp that wait are asleep after so long: five milliseconds, and more on a busy core


def _huge_bytes() -> int:
    with open("/proc/self/smaps_rollup", encoding="ascii", errors="replace") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages"))


def _serve(connection: Connection) -> None:
    """Takes a batch to work on, then a mode as often as a sample of it is wanted: the answer is its time."""
    probe = torch.ones(1 << 25)
    connection.send(_huge_bytes() >= probe.nbytes // 2)
    del probe
    samplers: dict[str, Sampler] = {}
    with suppress(EOFError):  # the end of the process that asks is the end of this one
        while True:
            message = connection.recv()
            if isinstance(message, Batch):
                torch.set_num_threads(message.threads)
                samplers.clear()
                inputs = message.inputs()
            elif message not in samplers:
                samplers[message] = sampler(STEPS[message](native, *inputs))
            answer = samplers[message]() if message in samplers else None
            time.sleep(SPIN_SECONDS)
            connection.send(answer)


class HugePages:
    """The process, seen from here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._batch: Batch | None = None

    def _ask(self, message: Batch | str) -> float:
        time.sleep(SPIN_SECONDS)
        self._connection.send(message)
        return self._connection.recv()

    def sampler(self, batch: Batch, mode: str) -> Sampler:
        """Takes samples of native over this batch, until another one is asked for."""
        if batch != self._batch:
            self._ask(batch)
            self._batch = batch
        self._ask(mode)
        return lambda: self._ask(mode)


@contextmanager
def process() -> Iterator[HugePages | None]:
    """Starts the process, and ends it. None where the setting has no effect."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_serve, args=(there,), daemon=True)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = SETTING if before is None else f"{before}:{SETTING}"
    try:
        worker.start()
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
    there.close()
    try:
        works: bool = here.recv()
        yield HugePages(here) if works else None
    finally:
        here.close()
        worker.join(10)
        worker.kill()
