"""The losses that are compared, all of them the mean label-smoothed cross-entropy, and the steps that are timed.

The one place that names them; the examples take them from here too. Must not know how time is measured.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import ls_loss

SMOOTHING = 0.1

Loss = Callable[[Tensor, Tensor], Tensor]


def ours(logits: Tensor, target: Tensor) -> Tensor:
    return ls_loss.cross_entropy(logits, target, label_smoothing=SMOOTHING)


def native(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, label_smoothing=SMOOTHING)


# The two functions with all their options, for what is not the plain mean.
OURS, NATIVE = "ls_loss", "native"
FUNCTIONS = {NATIVE: F.cross_entropy, OURS: ls_loss.cross_entropy}


def compiled(loss: Loss) -> Loss:
    """Compiles for one shape, one dtype and the threads set now. Call `torch._dynamo.reset()` before: past its limit of
    recompilations dynamo raises for a full graph."""
    return torch.compile(loss, fullgraph=True, dynamic=False)


def fastai() -> Loss:
    from fastai.losses import LabelSmoothingCrossEntropy

    return LabelSmoothingCrossEntropy(eps=SMOOTHING)


def timm() -> Loss:
    """From its file: the package asks for torchvision when it is imported, the loss does not."""
    (package,) = importlib.util.find_spec("timm").submodule_search_locations
    spec = importlib.util.spec_from_file_location("timm_cross_entropy", Path(package, "loss", "cross_entropy.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LabelSmoothingCrossEntropy(SMOOTHING)


def transformers() -> Loss:
    from transformers.trainer_pt_utils import LabelSmoother

    smoother = LabelSmoother(epsilon=SMOOTHING)
    return lambda logits, target: smoother({"logits": logits}, target)


@dataclass(frozen=True)
class Provider:
    """How to get a loss, the package it comes from, and whether it takes classes that are not in the last dimension and
    is measured for dtypes other than float32."""

    make: Callable[[], Loss]
    package: str
    everywhere: bool = True

    @property
    def version(self) -> str:
        return version(self.package)

    def serves(self, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        return self.everywhere or (len(shape) == 2 and dtype == torch.float32)


PROVIDERS = {
    "ls_loss": Provider(lambda: ours, "ls_loss"),
    "ls_loss compiled": Provider(lambda: compiled(ours), "ls_loss"),
    "native": Provider(lambda: native, "torch"),
    "native compiled": Provider(lambda: compiled(native), "torch"),
    "fastai": Provider(fastai, "fastai", everywhere=False),
    "timm": Provider(timm, "timm", everywhere=False),
    "transformers": Provider(transformers, "transformers", everywhere=False),
}
HUGE_PAGES = "native+THP"  # native again, in a process of its own: huge_pages.py
COPY, READ = "copy", "read"  # the limits: the logits' bytes copied, and read
LEAST = "x.sum().backward()"  # the least step that autograd can take


def forward_backward(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], None]:
    """A training step's share of the loss. The gradient is freed within the step that made it, as in training."""

    def step() -> None:
        loss(logits, target).backward()
        logits.grad = None

    return step


def forward(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], None]:
    """The loss alone, of logits that need no gradient."""
    logits = logits.detach()

    def step() -> None:
        loss(logits, target)

    return step


STEPS = {"forward+backward": forward_backward, "forward": forward}
