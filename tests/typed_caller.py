"""A caller's code, which `make lint` has mypy read and nothing runs: every public name, with the types a user expects.

May import the public package only.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import ls_loss


def functions(logits: Tensor, target: Tensor, weight: Tensor | None, prior: Tensor) -> Tensor:
    loss = ls_loss.cross_entropy(logits, target, weight, ignore_index=-1, reduction="sum", label_smoothing=0.1)
    loss = loss + ls_loss.cross_entropy(logits, target, prior=prior, dim=-1)
    distribution: Tensor = ls_loss.smooth_labels(target, 10, epsilon=0.1, prior=prior, dtype=torch.float64)
    ls_loss.empty_cache()
    return loss + distribution.sum()


def modules(weight: Tensor) -> list[nn.Module]:
    criterion: nn.CrossEntropyLoss = ls_loss.CrossEntropyLoss(weight, label_smoothing=0.1, dim=-1)
    fastai = ls_loss.LabelSmoothingCrossEntropy(eps=0.1, reduction="mean")
    fastai.eps = 0.2
    fastai.reduction = "none"
    return [criterion, fastai, ls_loss.LabelSmoothingLoss(epsilon=0.1)]


def flat(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    criterion = ls_loss.LabelSmoothingCrossEntropyFlat(axis=1, eps=0.1)
    return criterion(logits, target), criterion.activation(logits), criterion.decodes(logits)


def patched(logits: Tensor, target: Tensor) -> Tensor:
    with ls_loss.patch():
        loss = nn.functional.cross_entropy(logits, target)
    ls_loss.patch().undo()
    return loss


def settings() -> Mapping[str, object]:
    return ls_loss.config()
