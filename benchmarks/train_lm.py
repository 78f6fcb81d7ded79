"""Trains a language model with the native loss and with ls_loss, side by side: python -m benchmarks.train_lm

Tokens per second, the loss's share of a step, memory, and whether both learn the same, into data/train_lm.csv and a block of
README.md here. May use the providers, the results and the table's tools; must not know how a loss is computed.
"""

import argparse
import csv
import itertools
import multiprocessing
import re
import statistics
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import footprint, plot, results
from .batches import Batch
from .providers import PROVIDERS
from .results import Row
from .table import digits, replaced, setting

LOSSES = ("native", "ls_loss")
VOCABULARY = 8192
SEQUENCES, LENGTH = 32, 64  # of a batch; each of their tokens is a row of logits
EMBEDDING, HIDDEN, LEARNING_RATE = 128, 256, 2e-3
EPOCHS = 6
STEPS_BEFORE_TIMING = 3
MOST_SECONDS = 200  # a busy machine takes fewer steps

DATA = results.DEFAULT.parent
FIGURES, CURVES = DATA / "train_lm.csv", plot.CURVES
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- training: written by python -m benchmarks.train_lm -->", "<!-- end of training -->"
MODE = "training"


class Step(NamedTuple):
    """The loss of a step, and the seconds that the step and the loss within it took, its share of backward included."""

    loss: float
    seconds: float
    loss_seconds: float


def corpus() -> Tensor:
    """The help texts of Python as numbers of words. The texts have about 4000 different words and signs: what the vocabulary
    has room for beyond them are the most frequent pairs of neighbours, each pair as a word of its own."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(topics.values()))
    pairs = Counter(itertools.pairwise(words))
    known = list(dict.fromkeys(words))
    known += [pair for pair, _ in pairs.most_common(VOCABULARY - len(known))]
    number = {word: i for i, word in enumerate(known)}
    tokens = []
    place = 0
    while place < len(words):
        pair = number.get(tuple(words[place : place + 2]))
        tokens.append(number[words[place]] if pair is None else pair)
        place += 1 if pair is None else 2
    return torch.tensor(tokens)


class LanguageModel(nn.Module):
    """The logits of the next word, [tokens, VOCABULARY], from the words so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.recurrent = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(words))[0].flatten(0, 1))


def batches() -> list[Tensor]:
    """[SEQUENCES, LENGTH + 1] words each: all but the last are read, all but the first are predicted."""
    rows = corpus().unfold(0, LENGTH + 1, LENGTH)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    return [batch for batch in rows.split(SEQUENCES) if len(batch) == SEQUENCES]


def train(connection: Connection, name: str) -> None:
    """A process that trains with one loss: takes a step when told, and answers with it; at the end, with its peak memory."""
    loss_of, steps = PROVIDERS[name].make(), itertools.cycle(batches())
    torch.manual_seed(0)
    model = LanguageModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    clock = time.perf_counter
    while connection.recv():
        batch = next(steps)
        start = clock()
        optimizer.zero_grad()
        logits, ends = model(batch[:, :-1]), []
        logits.register_hook(lambda _, ends=ends: ends.append(clock()))  # when their gradient is there
        loss_start = clock()
        loss = loss_of(logits, batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        connection.send(Step(loss.item(), clock() - start, ends[0] - loss_start))
    connection.send(footprint.peak_of_process())


def measure() -> tuple[dict[str, list[Step]], dict[str, float]]:
    """All steps and the peak memory of each loss. The processes take a step in turn, so that a busy moment meets both alike."""
    context = multiprocessing.get_context("spawn")
    connections = {}
    for name in LOSSES:
        connections[name], theirs = context.Pipe()
        context.Process(target=train, args=(theirs, name), daemon=True).start()
        theirs.close()
    steps: dict[str, list[Step]] = {name: [] for name in LOSSES}
    start = time.monotonic()
    for _ in tqdm(range(EPOCHS * len(batches())), desc="training with both", unit="step"):
        if time.monotonic() - start > MOST_SECONDS:
            break
        for name, connection in connections.items():
            connection.send(True)
            steps[name].append(connection.recv())
    peaks = {}
    for name, connection in connections.items():
        connection.send(False)
        peaks[name] = connection.recv() / 2**20
    return steps, peaks


def figures(steps: dict[str, list[Step]], peaks: dict[str, float]) -> list[Row]:
    """What training with each loss comes to, and how far apart the losses ever are."""
    rows = SEQUENCES * LENGTH
    batch = Batch((rows, VOCABULARY), torch.float32, torch.get_num_threads())
    found = []
    for name in LOSSES:
        timed = steps[name][STEPS_BEFORE_TIMING:]

        def add(metric: str, unit: str, values: list[float], name: str = name) -> None:
            low, _, _, high = statistics.quantiles(values, n=5) if len(values) > 1 else values * 4
            found.append(results.row(batch, name, PROVIDERS[name].version, MODE, metric, unit, statistics.median(values),
                                     low, high, len(values)))  # fmt: skip

        add("throughput", "tokens per second", [rows / step.seconds for step in timed])
        add("time", "ms", [step.seconds * 1e3 for step in timed])
        add("time of the loss", "ms", [step.loss_seconds * 1e3 for step in timed])
        add("share of the loss", "%", [100 * step.loss_seconds / step.seconds for step in timed])
        add("peak memory", "MiB", [peaks[name]])
        add("first loss", "nat", [steps[name][0].loss])
        add("last loss", "nat", [steps[name][-1].loss])
        add("largest difference to native", "relative", [max(map(difference, steps[name], steps["native"]))])
    return found


def difference(step: Step, other: Step) -> float:
    return abs(step.loss / other.loss - 1)


def markdown(rows: list[Row]) -> str:
    """The table in README.md."""
    of = {(row.provider, row.metric): row.median for row in rows}
    first = rows[0]
    tokens, classes = first.shape.split("x")
    steps = next(row.samples for row in rows if row.metric == "time") + STEPS_BEFORE_TIMING
    apart = of["ls_loss", "largest difference to native"]
    return "\n".join(
        [
            f"| {steps} steps of [{tokens}, {classes}] logits, {first.threads} threads | " + " | ".join(LOSSES) + " |",
            "|---|" + "---:|" * len(LOSSES),
            *(
                f"| {title} | " + " | ".join(form(of[name, metric]) for name in LOSSES) + " |"
                for title, metric, form in (
                    ("tokens per second", "throughput", digits),
                    ("a step, ms", "time", digits),
                    ("of it in the loss, its backward included, ms", "time of the loss", digits),
                    ("of it in the loss, %", "share of the loss", digits),
                    ("peak memory of the process, MiB", "peak memory", digits),
                    ("loss of the first step", "first loss", "{:.4g}".format),
                    ("loss of the last step", "last loss", "{:.4g}".format),
                )
            ),
            "",
            f"No step's loss differs by more than {apart:.1e} of itself between the two. {setting(rows)}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--draw", action="store_true", help="only the table and the picture, from the CSV that is there"
    )
    if not parser.parse_args().draw:
        steps, peaks = measure()
        results.write(FIGURES, figures(steps, peaks))
        with CURVES.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *LOSSES])
            losses = ([f"{step.loss:.9g}" for step in steps[name]] for name in LOSSES)
            writer.writerows([number, *each] for number, each in enumerate(zip(*losses, strict=True), 1))
    block = markdown(results.read(FIGURES))
    README.write_text(replaced(README.read_text(encoding="utf-8"), block, BEGIN, END), encoding="utf-8")
    print(block)
    plot.draw_docs(("training",))


if __name__ == "__main__":
    main()
