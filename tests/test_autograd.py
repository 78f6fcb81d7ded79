"""Derivatives of every order and kind: finite differences, double backward, and who gets a gradient at all.

Transforms are in test_transforms.py, who owns the gradient's memory in test_grad_ownership.py. The op itself is called,
so that nothing of the Python front ends can help.
"""

import cases
import pytest
import reference
import torch
import torch.nn.functional as F
from op import cross_entropy
from options import OPTIONS, double_batch, sample
from paths import operators, route
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import grad as func_grad
from torch.func import hessian, jacfwd, jacrev, jvp

all_options = pytest.mark.parametrize("name", OPTIONS)
all_reductions = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


def probability_sample(name):
    shape, options = OPTIONS[name]
    return *double_batch(*shape, dim=options.get("dim", 1)), options


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14, equal_nan=True)


# First and second derivatives against finite differences


@all_reductions
@all_options
def test_gradcheck(name, reduction):
    logits, target, options = sample(name)

    def function(logits):
        return cross_entropy(logits, target, reduction=reduction, **options)

    assert gradcheck(
        function,
        logits,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=True,
    )
    assert gradgradcheck(function, logits, check_batched_grad=True, check_fwd_over_rev=True, fast_mode=True)


@all_reductions
@pytest.mark.parametrize("name", [name for name, (_, options) in OPTIONS.items() if "convention" not in options])
def test_gradcheck_of_probabilities(name, reduction):
    shape, options = OPTIONS[name]
    logits, _ = double_batch(*shape, dim=options.get("dim", 1))
    target = cases.probabilities(shape, torch.float64, dim=options.get("dim", 1))
    inputs = [logits, target.requires_grad_()]
    if "weight" in options:
        inputs.append(options["weight"].clone().requires_grad_())

    def function(logits, target, weight=None):
        return cross_entropy(logits, target, **(options | {"weight": weight, "reduction": reduction}))

    assert gradcheck(lambda logits: function(logits, *inputs[1:]), logits, check_forward_ad=True, fast_mode=True)
    with torch.no_grad():
        constant = target.clone()
    of_logits = (lambda logits: function(logits, constant, *(value.detach() for value in inputs[2:])), logits)
    assert gradcheck(*of_logits, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(*of_logits, check_batched_grad=True, fast_mode=True)
    # Gradients to target and weight, by native or the composite
    assert gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "fastai with weight and prior"])
def test_gradgradcheck_in_full(name):
    """fast_mode projects on one random direction; here every entry."""
    logits, target, options = sample(name)

    def function(logits):
        return cross_entropy(logits, target, **options)

    assert gradcheck(function, logits, check_forward_ad=True)
    assert gradgradcheck(function, logits)


# Composite against kernel and reference


@all_reductions
@all_options
def test_composite_agrees_with_kernel_and_reference(name, reduction):
    """Four ways to a gradient: kernel, composite, the graph rebuilt from a saved one, and autograd of the reference."""
    logits, target, options = sample(name)
    options = options | {"reduction": reduction}
    expected = reference.cross_entropy(logits, target, **({"label_smoothing": 0.1} | options))
    (expected_grad,) = grad(expected.sum(), logits)

    def summed(logits):
        return cross_entropy(logits, target, **options).sum()

    loss = cross_entropy(logits, target, **options)
    assert route(cross_entropy, logits, target, **options) == "kernel"
    assert route(func_grad(summed), logits) == "composite"
    assert_close(loss, expected.reshape(loss.shape))
    assert_close(grad(loss.sum(), logits)[0], expected_grad)
    assert_close(func_grad(summed)(logits), expected_grad)
    (kept,) = grad(summed(logits), logits, create_graph=True)
    assert kept.requires_grad
    assert_close(kept, expected_grad)
    tangent = cases.randn(*logits.shape, seed=9)
    assert_close(jvp(summed, (logits,), (tangent,))[1], (expected_grad * tangent).sum())


@pytest.mark.parametrize("name", ["plain", "weight", "fastai with weight and prior", "images"])
def test_gradient_under_create_graph_has_the_kernels_bits(name):
    logits, target, options = sample(name)
    (plain,) = grad(cross_entropy(logits, target, **options), logits)
    (kept,) = grad(cross_entropy(logits, target, **options), logits, create_graph=True)
    assert torch.equal(plain, kept)


@pytest.mark.parametrize("name", OPTIONS)
def test_hessians(name):
    logits, target, options = sample(name)

    def ours(logits):
        return cross_entropy(logits, target, **options)

    def expected(logits):
        return reference.cross_entropy(logits, target, **({"label_smoothing": 0.1} | options))

    want = torch.autograd.functional.hessian(expected, logits)
    assert_close(torch.autograd.functional.hessian(ours, logits), want)
    assert_close(torch.autograd.functional.hessian(ours, logits, vectorize=True), want)
    assert_close(hessian(ours)(logits.detach()), want)
    assert_close(jacfwd(jacrev(ours))(logits.detach()), want)


def test_third_derivative():
    logits, target = double_batch(3, 4)

    def third(function):
        (first,) = grad(function(logits, target, label_smoothing=0.1), logits, create_graph=True)
        (second,) = grad(first.pow(2).sum(), logits, create_graph=True)
        return grad(second.pow(2).sum(), logits)[0]

    assert_close(third(cross_entropy), third(F.cross_entropy))


def test_double_backward_through_a_chain_and_grad_output():
    """The stand-in for the logits must join the graph where they were, and the outer gradient must flow too."""
    inner, target = double_batch(4, 5)

    def second(function):
        loss = function(inner.sin() * 2, target, label_smoothing=0.1)
        (first,) = grad(loss.exp(), inner, create_graph=True)
        return grad(first.pow(2).sum(), inner)[0]

    assert_close(second(cross_entropy), second(F.cross_entropy))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_double_backward_in_16_bits(dtype):
    """p comes from a gradient that was rounded, and in float16 stored under a factor that must be taken out."""
    logits, target = cases.batch((8, 5), dtype)
    logits.requires_grad_()

    def second(logits, function):
        (first,) = grad(function(logits, target, label_smoothing=0.1), logits, create_graph=True)
        return first.detach(), grad(first.float().pow(2).sum(), logits)[0]

    expected_first, expected = second(logits.detach().double().requires_grad_(), F.cross_entropy)
    first, ours = second(logits, cross_entropy)
    assert first.dtype == ours.dtype == dtype
    # Rounding a gradient of at most 1/8 moves p by 4 units, p enters the second derivative about linearly.
    unit = torch.finfo(dtype).eps / 2
    assert (first.double() - expected_first).abs().max() <= 2 * unit * expected_first.abs().max()
    assert (ours.double() - expected).abs().max() <= 16 * unit * expected.abs().max()


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_double_backward_of_many_classes_in_16_bits(dtype, kind):
    """The target's p of 1/32000 is lost in a gradient of 16 bits near -0.9."""
    logits, target = cases.batch((4, 32000), dtype)
    if kind == "probabilities":
        target = F.one_hot(target, 32000).to(dtype)
    direction = cases.randn(4, 32000, seed=3).to(dtype)

    def product(logits, target, direction, function):
        logits = logits.detach().requires_grad_()
        (first,) = grad(function(logits, target, label_smoothing=0.1, reduction="sum"), logits, create_graph=True)
        return grad(first, logits, direction)[0].double()

    wide = [x.double() if x.is_floating_point() else x for x in (logits, target, direction)]
    expected = product(*wide, F.cross_entropy)
    # One rounding of p, of the result, and that of what smoothing adds, less than p where it counts.
    unit = torch.finfo(dtype).eps / 2
    assert (product(logits, target, direction, cross_entropy) - expected).norm() <= 3 * unit * expected.norm()


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_double_backward_in_16_bits_beside_a_wrong_class_that_leads(smoothing):
    """The leading p near 1 is as coarse as the target's: what the others leave of 1 is its error."""
    logits = cases.randn(64, 10, seed=1).bfloat16()
    logits[:, 5] += 12
    target = torch.full((64,), 2)
    direction = cases.randn(64, 10, seed=2).bfloat16()

    def product(logits, function):
        logits = logits.detach().requires_grad_()
        (first,) = grad(function(logits, target, label_smoothing=smoothing, reduction="sum"), logits, create_graph=True)
        return grad(first, logits, direction.to(logits.dtype))[0].double()

    expected = product(logits.double(), F.cross_entropy)
    # Digits there are none: the leading p has an error of 2^-9, and all others are 1e-4. What must not come in their place is
    # that error as the target's p, some twenty times the product.
    assert (product(logits, cross_entropy) - expected).norm() <= 2 * expected.norm()


def test_rows_without_second_derivative():
    """An ignored row and a row of weight 0 have A = 0: dividing by it must not leak NaN into the double backward."""
    logits, target = double_batch(4, 3)
    target = torch.tensor([0, -100, 1, 2])
    weight = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)

    def second(function):
        (first,) = grad(function(logits, target, weight=weight, label_smoothing=0.0), logits, create_graph=True)
        return grad(first.pow(2).sum(), logits)[0]

    assert_close(second(cross_entropy), second(F.cross_entropy))


def test_masked_logits_in_double_backward():
    """log p of a logit of -inf is -inf: its softmax must be 0 again, and its derivative 0."""
    logits, target = double_batch(4, 5)
    target = target % 4
    with torch.no_grad():
        logits[:, 4] = -torch.inf

    def second(function):
        (first,) = grad(function(logits, target, label_smoothing=0.0), logits, create_graph=True)
        return grad(first.pow(2).sum(), logits)[0]

    assert second(cross_entropy).isfinite().all()
    assert_close(second(cross_entropy), second(F.cross_entropy))


# Who gets a gradient, and who refuses


def test_prior_and_weight_refuse_gradients_like_native():
    logits, target = double_batch(4, 5)
    weight, prior = cases.weights(5, torch.float64).requires_grad_(), cases.prior(5, torch.float64).requires_grad_()
    refusal = "not differentiable with respect to argument '{}'. This input cannot have requires_grad True"
    for options in (
        {"weight": weight},
        {"weight": weight, "convention": "fastai"},
        {"weight": weight, "prior": prior.detach()},
    ):
        with pytest.raises(RuntimeError, match=refusal.format("weight")):
            cross_entropy(logits, target, **options)
    for options in ({"prior": prior}, {"prior": prior, "convention": "fastai"}):
        with pytest.raises(RuntimeError, match=refusal.format("prior")):
            cross_entropy(logits, target, **options)
    with torch.no_grad():
        cross_entropy(logits, target, weight=weight)
        cross_entropy(logits, target, prior=prior)


def test_no_gradient_is_computed_that_nobody_asks_for():
    logits, target = cases.batch((4, 5))
    assert "ls_loss::_loss" in operators(cross_entropy, logits, target)[1]
    with torch.no_grad():
        loss, names = operators(cross_entropy, logits.requires_grad_(), target)
    assert "ls_loss::_loss" in names and not loss.requires_grad
    with torch.inference_mode():
        loss, names = operators(cross_entropy, logits * 1, target)
    assert "ls_loss::_loss" in names and loss.is_inference()
    with torch.inference_mode(), torch.enable_grad():
        loss, names = operators(cross_entropy, logits, target)
    assert "ls_loss::_loss" in names and not loss.requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        with torch.inference_mode():
            inference = target.clone()
        cross_entropy(logits, inference)


class NoGradient(torch.autograd.Function):
    """Gives its input no gradient, which is another thing than one of zeros."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, grad_output):
        return None


@all_reductions
def test_no_gradient_in_is_no_gradient_out(reduction):
    """An optimiser leaves a parameter without a gradient alone; with one of zeros its momentum and weight decay move it."""
    logits, target = cases.batch((4, 5))
    logits.requires_grad_()
    NoGradient.apply(cross_entropy(logits, target, reduction=reduction)).sum().backward()
    assert logits.grad is None
    loss = cross_entropy(logits, target, reduction=reduction)
    loss.grad_fn.register_prehook(lambda grads: (None,))
    loss.sum().backward()
    assert logits.grad is None
