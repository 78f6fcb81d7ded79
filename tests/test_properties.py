"""Drawn calls of every kind against float64: what no table of cases thinks of.

Shapes of 0 to 5 dimensions with sizes of 0 and 1, every stride pattern that as_strided, expand, transpose and slicing make,
dtypes, options, special values; hypothesis climbs to larger errors. Native in float64 tells which results are NaN or infinite;
the error model of tolerance.py how far finite ones may be. The small profile runs always, the same on every run;
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


@st.composite
def calls(draw, probabilities=False, special=False):
    """(logits, target, options, grad_output) of a call that is right."""
    dtype = draw(st.sampled_from(cases.DTYPES))
    rank = draw(st.integers(1, 5))
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
            options["ignore_index"] = draw(st.sampled_from((-100, 0, classes - 1, classes, 10**12)))
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


def run(logits, target, grad_output, options):
    x = logits.detach().requires_grad_()
    loss = ls_loss.cross_entropy(x, target, **options)
    outer = torch.ones_like(loss) if grad_output is None else grad_output.to(loss.dtype)
    return loss.detach(), torch.autograd.grad(loss, x, outer)[0]


def contiguous_and_int64(logits, target, grad_output, options):
    target = target.contiguous() if target.is_floating_point() else target.long().contiguous()
    return run(logits.contiguous(), target, grad_output if grad_output is None else grad_output.contiguous(), options)


def without_dim(options):
    return {name: value for name, value in options.items() if name != "dim"}


def check(call):
    logits, target, options, grad_output = call
    loss, grad = run(logits, target, grad_output, options)
    rows = list(logits.shape)
    del rows[options["dim"]]
    if options["reduction"] == "none":
        assert list(loss.shape) == rows
    assert loss.dtype == grad.dtype == logits.dtype and grad.shape == logits.shape and grad.is_contiguous()
    if not logits.numel():
        return
    assume(loss.dim() or not loss.isnan())  # every row ignored: tables have that
    name = f"{list(logits.shape)}, strides {logits.stride()}, {logits.dtype}, {options}"
    outer = grad_output.contiguous() if grad_output is not None else None
    if not target.is_floating_point():
        target = target.long()
    expected = expect(logits.contiguous(), target.contiguous(), outer, **options)
    if (
        target.is_floating_point()
    ):  # no target can be left out of the sum of exps: an error of its own for every unit of q
        q = (
            coefficients(rows_of(target, options["dim"]), logits.shape[options["dim"]], **without_dim(options))
            .abs()
            .sum(-1)
        )
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


@FEW
@given(calls(special=True))
def test_special_values(call):
    """NaN, infinite or finite as native in float64; and no row touches another."""
    logits, target, options, _ = call
    options = dict(options, reduction="none")
    del options["prior"]
    loss, grad = run(logits, target, None, options)
    dim = options.pop("dim") % logits.dim()
    moved = logits.double().movedim(dim, 1) if logits.dim() > 1 else logits.double()
    weight = options["weight"]
    options["weight"] = weight if weight is None else weight.double()
    x = moved.detach().requires_grad_()
    want = F.cross_entropy(x, target.long(), **options)
    (want_grad,) = torch.autograd.grad(want.sum(), x)
    got = grad.movedim(dim, 1) if logits.dim() > 1 else grad
    kept = (
        (target.long() != options.get("ignore_index", -100))
        .unsqueeze(1 if logits.dim() > 1 else 0)
        .expand_as(want_grad)
    )
    assert torch.equal(
        grad.movedim(dim, 1)[~kept] if logits.dim() > 1 else grad[~kept],
        torch.zeros_like(grad.flatten()[: (~kept).sum()]),
    )
    assert torch.equal(got.isnan()[kept], want_grad.isnan()[kept])
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
