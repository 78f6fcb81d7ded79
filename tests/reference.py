"""The losses in float64, written to be right and short: the oracle of all tests.

Every convention is one matrix q of coefficients with loss = -sum(q log p); gradients come from autograd. May use torch only;
must not know the library.
"""

import torch
import torch.nn.functional as F


def log_softmax(x):
    """Over the last dimension, by distances to the largest logit and log1p of the rest: right for confident rows too.

    The largest logit's own distance is a constant, so that its gradient is the sum of the others' and nothing cancels.
    """
    top = x.argmax(-1, keepdim=True)
    distance = (x - x.gather(-1, top)).scatter(-1, top, 0.0)
    return distance - distance.exp().scatter(-1, top, 0.0).sum(-1, keepdim=True).log1p()


def coefficients(
    target,
    num_classes,
    weight=None,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    prior=None,
    convention="torch",
):
    """q [rows, C] of target [rows] (indices) or [rows, C] (probabilities), with the divisor of 'mean' folded in."""
    w = torch.ones(num_classes, dtype=torch.float64) if weight is None else weight.double()
    u = torch.full((num_classes,), 1 / num_classes, dtype=torch.float64) if prior is None else prior.double()
    if target.is_floating_point():
        q = w * ((1 - label_smoothing) * target.double() + label_smoothing * u)
        return q / len(q) if reduction == "mean" else q
    counts = target.long() != ignore_index
    y = target.long().where(counts, 0)
    w_y = w[y] * counts
    hard = (1 - label_smoothing) * w_y[:, None] * F.one_hot(y, num_classes)
    soft = label_smoothing * u.expand_as(hard)
    if convention == "torch":
        soft = soft * w * counts[:, None]
    if reduction == "mean":
        hard = hard / w_y.sum()
        soft = soft / (w_y.sum() if convention == "torch" else len(target))
    return hard + soft


def rows(tensor, dim):
    """[rows, C]: the class dimension last, the others flattened."""
    dim = dim if tensor.dim() > 1 else 0
    return tensor.movedim(dim, -1).reshape(-1, tensor.shape[dim])


def cross_entropy(logits, target, *, dim=1, reduction="mean", **options):
    """The loss in float64, differentiable in the logits and in probabilities. A coefficient of 0 makes its term absent."""
    x = rows(logits.double(), dim)
    y = rows(target, dim) if target.shape == logits.shape else target.reshape(-1)
    q = coefficients(y, x.shape[1], reduction=reduction, **options)
    x = x.where((q != 0).any(-1, keepdim=True), 0.0)
    loss = -(q * log_softmax(x).where(q != 0, 0.0)).sum(-1)
    if reduction != "none":
        return loss.sum()
    shape = list(logits.shape)
    del shape[dim if logits.dim() > 1 else 0]
    return loss.reshape(shape)
