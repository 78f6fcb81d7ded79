"""What no bound of half a unit sees: ties, double rounding, sums whose terms cancel, gradients larger than a bound assumed.

An error of half a unit is within any bound, so that only exact ties tell rounding to even from rounding up. Rows as bad as a
climb of seconds can find keep the goals for any row. Uses the public package.
"""

import math
import os
import subprocess
import sys

import cases
import climb
import pytest
import torch

import ls_loss

# -0.75 times the factor is (n + 1/2) units for an even n: of four equal logits with the target 0, in rows and in planes.
CODE = """
import torch, ls_loss
for dtype, factor, expected in ((torch.bfloat16, 131 / 128, -196 / 256), (torch.float16, 1027 / 1024, -1540 / 2048)):
    for rows in (1, 3, 100):
        for shape, of_rows in (((rows, 4), (rows,)), ((1, 4, rows), (1, rows))):
            for reduction in ("sum", "none"):
                x = torch.zeros(shape, dtype=dtype, requires_grad=True)
                loss = ls_loss.cross_entropy(x, torch.zeros(of_rows, dtype=torch.int64), reduction=reduction)
                loss.backward(torch.full_like(loss, factor))
                assert (x.grad.select(1, 0) == expected).all(), (dtype, shape, reduction, x.grad.select(1, 0))
    between = torch.tensor([0.75 * factor, 1 - 0.75 * factor], dtype=torch.float64)
    assert ls_loss.smooth_labels(torch.tensor([0]), 2, 1.0, between, dtype)[0, 0] == -expected
    above = between + torch.tensor([2.0**-40, -(2.0**-40)], dtype=torch.float64)  # a tie in float32, none in float64
    unit = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    assert ls_loss.smooth_labels(torch.tensor([0]), 2, 1.0, above, dtype)[0, 0] == -expected + unit
print("even")
"""


@pytest.mark.parametrize("isa", ls_loss.config()["isa_available"])
def test_ties_go_to_even(isa):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, "LS_LOSS_ISA": isa},
        check=False,
    )
    assert done.stdout.split() == ["even"], done.stderr


@pytest.mark.parametrize("shape", [(20_000, 3), (3000, 40), (50, 4000), (4, 3, 5000)], ids=str)
def test_sums_keep_what_they_lose(shape):
    """Losses of 1e16 that cancel, small ones between them: the sum is that of exact addition."""
    logits, target = cases.batch(shape, torch.float64)
    weight = torch.ones(shape[1], dtype=torch.float64)
    weight[0], weight[1] = 1e16, -1e16
    losses = ls_loss.cross_entropy(logits, target, weight, reduction="none")
    exact = math.fsum(losses.flatten().tolist())
    total = ls_loss.cross_entropy(logits, target, weight, reduction="sum").item()
    assert abs(total - exact) <= 2.0**-52 * abs(exact) + 1e-9


@pytest.mark.parametrize("shape", [(9, 10), (9, 40), (2, 10, 7)], ids=str)
def test_float16_gradients_of_probabilities_that_sum_to_more_than_1(shape):
    """Up to 60 times: what is stored leaves room for them."""
    logits = cases.batch(shape, torch.float16)[0]
    soft = (60 * cases.probabilities(shape)).half()
    for smoothing in (0.0, 0.1):
        options = dict(label_smoothing=smoothing, reduction="sum")
        x = logits.clone().requires_grad_()
        (grad,) = torch.autograd.grad(ls_loss.cross_entropy(x, soft, **options), x)
        y = logits.double().requires_grad_()
        (want,) = torch.autograd.grad(torch.nn.functional.cross_entropy(y, soft.double(), **options), y)
        torch.testing.assert_close(grad.double(), want, rtol=2e-3, atol=2e-3)


def test_fastai_weights_of_one_change_no_bit():
    """The smoothed part of that convention has no weights: with them, too, the gradient is rounded once for each entry."""
    for shape in ((4, 1000), (9, 40), (9, 10), (2, 40, 9)):
        logits, target = cases.batch(shape, torch.float32)
        grads = []
        for weight in (None, torch.ones(shape[1])):
            x = logits.clone().requires_grad_()
            ls_loss.LabelSmoothingCrossEntropy(0.1, weight=weight)(x, target).backward()
            grads.append(x.grad)
        assert torch.equal(*grads), shape


def test_a_target_alone_with_a_divisor_that_overflows():
    """The others' gradients are -beta w, whatever the infinite factor of their exps, which are 0."""
    x = torch.tensor([[5.0, -math.inf, -math.inf]], requires_grad=True)
    weight = torch.tensor([1e-40, 1.0, 1.0])
    loss = ls_loss.cross_entropy(x, torch.tensor([0]), weight, label_smoothing=0.1)
    (grad,) = torch.autograd.grad(loss, x)
    want = -0.1 / 3 / weight[0].double().item()
    assert grad[0, 1] == grad[0, 2]
    torch.testing.assert_close(grad[0, 1].double().item(), want, rtol=2.0**-22, atol=0)


def test_a_target_alone_at_the_end_of_the_range():
    """Nothing but -inf beside it: distances to the place where a reference would be are infinite, and none may enter."""
    for value in (1.7e308, -1.7e308, 0.0):
        for classes in (3, 40, 2000):
            x = torch.full((2, classes), -math.inf, dtype=torch.float64)
            x[:, 1] = value
            x.requires_grad_()
            loss = ls_loss.cross_entropy(x, torch.ones(2, dtype=torch.int64), reduction="sum")
            (grad,) = torch.autograd.grad(loss, x)
            assert loss == 0 and (grad == 0).all(), (value, classes)


# Portable C has no fused multiply-add: its exp is off by 2.4 units of 2^-24, a smoothed loss by a quarter of an ULP more. It
# misses the goal of 1.5: climbs of 1000 steps find 2.03 of at most 32 classes. The others keep it in climbs as short as
# these, and miss it in rows of more than 256 classes in longer ones (docs/numerics.md).
SMOOTHED_LIMIT = 1.75 if ls_loss.config()["isa"] == "scalar" else 1.5


@pytest.mark.parametrize(
    ("figure", "smoothing", "limit"),
    [("loss", 0.0, 4), ("loss", 0.1, SMOOTHED_LIMIT), ("row sum", 0.0, 4), ("row sum", 0.1, 4)],
    ids=str,
)
@pytest.mark.parametrize(
    ("classes", "rows", "rows_at_once", "steps"),
    [
        *((classes, 2048, None, 100) for classes in (2, 3, 6, 10, 33)),
        (48, 2048, 31, 150),
        *((classes, 512, None, 100) for classes in (100, 137, 257, 1000)),
    ],
    ids=str,
)
def test_the_worst_rows_that_can_be_found(figure, smoothing, limit, classes, rows, rows_at_once, steps):
    """Few rows of 33 to 136 classes go one by one, more of them side by side."""
    error, logits, target = climb.climb(ls_loss.cross_entropy, classes, smoothing, figure, steps, rows, rows_at_once)
    assert 0.5 < error <= limit, (logits, target)


@pytest.mark.parametrize(
    ("figure", "smoothing", "limit"),
    [("loss", 0.0, 4), ("loss", 0.1, SMOOTHED_LIMIT), ("row sum", 0.0, 4), ("row sum", 0.1, 4)],
    ids=str,
)
@pytest.mark.parametrize(("classes", "rows"), [(2, 2048), (10, 2048), (33, 1024), (257, 256), (1000, 256)], ids=str)
def test_the_worst_planes_that_can_be_found(figure, smoothing, limit, classes, rows):
    """Positions side by side: terms of more than 32 classes are added by pairs."""
    planes = climb.in_planes(ls_loss.cross_entropy)
    error, logits, target = climb.climb(planes, classes, smoothing, figure, 100, rows)
    assert 0.5 < error <= limit, (logits, target)


@pytest.mark.parametrize("classes", [1000, 33000])
def test_float64_sums_of_many_small_terms(classes):
    """Nothing is wider than float64: without what each addition loses 33000 classes side by side would be off by 102 ULP.

    4 ULP is the goal; what is wanted has its own last bit wrong.
    """
    logits = torch.full((1, classes, 3), -16.65, dtype=torch.float64)
    logits[:, :16] = 0
    target = torch.tensor([[5, 5, 5]])
    z = math.log1p(15 + (classes - 16) * math.exp(-16.65))
    for smoothing in (0.0, 0.1):
        want = z + smoothing * 16.65 * (classes - 16) / classes
        for x, y in ((logits, target), (logits[..., 0], target[0, :1])):
            loss = ls_loss.cross_entropy(x, y, reduction="none", label_smoothing=smoothing)
            assert ((loss - want).abs() <= (4 + 1) * math.ulp(want)).all(), (smoothing, x.dim(), loss - want)


@pytest.mark.parametrize("classes", [10, 33, 1000, 5000])
def test_probabilities_of_a_leading_class(classes):
    """Wherever it stands, z and the terms x - ref cancel: relative to a logit 40 below, up to 32 units of 2^-24 would be left.

    The bound is that of docs/numerics.md, 8.5 units of sum q (1 - log p), which is all but 1 here.
    """
    logits = torch.randn(20, classes, generator=torch.Generator().manual_seed(classes))
    for position in (0, classes // 2, classes - 1):
        x = logits.clone()
        x[:, position] = logits.amax(1) + 40
        for q in (x.double().softmax(1).float(), torch.eye(classes)[position].expand_as(x)):
            want = -(q.double() * x.double().log_softmax(1)).sum(1)
            rows = ls_loss.cross_entropy(x, q, reduction="none")
            planes = ls_loss.cross_entropy(x.T[None].contiguous(), q.T[None].contiguous(), reduction="none")[0]
            for loss in (rows, planes):
                assert ((loss.double() - want).abs() <= 8.5 * 2.0**-24 * (1 + want)).all(), (position, loss, want)
