"""The registered operators with the keywords of the library, for tests below its front ends. Must not know any path."""

import torch

import ls_loss  # noqa: F401  registers the operators

REDUCTION = {"none": 0, "mean": 1, "sum": 2}
CONVENTION = {"torch": 0, "fastai": 1}


def cross_entropy(
    logits,
    target,
    weight=None,
    reduction="mean",
    ignore_index=-100,
    label_smoothing=0.1,
    prior=None,
    dim=1,
    convention="torch",
):
    return torch.ops.ls_loss.cross_entropy(
        logits,
        target,
        weight,
        REDUCTION[reduction],
        ignore_index,
        label_smoothing,
        prior,
        dim,
        CONVENTION[convention],
    )


def smooth_labels(target, num_classes, epsilon, prior=None, dtype=None):
    return torch.ops.ls_loss.smooth_labels(target, num_classes, epsilon, prior, dtype)
