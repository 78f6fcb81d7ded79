"""Named inputs for the tests: logits that catch particular bugs, targets, weights, priors, and the option space.

May use torch only; must not know the library. Everything is made from a seed.
"""

import itertools
import math

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "mean", "sum")
SMOOTHINGS = (0.0, 0.05, 0.1, 0.5, 1.0)
SHAPES = ((5,), (4, 5), (3, 5, 4), (2, 5, 3, 2), (2, 5, 1, 3, 2))  # classes in dimension 1, or the only one
WIDTHS = (*range(1, 70), 95, 96, 97, 127, 128, 129, 130)  # numbers of classes around the widths of vectors and blocks
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=generator(seed))


def rows_shape(shape, dim=1):
    """The shape of the target of logits of this shape."""
    shape = list(shape)
    del shape[dim if len(shape) > 1 else 0]
    return tuple(shape)


def num_classes(shape, dim=1):
    return shape[dim if len(shape) > 1 else 0]


def batch(shape, dtype=torch.float32, *, dim=1, seed=0, scale=3.0):
    """Logits of a shape, and class indices for them."""
    logits = (scale * randn(*shape, seed=seed)).to(dtype)
    return logits, integers(num_classes(shape, dim), *rows_shape(shape, dim), seed=seed + 1)


def ignoring(target, ignore_index, seed=7):
    """The target with about every third row ignored, but never all of them."""
    ignored = torch.rand(target.shape, generator=generator(seed)) < 0.4
    if target.numel() > 1:
        ignored.view(-1)[0], ignored.view(-1)[-1] = False, True
        return target.masked_fill(ignored, ignore_index)
    return target


def probabilities(shape, dtype=torch.float32, *, dim=1, seed=3):
    return randn(*shape, seed=seed).softmax(dim if len(shape) > 1 else 0).to(dtype)


def weights(classes, dtype=torch.float32, seed=4):
    """Class weights around 1; the kernels may not take them for a distribution."""
    return (0.25 + torch.rand(classes, generator=generator(seed), dtype=torch.float64) * 1.5).to(dtype)


def prior(classes, dtype=torch.float32, seed=5):
    """A distribution far from uniform. One class in four has none of it, and must take no part in the smoothing."""
    values = randn(classes, seed=seed).exp()
    values[3::4] = 0
    return (values / values.sum()).to(dtype)


def product(**axes):
    """Every combination of named values as a dictionary; its repr names the combination in a failure."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


# Each takes rows and classes and returns float64 logits [rows, classes] and a target.


def calls(dtype, soft=False, **more):
    """Every combination of the options: (combination, logits, target, the options as keywords).

    `soft`: probability targets. `more`: further axes, of which ignore_index is an option, too (None: left out).
    """
    axes = dict(reduction=REDUCTIONS, weighted=(False, True), smoothing=SMOOTHINGS, prior=(False, True))
    for combo in product(shape=SHAPES, **axes, **more):
        classes = num_classes(combo["shape"])
        logits, target = batch(combo["shape"], dtype)
        options = dict(reduction=combo["reduction"], label_smoothing=combo["smoothing"])
        if soft:
            target = probabilities(combo["shape"], dtype)
        elif combo.get("ignore_index") is not None:
            options["ignore_index"] = combo["ignore_index"]
            target = ignoring(target, combo["ignore_index"])
            if combo["ignore_index"] == 2 and bool((target == 2).all()):
                continue  # all rows ignored: test_special_values.py
        if combo["weighted"]:
            options["weight"] = weights(classes, dtype)
        if combo["prior"]:
            options["prior"] = prior(classes, dtype)
        yield combo, logits, target, options


def _target(rows, classes):
    return integers(classes, rows, seed=11)


def _scaled(scale):
    return lambda rows, classes: (scale * randn(rows, classes, seed=10), _target(rows, classes))


def _sorted(descending):
    """Ascending logits move the reference of a one-sweep kernel with every block: its rescaling must be exact."""

    def make(rows, classes):
        return (10 * randn(rows, classes, seed=10)).sort(dim=1, descending=descending).values, _target(rows, classes)

    return make


def _confident(gap):
    """The target leads by `gap` over the logsumexp of the others: subtracting logarithms would leave nothing of the loss."""

    def make(rows, classes):
        logits, target = 0.1 * randn(rows, classes, seed=10), _target(rows, classes)
        return logits.scatter(1, target[:, None], gap + math.log(classes)), target

    return make


def _wrong(gap):
    """Another class than the target leads by far: the target's own probability underflows."""

    def make(rows, classes):
        logits, target = _confident(gap)(rows, classes)
        return logits, (target + 1) % classes

    return make


def _two_maxima(rows, classes):
    """Two equal maxima: leaving out every entry equal to the maximum would leave out one too many."""
    logits, target = _confident(5.0)(rows, classes)
    return logits.scatter(1, ((target + 1) % classes)[:, None], 5.0 + math.log(classes)), target


def _late_jump(rows, classes):
    """The last logit leads by far: everything summed before it must be scaled to nothing, not to infinity."""
    logits = randn(rows, classes, seed=10)
    logits[:, -1] += 80
    return logits, _target(rows, classes)


def _early_peak(rows, classes):
    """The first logit leads by far: the exponentials of all others are below the smallest normal number."""
    logits = randn(rows, classes, seed=10)
    logits[:, 0] += 95
    return logits, _target(rows, classes)


LOGITS = {
    "randn/10": _scaled(0.1),
    "randn": _scaled(1.0),
    "randn*10": _scaled(10.0),
    "randn*30": _scaled(30.0),
    "zeros": _scaled(0.0),
    "subnormal": _scaled(1e-40),
    "ascending": _sorted(False),
    "descending": _sorted(True),
    "offset": lambda rows, classes: (randn(rows, classes, seed=10) + 1e3, _target(rows, classes)),
    "negative offset": lambda rows, classes: (randn(rows, classes, seed=10) - 3e4, _target(rows, classes)),
    "two maxima": _two_maxima,
    "late jump": _late_jump,
    "early peak": _early_peak,
    **{f"confident {gap}": _confident(gap) for gap in (1.0, 5.0, 17.0, 30.0, 60.0, 87.0, 88.0, 104.0)},
    **{f"wrong {gap}": _wrong(gap) for gap in (5.0, 30.0, 104.0)},
}


def loss_and_grad(function, logits, target, outer=None, **options):
    """Of a loss function's call, and of its backward with `outer` (default: ones)."""
    x = logits.detach().requires_grad_()
    loss = function(x, target, **options)
    outer = torch.ones_like(loss) if outer is None else outer.to(loss.dtype)
    return loss.detach(), torch.autograd.grad(loss, x, outer)[0]
