"""Where the pictures of the examples go, and which scripts each follows from. No example itself.

Into build/demo, or into the folder that is the script's argument: docs/figures is where the documentation has its pictures
from, and tests/test_docs.py wants those drawn by the scripts as they are. Must not know what is drawn.
"""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent
sys.path.insert(0, str(EXAMPLES.parent))
from benchmarks import pictures  # noqa: E402

plt = pictures.plt
FOLDER = EXAMPLES.parent / "build" / "demo"
DRAWN_BY = {
    "smoothed-labels": ("smoothed_labels",),
    "smoothed-losses": ("smoothed_labels",),
    "reliability-digits": ("train_digits",),
    "reliability-breast-cancer": ("calibration", "train_digits"),
    "reliability-wine": ("calibration", "train_digits"),
    "noise-sweep": ("noise_sweep", "train_digits"),
    "language-model": ("language_model",),
}


def sources(name):
    """The scripts that a picture follows from."""
    return [EXAMPLES / f"{script}.py" for script in DRAWN_BY[name]]


def save(figure, name):
    """Writes the picture of this name, and returns where it is."""
    given = [argument for argument in sys.argv[1:2] if not argument.startswith("-")]  # notebooks have options there
    path = Path(*given or [FOLDER]) / f"{name}.png"
    pictures.save(figure, path, sources(name), 100)
    return path
