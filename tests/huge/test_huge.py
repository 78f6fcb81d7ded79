"""Sums of 10^8 losses, and more than 2^31 elements, in every strategy that such a size can take. `make test-huge` runs them.

Each prints its figure, native's beside it where native has room for its four copies. Uses the public package, and asks Linux
for the memory that is available: a test that needs more is skipped with the two figures.
"""

import math

import pytest
import reference
import torch
from tolerance import assert_within, expect

import ls_loss

GIB = 2**30


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    ls_loss.empty_cache()


def needs(gibibytes):
    with open("/proc/meminfo", encoding="ascii") as lines:
        (available,) = (int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:"))
    if available < gibibytes:
        pytest.skip(f"needs {gibibytes} GiB, and {available:.0f} are available")


PERIOD = 1_000_003  # a prime: what stands at another offset by a power of two is another number


def tiled(block, shape):
    """The block again and again."""
    tensor = torch.empty(shape, dtype=block.dtype)
    flat = tensor.view(-1)
    whole = len(flat) // len(block) * len(block)
    flat[:whole].view(-1, len(block)).copy_(block)
    flat[whole:].copy_(block[: len(flat) - whole])
    return tensor


def exact_sum(logits, target, smoothing, rows_at_a_time=2**20):
    """In float64, a part at a time: off by some 2^-50 of itself."""
    sums = []
    x = logits.movedim(1, -1).flatten(0, -2)
    y = target.flatten()
    for begin in range(0, len(y), rows_at_a_time):
        part = slice(begin, begin + rows_at_a_time)
        loss = reference.cross_entropy(x[part], y[part], label_smoothing=smoothing, reduction="none")
        sums.append(float(loss.sum()))
    return math.fsum(sums)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(10**8, 2), (128, 2, 768, 768)], ids=["1e8 rows", "7.5e7 positions"])
def test_sums_of_many_losses(shape, smoothing):
    """Each loss is within a few ULP either way, which cancels over so many: what is left is the rounding of the result.

    One ULP is allowed, half of it the rounding. Kept in float32, a sum of 10^8 losses would stop to grow at 2^24 of them.
    """
    needs(8)
    logits = tiled(3 * torch.randn(PERIOD), shape)
    target = tiled(torch.randint(2, (PERIOD,)), (shape[0], *shape[2:]))
    total, rows = exact_sum(logits, target, smoothing), target.numel()
    for reduction, true in (("sum", total), ("mean", total / rows)):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        ulp = 2.0 ** (math.frexp(true)[1] - 24)
        ours, native = (
            abs(float(loss(logits, target, **options)) - true) / ulp
            for loss in (ls_loss.cross_entropy, torch.nn.functional.cross_entropy)
        )
        print(
            f"{reduction} of {rows:.2g} float32 losses, smoothing {smoothing}: ours {ours:.3g} ULP, native {native:.3g}"
        )
        assert ours <= 1


# Shape, dtype, and the memory it takes: logits, gradient, and eight bytes for each target.
HUGE = {
    "long rows": ((67200, 32000), torch.bfloat16, 11),
    "long rows, float32": ((67200, 32000), torch.float32, 18),
    "short rows": ((215_000_000, 10), torch.bfloat16, 14),
    "planes": ((140, 1000, 128, 128), torch.bfloat16, 12),
    "one plane": ((1, 3, 27000, 27000), torch.bfloat16, 18),
}


@pytest.mark.parametrize(("shape", "dtype", "gibibytes"), HUGE.values(), ids=HUGE)
def test_more_than_2_to_the_31_elements(shape, dtype, gibibytes):
    """Loss and gradient of what comes first, last, and on either side of element 2^31, each set against float64 alone."""
    assert math.prod(shape) > 2**31
    needs(gibibytes)
    logits = tiled((3 * torch.randn(PERIOD)).to(dtype), shape).requires_grad_()
    index_dtype = torch.uint8 if shape[1] < 256 else torch.int16
    target = tiled(torch.randint(shape[1], (PERIOD,), dtype=index_dtype), (shape[0], *shape[2:]))
    cut = 0 if shape[0] > 1 else 2  # the dimension of which parts are looked at
    size, few = shape[cut], 1 if shape[0] < 1000 else 4
    middle = 2**31 % (math.prod(shape[cut:])) // math.prod(shape[cut + 1 :])
    with torch.no_grad():
        losses = ls_loss.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    assert losses.isfinite().all()
    loss = ls_loss.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum")
    (grad,) = torch.autograd.grad(loss, logits)
    for begin in (0, middle - few // 2, size - few):
        where = f"{begin} and on"
        x, g, y, ours = (
            tensor.detach().narrow(cut - (cut > 0 and tensor.dim() < len(shape)), begin, few)
            for tensor in (logits, grad, target, losses)
        )
        of_each = expect(x, y, label_smoothing=0.1, reduction="none")
        assert_within(ours, of_each.loss, of_each.loss_tolerance, where, "loss")
        of_sum = expect(x, y, label_smoothing=0.1, reduction="sum")
        assert_within(g, of_sum.grad, of_sum.grad_tolerance, where, "gradient")
    # Every loss is off by half an ULP and the error of its row, all perhaps one way; so is the sum.
    total = float(losses.sum(dtype=torch.float64))
    assert abs(float(loss.detach()) - total) <= 2 * torch.finfo(dtype).eps * total
    print(
        f"{list(shape)} {str(dtype).removeprefix('torch.')}: right, logits and gradient of {logits.nbytes / GIB:.1f} GiB"
    )
