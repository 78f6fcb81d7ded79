"""More of what native rejects, beside test_errors.py: at least 140 bad inputs with those there.

Type and text are asked of native itself; test_bad_inputs_ours.py has those that native has not. After each: the tensors hold
what they held, no gradient has appeared, and the next call is right. Uses the public package; native only for its errors.
"""

import math
import warnings

import cases
import pytest
import test_errors
import torch
import torch.nn as nn
import torch.nn.functional as F
from test_errors import IMAGES, LABELS, Q, W, X, Y, out_of_range, raised

import ls_loss

NAN, INF = math.nan, math.inf
U = torch.full((5,), 0.2)
SUBCLASS = X.as_subclass(type("Kind", (torch.Tensor,), {}))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    NESTED = torch.nested.nested_tensor([torch.zeros(5), torch.zeros(5)])


def with_value(value, dtype=torch.int64, ignored=()):
    target = out_of_range(value, dtype)
    for row in ignored:
        target[row] = -100
    return target


# Arguments of both functions, or (positional, keywords).
NATIVE_HAS_IT = {
    "no argument": (),
    "no target": (X,),
    "nine positional arguments": (X, Y, None, None, -100, None, "mean", 0.0, None),
    "the target twice": ((X, Y), dict(target=Y)),
    "a string for logits": ("logits", Y),
    "a number for logits": (1.5, Y),
    "logits a numpy array": (X.numpy(), Y),
    "target a numpy array": (X, Y.numpy()),
    "target a number": (X, 1),
    "target a string": (X, "1"),
    "weight a number": ((X, Y), dict(weight=2.0)),
    "weight a string": ((X, Y), dict(weight="balanced")),
    "uint8 logits": (X.to(torch.uint8), Y),
    "int8 logits": (X.to(torch.int8), Y),
    "int32 logits": (X.int(), Y),
    "complex128 logits": (X.cdouble(), Y),
    "nested logits": (NESTED, Y[:2]),
    "complex target": (X, torch.ones(4, dtype=torch.cfloat)),
    "bfloat16 target": (X, torch.ones(4, dtype=torch.bfloat16)),
    "half target": (X, torch.ones(4, dtype=torch.float16)),
    "bool target of the logits' shape": (X, Q > 0.5),
    "bool target, images": (IMAGES, LABELS > 0),
    "float target, images": (IMAGES, LABELS.float()),
    "sparse target": (X, Y.to_sparse()),
    "target = C, float64": (X.double(), out_of_range(5)),
    "target = C, bfloat16": (X.bfloat16(), out_of_range(5)),
    "target = C, float16": (X.half(), out_of_range(5)),
    "target = C behind ignored ones": (X, with_value(5, ignored=(0, 1))),
    "target = C, all others ignored": (X, with_value(5, ignored=(0, 1, 3)), dict(label_smoothing=0.1)),
    "target = ignore_index + 1": (X, out_of_range(-99)),
    "target = C, which was to be ignored as -1": (X, out_of_range(5), dict(ignore_index=-1)),
    "target = 2^31": (X, out_of_range(2**31)),
    "target = 2^32, which ends in zeros": (X, out_of_range(2**32)),
    "target = -2^32": (X, out_of_range(-(2**32))),
    "target = 2^63 - 1": (X, out_of_range(2**63 - 1)),
    "target = C for one class": (X[:, :1], out_of_range(1)),
    "target = C, volumes": (torch.zeros(1, 3, 2, 2, 2), torch.full((1, 2, 2, 2), 3)),
    "target = C, strided logits": (X.T.contiguous().T, out_of_range(5)),
    "target = C, stride 0": (X[:1].expand(4, 5), out_of_range(5)),
    "uint8 target = C": (X, out_of_range(5, torch.uint8)),
    "1-d logits, no target in () of 2": (X[0], torch.tensor([1, 2, 3])),
    "1-d logits, target out of range, none": (X[0], torch.tensor(-1), dict(reduction="none")),
    "1-d logits, weight of another length": (X[0], Y[0], dict(weight=W[:3])),
    "3-d logits, target of two dimensions too many": (IMAGES[..., 0], LABELS[..., None]),
    "images, batch sizes differ": (IMAGES, LABELS[:1]),
    "images, weight of another length": (IMAGES, LABELS, dict(weight=W)),
    "0-d weight": (X, Y, dict(weight=torch.tensor(1.0))),
    "empty weight": (X, Y, dict(weight=torch.empty(0))),
    "int64 weight": (X, Y, dict(weight=torch.ones(5, dtype=torch.int64))),
    "float16 weight of float32 logits, none": (X, Y, dict(weight=W.half(), reduction="none")),
    "weight of float32 for bfloat16 logits": (X.bfloat16(), Y, dict(weight=W)),
    "probabilities of another batch": (X, Q[:3]),
    "probabilities transposed": (X, Q.T),
    "probabilities, ignore_index 0": (X, Q, dict(ignore_index=0)),
    "probabilities, ignore_index C": (X, Q, dict(ignore_index=5)),
    "probabilities, weight (1, C)": (X, Q, dict(weight=W[None])),
    "probabilities, smoothing of 1.5": (X, Q, dict(label_smoothing=1.5)),
    "smoothing just above 1": (X, Y, dict(label_smoothing=math.nextafter(1.0, 2.0) + 1e-6)),
    "smoothing of 1e300": (X, Y, dict(label_smoothing=1e300)),
    "smoothing complex": (X, Y, dict(label_smoothing=0.1 + 0j)),
    "smoothing bytes": (X, Y, dict(label_smoothing=b"0.1")),
    "smoothing a dictionary": (X, Y, dict(label_smoothing={})),
    "ignore_index a string": (X, Y, dict(ignore_index="-100")),
    "ignore_index NaN": (X, Y, dict(ignore_index=NAN)),
    "ignore_index a list": (X, Y, dict(ignore_index=[0])),
    "ignore_index a float tensor": (X, Y, dict(ignore_index=torch.tensor(1.5))),
    "ignore_index a vector": (X, Y, dict(ignore_index=torch.tensor([0, 1]))),
    "ignore_index 10^30": (X, Y, dict(ignore_index=10**30)),
    "reduction of another case": (X, Y, dict(reduction="Mean")),
    "reduction empty": (X, Y, dict(reduction="")),
    "reduction True": (X, Y, dict(reduction=True)),
    "reduction a tensor": (X, Y, dict(reduction=torch.tensor(1))),
    "reduction bytes": (X, Y, dict(reduction=b"mean")),
    "reduction bad, subclass": (SUBCLASS, Y, dict(reduction="bad")),
    "target out of range, subclass": (SUBCLASS, out_of_range(5)),
}


def parts(case):
    """Positional and keyword arguments."""
    if case and isinstance(case[-1], dict):
        return (case[0] if isinstance(case[0], tuple) else case[:-1]), case[-1]
    return case, {}


def tensors_of(arguments, options):
    found = [t for t in (*arguments, *options.values()) if isinstance(t, torch.Tensor)]
    return [t for t in found if t.layout == torch.strided and not t.is_nested and t.device.type == "cpu"]


@pytest.mark.parametrize("name", NATIVE_HAS_IT)
def test_type_and_text_are_natives(name):
    arguments, options = parts(NATIVE_HAS_IT[name])
    tensors = tensors_of(arguments, options)
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    native = raised(F.cross_entropy, *arguments, **options)
    ours = raised(ls_loss.cross_entropy, *arguments, **options)
    assert ours == native
    for tensor, was, version in zip(tensors, before, versions, strict=True):
        assert tensor._version == version and tensor.grad is None
        assert torch.equal(tensor.nan_to_num() if tensor.is_floating_point() else tensor, was)
    assert_next_call_is_right()


def assert_next_call_is_right():
    x = X.detach().clone().requires_grad_()
    loss = ls_loss.cross_entropy(x, Y, label_smoothing=0.1)
    (grad,) = torch.autograd.grad(loss, x)
    expected = F.cross_entropy(x, Y, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x)[0])


def test_there_are_enough():
    assert len(NATIVE_HAS_IT) + len(test_errors.SAME_AS_NATIVE) >= 140


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_nothing_is_written_before_the_error(reduction):
    """The operator's own outputs cannot be seen; those that a caller holds can: accumulated gradients stay what they were."""
    for target in (out_of_range(5), out_of_range(-1), out_of_range(2**40)):
        leaf = X.clone().requires_grad_()
        ls_loss.cross_entropy(leaf, Y, reduction="sum").backward()
        grad = leaf.grad.clone()
        with pytest.raises(IndexError):
            ls_loss.cross_entropy(leaf, target, reduction=reduction, label_smoothing=0.1)
        assert torch.equal(leaf.grad, grad) and torch.equal(leaf.detach(), X) and leaf._version == 0


def test_state_of_another_loss():
    """Native's text for a weight that the module has not, and for one of another length."""
    for state in ({"weight": W}, {"weight": W[:3]}):
        for arguments in ((), (W,)):
            modules = [kind(*arguments) for kind in (nn.CrossEntropyLoss, ls_loss.CrossEntropyLoss)]
            if not arguments or len(state["weight"]) != 5:
                native, ours = (raised(module.load_state_dict, state) for module in modules)
                assert ours == native
