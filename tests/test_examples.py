"""The examples that draw run to their end and write their pictures; those that train, with little training.

Each in a process of its own: scikit-learn brings an OpenMP runtime, which must not come into that of other tests.
"""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = {
    "calibration": ("EPOCHS = 1; m.SEEDS = 2; m.FOLDER = folder", "calibration error better|worse|no clear", 2),
    "noise_sweep": ("EPOCHS = 1; m.SEEDS = 1; m.NOISES = (0.0, 0.3); m.PATH = folder / 'sweep.png'", "30 %", 1),
    "smoothed_labels": ("FOLDER = folder", "0.1: the loss is smallest where the label leads by 3.83", 2),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, tmp_path):
    settings, said, pictures = RUNS[name]
    code = f"from pathlib import Path; folder = Path({str(tmp_path)!r}); import {name} as m; m.{settings}; m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=EXAMPLES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(part in done.stdout for part in said.split("|"))
    drawn = list(tmp_path.glob("*.png"))
    assert len(drawn) == pictures and all(path.stat().st_size > 10_000 for path in drawn)
