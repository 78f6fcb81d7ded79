"""Bad inputs that native has no text for: what the library adds, and its other front ends.

The text names the argument, what is expected and what came. After each: the tensors hold what they held, no gradient has
appeared, and the next call is right. Uses the public package.
"""

import math
import re

import pytest
import torch
from test_bad_inputs import SUBCLASS, assert_next_call_is_right
from test_errors import IMAGES, LABELS, Q, W, X, Y, out_of_range

import ls_loss

NAN, INF = math.nan, math.inf
U = torch.full((5,), 0.2)
FLAT, PLAIN, NOTEBOOK = (
    ls_loss.LabelSmoothingCrossEntropyFlat,
    ls_loss.LabelSmoothingCrossEntropy,
    ls_loss.LabelSmoothingLoss,
)
IN_RANGE = r"between 0(\.0)? and 1(\.0)?[.,] [Gg]ot:? "

# What native has not: (the call, type, text). The text names argument, expectation and what came.
OURS = {
    "smooth_labels of a list": (
        lambda: ls_loss.smooth_labels([0, 1], 5),
        TypeError,
        r"smooth_labels\(\): argument 'target' must be Tensor, not list",
    ),
    "smooth_labels, prior a list": (
        lambda: ls_loss.smooth_labels(Y, 5, prior=[0.2] * 5),
        TypeError,
        r"smooth_labels\(\): argument 'prior' must be Tensor, not list",
    ),
    "smooth_labels, epsilon a string": (
        lambda: ls_loss.smooth_labels(Y, 5, "0.1"),
        TypeError,
        "epsilon must be a number, not str",
    ),
    "fastai's, weight a list": (
        lambda: PLAIN(0.1, [1.0] * 5)(X, Y),
        TypeError,
        r"cross_entropy\(\): argument 'weight' must be Tensor, not list",
    ),
    "fastai's, the axis in place of the weight": (
        lambda: FLAT(0.1, 1)(X, Y),
        TypeError,
        r"cross_entropy\(\): argument 'weight' must be Tensor, not int",
    ),
    "fastai's, eps a string": (
        lambda: PLAIN("0.1")(X, Y),
        TypeError,
        "the smoothing must be a number, not str",
    ),
    "the notebooks', target a list": (
        lambda: NOTEBOOK(0.1)(X, Y.tolist()),
        TypeError,
        r"cross_entropy\(\): argument 'target' must be Tensor, not list",
    ),
    "the notebooks', weight a list": (
        lambda: NOTEBOOK(0.1, weight=[1.0] * 5)(X, Y),
        TypeError,
        r"cross_entropy\(\): argument 'weight' must be Tensor, not list",
    ),
    "prior a bool": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U > 0),
        ValueError,
        "prior must be a floating point tensor, got Bool",
    ),
    "prior complex": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U.cfloat()),
        ValueError,
        "prior must be a floating point tensor, got ComplexFloat",
    ),
    "prior 0-d": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U[0]),
        ValueError,
        r"prior must hold one probability for each of the 5 classes, .* shape \[\]",
    ),
    "prior empty": (lambda: ls_loss.cross_entropy(X, Y, prior=U[:0]), ValueError, r"prior must hold .* shape \[0\]"),
    "prior a list": (
        lambda: ls_loss.cross_entropy(X, Y, prior=[0.2] * 5),
        TypeError,
        "'prior' must be Tensor, not list",
    ),
    "prior a numpy array": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U.numpy()),
        TypeError,
        "'prior' must be Tensor, not ndarray",
    ),
    "prior of counts": (
        lambda: ls_loss.cross_entropy(X, Y, prior=5 * U),
        ValueError,
        r"prior must have a sum of 1 \(to 0\.01\), got 5",
    ),
    "prior NaN, no smoothing": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U * NAN),
        ValueError,
        "prior must be finite and not negative, got -?nan for class 0",
    ),
    "prior NaN, no rows": (
        lambda: ls_loss.cross_entropy(X[:0], Y[:0], prior=U * NAN),
        ValueError,
        "prior must be finite",
    ),
    "prior of log-probabilities": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U.log()),
        ValueError,
        "not negative, got -1.6.* for class 0",
    ),
    "prior bfloat16, sum of 0.9": (
        lambda: ls_loss.cross_entropy(X.bfloat16(), Y, prior=(0.9 * U).bfloat16()),
        ValueError,
        "sum of 1 .* got 0.898",
    ),
    "prior with probabilities": (
        lambda: ls_loss.cross_entropy(X, Q, prior=-U, label_smoothing=0.1),
        ValueError,
        "not negative, got -0.2 for class 0",
    ),
    "prior that requires grad": (
        lambda: ls_loss.cross_entropy(X, Y, prior=U.clone().requires_grad_()),
        RuntimeError,
        "not differentiable with respect to argument 'prior'",
    ),
    "prior positional": (
        lambda: ls_loss.cross_entropy(X, Y, None, None, -100, None, "mean", 0.1, U),
        TypeError,
        "takes from 2 to 8 positional arguments but 9 were given",
    ),
    "dim = rank": (
        lambda: ls_loss.cross_entropy(X, Y, dim=2),
        IndexError,
        r"expected to be in range of \[-2, 1\], but got 2",
    ),
    "dim far out": (
        lambda: ls_loss.cross_entropy(IMAGES, LABELS, dim=-5),
        IndexError,
        r"expected to be in range of \[-4, 3\], but got -5",
    ),
    "dim a string": (
        lambda: ls_loss.cross_entropy(X, Y, dim="1"),
        TypeError,
        r"cross_entropy\(\): argument 'dim' must be int, not str$",
    ),
    "dim a float": (
        lambda: ls_loss.cross_entropy(X, Y, dim=1.0),
        TypeError,
        r"cross_entropy\(\): argument 'dim' must be int, not float$",
    ),
    "dim None": (
        lambda: ls_loss.cross_entropy(X, Y, dim=None),
        TypeError,
        r"cross_entropy\(\): argument 'dim' must be int, not NoneType$",
    ),
    "dim 2^80": (
        lambda: ls_loss.cross_entropy(X, Y, dim=2**80),
        IndexError,
        r"expected to be in range of \[-2, 1\], but got 1208925819614629174706176",
    ),
    "smoothing below 0": (
        lambda: ls_loss.cross_entropy(X, Y, label_smoothing=-1e-9),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-1e-09",
    ),
    "smoothing NaN": (
        lambda: ls_loss.cross_entropy(X, Q, label_smoothing=NAN),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-?nan",
    ),
    "smoothing -inf": (
        lambda: ls_loss.cross_entropy(X, Y, label_smoothing=-INF),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-inf",
    ),
    "smoothing NaN, subclass": (
        lambda: ls_loss.cross_entropy(SUBCLASS, Y, label_smoothing=NAN),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-?nan",
    ),
    "smoothing -1, int": (
        lambda: ls_loss.cross_entropy(X, Y, label_smoothing=-1),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-1",
    ),
    "int8 target of -7": (
        lambda: ls_loss.cross_entropy(X, out_of_range(-7, torch.int8)),
        IndexError,
        r"^Target -7 is out of bounds\.$",
    ),
    "int16 target of 5": (
        lambda: ls_loss.cross_entropy(X, out_of_range(5, torch.int16)),
        IndexError,
        r"^Target 5 is out of bounds\.$",
    ),
    "int32 target of 2^31 - 1": (
        lambda: ls_loss.cross_entropy(X, out_of_range(2**31 - 1, torch.int32)),
        IndexError,
        r"^Target 2147483647 is out of bounds\.$",
    ),
    "uint8 target in an image": (
        lambda: ls_loss.cross_entropy(IMAGES, LABELS.to(torch.uint8) + 7),
        IndexError,
        r"^Target \d+ is out of bounds\.$",
    ),
    "uint64 target of 2^64 - 1": (
        lambda: ls_loss.cross_entropy(X, torch.tensor([0, 1, 2**64 - 1, 2], dtype=torch.uint64)),
        IndexError,
        r"^Target 18446744073709551615 is out of bounds\.$",
    ),
    "module: smoothing NaN": (
        lambda: ls_loss.CrossEntropyLoss(label_smoothing=NAN)(X, Y),
        RuntimeError,
        f"label_smoothing must be {IN_RANGE}-?nan",
    ),
    "module: unknown keyword": (
        lambda: ls_loss.CrossEntropyLoss(smoothing=0.1),
        TypeError,
        "unexpected keyword argument 'smoothing'",
    ),
    "fastai: 1-d logits": (lambda: PLAIN()(X[0], Y[0]), IndexError, r"logits are \(N, C, \.\.\.\), got shape \[5\]"),
    "fastai: target out of range": (lambda: PLAIN()(X, out_of_range(5)), IndexError, r"^Target 5 is out of bounds\.$"),
    "fastai: target out of range, flat": (
        lambda: FLAT()(X, out_of_range(-1)),
        IndexError,
        r"^Target -1 is out of bounds\.$",
    ),
    "fastai: float target out of range": (
        lambda: PLAIN()(X, out_of_range(5.9, torch.float32)),
        IndexError,
        r"^Target 5 is out of bounds\.$",
    ),
    "fastai: eps a string": (
        lambda: PLAIN(eps="a")(X, Y),
        TypeError,
        "the smoothing must be a number, not str",
    ),
    "fastai: eps None": (
        lambda: PLAIN(eps=None)(X, Y),
        TypeError,
        "the smoothing must be a number, not NoneType",
    ),
    "fastai: eps that requires grad": (
        lambda: FLAT(eps=torch.tensor(0.1, requires_grad=True))(X, Y),
        TypeError,
        "the smoothing must be a number: a tensor that requires grad would receive none",
    ),
    "fastai: reduction bad": (
        lambda: PLAIN(reduction="bad")(X, Y),
        ValueError,
        "bad is not a valid value for reduction",
    ),
    "fastai: probabilities": (
        lambda: PLAIN()(X, Q),
        RuntimeError,
        "^Expected floating point type for target with class probabilities, got Long$",  # the loss casts to integers
    ),
    "fastai: probabilities, flat": (
        lambda: FLAT()(X, Q),
        ValueError,
        r"^Expected input batch_size \(4\) to match target batch_size \(20\)\.$",
    ),
    "fastai: axis out of range": (
        lambda: FLAT(axis=2)(X, Y),
        IndexError,
        r"expected to be in range of \[-2, 1\], but got 2",
    ),
    "fastai: prior too long": (
        lambda: FLAT(prior=torch.full((6,), 1 / 6))(X, Y),
        ValueError,
        r"each of the 5 classes, .* shape \[6\]",
    ),
    "fastai: unknown keyword": (lambda: FLAT(epsilon=0.1), TypeError, "unexpected keyword argument 'epsilon'"),
    "notebook: epsilon below 0": (lambda: NOTEBOOK(epsilon=-0.1)(X, Y), ValueError, f"epsilon must be {IN_RANGE}-0.1"),
    "notebook: epsilon above 1": (lambda: NOTEBOOK(epsilon=1.1)(X, Y), ValueError, f"epsilon must be {IN_RANGE}1.1"),
    "notebook: epsilon NaN": (lambda: NOTEBOOK(epsilon=NAN)(X, Y), ValueError, f"epsilon must be {IN_RANGE}nan"),
    "notebook: epsilon a string": (
        lambda: NOTEBOOK(epsilon="0.1")(X, Y),
        TypeError,
        "^epsilon must be a number, not str$",
    ),
    "notebook: 3-d logits": (
        lambda: NOTEBOOK()(IMAGES[..., 0], LABELS[..., 0]),
        ValueError,
        r"takes logits \(C\) or \(N, C\), got shape \[2, 3, 5\]",
    ),
    "notebook: target out of range": (
        lambda: NOTEBOOK()(X, out_of_range(7)),
        IndexError,
        r"^Target 7 is out of bounds\.$",
    ),
    "notebook: batch sizes differ": (
        lambda: NOTEBOOK()(X, Y[:3]),
        ValueError,
        r"Expected input batch_size \(4\) to match target batch_size \(3\)\.",
    ),
    "smooth_labels: target a number": (
        lambda: ls_loss.smooth_labels(1, 5),
        TypeError,
        r"smooth_labels\(\): argument 'target' must be Tensor, not int",
    ),
    "smooth_labels: bool target": (
        lambda: ls_loss.smooth_labels(Y > 0, 5),
        TypeError,
        "target must be a tensor of integers, got Bool",
    ),
    "smooth_labels: -1 classes": (
        lambda: ls_loss.smooth_labels(Y, -1),
        ValueError,
        "num_classes must be at least 1, got -1",
    ),
    "smooth_labels: 5.5 classes": (
        lambda: ls_loss.smooth_labels(Y, 5.5),
        TypeError,
        r"smooth_labels\(\): argument 'num_classes' must be int, not float$",
    ),
    "smooth_labels: epsilon inf": (
        lambda: ls_loss.smooth_labels(Y, 5, INF),
        ValueError,
        f"epsilon must be {IN_RANGE}inf",
    ),
    "smooth_labels: epsilon None": (
        lambda: ls_loss.smooth_labels(Y, 5, None),
        TypeError,
        "epsilon must be a number, not NoneType",
    ),
    "smooth_labels: dtype int64": (
        lambda: ls_loss.smooth_labels(Y, 5, dtype=torch.int64),
        ValueError,
        "dtype must be float32, float64, bfloat16 or float16, got Long",
    ),
    "smooth_labels: prior too short": (
        lambda: ls_loss.smooth_labels(Y, 5, prior=U[:4]),
        ValueError,
        r"each of the 5 classes, .* shape \[4\]",
    ),
    "smooth_labels: prior of integers": (
        lambda: ls_loss.smooth_labels(Y, 5, prior=torch.ones(5).long()),
        ValueError,
        "floating point tensor, got Long",
    ),
    "smooth_labels: ignored": (
        lambda: ls_loss.smooth_labels(torch.tensor([0, -100]), 5),
        IndexError,
        r"^Target -100 is out of bounds\.$",
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_type_and_text_of_what_native_has_not(name):
    call, kind, text = OURS[name]
    before = [t.clone() for t in (X, Y, Q, W, U, IMAGES, LABELS)]
    with pytest.raises(kind) as error:
        call()
    assert re.search(text, str(error.value)), str(error.value)
    for tensor, was in zip((X, Y, Q, W, U, IMAGES, LABELS), before, strict=True):
        assert torch.equal(tensor, was) and tensor._version == 0 and tensor.grad is None
    assert_next_call_is_right()


def test_there_are_enough():
    assert len(OURS) >= 60
