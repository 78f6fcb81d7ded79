"""Drawn calls of every kind against float64: what no table of cases thinks of.

Shapes of 0 to 5 dimensions with sizes of 0 and 1, every stride pattern that as_strided, expand, transpose and slicing make,
dtypes, options, conventions, special values; hypothesis climbs to larger errors. Native in float64 tells which results are NaN
or infinite, and what comes of no elements; the error model of tolerance.py how far finite results may be. The small profile
runs always, the same on every run;
LS_LOSS_DEEP=<examples> draws that many anew (`make fuzz-python`). Uses the public package.
"""

import math
import os

import cases
import hypothesis
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import coefficients
from reference import rows as rows_of
from tolerance import ROUNDINGS, UNITS, assert_within, expect

import ls_loss

DEEP = int(os.environ.get("LS_LOSS_DEEP", 0))
PROFILE = settings(
    max_examples=DEEP or 300,
    derandomize=not DEEP,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
FEW = settings(PROFILE, max_examples=DEEP // 4 or 100)

SPECIAL = (-math.inf, math.inf, math.nan, 0.0, -0.0, 1e30, -1e30, 1e-40, 88.0, -104.0, 6e4)


def strided(draw, tensor, elements):
    """The same values behind other strides: transposed, with gaps, at an offset; what lies between is NaN or out of range."""
    if tensor.dim() == 0 or tensor.numel() == 0:
        return tensor
    order = draw(st.permutations(range(tensor.dim())))
    steps = [draw(st.integers(1, 3)) for _ in order]
    strides, next_stride = [0] * tensor.dim(), 1
    for dim in reversed(order):
        strides[dim] = next_stride * steps[dim]
        next_stride = strides[dim] * tensor.shape[dim] + draw(st.integers(0, 2))
    offset = draw(st.integers(0, 3))
    span = offset + 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    storage = torch.full((span,), elements, dtype=tensor.dtype)
    view = storage.as_strided(tensor.shape, strides, offset)
    view.copy_(tensor)
    return view


IGNORED = (-100, 0, "last class", "number of classes", 10**12)


@st.composite
def calls(draw, probabilities=False, special=False, ranks=(1, 5), ignored=IGNORED):
    """(logits, target, options, grad_output) of a call that is right."""
    dtype = draw(st.sampled_from(cases.DTYPES))
    rank = draw(st.integers(*ranks))
    largest = {1: 300, 2: 60, 3: 12, 4: 7, 5: 4}[rank]
    classes = draw(
        st.one_of(
            st.integers(1, largest), st.sampled_from((1, 2, 31, 32, 33, 64, 65, 1025)) if rank <= 2 else st.just(5)
        )
    )
    dim = draw(st.integers(-rank, rank - 1))
    shape = [draw(st.integers(0 if not special else 1, largest)) for _ in range(rank)]
    shape[dim] = classes
    rows = list(shape)
    del rows[dim]
    seed = draw(st.integers(0, 2**31))
    scale = draw(st.sampled_from((0.1, 1.0, 5.0, 30.0)))
    logits = (scale * cases.randn(*shape, seed=seed) + draw(st.sampled_from((0.0, 0.0, 100.0, -1000.0)))).to(dtype)
    smoothing = draw(st.one_of(st.sampled_from((0.0, 0.1, 1.0)), st.floats(2.0**-20, 1)))
    options = dict(
        reduction=draw(st.sampled_from(cases.REDUCTIONS)),
        label_smoothing=smoothing,
        weight=cases.weights(classes, dtype, seed=seed + 1) if draw(st.booleans()) else None,
        prior=cases.prior(classes, dtype, seed=seed + 2) if draw(st.integers(0, 3)) == 0 else None,
        dim=dim,
    )
    if probabilities:
        target = strided(draw, cases.probabilities(shape, dtype, dim=dim, seed=seed + 3), math.nan)
    else:
        kinds = [kind for kind in cases.INTEGERS if torch.iinfo(kind).max >= classes]
        target = cases.integers(classes, *rows, seed=seed + 4)
        kind = draw(st.sampled_from(kinds))
        if draw(st.booleans()):
            ignore_index = draw(st.sampled_from(ignored))
            options["ignore_index"] = {"last class": classes - 1, "number of classes": classes}.get(
                ignore_index, ignore_index
            )
            if torch.iinfo(kind).min <= options["ignore_index"] <= torch.iinfo(kind).max:
                target = cases.ignoring(target, options["ignore_index"], seed=seed + 5)
        target = strided(draw, target.to(kind), torch.iinfo(kind).max)
    if special and logits.numel():
        for value, at in draw(
            st.lists(st.tuples(st.sampled_from(SPECIAL), st.integers(0, 2**31)), min_size=1, max_size=4)
        ):
            logits.view(-1)[at % logits.numel()] = value
    if draw(st.integers(0, 7)) == 0 and rank > 1 and dim != 0 and shape[0] > 1:
        logits = logits[:1].expand(shape)  # stride 0
    else:
        logits = strided(draw, logits, math.nan)
    grad_output = None
    if draw(st.booleans()):
        grad_output = strided(
            draw, cases.randn(*(rows if options["reduction"] == "none" else ()), seed=seed + 6).to(dtype), math.nan
        )
    return logits, target, options, grad_output


def run(logits, target, grad_output, options, function=ls_loss.cross_entropy):
    x = logits.detach().requires_grad_()
    loss = function(x, target, **options)
    outer = torch.ones_like(loss) if grad_output is None else grad_output.to(loss.dtype)
    return loss.detach(), torch.autograd.grad(loss, x, outer)[0]


def contiguous_and_int64(logits, target, grad_output, options):
    target = target.contiguous() if target.is_floating_point() else target.long().contiguous()
    return run(logits.contiguous(), target, grad_output if grad_output is None else grad_output.contiguous(), options)


def without_dim(options):
    return {name: value for name, value in options.items() if name != "dim"}


def natives(logits, target, options):
    """Loss and gradient of native in float64, which takes classes in dimension 1, no prior, and int64."""
    dim = options["dim"] % logits.dim()

    def moved(tensor):
        return tensor.movedim(dim, 1) if tensor.shape == logits.shape and logits.dim() > 1 else tensor

    target = moved(target.double()) if target.is_floating_point() else target.long()
    weight = options["weight"] if options["weight"] is None else options["weight"].double()
    options = {name: value for name, value in options.items() if name not in ("dim", "prior")} | dict(weight=weight)
    loss, grad = run(moved(logits.double()), target, None, options, F.cross_entropy)
    return loss, grad.movedim(1, dim) if logits.dim() > 1 else grad


def check(call, function=ls_loss.cross_entropy, convention="torch"):
    logits, target, options, grad_output = call
    loss, grad = run(logits, target, grad_output, options, function)
    rows = list(logits.shape)
    del rows[options["dim"]]
    if options["reduction"] == "none":
        assert list(loss.shape) == rows
    assert loss.dtype == grad.dtype == logits.dtype and grad.shape == logits.shape
    if convention == "torch":
        assert grad.is_contiguous()
    if not logits.numel():  # no row to have a convention
        torch.testing.assert_close(
            loss, natives(logits, target, options)[0].to(loss.dtype), rtol=0, atol=0, equal_nan=True
        )
        return
    assume(loss.dim() or not loss.isnan())  # every row ignored: tables have that
    name = f"{list(logits.shape)}, strides {logits.stride()}, {logits.dtype}, {options}"
    outer = grad_output.contiguous() if grad_output is not None else None
    if not target.is_floating_point():
        target = target.long()
    expected = expect(logits.contiguous(), target.contiguous(), outer, convention=convention, **options)
    soft = target.is_floating_point()
    if soft or convention == "fastai":
        # Where no target can be left out of the sum of exps: an error of its own for every unit of q.
        y = rows_of(target, options["dim"]) if soft else target.reshape(-1)
        classes = logits.shape[options["dim"]]
        q = coefficients(y, classes, convention=convention, **without_dim(options)).abs().sum(-1)
        if not soft:
            q = q.where(y == -100, 0.0)
        of_sum = UNITS[logits.dtype][0] * ROUNDINGS * q
        expected.loss_tolerance = expected.loss_tolerance + (of_sum.reshape(loss.shape) if loss.dim() else of_sum.sum())
    for what, actual in (("loss", loss), ("grad", grad)):
        judged = actual, getattr(expected, what), getattr(expected, f"{what}_tolerance")
        climb(*judged, what)
        assert_within(*judged, name, what)


def climb(actual, expected, tolerance, what):
    """Has hypothesis look for calls whose errors are a larger share of what is allowed."""
    share = (actual.double() - expected).abs() / tolerance
    share = share[share.isfinite()]
    if share.numel():
        hypothesis.target(float(share.max()), label=what)


@PROFILE
@given(calls())
def test_class_indices(call):
    check(call)


@FEW
@given(calls(probabilities=True))
def test_probabilities(call):
    check(call)


def in_conventions_of_fastai(kind):
    """Calls of a module as if it were the function: the classes where it looks for them."""

    def function(x, target, *, dim, weight, reduction, label_smoothing, prior, ignore_index=-100):
        assert ignore_index == -100
        if kind is ls_loss.LabelSmoothingLoss:
            module = kind(label_smoothing, reduction, weight, prior=prior)
            return module(x.movedim(dim, -1), target)
        return kind(label_smoothing, weight, reduction, prior=prior)(x.movedim(dim, 1), target)

    return function


@FEW
@given(calls(ranks=(2, 5), ignored=(-100,)))
def test_fastais_convention(call):
    check(call, in_conventions_of_fastai(ls_loss.LabelSmoothingCrossEntropy), "fastai")


@FEW
@given(calls(ranks=(1, 2), ignored=(-100,)))
def test_the_notebooks_convention(call):
    check(call, in_conventions_of_fastai(ls_loss.LabelSmoothingLoss), "fastai")


def outcome(function, logits, target, options):
    """Type and text of the error; else shape and bits of the loss and of the gradient, 0 and -0 being alike."""
    try:
        results = run(logits, target, None, options, function)
    except Exception as error:
        return type(error).__name__, str(error)
    return [(list(result.shape), result.dtype, str(result.add(0.0).tolist())) for result in results]


@st.composite
def calls_of_nothing(draw):
    """Logits of no dimensions, of no classes, or of no elements; targets that fit, do not, or are ignored."""
    dtype = draw(st.sampled_from(cases.DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=5).filter(lambda sizes: not sizes or 0 in sizes))
    classes = cases.num_classes(shape) if shape else 1
    fitting = cases.rows_shape(shape) if shape else ()
    of_rows = draw(st.sampled_from((fitting, fitting, tuple(shape))))
    target = draw(
        st.sampled_from(
            (torch.zeros(of_rows, dtype=torch.int64), torch.full(of_rows, -100), torch.zeros(shape, dtype=dtype))
        )
    )
    options = dict(
        reduction=draw(st.sampled_from(cases.REDUCTIONS)),
        label_smoothing=draw(st.sampled_from((0.0, 0.1, 1.0))),
        weight=cases.weights(classes, dtype) if draw(st.booleans()) else None,
        ignore_index=draw(st.sampled_from((-100, 0))) if not target.is_floating_point() else -100,
    )
    return torch.zeros(shape, dtype=dtype), target, options


@FEW
@given(calls_of_nothing())
def test_nothing_gives_what_native_gives(call):
    """Values, shapes and dtypes, or type and text of the error."""
    logits, target, options = call
    name = f"{list(logits.shape)}, target {list(target.shape)} of {target.dtype}, {options}"
    assert outcome(ls_loss.cross_entropy, *call) == outcome(F.cross_entropy, *call), name


@FEW
@given(calls(special=True))
def test_special_values(call):
    """NaN, infinite or finite as native in float64, rows that are ignored 0; and no row touches another."""
    logits, target, options, _ = call
    dim = options["dim"] % logits.dim()
    check_special(call, (target.long() != options.get("ignore_index", -100)).unsqueeze(dim).expand_as(logits))


@FEW
@given(calls(probabilities=True, special=True))
def test_special_values_with_probabilities(call):
    check_special(call, torch.ones(call[0].shape, dtype=torch.bool))


def check_special(call, kept):
    logits, target, options, _ = call
    options = dict(options, reduction="none", prior=None)
    loss, grad = run(logits, target, None, options)
    want, want_grad = natives(logits, target, options)
    assert torch.equal(grad[~kept], torch.zeros_like(grad[~kept]))
    assert torch.equal(grad.isnan()[kept], want_grad.isnan()[kept])
    largest = torch.finfo(logits.dtype).max
    alike = want.abs() < largest / 4  # beyond, sums may or may not overflow on the way
    assert torch.equal(loss.isnan(), want.isnan())
    assert loss[alike].isfinite().all()
    assert torch.equal(loss[want == math.inf], torch.full_like(loss[want == math.inf], math.inf))


@FEW
@given(calls(), st.integers(2, 7))
def test_strides_integer_dtype_and_threads_change_no_value(call, threads):
    """The same bits for any number of threads; strides may choose another strategy, which the error model covers."""
    logits, target, options, grad_output = call
    torch.set_num_threads(1)
    results = run(logits, target, grad_output, options)
    torch.set_num_threads(threads)
    for first, again in zip(results, run(logits, target, grad_output, options), strict=True):
        assert torch.equal(first.nan_to_num(), again.nan_to_num())
    flat = contiguous_and_int64(logits, target, grad_output, options)
    eps = 64 * torch.finfo(logits.dtype).eps
    for first, other in zip(results, flat, strict=True):
        scale = float(other.abs().nan_to_num().max()) if other.numel() else 0.0
        torch.testing.assert_close(first, other, rtol=eps, atol=eps * scale, equal_nan=True)


@FEW
@given(calls(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31))
def test_a_target_out_of_range_is_found(call, value, at):
    logits, target, options, _ = call
    classes = logits.shape[options["dim"]]
    assume(target.numel() and not 0 <= value < classes and value != options.get("ignore_index", -100))
    target = target.long().contiguous()
    target.view(-1)[at % target.numel()] = value
    try:
        ls_loss.cross_entropy(logits, target, **options)
    except IndexError as error:
        assert str(error).startswith(f"Target {value} is out of bounds.")
    else:
        raise AssertionError(f"{value} was taken for a class")


@FEW
@given(st.integers(1, 9), st.integers(1, 70), st.booleans(), st.floats(0, 1), st.integers(0, 2**31))
def test_smooth_labels_are_the_probabilities_of_the_loss(rows, classes, with_prior, epsilon, seed):
    """A smoothed loss is the loss of its smoothed labels."""
    logits, target = cases.batch((rows, classes), torch.float64, seed=seed)
    prior = cases.prior(classes, torch.float64, seed=seed) if with_prior else None
    soft = ls_loss.smooth_labels(target, classes, epsilon, prior, torch.float64)
    loss = ls_loss.cross_entropy(logits, target, reduction="none", label_smoothing=epsilon, prior=prior)
    torch.testing.assert_close(loss, ls_loss.cross_entropy(logits, soft, reduction="none"), rtol=1e-12, atol=1e-12)
