"""Loads the compiled extension, which registers the operators; the one file that names torch.ops.ls_loss.

Every front end takes the operators from here. Knows no formula and no option.
"""

import re
from importlib import metadata
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor


class _CrossEntropy(Protocol):
    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
        prior: Tensor | None,
        dim: int,
        convention: int,
        /,
    ) -> Tensor: ...


class _SmoothLabels(Protocol):
    def __call__(
        self, target: Tensor, num_classes: int, epsilon: float, prior: Tensor | None, dtype: torch.dtype | None, /
    ) -> Tensor: ...


def _torch_required() -> str | None:
    """The torch minor that this installation was compiled for, as its metadata says; None if not installed."""
    try:
        requirements = metadata.requires("ls_loss") or []
    except metadata.PackageNotFoundError:
        return None
    found = (re.match(r"torch *== *(\d+\.\d+)", requirement) for requirement in requirements)
    return next((match[1] for match in found if match), None)


def _load() -> None:
    required, running = _torch_required(), torch.__version__
    mismatch = (
        f"ls_loss was built against torch {required or '(unknown)'} and cannot be loaded beside torch {running}: "
        "install it again with `pip install --no-build-isolation --force-reinstall --no-deps`."
    )
    if required is not None and required != ".".join(running.split(".")[:2]):
        raise ImportError(mismatch)
    if find_spec("ls_loss._C") is None:
        raise ImportError(
            "ls_loss is not built in this folder: leave it if you have installed the package, or run `make build` in it, or "
            "`pip install --no-build-isolation -e .`."
        )
    try:
        import ls_loss._C  # noqa: F401
    except ImportError as error:
        if error.path is None:  # raised by the extension itself, for instance for an unknown LS_LOSS_ISA
            raise
        raise ImportError(f"{mismatch} ({error})") from error


_load()

# The numbers of the operator's `reduction` and `convention`.
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
TORCH, FASTAI = 0, 1

cross_entropy: _CrossEntropy = torch.ops.ls_loss.cross_entropy.default
smooth_labels: _SmoothLabels = torch.ops.ls_loss.smooth_labels.default

# The same by ATen's operators alone.
aten_cross_entropy: _CrossEntropy = torch.ops.ls_loss._aten_cross_entropy.default
aten_smooth_labels: _SmoothLabels = torch.ops.ls_loss._aten_smooth_labels.default
