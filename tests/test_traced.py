"""Graphs of operators that were traced below autograd: what is left in them of the loss must be differentiable, or say that it
is not. Never a gradient of zeros.
"""

import cases
import pytest
import torch
import torch.nn.functional as F
from paths import operators
from torch.fx.experimental.proxy_tensor import make_fx

import ls_loss

OPS = torch.ops.ls_loss


class Classifier(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.head = torch.nn.Linear(6, 5)
        self.loss = loss(label_smoothing=0.1)

    def forward(self, x, target):
        return self.loss(self.head(x), target)


def test_a_decomposed_program_trains():
    x, target = cases.randn(8, 6).float(), cases.integers(5, 8)
    torch.manual_seed(0)
    model = Classifier(ls_loss.CrossEntropyLoss)
    program = torch.export.export(model, (x, target)).run_decompositions().module()
    native = Classifier(torch.nn.CrossEntropyLoss)
    native.load_state_dict(model.state_dict())
    loss, names = operators(program, x, target)
    assert "ls_loss::_loss_grad" in names
    for each in (loss, native(x, target)):
        each.backward()
    torch.testing.assert_close(program.head.weight.grad, native.head.weight.grad)


@pytest.mark.parametrize("options", [{}, {"reduction": "sum", "weight": cases.weights(5)}], ids=["mean", "sum, weight"])
@pytest.mark.parametrize("transform", ["grad", "jvp", "hessian", "vmap", "vmap of grad", "backward", "tangent"])
def test_derivatives_of_a_traced_loss(transform, options):
    logits, target = cases.batch((4, 5))
    traced = make_fx(lambda x: ls_loss.cross_entropy(x, target, label_smoothing=0.1, **options))(logits)
    assert "ls_loss._loss.default" in traced.code

    def native(x):
        return F.cross_entropy(x, target, label_smoothing=0.1, **options)

    def derivative(function):
        if transform == "grad":
            return torch.func.grad(function)(logits)
        if transform == "jvp":
            return torch.func.jvp(function, (logits,), (torch.ones_like(logits).tril(),))[1]
        if transform == "hessian":
            return torch.func.hessian(function)(logits)
        if transform == "vmap":
            return torch.func.vmap(function)(torch.stack([logits, 2 * logits]))
        if transform == "vmap of grad":
            return torch.func.vmap(torch.func.grad(function))(torch.stack([logits, 2 * logits]))
        if transform == "backward":
            leaf = logits.clone().requires_grad_()
            return torch.autograd.grad(function(leaf), leaf)[0]
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(logits, torch.ones_like(logits).tril())
            return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent

    torch.testing.assert_close(derivative(traced), derivative(native))


def test_derivatives_of_a_traced_gradient():
    """The gradient that a graph holds can be differentiated, too; what multiplies it in place can not, and says so."""
    logits, target = cases.batch((4, 5))
    v = cases.randn(4, 5).to(logits.dtype)
    leaf, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    _, grad, _ = OPS._loss_grad(leaf, target, None, 1, -100, 0.1, None, 1, 0, None)
    loss = F.cross_entropy(expected, target, label_smoothing=0.1)
    (native,) = torch.autograd.grad(loss, expected, create_graph=True)
    torch.testing.assert_close(grad, native)
    (second,) = torch.autograd.grad(grad, leaf, v, retain_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(native, expected, v)[0])
    with pytest.raises(NotImplementedError, match="_scale_ has no derivative"):
        OPS._scale_(grad, torch.tensor(2.0), torch.tensor(1.0), None, -100, 1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones(4, 5), torch.ones(4, 5))
        with pytest.raises(NotImplementedError, match="_scale_ has no derivative"):
            OPS._scale_(dual, torch.tensor(2.0), torch.tensor(1.0), None, -100, 1)


def test_the_loss_dtype_of_autocast_is_kept():
    logits, _ = cases.batch((4, 5), torch.bfloat16)
    soft = cases.probabilities((4, 5), torch.bfloat16).requires_grad_()  # which the kernel does not differentiate
    assert OPS._loss(logits, soft, None, 1, -100, 0.1, None, 1, 0, torch.float32).dtype == torch.float32
    logits, target = cases.batch((4, 5), torch.bfloat16)
    leaf = logits.clone().requires_grad_()
    loss = OPS._loss(leaf, target, None, 1, -100, 0.1, None, 1, 0, torch.float32)
    assert loss.dtype == torch.float32
    loss.backward()
    expected = logits.double().requires_grad_()
    F.cross_entropy(expected, target, label_smoothing=0.1).backward()
    # Rounded once to bfloat16, by at most 2^-8 of a value; computed in float32, within some 2^-24.
    torch.testing.assert_close(leaf.grad.double(), expected.grad, rtol=2**-8, atol=2**-24)
