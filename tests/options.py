"""Every part of the formula as options of one call, in float64, for tests of derivatives. Must not know the library."""

import cases
import torch


def double_batch(*shape, **options):
    logits, target = cases.batch(shape, torch.float64, **options)
    return logits.requires_grad_(), target


def option_samples():
    """Every part of the formula, each with what could be forgotten beside it; ignored rows in all that have some."""
    weight, prior = cases.weights(5, torch.float64), cases.prior(5, torch.float64)
    yield "plain", (4, 5), {}
    yield "no smoothing", (4, 5), {"label_smoothing": 0.0}
    yield "full smoothing", (4, 5), {"label_smoothing": 1.0}
    yield "weight", (4, 5), {"weight": weight}
    yield "prior", (4, 5), {"prior": prior}
    yield "weight and prior", (4, 5), {"weight": weight, "prior": prior}
    yield "fastai", (4, 5), {"convention": "fastai"}
    yield "fastai with weight and prior", (4, 5), {"convention": "fastai", "weight": weight, "prior": prior}
    yield "1-d", (5,), {}
    yield "images", (2, 5, 3, 2), {"weight": weight}
    yield "classes last", (2, 3, 5), {"dim": -1, "prior": prior}
    yield "classes first", (5, 3, 2), {"dim": 0, "weight": weight}


OPTIONS = {name: (shape, options) for name, shape, options in option_samples()}


def sample(name):
    shape, options = OPTIONS[name]
    dim = options.get("dim", 1)
    logits, target = double_batch(*shape, dim=dim)
    return logits, cases.ignoring(target, -100), options
