"""What backward meets beside a plain grad_output: hooks on its own node that raise or enter the graph again, tangents,
subclasses. The saved gradient is scaled in place there, and must never be taken for the unscaled one afterwards.
"""

import cases
import pytest
import torch
import torch.autograd.forward_ad as fwad
import torch.nn.functional as F
from torch.testing._internal.two_tensor import TwoTensor

import ls_loss

MODIFIED = "modified by an inplace operation"


def leaf(dtype=torch.float32):
    logits, target = cases.batch((8, 5), dtype)
    return logits.requires_grad_(), target


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_a_hook_that_raises(dtype):
    """Native computes again from what it saved; here the gradient is scaled by then, and a second backward says so."""
    x, y = leaf(dtype)
    loss = ls_loss.cross_entropy(x, y)

    def fail(grad_inputs, grad_outputs):
        raise ZeroDivisionError

    handle = loss.grad_fn.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        (loss * 8).backward()
    handle.remove()
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()
    assert x.grad is None


@pytest.mark.parametrize("outer", [1.0, 3.0])
def test_a_hook_that_enters_the_graph_again(outer):
    x, y = leaf()
    truth = torch.autograd.grad(F.cross_entropy(x, y), x)[0]
    loss, seen = ls_loss.cross_entropy(x, y), []

    def again(grad_inputs, grad_outputs):
        if not seen:
            seen.append(None)
            seen.append(torch.autograd.grad(loss, x, retain_graph=True)[0].clone())

    loss.grad_fn.register_hook(again)
    if outer == 1.0:
        loss.backward()
        torch.testing.assert_close(seen[1], truth)
        torch.testing.assert_close(x.grad, truth)
    else:
        with pytest.raises(RuntimeError, match=MODIFIED):
            loss.backward(torch.tensor(outer))


@pytest.mark.parametrize("retain_graph", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tangent_of_grad_output(dtype, retain_graph):
    """Linear in it: the tangent of the gradient is the gradient times the tangent."""
    x, y = leaf(dtype)
    (truth,) = torch.autograd.grad(F.cross_entropy(x, y, label_smoothing=0.1), x)
    with fwad.dual_level():
        outer = fwad.make_dual(torch.tensor(2.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
        loss = ls_loss.cross_entropy(x, y, label_smoothing=0.1)
        gradient = fwad.unpack_dual(torch.autograd.grad(loss * outer, x, retain_graph=retain_graph)[0])
        torch.testing.assert_close(gradient.primal, 2 * truth)
        torch.testing.assert_close(gradient.tangent, truth)


@pytest.mark.parametrize("retain_graph", [False, True])
def test_subclass_as_grad_output(retain_graph):
    x, y = leaf()
    (truth,) = torch.autograd.grad(F.cross_entropy(x, y), x)
    outer = TwoTensor(torch.tensor(2.0), torch.tensor(3.0))
    (gradient,) = torch.autograd.grad(ls_loss.cross_entropy(x, y), x, outer, retain_graph=retain_graph)
    assert isinstance(gradient, TwoTensor)
    torch.testing.assert_close(gradient.a, 2 * truth)
    torch.testing.assert_close(gradient.b, 3 * truth)


def test_calling_the_node_by_hand():
    """Outside the engine nobody knows the logits' place in the graph: refused, where native gives a graph."""
    x, y = leaf()
    (truth,) = torch.autograd.grad(F.cross_entropy(x, y), x)
    node = ls_loss.cross_entropy(x, y).grad_fn
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        node(torch.tensor(1.0))
    with torch.no_grad():
        torch.testing.assert_close(node(torch.tensor(2.0)), 2 * truth)
