"""Measures the C kernels alone, every instruction set, and keeps the figures: python -m benchmarks.kernels

Runs build/bench_kernels, which `make bench-kernels` compiles, and writes benchmarks/data/kernels.csv. Must not know how a
figure is measured.
"""

import argparse
import csv
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import ls_loss

from . import results
from .batches import Batch
from .providers import COPY, OURS, READ
from .results import Row

PROGRAM = results.ROOT / "build" / "bench_kernels"
OUTPUT = results.DEFAULT.with_name("kernels.csv")
FORWARD, GRADIENT = "kernel, loss", "kernel, loss+gradient"
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}


def converted(line: dict[str, str]) -> Row:
    """The program's row as one of ours. Copy and read have the mode whose limit they are."""
    what = line["mode"]
    mode = FORWARD if what in (READ, "loss") else GRADIENT
    mode += ", probability targets" * (line["target"] == "probabilities")
    mode += f", smoothing {line['label_smoothing']}" * (line["label_smoothing"] != "0.1")
    shape = tuple(int(line[name]) for name in ("outer", "classes", "inner")[: 3 if line["inner"] != "1" else 2])
    batch = Batch(shape, DTYPES[line["dtype"]], int(line["threads"]))
    median, low, high = (float(line[name]) for name in ("median_ms", "low_ms", "high_ms"))
    provider = what if what in (COPY, READ) else OURS
    version = str(ls_loss.config()["version"])
    row = results.row(batch, provider, version, mode, "time", "ms", median, low, high, int(line["repetitions"]))
    return row if provider != OURS else replace(row, isa=line["isa"])


def measured(arguments: list[str]) -> Iterator[Row]:
    """The rows as they come."""
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as program:
        yield from map(converted, csv.DictReader(program.stdout))
    if program.returncode:
        raise SystemExit(f"{PROGRAM} ended with status {program.returncode}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each shape; by default 1")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the CSV to write")
    arguments = parser.parse_args()
    start = time.monotonic()
    options = ["quick"] * arguments.quick + [str(arguments.seconds)]
    rows = list(tqdm(measured(options), unit=" figures"))
    results.write(arguments.output, rows)
    print(f"{len(rows)} figures in {arguments.output}, after {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
