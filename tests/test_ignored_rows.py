"""Ignored rows whose loss meets an infinite or NaN derivative: their gradient stays exactly 0, as native's.

Their loss is 0, at which the root has an infinite slope and a quotient a NaN one; a mean over no row is NaN, and so is the
derivative of its square.
"""

import cases
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import ls_loss

LAYOUTS = {"short rows": (7, 5), "rows": (7, 300), "one row": (5,), "planes": (2, 5, 7), "images": (2, 5, 3, 3)}
OUTER = {"inf": lambda loss: loss.sqrt().sum(), "nan": lambda loss: (loss / loss + loss).sum()}


def plain(function, logits):
    function(logits).backward()
    return logits.grad


def with_a_tangent(function, logits):
    """Logits that have a tangent and need a gradient: everything is the composite's."""
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(function(forward_ad.make_dual(logits, torch.ones_like(logits))), logits)
        return forward_ad.unpack_dual(gradient).primal


# Who multiplies by grad_output: the kernel in place, the composite twice, the composite for the kernel, the composite below
# vmap, whose own reductions come between, and autograd of the composite loss.
WAYS = {
    "backward": plain,
    "retain_graph": lambda function, logits: torch.autograd.grad(function(logits), logits, retain_graph=True)[0],
    "create_graph": lambda function, logits: torch.autograd.grad(function(logits), logits, create_graph=True)[0],
    "torch.func.grad": lambda function, logits: torch.func.grad(function)(logits.detach()),
    "torch.func.grad of vmap": lambda function, logits: torch.func.grad(
        lambda x: torch.vmap(function, randomness="same")(x.unsqueeze(0)).sum()
    )(logits.detach()),
    "with a tangent": with_a_tangent,
}

LOSSES = {
    "plain": lambda **options: lambda x, y: ls_loss.cross_entropy(x, y, **options),
    "smoothed": lambda **options: lambda x, y: ls_loss.cross_entropy(x, y, label_smoothing=0.1, **options),
    "prior and weight": lambda **options: (
        lambda x, y: ls_loss.cross_entropy(
            x,
            y,
            cases.weights(cases.num_classes(x.shape), x.dtype),
            label_smoothing=0.1,
            prior=cases.prior(cases.num_classes(x.shape), x.dtype),
            **options,
        )
    ),
    "fastai without smoothing": lambda **options: ls_loss.LabelSmoothingCrossEntropy(0.0, **options),
}


def batch(layout, loss, dtype):
    shape = LAYOUTS[layout]
    if loss.startswith("fastai") and len(shape) == 1:
        pytest.skip("fastai's has no single rows")
    logits, target = cases.batch(shape, dtype)
    return logits.requires_grad_(), target


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one row"])
@pytest.mark.parametrize("way", WAYS)
def test_some_rows_ignored(way, layout, loss, outer, dtype):
    logits, target = batch(layout, loss, dtype)
    target = cases.ignoring(target, -100)
    function = LOSSES[loss](reduction="none")
    gradient = WAYS[way](lambda x: OUTER[outer](function(x, target)), logits)
    ignored = (target == -100).unsqueeze(1).expand_as(gradient)
    assert gradient.dtype == dtype and torch.equal(gradient[ignored], torch.zeros_like(gradient[ignored]))
    if outer == "inf" and dtype == torch.float64 and loss in ("plain", "smoothed"):
        smoothing = 0.1 if loss == "smoothed" else 0.0
        native = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing).sqrt().sum()
        (expected,) = torch.autograd.grad(native, logits)
        torch.testing.assert_close(gradient.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_all_rows_ignored(way, layout, loss, reduction, dtype):
    """The square of a mean that is NaN, the root of a sum that is 0."""
    logits, target = batch(layout, loss, dtype)
    target = torch.full_like(target, -100)
    function = LOSSES[loss](reduction=reduction)

    def outer(x):
        losses = function(x, target)
        return (losses * losses if reduction == "mean" else losses.sqrt()).sum()

    assert torch.equal(WAYS[way](outer, logits), torch.zeros_like(logits))


@pytest.mark.parametrize("requires_grad", [False, True], ids=["kernel", "composite"])
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("loss", [name for name in LOSSES if not name.startswith("fastai")])
def test_tangents_of_ignored_rows(loss, reduction, requires_grad):
    """They are 0, as the gradient is: of a mean over no row too."""
    logits, target = batch("short rows", loss, torch.float64)
    function = LOSSES[loss](reduction=reduction)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits.detach().requires_grad_(requires_grad), torch.ones_like(logits))
        tangent = forward_ad.unpack_dual(function(dual, torch.full_like(target, -100))).tangent
    assert torch.equal(tangent, torch.zeros_like(tangent))


@pytest.mark.parametrize("held", [float("nan"), float("inf")])
@pytest.mark.parametrize("loss", [name for name in LOSSES if not name.startswith("fastai")])
@pytest.mark.parametrize("way", WAYS)
def test_what_ignored_rows_hold_is_not_seen(way, loss, held):
    """Not by their own gradient, and not by that of the other rows."""
    logits, target = batch("short rows", loss, torch.float64)
    target = cases.ignoring(target, -100)
    function = LOSSES[loss]()
    expected = WAYS[way](lambda x: function(x, target), logits).detach().clone()
    assert torch.equal(expected[target == -100], torch.zeros_like(expected[target == -100]))
    logits = logits.detach().masked_fill((target == -100)[:, None], held).requires_grad_()
    assert torch.equal(WAYS[way](lambda x: function(x, target), logits), expected)


@pytest.mark.parametrize("way", ["backward", "retain_graph", "create_graph"])
@pytest.mark.parametrize("loss", ["plain", "smoothed"])
def test_second_derivatives(loss, way):
    """They reach the loss a second time, through the infinite slope of the root."""
    logits, target = batch("short rows", loss, torch.float64)
    target = cases.ignoring(target, -100)
    smoothing = 0.1 if loss == "smoothed" else 0.0

    def norm_of_gradient(function, logits):
        value = function(logits, target, reduction="none", label_smoothing=smoothing).sqrt().sum()
        (first,) = torch.autograd.grad(value, logits, create_graph=True)
        return first.pow(2).sum()

    (expected,) = torch.autograd.grad(norm_of_gradient(F.cross_entropy, logits), logits)
    assert torch.equal(expected[target == -100], torch.zeros_like(expected[target == -100]))
    ours = WAYS[way](lambda x: norm_of_gradient(ls_loss.cross_entropy, x), logits).detach()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(ours[target == -100], expected[target == -100])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("layout", ["short rows", "rows", "planes"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_that_count_are_not_taken_for_ignored_ones(way, layout, reduction):
    """A row so confident that its gradient is 0 times infinity is NaN: as in native, nothing hides it."""
    shape = LAYOUTS[layout]
    _, target = cases.batch(shape)
    target = cases.ignoring(target, -100)
    logits = 1000 * F.one_hot(target.clamp(0), shape[1]).float().movedim(-1, 1)
    gradients = []
    for function in (ls_loss.cross_entropy, F.cross_entropy):
        x = logits.clone().requires_grad_()
        loss = lambda x, function=function: (function(x, target, reduction=reduction) * torch.inf).sum()
        gradients.append(WAYS[way](loss, x).detach())
    ours, native = gradients
    counts = (target != -100).unsqueeze(1).expand_as(native)
    assert native[counts].isnan().all()
    assert ours[counts].isnan().all()
    assert torch.count_nonzero(ours[~counts]) == 0
