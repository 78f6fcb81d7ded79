"""Do numpy, scipy and scikit-learn lose time by losses in the same process, or losses by them? Ratios, as a Markdown table.

    python -m benchmarks.neighbours [--rounds N]

Each brings threads of its own, which may spin where the other's should run. A neighbour's call is timed among its like, then
with a loss of ls_loss between each two, then with one of native; and the loss of ls_loss among its like, then with the
neighbour's calls between. The order of the five is drawn anew in each round; figures are medians over the rounds of a round's
median. Times one call after another, not providers beside each other as the rest of the benchmarks do.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy
import scipy.linalg
import torch
from sklearn.cluster import KMeans

import ls_loss

CALLS = 12  # in a round


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


def seconds(timed: Callable[[], object], between: Callable[[], object] | None) -> float:
    """Median time of the first, in turn with the second."""
    taken = []
    for _ in range(CALLS):
        if between:
            between()
        begin = time.perf_counter()
        timed()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="by default 15")
    rounds = parser.parse_args().rounds
    ours, native = step_of(ls_loss.cross_entropy), step_of(torch.nn.functional.cross_entropy)
    config = ls_loss.config()
    print(f"{torch.get_num_threads()} threads, {config['isa']}; OpenMP runtimes: {len(config['openmp_runtimes'])}")
    print()
    print("| neighbour | its time with ls_loss between | with native between | time of ls_loss with it between |")
    print("|---|---:|---:|---:|")
    for name, call in neighbours().items():
        cases = {
            "alone": (call, None),
            "ls_loss between": (call, ours),
            "native between": (call, native),
            "ls_loss alone": (ours, None),
            "it between": (ours, call),
        }
        taken: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            for case in random.sample(list(cases), len(cases)):
                taken[case].append(seconds(*cases[case]))
        median = {case: statistics.median(of_rounds) for case, of_rounds in taken.items()}
        ratios = (
            median["ls_loss between"] / median["alone"],
            median["native between"] / median["alone"],
            median["it between"] / median["ls_loss alone"],
        )
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
