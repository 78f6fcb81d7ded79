"""Logits in 16 bits: computed in 32, so that nothing overflows or sticks, and rounded once.

Two classes exhaustively, every bit pattern x as the row (x, 0): what is stored must be the exact value rounded once, unless it
lies closer to a tie than the arithmetic in 32 bits can tell apart; infinities and NaN are judged by native in float64. Of more
classes drawn rows. Uses the public package.
"""

import math

import cases
import pytest
import torch
import torch.nn.functional as F
from reference import cross_entropy
from tolerance import assert_within, expect

import ls_loss

PATTERNS = torch.arange(-(2**15), 2**15).to(torch.int16)


def assert_rounded_once(got, want, off, dtype, name):
    """`got` lies among what the numbers within `off` of `want` are rounded to."""
    wrong = (got < (want - off).to(dtype)) | (got > (want + off).to(dtype)) | got.isnan()
    assert not wrong.any(), f"{name}: {int(wrong.sum())} of {got.numel()}, as {got[wrong][0]!r} for {want[wrong][0]!r}"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_row_of_a_number_and_zero(dtype, target, smoothing):
    """Off by u = 2^-24: the loss by 3 ULP, which are 6 u of it, the gradient by 6 u max(p, q) and what is too small for an exp.

    These are the bounds of docs/numerics.md. Gradients in float16 are stored times a power of two: those below its normal
    numbers are rounded when they are stored and when that is taken out, to three quarters of their unit.
    """
    x = PATTERNS.view(dtype)
    rows, classes = torch.stack([x, torch.zeros_like(x)], 1), torch.full((len(x),), target)
    finite = x.isfinite()
    assert finite.sum() == {torch.bfloat16: 2**16 - 2**8, torch.float16: 2**16 - 2**11}[dtype]
    options = dict(reduction="none", label_smoothing=smoothing)
    loss, grad = cases.loss_and_grad(ls_loss.cross_entropy, rows, classes, **options)

    want, want_grad = cases.loss_and_grad(cross_entropy, rows[finite].double(), classes[finite], **options)
    assert_rounded_once(loss[finite], want, 6 * 2.0**-24 * want, dtype, "loss")
    p = rows[finite].double().softmax(1)
    off = 6 * 2.0**-24 * p.clamp_min(smoothing / 2) + 2.0**-126
    unit = torch.finfo(torch.float16).tiny * torch.finfo(torch.float16).eps
    twice = (
        want_grad.abs() < torch.finfo(dtype).tiny if dtype == torch.float16 else torch.zeros_like(off, dtype=torch.bool)
    )
    assert_rounded_once(grad[finite][~twice], want_grad[~twice], off[~twice], dtype, "gradient")
    assert ((grad[finite].double() - want_grad).abs() <= 0.75 * unit + off)[twice].all()

    natives = cases.loss_and_grad(F.cross_entropy, rows[~finite].double(), classes[~finite], **options)
    for got, of_native in zip((loss[~finite], grad[~finite]), natives, strict=True):
        torch.testing.assert_close(got, of_native.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_fp16_sums_do_not_overflow():
    """Native keeps them in float16: inf from C = 65520 (its defect A), with smoothing from 7400 (B), for many rows (C)."""
    for rows, classes, smoothing in (
        (1, 70000, 0.0),
        (1, 8000, 0.1),
        (64, 200, 0.1),
        (70000, 10, 0.0),
        (70000, 10, 0.1),
    ):
        logits = torch.zeros(rows, classes, dtype=torch.float16)
        target = torch.arange(rows) % classes
        loss, grad = cases.loss_and_grad(
            ls_loss.cross_entropy, logits, target, torch.tensor(1.0), label_smoothing=smoothing
        )
        assert loss.item() == torch.tensor(math.log(classes)).half().item(), (rows, classes, smoothing)
        expected = expect(logits, target, label_smoothing=smoothing)
        assert_within(grad, expected.grad, expected.grad_tolerance, (rows, classes, smoothing), "gradient")


def test_sums_of_16_bit_losses_do_not_stick():
    """A running sum in bfloat16 stops growing at 256 terms of 1."""
    for dtype in (torch.bfloat16, torch.float16):
        for rows in (257, 1000, 20001):
            logits = torch.zeros(rows, 10, dtype=dtype)
            loss = ls_loss.cross_entropy(logits, torch.zeros(rows, dtype=torch.int64))
            assert loss.item() == torch.tensor(math.log(10)).to(dtype).item(), (dtype, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_results_are_rounded_once(dtype):
    """All but one in a thousand are float64's result rounded; the others lay within float32's error of the middle."""
    for classes in (10, 33, 1000):
        logits, target = cases.batch((200, classes), dtype)
        for smoothing in (0.0, 0.1):
            options = dict(reduction="none", label_smoothing=smoothing)
            expected = expect(logits, target, torch.ones(200), **options)
            results = cases.loss_and_grad(ls_loss.cross_entropy, logits, target, torch.ones(200), **options)
            for got, want, least in zip(results, (expected.loss, expected.grad), (0.98, 0.999), strict=True):
                # A subnormal gradient is rounded when stored and when scaled back.
                normal = want.abs() >= torch.finfo(dtype).tiny
                share = (got == want.to(dtype))[normal].double().mean().item()
                assert share >= least, (classes, smoothing, share)


@pytest.mark.parametrize("factor", [2.0**-3, 2.0**10])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_gradients_times_a_power_of_two_are_rounded_once(dtype, factor):
    """What is stored was rounded, and a power of two rounds nothing more, but for numbers that are subnormal before or after.

    As tools/measure_accuracy.py counts: normal numbers that do not cancel, which p next to epsilon / C does.
    """
    right = counted = 0
    for combo in cases.product(classes=(10, 33, 500), reduction=("sum", "none"), smoothing=(0.0, 0.1)):
        logits, target = cases.batch((100, combo["classes"]), dtype)
        options = dict(reduction=combo["reduction"], label_smoothing=combo["smoothing"])
        outer = torch.full((100,) if combo["reduction"] == "none" else (), factor)
        _, grad = cases.loss_and_grad(ls_loss.cross_entropy, logits, target, outer, **options)
        want = expect(logits, target, outer, **options).grad
        scale = factor * logits.double().softmax(1).clamp_min(combo["smoothing"] / combo["classes"])
        judged = (want.abs() >= torch.finfo(dtype).tiny) & (want.abs() >= scale / 4)
        right += int((grad == want.to(dtype))[judged].sum())
        counted += int(judged.sum())
    assert counted > 20_000 and right >= 0.999 * counted, f"{right} of {counted}"
