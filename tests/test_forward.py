"""Losses against float64: every option, every vector width, every layout, and logits that catch particular bugs.

The tolerances are those of tolerance.py. Gradients: test_backward.py.
"""

import cases
import pytest
import torch
from tolerance import assert_within, expect

import ls_loss


def check(logits, target, name, dim=1, **options):
    loss = ls_loss.cross_entropy(logits, target, dim=dim, **options)
    expected = expect(logits, target, dim=dim, **options)
    assert_within(loss, expected.loss, expected.loss_tolerance, name, "loss")
    assert loss.dtype == logits.dtype and not loss.requires_grad, name
    return loss


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_option(dtype):
    ignore_index = (None, -100, 2, 255, -(10**12))  # also a class, and values that a table lookup may not touch
    for combo, logits, target, options in cases.calls(dtype, ignore_index=ignore_index):
        assert check(logits, target, combo, **options).is_contiguous()


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_option_of_probabilities(dtype):
    for combo, logits, target, options in cases.calls(dtype, soft=True):
        check(logits, target, combo, **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dim(dtype):
    """The class dimension in every place, negative too, for both kinds of target."""
    for shape in ((3, 4), (3, 4, 5), (2, 3, 4, 5)):
        for dim in range(-len(shape), len(shape)):
            name = f"{shape}, dim={dim}"
            logits, target = cases.batch(shape, dtype, dim=dim)
            weight = cases.weights(shape[dim], dtype)
            for reduction in cases.REDUCTIONS:
                check(logits, target, name, dim, reduction=reduction, label_smoothing=0.1, weight=weight)
                soft = cases.probabilities(shape, dtype, dim=dim)
                check(logits, soft, name, dim, reduction=reduction, label_smoothing=0.1, weight=weight)
    logits, target = cases.batch((7,), dtype)
    for dim in (-1, 0, 1):
        check(logits, target, f"1-d, dim={dim}", dim)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_width_and_alignment(dtype):
    """Vector tails: a lane past the row, or one dropped, changes the loss. What stands beside the rows is poison."""
    for classes in cases.WIDTHS:
        logits, target = cases.batch((3, classes), dtype, seed=classes)
        for offset in (0, 1, 3):
            memory = torch.full((logits.numel() + offset + 64,), torch.nan, dtype=dtype)
            placed = memory[offset : offset + logits.numel()].view_as(logits)
            placed.copy_(logits)
            check(placed, target, f"C={classes}, offset {offset}", label_smoothing=0.1, reduction="none")
            strided = memory.new_full((3, classes + 5), torch.nan)
            strided[:, 2 : 2 + classes] = logits
            check(strided[:, 2 : 2 + classes], target, f"C={classes}, rows apart", label_smoothing=0.1)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_many_short_rows(dtype):
    """Short rows go several at once: numbers of rows around the number of lanes."""
    for classes in (1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 40):
        for rows in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100):
            logits, target = cases.batch((rows, classes), dtype, seed=classes)
            options = dict(reduction="none", label_smoothing=0.1, weight=cases.weights(classes, dtype))
            check(logits, cases.ignoring(target, -100), f"{rows} rows of {classes}", **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_many_positions(dtype):
    """Class dimension not last: positions around the number of lanes, and planes of one position."""
    for classes in (1, 2, 5, 21):
        for positions in (1, 2, 7, 8, 9, 15, 16, 17, 33, 65):
            logits, target = cases.batch((2, classes, positions), dtype, seed=classes)
            options = dict(reduction="none", label_smoothing=0.1, weight=cases.weights(classes, dtype))
            check(logits, cases.ignoring(target, -100), f"{classes} classes, {positions} positions", **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.LOGITS)
def test_named_logits(name, dtype):
    for classes in (1, 2, 3, 10, 31, 33, 1000, 40000):
        rows = 16 if classes < 100 else 2
        logits, target = cases.LOGITS[name](rows, classes)
        logits = logits.to(dtype)
        for smoothing in (0.0, 0.1) if classes < 10000 else (0.05,):
            case = f"{name}, {rows} x {classes}, {dtype}, smoothing {smoothing}"
            check(logits, target, case, reduction="none", label_smoothing=smoothing)
        if classes < 100:  # the same rows as positions of planes
            check(logits.T[None], target[None], f"{name} as planes", reduction="none", label_smoothing=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_confident_rows(dtype):
    """The loss of a confident row keeps its digits: native loses all of them once the gap passes 16.6 (its defect D).

    The bound is 4 units in the last place of float32 (1 of the 16-bit dtypes), plus what the distance to the target costs:
    rounding it to float32 is a relative error in every exponential of half its unit in the last place.
    """
    for gap in (1.0, 5.0, 10.0, 16.0, 17.0, 20.0, 30.0, 60.0, 80.0):
        for classes in (2, 3, 10, 1000, 128256):
            logits, target = cases.LOGITS["confident 1.0"](3, classes)
            logits = logits.scatter_add(1, target[:, None], torch.full((3, 1), gap).double()).to(dtype)
            expected = expect(logits, target, reduction="none").loss
            loss = ls_loss.cross_entropy(logits, target, reduction="none")
            ulp = torch.finfo(dtype).eps
            distance = (logits.double().amax() - logits.double().amin()).item()
            bound = (4 if dtype == torch.float32 else 1) * ulp * expected + 2.0**-24 * distance * expected
            bound = bound + (2.0**-24 if dtype == torch.float16 else 2.0**-126)
            assert_within(loss, expected, bound, f"gap {gap}, C={classes}, {dtype}")


def layouts(logits):
    """The same logits [4, 5, 6, 7] in other memory layouts."""
    yield "contiguous", logits
    yield "transposed", logits.transpose(2, 3).contiguous().transpose(2, 3)
    yield "channels_last", logits.contiguous(memory_format=torch.channels_last)
    yield "classes outermost", logits.transpose(0, 1).contiguous().transpose(0, 1)
    yield "permuted", logits.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    padded = torch.full((5, 7, 8, 9), torch.nan, dtype=logits.dtype)
    padded[:4, 1:6, 2:8, 1:8] = logits
    yield "sliced", padded[:4, 1:6, 2:8, 1:8]
    apart = torch.full((4, 5, 6, 14), torch.nan, dtype=logits.dtype)
    apart[..., ::2] = logits
    yield "every other position", apart[..., ::2]
    apart = torch.full((4, 15, 6, 7), torch.nan, dtype=logits.dtype)
    apart[:, ::3] = logits
    yield "every third class", apart[:, ::3]
    yield "expanded batch", logits[:1].expand(4, -1, -1, -1)
    yield "expanded positions", logits[..., :1].expand(-1, -1, -1, 7)
    yield "expanded classes", logits[:, :1].expand(-1, 5, -1, -1)
    yield "negative bit", torch._neg_view(-logits)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_layouts(dtype):
    logits, target = cases.batch((4, 5, 6, 7), dtype)
    target = cases.ignoring(target, -100)
    targets = {
        "contiguous": target,
        "transposed": target.transpose(0, 2).contiguous().transpose(0, 2),
        "expanded": target[:1].expand(4, -1, -1),
        "every other": torch.full((4, 6, 14), 99).index_copy_(2, torch.arange(0, 14, 2), target)[..., ::2],
    }
    for layout, view in layouts(logits):
        for how, placed in targets.items():
            name = f"{layout} logits, {how} target"
            for reduction in ("none", "mean"):
                loss = check(view, placed, name, reduction=reduction, label_smoothing=0.1)
                assert loss.is_contiguous(), name
        soft = cases.probabilities((4, 5, 6, 7), dtype)
        for how, placed in layouts(soft):
            check(view, placed, f"{layout} logits, {how} probabilities", label_smoothing=0.1)


def test_two_dimensional_layouts():
    for dtype in cases.DTYPES:
        logits, target = cases.batch((37, 21), dtype)
        for name, view in (
            ("transposed", logits.T.contiguous().T),
            ("every other row", logits.repeat_interleave(2, 0)[::2]),
            ("every other class", logits.repeat_interleave(2, 1)[:, ::2]),
            ("one row for all", logits[:1].expand(37, -1)),
            ("one class for all", logits[:, :1].expand(-1, 21)),
        ):
            check(view, target, f"{name}, {dtype}", reduction="none", label_smoothing=0.1)
        check(logits, target.repeat_interleave(3)[::3], f"strided target, {dtype}", label_smoothing=0.1)
        weight = cases.weights(42, dtype)[::2]
        check(
            logits,
            target,
            f"strided weight, {dtype}",
            weight=weight,
            prior=(weight / weight.sum()),
            label_smoothing=0.1,
        )


def test_integer_targets_of_every_dtype():
    for shape in cases.SHAPES:
        logits, target = cases.batch(shape)
        for dtype in cases.INTEGERS:
            loss = check(logits, target.to(dtype), f"{dtype}, {shape}", label_smoothing=0.1, reduction="none")
            assert torch.equal(loss, ls_loss.cross_entropy(logits, target, label_smoothing=0.1, reduction="none"))
    many = cases.randn(2, 70000).float()
    for dtype in (torch.int32, torch.uint32, torch.uint64):
        check(many, torch.tensor([69999, 0]).to(dtype), f"{dtype}, 70000 classes")
    check(many, torch.tensor([65535, 0]).to(torch.uint16), "uint16, 70000 classes")


def test_ignore_index_beyond_the_targets_dtype():
    """-100 is no uint8; compared after a cast it would be the class 156."""
    logits = cases.randn(2, 200).float()
    check(logits, torch.tensor([156, 3], dtype=torch.uint8), "uint8, ignore_index=-100")
    logits = cases.randn(2, 300).float()
    loss = ls_loss.cross_entropy(logits, torch.tensor([255, 3], dtype=torch.uint8), ignore_index=255, reduction="none")
    assert loss[0] == 0 and loss[1] > 0


def test_logits_keep_their_value():
    logits, target = cases.batch((5, 7))
    before = logits.clone(), target.clone()
    ls_loss.cross_entropy(logits.requires_grad_(), target, label_smoothing=0.1).backward()
    assert torch.equal(logits, before[0]) and torch.equal(target, before[1])
