"""Do numpy, scipy and scikit-learn lose time by losses in the same process, or losses by them? Ratios, as a Markdown table.

    python -m benchmarks.neighbours [--rounds N]

Each brings threads of its own, which spin for a while after their work, where the other's should run: the second half of the
table is of a process whose OpenMP and OpenBLAS are told not to. A call is timed with a sweep over memory between each two, for
the other's data would take the caches too; then with the other's calls between. The order of these is drawn anew in each
round; figures are medians over the rounds of a round's median. Times one call after another, not providers beside each other
as the rest of the benchmarks do.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy
import scipy.linalg
import torch
from sklearn.cluster import KMeans

import ls_loss

CALLS = 12  # in a round
SLEEPING = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}  # the latter is a power of two, of cycles


def neighbours() -> dict[str, Callable[[], object]]:
    matrix = numpy.random.default_rng(0).standard_normal((700, 700))
    points = numpy.random.default_rng(1).standard_normal((6000, 16))
    return {
        "numpy, product of matrices": lambda: matrix @ matrix,
        "scipy, LU factors": lambda: scipy.linalg.lu_factor(matrix),
        "scikit-learn, k-means": lambda: KMeans(8, n_init=1, max_iter=8, random_state=0).fit(points),
    }


def step_of(loss: Callable[..., torch.Tensor]) -> Callable[[], object]:
    logits, target = torch.randn(2000, 1000).requires_grad_(), torch.arange(2000) % 1000

    def step() -> None:
        logits.grad = None
        loss(logits, target, label_smoothing=0.1).backward()

    return step


def sweep() -> Callable[[], object]:
    memory = numpy.zeros(64 << 20, dtype=numpy.uint8)
    return lambda: memory.fill(1)  # on one thread


def seconds(timed: Callable[[], object], between: Callable[[], object]) -> float:
    """Median time of the first, in turn with the second."""
    taken = []
    for _ in range(CALLS):
        between()
        begin = time.perf_counter()
        timed()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def measure(rounds: int, waiting: str) -> None:
    """Prints the rows of this process, whose threads wait as `waiting` says."""
    clearing, ours, native = sweep(), step_of(ls_loss.cross_entropy), step_of(torch.nn.functional.cross_entropy)
    for name, call in neighbours().items():
        cases = {
            "call": (call, clearing),
            "call, ours": (call, ours),
            "call, native": (call, native),
            "ours": (ours, clearing),
            "ours, call": (ours, call),
            "native": (native, clearing),
            "native, call": (native, call),
        }
        taken: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            for case in random.sample(list(cases), len(cases)):
                time.sleep(0.1)  # until the threads of the case before have stopped spinning
                taken[case].append(seconds(*cases[case]))
        median = {case: statistics.median(of_rounds) for case, of_rounds in taken.items()}
        ratios = [median[case] / median[case.split(",")[0]] for case in cases if "," in case]
        alone_ms = " / ".join(f"{1000 * median[case]:.2f}" for case in ("call", "ours", "native"))
        print(
            f"| {name} | {waiting} | {alone_ms} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="by default 11")
    parser.add_argument("--waiting", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.waiting:
        return measure(arguments.rounds, arguments.waiting)
    config = ls_loss.config()
    print(f"{torch.get_num_threads()} threads, {config['isa']}; OpenMP runtimes: {len(config['openmp_runtimes'])}")
    print()
    print(
        "| neighbour | threads that wait | alone, ms: it / ls_loss / native "
        "| its time, ls_loss between | its time, native between | ls_loss, it between "
        "| native, it between |"
    )
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    unset = {name: value for name, value in os.environ.items() if name not in SLEEPING}
    for waiting, settings in {"spin": {}, "sleep": SLEEPING}.items():
        command = [
            sys.executable,
            "-m",
            "benchmarks.neighbours",
            f"--rounds={arguments.rounds}",
            f"--waiting={waiting}",
        ]
        subprocess.run(command, env=unset | settings, check=True)
    return None


if __name__ == "__main__":
    main()
