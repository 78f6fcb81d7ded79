"""Looks for float32 rows whose loss or gradient is as far from the truth as can be: the worst of many are kept and changed.

For test_last_bits.py and tools/measure_accuracy.py. Takes the loss to be judged as a function; knows no library.
"""

import math

import torch

LEAST = 2.0**-149


def truth(x, target, smoothing):
    """The losses of float32 rows in float64, to some units of 2^-53: distances from the target's logit are exact there."""
    apart = x.double() - x.double().gather(1, target[:, None])
    log_rest = apart.scatter(1, target[:, None], -math.inf).exp().sum(1).log1p()
    return (1 - smoothing) * log_rest + smoothing * (log_rest - apart.mean(1)) if smoothing else log_rest


def ulp(value):
    return 2.0 ** (torch.floor(torch.log2(value.abs().clamp_min(LEAST))).clamp_min(-126) - 23)


def scores(function, x, target, smoothing, figure, rows_at_once):
    """Of each row the error of the loss in ULP, or what its gradient sums to in units of 2^-24."""
    found = []
    for logits, classes in zip(x.split(rows_at_once), target.split(rows_at_once), strict=True):
        logits = logits.clone().requires_grad_()
        loss = function(logits, classes, reduction="none", label_smoothing=smoothing)
        if figure == "loss":
            wanted = truth(logits.detach(), classes, smoothing)
            found.append((loss.detach().double() - wanted).abs() / ulp(wanted))
        else:
            (grad,) = torch.autograd.grad(loss.sum(), logits)
            found.append(grad.double().sum(1).abs() * 2.0**24)
    return torch.cat(found)


def in_planes(function):
    """The losses of the same rows where positions lie side by side, [1, C, N]: another layout, with kernels of its own."""
    return lambda x, target, **options: function(x.T[None].contiguous(), target[None], **options)[0]


def changed(x, source):
    """One to three logits of each row moved, by a hundred-millionth to ten times themselves."""
    x = x.clone()
    for _ in range(1 + int(torch.randint(3, (), generator=source))):
        at = torch.randint(x.shape[1], (len(x), 1), generator=source)
        old = x.gather(1, at)
        size = 10 ** (8 * torch.rand(len(x), 1, generator=source) - 7)
        x.scatter_(1, at, old + torch.randn(len(x), 1, generator=source) * size * old.abs().clamp_min(0.1))
    return x.clamp(-60, 60)


def climb(function, classes, smoothing, figure, steps, rows, rows_at_once=None):
    """The largest error found, with the row and target that have it. Draws the same numbers each time."""
    source = torch.Generator().manual_seed(classes)
    x = torch.randn(rows, classes, generator=source) * 10 ** (2 * torch.rand(rows, 1, generator=source) - 1)
    target = torch.randint(classes, (rows,), generator=source)
    leads = torch.rand(rows, 1, generator=source) < 0.6
    x.scatter_add_(1, target[:, None], 20 * torch.rand(rows, 1, generator=source) * leads)
    rows_at_once, kept = rows_at_once or rows, rows // 8
    errors = scores(function, x, target, smoothing, figure, rows_at_once)
    for _ in range(steps):
        best = errors.topk(kept).indices
        parents = torch.cat([best, best[torch.randint(kept, (rows - kept,), generator=source)]])
        x, target, errors = x[parents], target[parents], errors[parents]
        x[kept:] = changed(x[kept:], source)
        errors[kept:] = scores(function, x[kept:], target[kept:], smoothing, figure, rows_at_once)
    worst = int(errors.argmax())
    return float(errors[worst]), x[worst].tolist(), int(target[worst])
