"""Two classes in 16 bits, exhaustively: every bit pattern x as the row (x, 0), against float64.

What is stored must be the exact value rounded once, unless that lies closer to a tie than the arithmetic in 32 bits can tell
apart. Infinities and NaN are judged by native in float64. Uses the public package.
"""

import pytest
import torch
import torch.nn.functional as F
from reference import cross_entropy

import ls_loss

PATTERNS = torch.arange(-(2**15), 2**15).to(torch.int16)


def loss_and_grad(function, rows, target, smoothing):
    x = rows.detach().requires_grad_()
    loss = function(x, target, reduction="none", label_smoothing=smoothing)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


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
    loss, grad = loss_and_grad(ls_loss.cross_entropy, rows, classes, smoothing)

    want, want_grad = loss_and_grad(cross_entropy, rows[finite].double(), classes[finite], smoothing)
    assert_rounded_once(loss[finite], want, 6 * 2.0**-24 * want, dtype, "loss")
    p = rows[finite].double().softmax(1)
    off = 6 * 2.0**-24 * p.clamp_min(smoothing / 2) + 2.0**-126
    unit = torch.finfo(torch.float16).tiny * torch.finfo(torch.float16).eps
    twice = (
        want_grad.abs() < torch.finfo(dtype).tiny if dtype == torch.float16 else torch.zeros_like(off, dtype=torch.bool)
    )
    assert_rounded_once(grad[finite][~twice], want_grad[~twice], off[~twice], dtype, "gradient")
    assert ((grad[finite].double() - want_grad).abs() <= 0.75 * unit + off)[twice].all()

    natives = loss_and_grad(F.cross_entropy, rows[~finite].double(), classes[~finite], smoothing)
    for got, of_native in zip((loss[~finite], grad[~finite]), natives, strict=True):
        torch.testing.assert_close(got, of_native.to(dtype), rtol=0, atol=0, equal_nan=True)
