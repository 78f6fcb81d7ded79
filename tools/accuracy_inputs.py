"""What measure_accuracy.py measures on: logits and targets that are hard, and their true losses and gradients.

1 to 151936 classes; normal, uniform, equal, tied, sorted, shifted, subnormal and masked logits; targets that lead by up to 104,
or are far behind; probabilities. The truth is float64 by the tests' reference; for float64 itself mpmath with 100 digits. Knows
no loss that is judged.
"""

import math
import sys
from pathlib import Path

import mpmath
import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import reference

GAPS = (1, 2, 5, 10, 16, 17, 20, 30, 60, 87, 88, 104)
mpmath.mp.dps = 100  # of which a lead of 104 cancels 46


def batches(classes, dtype):
    """(kind, logits, target): "ordinary" or "confident", where the target leads, or "far", where it is far behind."""
    rows = 64 if classes <= 1000 else 4
    if dtype == torch.float64:
        rows = 4 if classes <= 100 else 2  # of which planes need two
    source = torch.Generator().manual_seed(classes)
    if dtype == torch.float64 and classes > 1000:
        many_small = torch.full((1, 32768), -16.65, dtype=torch.float64).index_fill(1, torch.arange(16), 0.0)
        yield "of 32768 classes", torch.randn(1, 32768, generator=source, dtype=torch.float64), torch.tensor([5])
        yield "of 32768 classes", many_small, torch.tensor([5])
        # Where positions lie side by side every 32 classes go into one running sum: equal terms all lose to one side there.
        normal = torch.randn(2, 33000, generator=source, dtype=torch.float64)
        few_large = torch.full((2, 33000), -16.65, dtype=torch.float64).index_fill(1, torch.arange(16), 0.0)
        for logits in (normal, torch.zeros_like(normal), few_large):
            yield "of 33000 classes, planes", logits, torch.tensor([5, 20000])
        return
    normal = torch.randn(rows, classes, generator=source, dtype=torch.float64)
    target = torch.randint(classes, (rows,), generator=source)
    at = target[:, None]
    yield from (("ordinary", scale * normal, target) for scale in (0.1, 1.0, 10.0, 30.0, 0.0, 1e-40))
    yield "ordinary", torch.rand(rows, classes, generator=source, dtype=torch.float64), target
    yield "ordinary", (10 * normal).sort(1).values, target
    yield "ordinary", (10 * normal).sort(1, descending=True).values, target
    yield from (("ordinary", normal + offset, target) for offset in (1e4, 1e7, -1e30))
    for share in (0.1, 0.5, 0.99):
        masked = (torch.rand(rows, classes, generator=source) < share).scatter(1, at, False)
        yield "masked", normal.masked_fill(masked, -math.inf), target
    for gap in GAPS:
        leads = (0.1 * normal).scatter(1, at, gap + math.log(classes))
        yield "confident", leads, target
        yield "far", leads, (target + 1) % classes
        yield "confident", leads.scatter(1, (at + classes // 2) % classes, gap + math.log(classes)), target


def probabilities(x, target, source):
    """(kind, targets): softmax of other logits and of the row's own, with which its gradient is 0; one class smoothed."""
    yield "softmax targets", (3 * torch.randn(x.shape, generator=source, dtype=torch.float64)).softmax(1).to(x.dtype)
    yield "softmax targets", x.double().softmax(1).to(x.dtype)
    smooth = torch.full(x.shape, 0.1 / x.shape[1], dtype=torch.float64)
    smooth.scatter_add_(1, target[:, None], smooth.new_full((len(x), 1), 0.9))
    yield "smoothed one-hot targets", smooth.to(x.dtype)


def truth_float64(x, target, smoothing):
    """Loss and gradient by the tests' reference."""
    x = x.double().requires_grad_()
    loss = reference.cross_entropy(x, target, reduction="none", label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad


def truth_mpmath(x, target, smoothing):
    """The same with 100 digits, as lists: of the losses, and of the entries of all rows."""
    losses, grads = [], []
    for row, y in zip(x.tolist(), target.tolist(), strict=True):
        row = [mpmath.mpf(v) for v in row]
        top = max(row)
        exps = [mpmath.exp(v - top) for v in row]
        total = mpmath.fsum(exps)
        z, classes = mpmath.log(total) + top, len(row)
        loss = (1 - mpmath.mpf(smoothing)) * (z - row[y])
        if smoothing:
            loss += mpmath.mpf(smoothing) * mpmath.fsum(z - v for v in row) / classes
        losses.append(loss)
        grads += [e / total - mpmath.mpf(smoothing) / classes for e in exps]
        grads[y - classes] -= 1 - mpmath.mpf(smoothing)
    return losses, grads
