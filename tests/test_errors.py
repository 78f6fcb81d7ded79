"""What is rejected: the type and text that native raises, nothing changed by the failed call, and the next call right.

Native itself is called beside; the texts are stated where the library raises by itself, or deliberately where native does not.
"""

import re
import warnings

import cases
import pytest
import torch
import torch.nn.functional as F

import ls_loss

X, Y = cases.batch((4, 5))
Q = cases.probabilities((4, 5))
IMAGES, LABELS = cases.batch((2, 3, 5, 5))
W = cases.weights(5)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of beta and deprecated kinds of tensors
    CSR, QUANTIZED = X.to_sparse_csr(), torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


def raised(function, *args, **kwargs):
    """Type and text of the exception, without what C++ appends."""
    with pytest.raises(Exception) as error:
        function(*args, **kwargs)
    return error.type, str(error.value).split("\nException raised from")[0]


def out_of_range(value, dtype=torch.int64):
    target = torch.zeros(4, dtype=dtype)
    target[2] = value
    return target


SAME_AS_NATIVE = {
    # targets
    "target = C": (X, out_of_range(5)),
    "target far out": (X, out_of_range(2**62)),
    "negative target": (X, out_of_range(-1)),
    "most negative target": (X, out_of_range(-(2**63))),
    "target out of range, none": (X, out_of_range(7), dict(reduction="none")),
    "target out of range, sum": (X, out_of_range(7), dict(reduction="sum")),
    "target out of range, smoothing": (X, out_of_range(7), dict(label_smoothing=0.1)),
    "target out of range, full smoothing": (X, out_of_range(7), dict(label_smoothing=1.0)),
    "target out of range, weight": (X, out_of_range(7), dict(weight=W, label_smoothing=0.1)),
    "target out of range, uint8": (X, out_of_range(255, torch.uint8)),
    "target out of range, images": (IMAGES, LABELS.clone().index_fill_(1, torch.tensor([3]), 3)),
    "target out of range, 1-d": (X[0], torch.tensor(5)),
    "-100 that is not ignored": (X, out_of_range(-100), dict(ignore_index=-1)),
    "no classes": (torch.empty(2, 0), torch.zeros(2, dtype=torch.int64)),
    "bool target": (X, torch.tensor([True, False, True, False])),
    "float target": (X, torch.ones(4)),
    "integer target of the logits' shape": (X, torch.zeros(4, 5, dtype=torch.int64)),
    "integer target (1,) for logits (1,)": (X[0, :1], torch.zeros(1, dtype=torch.int64)),
    "probabilities and ignore_index": (X, Q, dict(ignore_index=2)),
    # shapes
    "batch sizes differ": (X, Y[:3]),
    "1-d logits, two targets": (X[0], Y[:2]),
    "target (N, 1)": (X, Y[:, None]),
    "target of another 2-d shape": (X, Y[:, None].expand(4, 2)),
    "float target of another 2-d shape": (X, torch.ones(4, 2)),
    "positions differ": (IMAGES[..., 0], LABELS[:, :4, 0]),
    "images differ": (IMAGES, LABELS[..., :4]),
    "images with a flat target": (IMAGES, LABELS[..., 0]),
    "0-d logits": (X[0, 0], Y[0]),
    "target of no dimension": (X, Y[0]),
    # weights
    "weight of another length": (X, Y, dict(weight=cases.weights(4))),
    "weight of another length, probabilities": (X, Q, dict(weight=cases.weights(4))),
    "weight (1, C)": (X, Y, dict(weight=W[None])),
    "weight (C, 1)": (X, Y, dict(weight=W[:, None])),
    "float64 weight": (X, Y, dict(weight=W.double())),
    "bfloat16 weight": (X, Y, dict(weight=W.bfloat16())),
    "float64 weight, smoothing": (X, Y, dict(weight=W.double(), label_smoothing=0.1)),
    "weight that requires grad": (X, Y, dict(weight=W.clone().requires_grad_())),
    # options
    "label_smoothing above 1": (X, Y, dict(label_smoothing=1.2)),
    "label_smoothing above 1, probabilities": (X, Q, dict(label_smoothing=1.2)),
    "label_smoothing infinite": (X, Y, dict(label_smoothing=float("inf"))),
    "label_smoothing 2, an int": (X, Y, dict(label_smoothing=2)),
    "label_smoothing None": (X, Y, dict(label_smoothing=None)),
    "label_smoothing a string": (X, Y, dict(label_smoothing="0.1")),
    "label_smoothing a list": (X, Y, dict(label_smoothing=[0.1])),
    "label_smoothing a tensor that requires grad": (X, Y, dict(label_smoothing=torch.tensor(0.1, requires_grad=True))),
    "label_smoothing a vector": (X, Y, dict(label_smoothing=torch.tensor([0.1, 0.2]))),
    "label_smoothing too large for a float": (X, Y, dict(label_smoothing=10**400)),
    "ignore_index a float": (X, Y, dict(ignore_index=1.5)),
    "ignore_index a bool": (X, Y, dict(ignore_index=True)),
    "ignore_index None": (X, Y, dict(ignore_index=None)),
    "ignore_index 2^63": (X, Y, dict(ignore_index=2**63)),
    "ignore_index -2^63 - 1": (X, Y, dict(ignore_index=-(2**63) - 1)),
    "reduction bad": (X, Y, dict(reduction="bad")),
    "reduction None": (X, Y, dict(reduction=None)),
    "reduction a number": (X, Y, dict(reduction=1)),
    "reduction a list": (X, Y, dict(reduction=["mean"])),
    "reduction bad, everything else too": ([1.0], [0], dict(reduction="bad", label_smoothing="x")),
    "unknown keyword": (X, Y, dict(smoothing=0.1)),
    # tensors
    "logits a list": ([[1.0, 2.0]], Y),
    "logits None": (None, Y),
    "target a list": (X, [0, 1, 2, 3]),
    "target None": (X, None),
    "weight a list": (X, Y, dict(weight=[1.0] * 5)),
    "int64 logits": (X.long(), Y),
    "bool logits": (X.bool(), Y),
    "complex logits": (X.cfloat(), Y),
    "float8 logits": (X.to(torch.float8_e4m3fn), Y),
    "sparse logits": (X.to_sparse(), Y),
    "CSR logits": (CSR, Y),
    "quantized logits": (QUANTIZED, Y),
    "mkldnn logits": (X.to_mkldnn(), Y),
    "logits on meta": (X.to("meta"), Y),
    "target on meta": (X, Y.to("meta")),
    "weight on meta": (X, Y, dict(weight=W.to("meta"))),
}


@pytest.mark.parametrize("name", SAME_AS_NATIVE)
def test_type_and_text_are_natives(name):
    logits, target, *options = SAME_AS_NATIVE[name]
    options = options[0] if options else {}
    (native_type, native), (ours_type, ours) = (
        raised(function, logits, target, **options) for function in (F.cross_entropy, ls_loss.cross_entropy)
    )
    assert ours_type is native_type and ours == native
    expected = ls_loss.cross_entropy(X, Y, label_smoothing=0.1)
    torch.testing.assert_close(expected, F.cross_entropy(X, Y, label_smoothing=0.1))  # the next call is right


@pytest.mark.parametrize("name", SAME_AS_NATIVE)
def test_the_same_where_a_gradient_is_wanted(name):
    logits, target, *options = SAME_AS_NATIVE[name]
    options = options[0] if options else {}
    if not isinstance(logits, torch.Tensor) or not (logits.is_floating_point() or logits.is_complex()):
        return
    if logits.is_quantized or logits.is_mkldnn:
        return
    results = []
    for function in (F.cross_entropy, ls_loss.cross_entropy):
        x = logits.detach().clone().requires_grad_()
        results.append(raised(function, x, target, **options))
        assert x.grad is None and x._version == 0
        if logits.layout == torch.strided and logits.device.type == "cpu":
            assert torch.equal(x.detach().cfloat(), logits.cfloat())
    assert results[0] == results[1]


@pytest.mark.parametrize("smoothing", [-0.1, -5.0, float("-inf"), float("nan")])
def test_smoothing_that_native_ignores(smoothing):
    """Native takes it for 0 (pytorch/pytorch#134767)."""
    for target in (Y, Q):
        for options in ({}, dict(prior=torch.full((5,), 0.2)), dict(weight=W), dict(reduction="none")):
            with pytest.raises(
                RuntimeError, match=r"label_smoothing must be between 0\.0 and 1\.0\. Got: -?(0\.1|5|inf|nan)$"
            ):
                ls_loss.cross_entropy(X, target, label_smoothing=smoothing, **options)


def test_first_bad_target_in_order_is_named():
    """Also where many threads look for it, and behind valid and ignored ones."""
    for rows in (10, 70000):
        target = torch.zeros(rows, dtype=torch.int64)
        target[: rows // 3] = -100
        target[rows // 2], target[rows // 2 + 1], target[-1] = 77, -3, 99
        logits = torch.zeros(rows, 7, requires_grad=True)
        for reduction in cases.REDUCTIONS:
            with pytest.raises(IndexError, match=r"^Target 77 is out of bounds\.$"):
                ls_loss.cross_entropy(logits, target, reduction=reduction)
    planes = torch.zeros(2, 3, 4, 4, dtype=torch.int64)
    planes[1, 0, 0, 0], planes[0, 2, 3, 3] = 8, 9
    with pytest.raises(IndexError, match=r"^Target 9 is out of bounds\.$"):
        ls_loss.cross_entropy(torch.zeros(2, 5, 3, 4, 4), planes)


def test_targets_of_other_integer_dtypes_are_named_as_they_are():
    for dtype, value in (
        (torch.int8, -5),
        (torch.int16, 300),
        (torch.int32, -(2**31)),
        (torch.uint16, 65535),
        (torch.uint32, 2**32 - 1),
        (torch.uint64, 2**64 - 1),
    ):
        target = torch.tensor([0, 1, value, 2], dtype=dtype)
        with pytest.raises(IndexError, match=rf"^Target {value} is out of bounds\.$"):
            ls_loss.cross_entropy(X, target)


PRIORS = {
    "negative entry": (
        [0.5, -0.1, 0.2, 0.2, 0.2],
        ValueError,
        "prior must be finite and not negative, got -0.1 for class 1",
    ),
    "NaN": (
        [0.5, 0.1, float("nan"), 0.2, 0.2],
        ValueError,
        "prior must be finite and not negative, got -?nan for class 2",
    ),
    "infinite": (
        [0.5, 0.1, 0.2, 0.2, float("inf")],
        ValueError,
        "prior must be finite and not negative, got inf for class 4",
    ),
    "sum of 1.02": ([0.22, 0.2, 0.2, 0.2, 0.2], ValueError, r"prior must have a sum of 1 \(to 0\.01\), got 1\.02"),
    "sum of 0.98": ([0.18, 0.2, 0.2, 0.2, 0.2], ValueError, r"prior must have a sum of 1 \(to 0\.01\), got 0\.98"),
    "zeros": ([0.0] * 5, ValueError, r"prior must have a sum of 1 \(to 0\.01\), got 0"),
    "too short": ([0.25] * 4, ValueError, r"prior must hold one probability for each of the 5 classes, .* shape \[4\]"),
    "a matrix": (
        [[0.2] * 5],
        ValueError,
        r"prior must hold one probability for each of the 5 classes, .* shape \[1, 5\]",
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    values, kind, text = PRIORS[name]
    prior = torch.tensor(values)
    for module in (
        ls_loss.CrossEntropyLoss(label_smoothing=0.1, prior=prior),
        ls_loss.LabelSmoothingCrossEntropy(prior=prior),
        ls_loss.LabelSmoothingCrossEntropyFlat(prior=prior),
        ls_loss.LabelSmoothingLoss(prior=prior),
    ):
        for x in (X, X.clone().requires_grad_()):
            with pytest.raises(kind, match=text):
                module(x, Y)
    with pytest.raises(kind, match=text):
        ls_loss.smooth_labels(Y, 5, 0.1, prior)
    slightly_off = torch.tensor([0.209, 0.2, 0.2, 0.2, 0.2])
    assert ls_loss.cross_entropy(X, Y, prior=slightly_off, label_smoothing=0.1).isfinite()


def test_priors_of_other_kinds():
    with pytest.raises(ValueError, match="prior must be a floating point tensor, got Long"):
        ls_loss.cross_entropy(X, Y, prior=torch.tensor([1, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match=r"prior must hold one probability for each of the 5 classes, got .* \[5, 1\]"):
        ls_loss.cross_entropy(X, Y, prior=torch.full((5, 1), 0.2))
    for prior in ([0.2] * 5, 0.2, "uniform"):
        with pytest.raises(
            TypeError, match=rf"^cross_entropy\(\): argument 'prior' must be Tensor, not {type(prior).__name__}$"
        ):
            ls_loss.cross_entropy(X, Y, prior=prior)
    prior = torch.full((5,), 0.2, requires_grad=True)
    with pytest.raises(RuntimeError, match="is not differentiable with respect to argument 'prior'"):
        ls_loss.cross_entropy(X, Y, prior=prior, label_smoothing=0.1)
    with torch.no_grad():
        assert ls_loss.cross_entropy(X, Y, prior=prior, label_smoothing=0.1).isfinite()


def test_dims():
    """torch's own text for a dimension out of range."""
    for shape, dim in (((4, 5), 2), ((4, 5), -3), ((2, 3, 4), 3), ((2, 3, 4), -4)):
        expected = raised(torch.zeros(shape).softmax, dim)
        logits = torch.zeros(shape)
        assert expected[0] is IndexError
        for target in (torch.zeros(shape[0], dtype=torch.int64), torch.zeros(shape)):
            assert raised(ls_loss.cross_entropy, logits, target, dim=dim) == expected
    for dim in (2, -2):
        assert raised(ls_loss.cross_entropy, X[0], Y[0], dim=dim) == raised(X[0].softmax, dim)
    with pytest.raises(TypeError, match="argument 'dim' must be int, not str"):
        ls_loss.cross_entropy(X, Y, dim="1")
    with pytest.raises(TypeError, match="argument 'dim' must be int, not float"):
        ls_loss.cross_entropy(X, Y, dim=1.0)


def test_dim_and_shapes_that_do_not_fit():
    """Native's text, with the class dimension where native would have it."""
    logits, target = cases.batch((2, 3, 5), dim=-1)
    moved = logits.movedim(-1, 1)
    for bad in (target[:, :2], target[:1], target[..., None], torch.ones(2, 3)):
        assert raised(ls_loss.cross_entropy, logits, bad, dim=-1) == raised(F.cross_entropy, moved, bad)


@pytest.mark.parametrize("name", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
def test_fastais_errors(name):
    """Type and text of the real package."""
    theirs = pytest.importorskip("fastai.losses")
    for arguments, logits, target in (
        ({}, X, out_of_range(9)),
        ({}, X, Y[:3]),
        (dict(reduction="bad"), X, Y),
        (dict(weight=cases.weights(4)), X, Y),
        (dict(weight=W.double()), X, Y),
        (dict(weight=W.clone().requires_grad_()), X, Y),
        ({}, X.long(), Y),
        ({}, X, [0]),
        ({}, [0], Y),
    ):
        ours, fastai = (raised(getattr(module, name)(**arguments), logits, target) for module in (ls_loss, theirs))
        assert ours[0] is fastai[0], (arguments, ours, fastai)
        if ours[0] is not AttributeError:  # "'list' object has no attribute ...", which names the first one used
            assert ours[1] == fastai[1], (arguments, ours, fastai)
    with pytest.raises(IndexError, match=r"tuple index out of range: logits are \(N, C, \.\.\.\), got shape \[5\]"):
        ls_loss.LabelSmoothingCrossEntropy()(X[0], Y[0])
    with pytest.raises(TypeError, match="a tensor that requires grad would receive none"):
        getattr(ls_loss, name)(eps=torch.tensor(0.1, requires_grad=True))(X, Y)
    for eps in (None, "a"):
        assert raised(getattr(ls_loss, name)(eps=eps), X, Y)[0] in (TypeError, ValueError)


def test_smooth_labels():
    for target, text in (
        (5, "Target 5 is out of bounds."),
        (-1, "Target -1 is out of"),
        (-100, "Target -100 is out of"),
    ):
        with pytest.raises(IndexError, match=re.escape(text)):
            ls_loss.smooth_labels(torch.tensor([0, target, 9]), 5)
    for epsilon in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="epsilon must be between 0 and 1, got"):
            ls_loss.smooth_labels(Y, 5, epsilon)
    with pytest.raises(TypeError, match="target must be a tensor of integers, got Float"):
        ls_loss.smooth_labels(torch.ones(3), 5)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ls_loss.smooth_labels(Y, 0)
    with pytest.raises(ValueError, match="dtype must be float32, float64, bfloat16 or float16, got Int"):
        ls_loss.smooth_labels(Y, 5, dtype=torch.int32)


def test_targets_changed_before_backward():
    """Native writes outside the tensor here (its defect H); ours has computed the gradient, or raises."""
    numpy = pytest.importorskip("numpy")
    alias = numpy.array([0, 1])
    x = torch.zeros(2, 3, requires_grad=True)
    loss = ls_loss.cross_entropy(x, torch.from_numpy(alias), reduction="none")
    alias[0] = 3
    loss.sum().backward()
    assert torch.equal(x.grad.sum(1), torch.zeros(2)) and x.grad[0, 0] < -0.6 and x.grad[1, 1] < -0.6


def test_compiled_calls_raise_the_same():
    """Compiled native aborts the process (its defect L)."""
    compiled = torch.compile(ls_loss.cross_entropy, fullgraph=True, backend="aot_eager")
    logits = torch.zeros(1000, 37)
    with pytest.raises(IndexError, match=r"Target 37 is out of bounds\."):
        compiled(logits, torch.full((1000,), 37))
    assert compiled(logits, torch.zeros(1000, dtype=torch.int64)).isfinite()
