"""Products that lie in the middle between two 16-bit numbers go to the even one, on every instruction set.

An error of half a unit is within any bound, so that only exact ties tell rounding to even from rounding up. Runs each
instruction set in a process of its own; uses the public package.
"""

import os
import subprocess
import sys

import pytest

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
