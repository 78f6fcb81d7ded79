"""The kernel under vmap without a gradient within: the losses of all samples by one call of it, and derivatives around it.

Expected are the kernel's own results sample by sample. The op itself is called, so that nothing of the Python front ends can
help.
"""

import cases
import pytest
import torch
from op import cross_entropy
from paths import operators, route
from tolerance import UNITS, assert_within, expect
from torch.func import vmap

WEIGHT, PRIOR = cases.weights(5, torch.float64), cases.prior(5, torch.float64)
SHAPES = {"single rows": ((3, 5), 0), "rows": ((3, 4, 5), 1), "images": ((3, 2, 5, 3, 2), 1), "last": ((3, 2, 3, 5), 2)}
OPTIONS = {
    "plain": {},
    "no smoothing": {"label_smoothing": 0.0},
    "weight": {"weight": WEIGHT},
    "weight and prior": {"weight": WEIGHT, "prior": PRIOR},
    "fastai": {"convention": "fastai"},
}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14, equal_nan=True)


def samples(layout, targets="index", dtype=torch.float64):
    """Logits and targets of three samples, of index targets one ignored wholly and another in part; the classes' dimension."""
    shape, dim = SHAPES[layout]
    logits, target = cases.batch(shape, dtype, dim=dim + 1)
    if targets == "probabilities":
        return logits, cases.probabilities(shape, dtype, dim=dim + 1), dim
    target[0] = -100
    target[1] = cases.ignoring(target[1], -100) if target[1].dim() else target[1]
    return logits, target, dim


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("targets", ["index", "probabilities"])
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("layout", SHAPES)
def test_samples_are_those_of_a_loop(layout, name, reduction, targets):
    if name == "fastai" and targets == "probabilities":
        pytest.skip("fastai's convention has no probability targets")
    logits, target, dim = samples(layout, targets)

    def one(x, y):
        return cross_entropy(x, y, reduction=reduction, dim=dim, **OPTIONS[name])

    leaf = logits.clone().requires_grad_()
    expected = torch.stack([one(x, y) for x, y in zip(leaf, target, strict=True)])
    (gradient,) = torch.autograd.grad(expected.pow(2).nansum(), leaf)
    ours = logits.clone().requires_grad_()
    losses = vmap(one)(ours, target)
    assert_close(losses, expected)
    assert_close(torch.autograd.grad(losses.pow(2).nansum(), ours)[0], gradient)
    two_divisors = name == "fastai" and reduction == "mean"
    for x in (logits, ours):
        assert route(vmap(one), x, target) == ("composite" if two_divisors else "kernel")


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_errors_of_samples(dtype, reduction):
    """The losses of rows are rounded before they are summed, which costs 16 bits too much."""
    logits, target, _ = samples("rows", dtype=dtype)

    def one(x, y):
        return cross_entropy(x, y, reduction=reduction)

    rounded_twice = dtype.itemsize == 2 and reduction != "none"
    assert route(vmap(one), logits, target) == ("composite" if rounded_twice else "kernel")
    for x, y, loss in list(zip(logits, target, vmap(one)(logits, target), strict=True))[1:]:
        expected = expect(x, y, reduction=reduction, label_smoothing=0.1)
        more = 3 * UNITS[dtype][0] * expected.loss.abs()  # four rows are added, and divided
        assert_within(loss, expected.loss, expected.loss_tolerance + more, "loss")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_sums_in_float32(dtype):
    logits, target, _ = samples("rows", dtype=dtype)
    with torch.autocast("cpu", dtype):
        assert route(vmap(cross_entropy), logits, target) == "kernel"
        losses = vmap(cross_entropy)(logits, target)
        assert losses.dtype == torch.float32
        expected = torch.stack([cross_entropy(x, y) for x, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(losses, expected, equal_nan=True)  # float32, added in another order


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (-1, 1), (0, None), (None, 0)])
def test_where_the_samples_are(in_dims):
    """Logits that all samples share are not copied for each."""
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    arguments = [
        value[0] if dim is None else value.movedim(0, dim) for value, dim in zip((logits, target), in_dims, strict=True)
    ]
    expected = [
        cross_entropy(
            *(value if dim is None else value.select(dim, i) for value, dim in zip(arguments, in_dims, strict=True))
        )
        for i in range(3)
    ]
    each = vmap(cross_entropy, in_dims)
    assert route(each, *arguments) == ("composite" if in_dims[0] is None else "kernel")
    assert_close(each(*arguments), torch.stack(expected))


def test_samples_of_samples():
    logits, target = cases.batch((2, 3, 4, 5), torch.float64, dim=3)
    each = vmap(vmap(cross_entropy))
    assert_close(
        each(logits, target), torch.stack([vmap(cross_entropy)(x, y) for x, y in zip(logits, target, strict=True)])
    )
    assert route(each, logits, target) == "kernel"
    shared = vmap(vmap(cross_entropy, (None, 0)), (0, None))  # the inner level shares logits that the outer one batches
    assert_close(
        shared(logits[:, 0], target[0]),
        torch.stack([vmap(cross_entropy, (None, 0))(x, target[0]) for x in logits[:, 0]]),
    )


def test_weights_of_each_sample_take_the_composite():
    logits, target = cases.batch((2, 4, 5), torch.float64, dim=2)
    weight = torch.stack([WEIGHT, 2 * WEIGHT.flip(0)])

    def one(x, y, w):
        return cross_entropy(x, y, weight=w)

    assert route(vmap(one), logits, target, weight) == "composite"
    expected = torch.stack([one(*sample) for sample in zip(logits, target, weight, strict=True)])
    assert_close(vmap(one)(logits, target, weight), expected)


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_no_samples(reduction):
    logits, probabilities = torch.zeros(0, 4, 5), torch.zeros(0, 4, 5)
    shape = (0, 4) if reduction == "none" else (0,)

    def one(x, y):
        return cross_entropy(x, y, reduction=reduction)

    assert vmap(one)(logits, torch.zeros(0, 4, dtype=torch.int64)).shape == shape
    assert vmap(one)(logits, probabilities).shape == shape


def test_one_call_of_the_kernel():
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    _, names = operators(vmap(cross_entropy), logits, target)
    assert names.count("ls_loss::_loss") == 1
    assert not {"aten::_log_softmax", "aten::softmax", "aten::scatter_add"} & set(names)


def test_targets_out_of_range():
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    target[2, 1] = 9
    with pytest.raises(IndexError, match=r"^Target 9 is out of bounds\.$"):
        vmap(cross_entropy)(logits, target)
