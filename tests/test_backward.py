"""Gradients against float64: every option, every vector width and layout, every form of grad_output, and gradcheck.

The tolerances are those of tolerance.py. Losses: test_forward.py.
"""

import cases
import pytest
import tolerance
import torch
from tolerance import assert_within, expect

import ls_loss


def check(logits, target, name, grad_output=None, *, dim=1, **options):
    def function(x, y):
        return ls_loss.cross_entropy(x, y, dim=dim, **options)

    loss, grad = tolerance.check(function, logits, target, name, grad_output, dim=dim, **options)
    assert loss.dtype == grad.dtype == logits.dtype and grad.is_contiguous(), name
    return grad


def outer(shape, reduction, dtype, dim=1):
    """A grad_output that is not 1: the scaled path, with zeros and both signs."""
    if reduction != "none":
        return torch.tensor(-1.75, dtype=dtype)
    shape = torch.Size(cases.rows_shape(shape, dim))
    return torch.linspace(-1.5, 2, shape.numel(), dtype=torch.float64).view(shape).to(dtype)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_option(dtype):
    for combo, logits, target, options in cases.calls(dtype, ignore_index=(None, -100, 2), scaled=(False, True)):
        shape, reduction = combo["shape"], combo["reduction"]
        grad_output = None
        if combo["scaled"]:
            grad_output = outer(shape, reduction, dtype)
        elif reduction == "none":
            grad_output = torch.ones(cases.rows_shape(shape), dtype=dtype)
        check(logits, target, combo, grad_output, **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_option_of_probabilities(dtype):
    for combo, logits, target, options in cases.calls(dtype, soft=True):
        check(logits, target, combo, outer(combo["shape"], combo["reduction"], dtype), **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_one_class_of_any_stride(dtype):
    """The stride of a dimension of one element means nothing, and contiguous() leaves it as it is."""
    for stride in (0, 1, 3, 4, 1000):
        logits = torch.arange(12).to(dtype).as_strided((3, 1, 4), (4, stride, 1)).requires_grad_()
        check(logits, torch.zeros(3, 4, dtype=torch.int64), f"stride {stride}", label_smoothing=0.1)


def test_gradient_of_probabilities():
    """Linear in them: -(1 - e) w log p, over the number of rows for 'mean'."""
    for combo in cases.product(
        shape=cases.SHAPES,
        reduction=cases.REDUCTIONS,
        weighted=(False, True),
        smoothing=(0.0, 0.1),
        prior=(False, True),
        logits_too=(False, True),
    ):
        shape = combo["shape"]
        classes, dim = cases.num_classes(shape), 1 if len(shape) > 1 else 0
        logits = cases.batch(shape, torch.float64)[0].requires_grad_(combo["logits_too"])
        soft = cases.probabilities(shape, torch.float64).requires_grad_()
        weight = cases.weights(classes, torch.float64) if combo["weighted"] else None
        prior = cases.prior(classes, torch.float64) if combo["prior"] else None
        grad_output = outer(shape, combo["reduction"], torch.float64)
        options = dict(weight=weight, prior=prior, reduction=combo["reduction"], label_smoothing=combo["smoothing"])
        loss = ls_loss.cross_entropy(logits, soft, **options)
        grads = torch.autograd.grad(loss, [soft, logits] if combo["logits_too"] else [soft], grad_output)

        column = [-1 if i == dim else 1 for i in range(len(shape))]
        per_row = grad_output.reshape(()) if grad_output.dim() == 0 else grad_output.unsqueeze(dim)
        divisor = logits.numel() / classes if combo["reduction"] == "mean" else 1
        factor = 1 if weight is None else weight.view(column)
        want = -(1 - combo["smoothing"]) * factor * logits.detach().log_softmax(dim) * per_row / divisor
        torch.testing.assert_close(grads[0], want, rtol=1e-12, atol=1e-14, msg=lambda text, c=combo: f"{c}: {text}")
        if combo["logits_too"]:
            expected = expect(logits, soft, grad_output, **options)
            assert_within(grads[1], expected.grad, 8 * expected.grad_tolerance, combo, "gradient of the logits")


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dim(dtype):
    for shape in ((3, 4), (3, 4, 5), (2, 3, 4, 5)):
        for dim in range(-len(shape), len(shape)):
            logits, target = cases.batch(shape, dtype, dim=dim)
            soft = cases.probabilities(shape, dtype, dim=dim)
            weight = cases.weights(shape[dim], dtype)
            for reduction in cases.REDUCTIONS:
                name, grad_output = f"{shape}, dim={dim}", outer(shape, reduction, dtype, dim)
                options = dict(dim=dim, reduction=reduction, label_smoothing=0.1, weight=weight)
                check(logits, target, name, grad_output, **options)
                check(logits, soft, f"{name}, probabilities", grad_output, **options)
    logits, target = cases.batch((7,), dtype)
    for dim in (-1, 0, 1):
        check(logits, target, f"1-d, dim={dim}", dim=dim)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_every_width_and_alignment(dtype):
    """Vector tails: a lane past the row, or one dropped, changes the gradient of every class."""
    for classes in cases.WIDTHS:
        logits, target = cases.batch((3, classes), dtype, seed=classes)
        weight = cases.weights(classes, dtype)
        memory = torch.full((logits.numel() + 64,), torch.nan, dtype=dtype)
        placed = memory[1 : 1 + logits.numel()].view_as(logits)
        placed.copy_(logits)
        check(placed, target, f"C={classes}, offset 1", label_smoothing=0.1, weight=weight)
        strided = memory.new_full((3, classes + 5), torch.nan)
        strided[:, 2 : 2 + classes] = logits
        check(strided[:, 2 : 2 + classes], target, f"C={classes}, rows apart", label_smoothing=0.1)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_many_short_rows_and_positions(dtype):
    """Short rows, and positions of planes, go several at once: their numbers around the number of lanes."""
    for classes in (1, 2, 3, 5, 8, 9, 16, 17, 32, 33, 40):
        weight = cases.weights(classes, dtype)
        for rows in (1, 2, 7, 8, 9, 15, 16, 17, 33, 65):
            logits, target = cases.batch((rows, classes), dtype, seed=classes)
            target, grad_output = cases.ignoring(target, -100), outer((rows, classes), "none", dtype)
            options = dict(reduction="none", label_smoothing=0.1, weight=weight)
            check(logits, target, f"{rows} rows of {classes}", grad_output, **options)
            planes, grad_output = logits.T[None].contiguous(), grad_output[None]
            check(planes, target[None], f"{classes} classes, {rows} positions", grad_output, **options)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.LOGITS)
def test_named_logits(name, dtype):
    for classes in (1, 2, 3, 10, 33, 1000, 40000):
        rows = 16 if classes < 100 else 2
        logits, target = cases.LOGITS[name](rows, classes)
        logits = logits.to(dtype)
        for smoothing in (0.0, 0.1) if classes < 10000 else (0.05,):
            check(logits, target, f"{name}, {rows} x {classes}, smoothing {smoothing}", label_smoothing=smoothing)
        if classes < 100:
            check(logits.T[None].contiguous(), target[None], f"{name}, {classes} as planes", label_smoothing=0.1)


def test_confident_rows():
    """The target's entry keeps its digits: from p - 1 nothing would be left of it (native's defect E).

    The bound is 4 units in the last place, and half a unit of the distance to the target for every exponential.
    """
    for gap in (1.0, 5.0, 16.0, 17.0, 20.0, 60.0, 80.0):
        for classes in (2, 3, 10, 1000, 128256):
            logits, target = cases.LOGITS["confident 1.0"](3, classes)
            logits = logits.scatter_add(1, target[:, None], torch.full((3, 1), gap).double()).float()
            x = logits.clone().requires_grad_()
            ls_loss.cross_entropy(x, target, reduction="sum").backward()
            entry = x.grad.gather(1, target[:, None])
            expected = expect(logits, target, reduction="sum").grad.gather(1, target[:, None])
            distance = (logits.amax() - logits.amin()).item()
            bound = (4 * 2.0**-23 + 2.0**-24 * distance) * expected.abs() + 2.0**-126
            assert_within(entry, expected, bound, f"gap {gap}, C={classes}")


def test_rows_of_the_gradient_sum_to_zero():
    """Native's smoothed rows are off by 1e-4 at C = 32000, summing C terms in float32 (its defect E).

    Each of the C entries is rounded once, by at most half a unit of its value, and the p sum to 1.
    """
    for classes in (10, 1000, 32000, 128256):
        logits, target = cases.LOGITS["randn"](3, classes)
        x = logits.float().requires_grad_()
        ls_loss.cross_entropy(x, target, reduction="sum", label_smoothing=0.1).backward()
        assert x.grad.double().sum(1).abs().max() <= 4 * 2.0**-24, classes


def layouts(shape, dtype):
    logits, target = cases.batch(shape, dtype)
    yield "transposed", logits.transpose(-1, -2).contiguous().transpose(-1, -2), target
    if len(shape) == 4:
        yield "channels_last", logits.contiguous(memory_format=torch.channels_last), target
        yield "permuted", logits.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0), target
    yield "every other", logits.repeat_interleave(2, -1)[..., ::2], target
    yield "every third class", logits.repeat_interleave(3, 1)[:, ::3], target
    yield "expanded", logits[:1].expand(shape), target


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_layouts(dtype):
    """The gradient is contiguous whatever the layout of the logits, as native's."""
    for shape in ((6, 9), (4, 5, 7), (4, 5, 6, 7)):
        for name, logits, target in layouts(shape, dtype):
            target = cases.ignoring(target, -100)
            for reduction in cases.REDUCTIONS:
                grad_output = outer(shape, reduction, dtype)
                check(logits, target, f"{name}, {shape}", grad_output, reduction=reduction, label_smoothing=0.1)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_forms_of_grad_output(dtype):
    """Strides of grad_output are honoured: expanded from one value, every other value, transposed."""
    for shape in ((6, 9), (4, 5, 7), (4, 5, 6, 7)):
        logits, target = cases.batch(shape, dtype)
        rows = cases.rows_shape(shape)
        values = outer(shape, "none", dtype)
        forms = {
            "expanded from one value": torch.tensor(0.375, dtype=dtype).expand(rows),
            "expanded from 1": torch.tensor(1.0, dtype=dtype).expand(rows),
            "every other": values.repeat_interleave(2, -1)[..., ::2],
            "expanded batch": values[:1].expand(rows),
            "ones": torch.ones(rows, dtype=dtype),
            "zeros": torch.zeros(rows, dtype=dtype),
        }
        if len(rows) > 1:
            forms["transposed"] = values.transpose(0, -1).contiguous().transpose(0, -1)
        for name, grad_output in forms.items():
            check(logits, target, f"{name}, {shape}", grad_output, reduction="none", label_smoothing=0.1)


def test_fp16_gradients_do_not_underflow():
    """The mean over many rows has gradients below the smallest float16; a loss scaler's factor must find them intact."""
    logits, target = cases.batch((5000, 10), torch.float16)
    scale = 32768.0  # the largest power of two of float16
    x = logits.clone().requires_grad_()
    (ls_loss.cross_entropy(x, target).float() * scale).backward()
    expected = expect(logits, target).grad * scale
    # Rounded when stored and again when scaled, by half a unit of float16 each.
    assert_within(x.grad, expected, 2.0**-10 * expected.abs() + 2.0**-24, "scaled mean over 5000 rows")
    assert (x.grad == 0).double().mean() < 0.001


@pytest.mark.parametrize("shape", [(5, 2000), (70, 10), (2, 10, 30), (1, 70000)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_fp16_gradients_of_counts_do_not_overflow(shape, reduction):
    """Counts in place of probabilities, as in bags of words: their gradients may be hundreds of times larger."""
    logits, _ = cases.batch(shape, torch.float16)
    counts = (cases.probabilities(shape, torch.float16) * 512).round()
    for largest in (logits, logits.scatter_add(1, logits.argmax(1, keepdim=True), torch.full_like(logits[:, :1], 20))):
        check(largest, counts, f"counts, {shape}", reduction=reduction, label_smoothing=0.1)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_fp16_counts_beside_a_row_that_is_not_finite(value):
    logits, _ = cases.batch((3, 4), torch.float16)
    counts = torch.zeros(3, 4, dtype=torch.float16)
    counts[0, 0], counts[1, 1] = value, 2000
    leaf = logits.clone().requires_grad_()
    ls_loss.cross_entropy(leaf, counts, reduction="sum").backward()
    expected = expect(logits[1:], counts[1:], reduction="sum")
    assert_within(leaf.grad[1:], expected.grad, expected.grad_tolerance, "the other rows")


def test_fp16_sums_close_above_a_power_of_two():
    """The power of two that makes room is found exactly: a logarithm that rounds down would ask for room for ever."""
    q, weight = torch.zeros(1, 10, dtype=torch.float16), torch.ones(10, dtype=torch.float16)
    q[0, 0], q[0, 9], weight[9] = 4096, 2**-20, 2**-20
    check(torch.zeros(1, 10, dtype=torch.float16), q, "a sum of 4096 + 2^-40", weight=weight)


def test_leaf_gets_and_accumulates():
    logits, target = cases.batch((6, 9))
    x = logits.clone().requires_grad_()
    for _ in range(2):
        ls_loss.cross_entropy(x, target, label_smoothing=0.1).backward()
    expected = expect(logits, target, label_smoothing=0.1)
    assert_within(x.grad, 2 * expected.grad, 3 * expected.grad_tolerance, "two backward passes")


def test_retain_graph_twice_gives_the_same_bits():
    """Trap: the gradient computed in forward, scaled in place by the first backward."""
    for dtype in cases.DTYPES:
        logits, target = cases.batch((6, 9), dtype)
        x = logits.clone().requires_grad_()
        loss = ls_loss.cross_entropy(x, target, label_smoothing=0.1) * 3
        first, second, third = (torch.autograd.grad(loss, x, retain_graph=i < 2)[0] for i in range(3))
        assert torch.equal(first, second) and torch.equal(first, third), dtype
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, x)


def test_logits_edited_after_forward():
    """Legal, as with native: the gradient was computed in forward."""
    logits, target = cases.batch((6, 9))
    leaf = logits.clone().requires_grad_()
    x = leaf * 1
    loss = ls_loss.cross_entropy(x, target, label_smoothing=0.1)
    with torch.no_grad():
        x.zero_()
    loss.backward()
    expected = expect(logits, target, label_smoothing=0.1)
    assert_within(leaf.grad, expected.grad, expected.grad_tolerance, "edited logits")


GRADCHECK = [
    dict(shape=(4, 5)),
    dict(shape=(5,)),
    dict(shape=(3, 5, 2)),
    dict(shape=(2, 3, 2, 2), reduction="none"),
    dict(shape=(4, 5), reduction="sum", label_smoothing=0.1),
    dict(shape=(4, 5), weighted=True, label_smoothing=0.3, ignored=True),
    dict(shape=(2, 5, 3), weighted=True, label_smoothing=0.3, ignored=True, reduction="none"),
    dict(shape=(4, 5), prior=True, label_smoothing=0.3),
    dict(shape=(2, 3, 5), prior=True, weighted=True, label_smoothing=0.3, dim=-1),
    dict(shape=(4, 5), label_smoothing=1.0),
    dict(shape=(2, 3), soft=True, label_smoothing=0.1),
    dict(shape=(1, 3, 2), soft=True, weighted=True, label_smoothing=0.1, reduction="none"),
]


@pytest.mark.parametrize("case", GRADCHECK, ids=str)
def test_gradcheck_and_gradgradcheck(case):
    case = dict(case)
    shape, dim = case.pop("shape"), case.get("dim", 1)
    weighted, ignored = case.pop("weighted", False), case.pop("ignored", False)
    prior, soft = case.pop("prior", False), case.pop("soft", False)
    logits, target = cases.batch(shape, torch.float64, dim=dim, scale=1.0)
    classes = cases.num_classes(shape, dim)
    if ignored:
        target = cases.ignoring(target, -100)
    case["weight"] = cases.weights(classes, torch.float64) if weighted else None
    case["prior"] = cases.prior(classes, torch.float64) if prior else None
    inputs = [logits.requires_grad_()]
    if soft:
        inputs.append(cases.probabilities(shape, torch.float64).requires_grad_())

    def loss(x, y=target):
        return ls_loss.cross_entropy(x, y, **case)

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, inputs, check_fwd_over_rev=True)
    if soft:  # the logits alone take the kernel
        constant = inputs[1].detach()
        assert torch.autograd.gradcheck(lambda x: loss(x, constant), inputs[:1])
        assert torch.autograd.gradgradcheck(lambda x: loss(x, constant), inputs[:1])
