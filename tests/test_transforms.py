"""torch.func and forward-mode derivatives: who computes within them must agree with the kernel outside.

The op itself is called, so that nothing of the Python front ends can help.
"""

import cases
import pytest
import torch
import torch.nn.functional as F
from op import cross_entropy, smooth_labels
from options import OPTIONS, sample
from paths import route
from tolerance import UNITS, assert_within, expect
from torch.autograd import forward_ad, grad
from torch.func import functional_call, jacfwd, jacrev, jvp, vjp, vmap
from torch.func import grad as func_grad


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("convention", ["torch", "fastai"])
def test_vmap_over_each_argument(convention):
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    weight = cases.weights(15, torch.float64).view(3, 5)
    options = {"convention": convention}

    def check(in_dims, *arguments):
        def one(logits, target, weight):
            return cross_entropy(logits, target, weight=weight, **options)

        def pick(value, dim, index):
            return value if dim is None else value.select(dim, index)

        expected = [one(*(pick(a, d, i) for a, d in zip(arguments, in_dims, strict=True))) for i in range(3)]
        assert_close(vmap(one, in_dims)(*arguments), torch.stack(expected))

    check((0, 0, 0), logits, target, weight)
    check((1, 0, None), logits.movedim(0, 1), target, weight[0])
    check((0, None, None), logits, target[0], weight[0])
    check((None, 0, None), logits[0], target, weight[0])
    check((None, 1, 1), logits[0], target.t(), weight.t())
    check((None, None, 0), logits[0], target[0], weight)


def test_vmap_counts_ignored_rows_in_each_sample():
    logits, _ = cases.batch((3, 4, 5), torch.float64, dim=2)
    target = torch.tensor([[0, -100, 1, 2], [-100, -100, -100, 3], [-100] * 4])
    expected = torch.stack([F.cross_entropy(x, y, label_smoothing=0.1) for x, y in zip(logits, target, strict=True)])
    assert_close(vmap(cross_entropy)(logits, target), expected)


def test_per_sample_gradients():
    logits, target = cases.batch((6, 5), torch.float64)
    target[2] = -100
    ours = vmap(func_grad(lambda x, y: cross_entropy(x[None], y[None], reduction="sum")))(logits, target)
    expected = func_grad(lambda x: F.cross_entropy(x, target, label_smoothing=0.1, reduction="sum"))(logits)
    assert_close(ours, expected)


def test_vmap_of_nothing():
    """Without a decomposition functorch loops over samples, and cannot loop over none."""
    assert vmap(cross_entropy)(torch.zeros(0, 4, 5), torch.zeros(0, 4, dtype=torch.int64)).shape == (0,)


@pytest.mark.filterwarnings("error::UserWarning")
def test_transforms_compose_without_falling_back_to_a_loop():
    logits, target = cases.batch((4, 5), torch.float64)

    def loss(x):
        return cross_entropy(x, target)

    expected = func_grad(lambda x: F.cross_entropy(x, target, label_smoothing=0.1))(logits)
    assert_close(vjp(loss, logits)[1](torch.ones((), dtype=torch.float64))[0], expected)
    assert_close(jacrev(loss)(logits), expected)
    assert_close(jacfwd(loss)(logits), expected)
    assert_close(func_grad(lambda x: vmap(cross_entropy)(x[:, None], target[:, None]).mean())(logits), expected)
    nested = func_grad(lambda x: func_grad(loss)(x).pow(2).sum())(logits)
    assert_close(
        nested,
        func_grad(lambda x: func_grad(lambda z: F.cross_entropy(z, target, label_smoothing=0.1))(x).pow(2).sum())(
            logits
        ),
    )


def test_functional_call_of_a_model():
    model, (logits, target) = torch.nn.Linear(5, 5).double(), cases.batch((4, 5), torch.float64)

    def loss(function):
        return func_grad(lambda p: function(functional_call(model, p, logits), target))(dict(model.named_parameters()))

    ours, native = loss(cross_entropy), loss(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1))
    for name in native:
        assert_close(ours[name], native[name])


def test_errors_in_transforms():
    logits, target = cases.batch((4, 5))
    prior = torch.ones(5)
    with pytest.raises(IndexError, match=r"Target [5-9] is out of bounds\."):
        func_grad(lambda x: cross_entropy(x, target + 5))(logits)
    with pytest.raises(ValueError, match=r"Expected input batch_size \(4\) to match target batch_size \(3\)"):
        func_grad(lambda x: cross_entropy(x, target[:3]))(logits)
    with pytest.raises(ValueError, match="prior must hold one probability for each of the 5 classes"):
        func_grad(lambda x: cross_entropy(x, target, prior=prior[:4]))(logits)
    # Transforms hide the values of what they wrap, tangents do not.
    with forward_ad.dual_level(), pytest.raises(ValueError, match="prior must have a sum of 1"):
        cross_entropy(forward_ad.make_dual(logits, logits), target, prior=prior)
    with pytest.raises(RuntimeError, match="label_smoothing must be between"):
        vmap(lambda x: cross_entropy(x, target, label_smoothing=1.5))(logits[None])


@pytest.mark.parametrize(("convention", "smoothing"), [("torch", 0.0), ("torch", 0.1), ("fastai", 0.0)])
def test_ignored_rows_in_transforms_may_hold_anything(convention, smoothing):
    logits, target = cases.batch((4, 5), torch.float64)
    target[1] = -100
    for reduction in cases.REDUCTIONS:

        def summed(x, reduction=reduction):
            options = dict(convention=convention, label_smoothing=smoothing, reduction=reduction)
            return cross_entropy(x, target, **options).sum()

        logits[1] = 0
        clean = func_grad(summed)(logits)
        for junk in (torch.nan, torch.inf, -torch.inf):
            logits[1] = junk
            assert torch.equal(func_grad(summed)(logits), clean)


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("convention", ["torch", "fastai"])
def test_all_rows_ignored(convention, smoothing, reduction):
    """As outside transforms: 'mean' is NaN, but not its derivatives, which for fastai are those of the smoothing."""
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    target[0] = -100  # vmap must tell the samples apart
    tangent = cases.randn(4, 5, seed=9)

    def summed(x, y):
        return cross_entropy(x, y, convention=convention, label_smoothing=smoothing, reduction=reduction).sum()

    leaf = logits.clone().requires_grad_()
    losses = torch.stack([summed(x, y) for x, y in zip(leaf, target, strict=True)])
    (expected,) = grad(losses.sum(), leaf)
    assert expected.isfinite().all() and losses[0].isnan() == (reduction == "mean")
    assert_close(func_grad(summed)(logits[0], target[0]), expected[0])
    assert_close(vmap(func_grad(summed))(logits, target), expected)
    loss, derivative = jvp(lambda x: summed(x, target[0]), (logits[0],), (tangent,))
    assert_close(loss, losses[0].detach())
    assert_close(derivative, (expected[0] * tangent).sum())


def test_ignored_rows_with_a_masked_class():
    """Class 0 has no prior and a logit of -inf: fastai's smoothing of an ignored row must not read it as a target."""
    logits, _ = cases.batch((4, 5), torch.float64)
    logits[:, 0] = -torch.inf
    target = torch.tensor([1, -100, 2, -100])
    prior = torch.tensor([0.0, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

    def loss(x):
        return cross_entropy(x, target, prior=prior, convention="fastai")

    leaf = logits.clone().requires_grad_()
    expected = loss(leaf)
    assert expected.isfinite()
    assert_close(vmap(loss)(logits[None])[0], expected.detach())
    assert_close(func_grad(loss)(logits), grad(expected, leaf)[0])


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_smooth_labels_under_vmap(dtype):
    target, prior = cases.integers(5, 3, 4), cases.prior(5)
    assert_close(
        vmap(lambda y: smooth_labels(y, 5, 0.1, prior, dtype))(target), smooth_labels(target, 5, 0.1, prior, dtype)
    )
    assert_close(
        vmap(lambda y: smooth_labels(y, 5, 0.1, None, dtype), 1, 1)(target), smooth_labels(target, 5, 0.1, None, dtype)
    )
    with pytest.raises(RuntimeError, match="out of bounds"):
        vmap(lambda y: smooth_labels(y, 4, 0.1, None, dtype))(target)


# Forward-mode derivatives


@pytest.mark.parametrize("name", OPTIONS)
def test_forward_mode(name):
    logits, target, options = sample(name)
    tangent = cases.randn(*logits.shape, seed=9)
    (expected,) = grad(cross_entropy(logits, target, **options), logits)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits.detach(), tangent)
        assert route(cross_entropy, dual, target, **options) == "kernel"
        loss = forward_ad.unpack_dual(cross_entropy(dual, target, **options))
    assert_close(loss.tangent, (expected * tangent).sum())


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("convention", ["torch", "fastai"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_forward_mode_of_each_dtype(dtype, convention, reduction):
    """The gradient is rounded before the product, as every entry of it may be, and the result once more."""
    logits, target = cases.batch((4, 5), dtype)
    target[1] = -100
    options = {"convention": convention, "reduction": reduction}
    tangent = cases.randn(4, 5, seed=9).to(dtype)
    if convention == "torch":
        tangent[1] = torch.nan  # what is ignored has no part in the loss
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, tangent)
        loss = forward_ad.unpack_dual(cross_entropy(dual, target, **options))
    assert torch.equal(loss.primal, cross_entropy(logits, target, **options))
    assert loss.tangent.dtype == dtype
    expected = expect(logits, target, label_smoothing=0.1, **options)
    products = (expected.grad * tangent.double()).nan_to_num()
    sums = (expected.grad_tolerance * tangent.double().abs()).nan_to_num() + UNITS[dtype][0] * 5 * products.abs()
    rows = (-1,) if reduction == "none" else (0, 1)
    exact = products.sum(rows)
    assert_within(loss.tangent, exact, sums.sum(rows) + UNITS[dtype][1] * exact.abs(), "tangent")


def test_tangents_of_logits_that_need_a_gradient_too():
    """The gradient has a tangent: the kernel's would have none."""
    logits, target = cases.batch((4, 5), torch.float64)
    target[1] = -100
    tangent = cases.randn(4, 5, seed=9)

    def both(loss):
        leaf = logits.clone().requires_grad_()
        with forward_ad.dual_level():
            value = loss(forward_ad.make_dual(leaf, tangent), target, label_smoothing=0.1)
            gradient = forward_ad.unpack_dual(grad(value, leaf, create_graph=True)[0])
            return forward_ad.unpack_dual(value).tangent, gradient.primal, gradient.tangent

    for ours, native in zip(both(cross_entropy), both(F.cross_entropy), strict=True):
        assert_close(ours, native)


def test_tangents_beside_targets_that_need_a_gradient():
    logits, tangent = cases.randn(4, 5), cases.randn(4, 5, seed=9)
    target = cases.probabilities((4, 5), torch.float64).requires_grad_()

    def both(loss):
        with forward_ad.dual_level():
            value = loss(forward_ad.make_dual(logits, tangent), target, label_smoothing=0.1)
            return forward_ad.unpack_dual(value).tangent, *forward_ad.unpack_dual(grad(value, target)[0])

    for ours, native in zip(both(cross_entropy), both(F.cross_entropy), strict=True):
        assert_close(ours, native)


def test_tangents_of_probabilities():
    """The logits have no tangent here: looking at them alone would lose the target's."""
    logits, _ = cases.batch((4, 5), torch.float64)
    target, tangent = cases.probabilities((4, 5), torch.float64), cases.randn(4, 5, seed=9)
    ours = jvp(lambda q: cross_entropy(logits, q), (target,), (tangent,))[1]
    assert_close(ours, jvp(lambda q: F.cross_entropy(logits, q, label_smoothing=0.1), (target,), (tangent,))[1])
    with forward_ad.dual_level():
        dual = cross_entropy(logits, forward_ad.make_dual(target, tangent))
        assert_close(forward_ad.unpack_dual(dual).tangent, ours)
