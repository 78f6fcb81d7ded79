"""Autocast: the loss is float32 as native's, the gradient is of the logits' dtype, and the logits are not copied."""

import cases
import pytest
import torch
import torch.nn.functional as F
from op import cross_entropy
from paths import operators, route

HALVES = (torch.bfloat16, torch.float16)
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)


def autocast(dtype=torch.bfloat16, **options):
    return torch.autocast("cpu", dtype, **options)


def batch(dtype):
    logits, target = cases.batch((64, 50), dtype)
    return logits.requires_grad_(), target


@halves
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_float32_loss_without_a_copy_of_the_logits(dtype, reduction):
    logits, target = batch(dtype)
    with autocast(dtype):
        loss, names = operators(cross_entropy, logits, target, reduction=reduction)
        native = F.cross_entropy(logits, target, reduction=reduction, label_smoothing=0.1)
    assert loss.dtype == native.dtype == torch.float32
    assert "ls_loss::_loss_grad" in names
    assert not {"aten::to", "aten::_to_copy", "aten::copy_"} & set(names)
    torch.testing.assert_close(loss, native)
    (ours,) = torch.autograd.grad(loss.mean(), logits)
    (expected,) = torch.autograd.grad(native.mean(), logits)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected, rtol=2.0**-7, atol=2.0**-14)


@halves
def test_the_loss_is_not_rounded_to_16_bits(dtype):
    logits, target = batch(dtype)
    with autocast(dtype):
        loss = cross_entropy(logits, target)
    exact = F.cross_entropy(logits.double(), target, label_smoothing=0.1)
    assert abs(loss.double() - exact) <= 2.0**-22 * exact
    assert loss.to(dtype).double() != loss.double()


@halves
@pytest.mark.parametrize("vector_dtype", [torch.float32, *HALVES], ids=str)
def test_weight_and_prior_may_be_float32(dtype, vector_dtype):
    """A model under autocast has float32 parameters and buffers beside its 16-bit activations."""
    logits, target = batch(dtype)
    weight, prior = cases.weights(50, vector_dtype), cases.prior(50, vector_dtype)
    with autocast(dtype):
        assert route(cross_entropy, logits, target, weight=weight) == "kernel"
        torch.testing.assert_close(
            cross_entropy(logits, target, weight=weight), F.cross_entropy(logits, target, weight, label_smoothing=0.1)
        )
        assert route(cross_entropy, logits, target, weight=weight, prior=prior, convention="fastai") == "kernel"


@pytest.mark.parametrize("target_dtype", [torch.float32, *HALVES], ids=str)
def test_probabilities(target_dtype):
    logits, _ = batch(torch.bfloat16)
    target = cases.probabilities((64, 50), target_dtype)
    with autocast():
        assert route(cross_entropy, logits, target) == "kernel"
        loss, native = cross_entropy(logits, target), F.cross_entropy(logits, target, label_smoothing=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, native)
    assert torch.autograd.grad(loss, logits)[0].dtype == torch.bfloat16


def test_float32_and_float64_stay():
    for dtype in (torch.float32, torch.float64):
        logits, target = batch(dtype)
        with autocast():
            loss = cross_entropy(logits, target)
            assert loss.dtype == dtype == F.cross_entropy(logits, target).dtype
            assert torch.equal(loss, cross_entropy(logits, target).detach())
        assert torch.autograd.grad(loss, logits)[0].dtype == dtype


def test_weight_of_float64_is_refused_as_native_refuses_it():
    logits, target = batch(torch.bfloat16)
    for function in (F.cross_entropy, cross_entropy):
        with autocast(), pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
            function(logits, target, cases.weights(50, torch.float64))


def test_regions_within_regions():
    logits, target = batch(torch.bfloat16)
    with autocast():
        with autocast(enabled=False):
            assert cross_entropy(logits, target).dtype == torch.bfloat16
        assert cross_entropy(logits, target).dtype == torch.float32
    assert cross_entropy(logits, target).dtype == torch.bfloat16


def test_other_devices_and_native_keep_their_own_autocast():
    logits, _ = batch(torch.bfloat16)
    target = cases.probabilities((64, 50)).requires_grad_()  # native's: its gradient is wanted
    with autocast():
        assert route(cross_entropy, logits, target) == "native"
        assert cross_entropy(logits, target).dtype == torch.float32


@pytest.mark.parametrize("convention", ["torch", "fastai"])
def test_transforms_under_autocast(convention):
    """vmap gets to the operator before autocast does."""
    logits, target = batch(torch.bfloat16)
    logits = logits.detach()
    weight = cases.weights(50)
    options = {"weight": weight, "prior": cases.prior(50), "convention": convention}
    with autocast():
        expected = cross_entropy(logits, target, reduction="none", **options)
        mapped = torch.vmap(lambda x, y: cross_entropy(x, y, reduction="none", **options))(logits, target)
        gradient = torch.func.grad(lambda x: cross_entropy(x, target, **options))(logits)
    assert mapped.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    torch.testing.assert_close(mapped, expected)


@halves
def test_second_derivative_under_autocast(dtype):
    logits, target = batch(dtype)
    with autocast(dtype):
        loss = cross_entropy(logits, target)
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(first.float().pow(2).sum(), logits)
    assert first.dtype == second.dtype == dtype and second.isfinite().all()
