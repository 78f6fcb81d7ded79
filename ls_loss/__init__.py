"""Label-smoothed cross-entropy for PyTorch on the CPU, as drop-in for the losses of torch, fastai and the notebooks.

The whole public interface; the registered operators are torch.ops.ls_loss.*.
"""

from . import _library as _library  # first: everything else needs the operators
from ._patch import patch
from .diagnostics import config, empty_cache
from .fastai import LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat
from .functional import cross_entropy, smooth_labels
from .modules import CrossEntropyLoss
from .notebook import LabelSmoothingLoss

__all__ = [
    "CrossEntropyLoss",
    "LabelSmoothingCrossEntropy",
    "LabelSmoothingCrossEntropyFlat",
    "LabelSmoothingLoss",
    "config",
    "cross_entropy",
    "empty_cache",
    "patch",
    "smooth_labels",
]
