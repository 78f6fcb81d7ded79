"""Saves a picture in few bytes, with the digest of what it was drawn from, which a test compares: tests/test_docs.py.

For the benchmarks and for the examples. Must not know what is drawn.
"""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def digest(sources: Iterable[Path]) -> str:
    """What ties a picture to the files, a CSV or scripts, that it was drawn from."""
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def save(figure: plt.Figure, path: Path, sources: Iterable[Path] = (), dpi: int = 110) -> None:
    """With a palette, in which a picture has a third of the bytes."""
    with io.BytesIO() as file:
        figure.savefig(file, dpi=dpi)
        picture = Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    plt.close(figure)
    texts = PngInfo()
    texts.add_text("Source", digest(sources))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True, pnginfo=texts)
