"""The examples that draw run to their end and write their pictures; those that train, with little training.

Each in a process of its own: scikit-learn brings an OpenMP runtime, which must not come into that of other tests.
"""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Settings, some words of what is printed, the number of pictures.
RUNS = {
    "calibration": ("EPOCHS = 1; m.SEEDS = 2", "calibration error better|worse|no clear", 2),
    "language_model": ("EPOCHS = 1; m.HELD_BACK = 33", "after 1 epochs of 1 steps", 1),
    "noise_sweep": ("EPOCHS = 1; m.SEEDS = 1; m.NOISES = (0.0, 0.3)", "30 %", 1),
    "smoothed_labels": ("SMOOTHING = 0.1", "0.1: the loss is smallest where the label leads by 3.83", 2),
    "train_digits": ("EPOCHS = 1; m.SEEDS = 2; m.subprocess.run = lambda *_, **__: None", "Reliability diagram", 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, tmp_path):
    """With the folder of the pictures as its argument."""
    settings, said, pictures = RUNS[name]
    command = [sys.executable, "-c", f"import {name} as m; m.{settings}; m.main()", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=EXAMPLES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(part in done.stdout for part in said.split("|"))
    drawn = list(tmp_path.glob("*.png"))
    assert len(drawn) == pictures and all(path.stat().st_size > 4_000 for path in drawn)
