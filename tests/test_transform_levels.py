"""Transforms around transforms where a tensor is batched or differentiated at another level than the one that calls the loss.

Expected is the definition in out-of-place operators, which functorch knows how to transform: native's smoothed loss raises
under some of these. The op itself is called.
"""

import cases
import pytest
import torch
from op import REDUCTION, cross_entropy
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

LOGITS, TARGETS = cases.randn(4, 5).double(), cases.integers(5, 3, 4)
BATCH = torch.stack([LOGITS, LOGITS.sin(), LOGITS.cos()])
WEIGHTS = torch.stack([cases.weights(5, torch.float64, seed) for seed in (1, 2, 3)])
ONE = torch.ones((), dtype=torch.float64)


def definition(x, y, weight=None, reduction="mean"):
    """Smoothing 0.1, rows and classes last."""
    hard = (torch.arange(x.shape[-1]) == y.unsqueeze(-1)).to(x.dtype)
    w = torch.ones(x.shape[-1], dtype=x.dtype) if weight is None else weight
    losses = -(w * (0.9 * hard + 0.1 / x.shape[-1]) * x.log_softmax(-1)).sum(-1)
    if reduction == "none":
        return losses
    return losses.sum() / ((w * hard).sum() if reduction == "mean" else 1)


def dual(loss):
    with forward_ad.dual_level():
        losses = vmap(loss, (None, 0))(forward_ad.make_dual(LOGITS, LOGITS.cos()), TARGETS)
        return forward_ad.unpack_dual(losses).tangent


def inner_steps(loss):
    """Of meta-learning: the derivative of losses after steps of several lengths."""

    def of_start(x0, y):
        step = grad(loss)(x0, y)
        return vmap(lambda length: loss(x0 - length * step, y))(torch.arange(2.0)).sum()

    return vmap(lambda x, y: grad(lambda x0: of_start(x0, y))(x))(BATCH, TARGETS)


COMPOSED = {
    "shared logits": lambda loss: jacfwd(lambda x: vmap(loss, (None, 0))(x, TARGETS))(LOGITS),
    "shared logits, twice": lambda loss: jacfwd(jacfwd(lambda x: vmap(loss, (None, 0))(x, TARGETS)))(LOGITS),
    "shared logits and targets": lambda loss: jvp(
        lambda x: vmap(lambda w: loss(x, TARGETS[0], weight=w))(WEIGHTS), (LOGITS,), (LOGITS.cos(),)
    )[1],
    "targets batched around": lambda loss: jvp(
        lambda x: vmap(lambda y: vmap(lambda row: loss(row[None], y[None]))(x))(TARGETS[:, 0]),
        (LOGITS,),
        (LOGITS.cos(),),
    )[1],
    "dual": dual,
    "jacfwd jacfwd": lambda loss: vmap(lambda x, y: jacfwd(jacfwd(lambda z: loss(z, y)))(x))(BATCH, TARGETS),
    "jacrev jacfwd": lambda loss: vmap(lambda x, y: jacrev(jacfwd(lambda z: loss(z, y)))(x))(BATCH, TARGETS),
    "jvp jacfwd": lambda loss: vmap(lambda x, y: jvp(jacfwd(lambda z: loss(z, y)), (x,), (x,))[1])(BATCH, TARGETS),
    "hessian": lambda loss: vmap(lambda x, y: hessian(lambda z: loss(z, y))(x))(BATCH, TARGETS),
    "nothing batched within": lambda loss: vmap(
        lambda x, y: grad(lambda s: vmap(lambda d: loss(x, y) * d * s)(torch.arange(2.0)).sum())(ONE)
    )(BATCH, TARGETS),
    "logits batched around": lambda loss: vmap(
        lambda x: jacfwd(lambda s: vmap(lambda y: loss(x * s, y))(TARGETS))(ONE)
    )(BATCH),
    "weights batched within": lambda loss: vmap(
        lambda x: grad(lambda s: vmap(lambda y, w: loss(x * s, y, weight=w))(TARGETS, WEIGHTS).sum())(ONE)
    )(BATCH),
    "all batched around": lambda loss: vmap(
        lambda y: grad(lambda x: vmap(lambda z: loss(z, y))(x).pow(2).sum())(BATCH)
    )(TARGETS),
    "inner steps": inner_steps,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", COMPOSED)
def test_levels(name, reduction):
    def ours(x, y, weight=None):
        return cross_entropy(x, y, weight=weight, reduction=reduction)

    expected = COMPOSED[name](lambda x, y, weight=None: definition(x, y, weight, reduction))
    torch.testing.assert_close(COMPOSED[name](ours), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("derivative", ["jacfwd", "jacrev", "jvp of grad"])
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (None, 0), (0, None)])
def test_derivatives_of_what_is_batched(in_dims, reduction, derivative):
    x = LOGITS if in_dims[0] is None else BATCH.movedim(0, in_dims[0])
    y = TARGETS[0] if in_dims[1] is None else TARGETS

    def take(loss):
        each = vmap(lambda a, b: loss(a, b, reduction=reduction), in_dims)
        if derivative == "jvp of grad":
            return jvp(grad(lambda a: each(a, y).pow(2).sum()), (x,), (x.cos(),))[1]
        return {"jacfwd": jacfwd, "jacrev": jacrev}[derivative](lambda a: each(a, y))(x)

    torch.testing.assert_close(take(cross_entropy), take(definition), rtol=1e-12, atol=1e-14)


def test_options_are_checked_under_vmap(monkeypatch):
    monkeypatch.setitem(REDUCTION, "product", 7)
    with pytest.raises(ValueError, match="7 is not a valid value for reduction"):
        vmap(lambda x, y: cross_entropy(x, y, reduction="product"))(BATCH, TARGETS)
    prior = cases.prior(4, torch.float64)
    with pytest.raises(ValueError, match="prior must hold one probability"):
        vmap(lambda x, y: cross_entropy(x, y, prior=prior))(BATCH, TARGETS)


AROUND_BACKWARD = {
    "grad": lambda f, v: grad(f)(v),
    "jvp": lambda f, v: torch.stack(jvp(f, (v,), (v.cos(),))),
    "jacrev": lambda f, v: jacrev(f)(v),
    "jacfwd": lambda f, v: jacfwd(f)(v),
    "hessian": lambda f, v: hessian(f)(v),
    "vmap": lambda f, v: vmap(f)(torch.stack([v, v.sin()])),
}


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("transform", AROUND_BACKWARD.values(), ids=AROUND_BACKWARD)
def test_backward_of_a_graph_recorded_outside_the_transform(transform, reduction):
    """The transform is over grad_output; what it returns is differentiated by the logits, through the graph outside."""
    second = []
    for loss in (cross_entropy, definition):
        x = LOGITS.clone().requires_grad_()
        value = loss(x, TARGETS[0], reduction=reduction)

        def of_grad_output(v, value=value, x=x):
            return torch.autograd.grad(value, x, v, create_graph=True)[0].pow(2).sum()

        (derivative,) = torch.autograd.grad(
            transform(of_grad_output, torch.full_like(value, 2).detach()).sum(), x, retain_graph=True
        )
        second.append(derivative)
    assert second[1].abs().max() > 1e-2
    torch.testing.assert_close(*second, rtol=1e-10, atol=1e-12)
