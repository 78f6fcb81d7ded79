"""Every operator as torch sees it: schema, autograd registration, fake tensors, tracing; with and without gradients.

What opcheck does not see (values, tangents, double backward, who owns a gradient) is in test_autograd.py.
"""

import cases
import pytest
import torch

import ls_loss  # noqa: F401  registers the operators

OPS = torch.ops.ls_loss
KEYS = ("weight", "reduction", "ignore_index", "label_smoothing", "prior", "dim", "convention")
DEFAULTS = dict(zip(KEYS, (None, 1, -100, 0.1, None, 1, 0), strict=True))


def arguments(logits, target, **options):
    return logits, target, *(DEFAULTS | options).values()


def index_sample(shape, dtype=torch.float32, *, dim=1, target_dtype=torch.int64, **options):
    logits, target = cases.batch(shape, dtype, dim=dim)
    return arguments(logits, target.to(target_dtype), dim=dim, **options)


def probability_sample(shape, dtype=torch.float32, *, dim=1, **options):
    logits, _ = cases.batch(shape, dtype, dim=dim)
    return arguments(logits, cases.probabilities(shape, dtype, dim=dim), dim=dim, **options)


def strided_sample():
    """Rows with a gap between them, and targets with one: strides must be those of the meta kernel, contiguous."""
    logits, target = cases.batch((4, 10))
    return arguments(logits[:, :5], (target % 5).repeat_interleave(2)[::2], reduction=0)


def ignored_sample():
    logits, target = cases.batch((6, 5))
    return arguments(logits, cases.ignoring(target, 2), ignore_index=2)


def transposed_sample(**options):
    logits, target = cases.batch((5, 4), dim=0)
    return arguments(logits.t(), target, **options)


SAMPLES = {
    "plain": lambda: index_sample((4, 5)),
    "none": lambda: index_sample((4, 5), reduction=0),
    "sum without smoothing": lambda: index_sample((4, 5), reduction=2, label_smoothing=0.0),
    "weight": lambda: index_sample((4, 5), weight=cases.weights(5)),
    "prior": lambda: index_sample((4, 5), prior=cases.prior(5)),
    "fastai": lambda: index_sample((4, 5), weight=cases.weights(5), prior=cases.prior(5), convention=1),
    "float64": lambda: index_sample((4, 5), torch.float64),
    "bfloat16": lambda: index_sample((4, 5), torch.bfloat16, weight=cases.weights(5, torch.bfloat16)),
    "float16": lambda: index_sample((4, 5), torch.float16, reduction=0),
    "int8 target": lambda: index_sample((4, 5), target_dtype=torch.int8),
    "uint16 target": lambda: index_sample((2, 5, 3), target_dtype=torch.uint16),
    "1-d": lambda: index_sample((5,), reduction=0),
    "1-d, target (1,)": lambda: arguments(cases.randn(5), torch.tensor([3]), reduction=0),
    "images": lambda: index_sample((2, 5, 3, 2), reduction=0),
    "classes last": lambda: index_sample((2, 3, 5), dim=-1, reduction=0),
    "classes first": lambda: index_sample((5, 3, 2), dim=0, reduction=0),
    "rows apart": strided_sample,
    "transposed": transposed_sample,
    "transposed none": lambda: transposed_sample(reduction=0),
    "ignored rows": ignored_sample,
    "no rows": lambda: index_sample((0, 5), reduction=2),  # the mean is NaN, which opcheck finds unequal to itself
    "no rows none": lambda: index_sample((2, 5, 0), reduction=0),
    "one class": lambda: index_sample((4, 1)),
    "probabilities": lambda: probability_sample((4, 5), weight=cases.weights(5)),
    "probabilities none": lambda: probability_sample((2, 5, 3), reduction=0, prior=cases.prior(5)),
    "probabilities 16 bits": lambda: probability_sample((2, 3, 5), torch.bfloat16, dim=2, reduction=0),
}


def check_op(op, args):
    torch.library.opcheck(op, args, raise_exception=True)


@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires grad"])
@pytest.mark.parametrize("name", SAMPLES)
def test_cross_entropy(name, requires_grad):
    logits, *rest = SAMPLES[name]()
    check_op(OPS.cross_entropy.default, (logits.clone().requires_grad_(requires_grad), *rest))


@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires grad"])
@pytest.mark.parametrize("name", ["plain", "float16", "probabilities none", "prior", "fastai", "transposed none"])
def test_aten_cross_entropy(name, requires_grad):
    logits, *rest = SAMPLES[name]()
    check_op(OPS._aten_cross_entropy.default, (logits.clone().requires_grad_(requires_grad), *rest))


@pytest.mark.parametrize("name", ["plain", "float16", "probabilities none", "transposed none", "fastai", "no rows"])
@pytest.mark.parametrize("loss_dtype", [None, torch.float32])
@pytest.mark.parametrize("op", [OPS._loss.default, OPS._loss_grad.default], ids=["_loss", "_loss_grad"])
def test_below_autograd(op, loss_dtype, name):
    check_op(op, (*SAMPLES[name](), loss_dtype))


# The schema's check is a mode in Python, for which this op decomposes, and takes offence at aten.to. Not for float16:
# decomposed, the gradient has another factor.
@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires grad"])
@pytest.mark.parametrize("name", ["plain", "weight", "probabilities none", "transposed none", "fastai", "no rows"])
def test_transform_loss_grad(name, requires_grad):
    logits, *rest = SAMPLES[name]()
    checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    args = (logits.clone().requires_grad_(requires_grad), *rest, None)
    torch.library.opcheck(OPS._transform_loss_grad.default, args, test_utils=checks)


# Its autograd check would complain of an undifferentiable operator: inner ones are called below autograd only.
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 5, 3)], ids=str)
def test_scale(shape, dtype):
    grad = cases.randn(*shape).to(dtype)
    outputs = (torch.tensor(3.0, dtype=dtype), cases.randn(*cases.rows_shape(shape)).to(dtype), torch.tensor(1.0))
    dim = 0 if len(shape) == 1 else 1
    target = cases.integers(5, *cases.rows_shape(shape))
    for grad_output in outputs[: 1 if dtype == torch.float64 else 3]:
        check_op(OPS._scale_.default, (grad.clone(), grad_output, torch.tensor(0.5), None, -100, dim))
        check_op(OPS._scale_.default, (grad.clone(), grad_output, torch.tensor(0.5), target, -100, dim))


@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires grad"])
def test_smooth_labels(requires_grad):
    prior = cases.prior(5).requires_grad_(requires_grad)
    target = cases.integers(5, 2, 3)
    for op in (OPS.smooth_labels.default, OPS._aten_smooth_labels.default):
        check_op(op, (target, 5, 0.1, None, None))
        check_op(op, (target.t().to(torch.uint8), 5, 0.1, prior, torch.bfloat16))
        check_op(op, (target[0, 0], 5, 1.0, prior, torch.float64))


@pytest.mark.parametrize("name", SAMPLES)
def test_meta_kernels_have_the_strides_of_the_kernels(name):
    """opcheck compares fake with real results, but only where the strides tell: here for sizes of 1 and 0 too."""
    args = SAMPLES[name]()
    meta = [arg.to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args]
    for real, fake in zip(OPS._loss_grad(*args, None), OPS._loss_grad(*meta, None), strict=True):
        assert (real.shape, real.stride(), real.dtype) == (fake.shape, fake.stride(), fake.dtype)
        assert real.is_contiguous()


def test_no_output_aliases():
    """A compiled program may write into what an operator returned: nothing may be returned twice."""
    args = (*SAMPLES["plain"](), None)
    first, second = OPS._loss_grad(*args), OPS._loss_grad(*args)
    assert len({tensor.untyped_storage().data_ptr() for tensor in (*first, *second)}) == 6


@pytest.mark.parametrize("name", ["_loss", "_loss_grad"])
def test_below_autograd_the_arguments_are_checked_again(name):
    """Anyone can call private operators, and stale guards can bring wrong shapes: nothing may be read out of bounds."""
    logits, target = cases.batch((4, 5))
    op = getattr(OPS, name)
    for bad in (
        arguments(logits, target[:3]),
        arguments(logits, target, weight=cases.weights(4)),
        arguments(logits, target, prior=cases.prior(4)),
        arguments(logits.to(torch.int32), target),
        arguments(logits, target, weight=cases.weights(5, torch.float64)),
        arguments(logits, target.float()),
        arguments(logits, target, dim=2),
        arguments(logits, target, reduction=3),
        arguments(logits, target, convention=99),
    ):
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            op(*bad, None)
    for device in ("cpu", "meta"):
        message = rf"the kernels take .*; got input Float \[4, 5\] on {device}, target Long \[3\] on {device}"
        with pytest.raises(RuntimeError, match=message):
            op(*arguments(logits.to(device), target[:3].to(device)), None)


def test_scale_refuses_shapes_that_do_not_fit():
    grad, factor = cases.randn(2, 5, 3), torch.tensor(1.0)
    for grad_output in (torch.ones(6), torch.ones(2, 2), torch.ones(2, 5)):
        with pytest.raises(RuntimeError, match="one value, or one for each row"):
            OPS._scale_(grad, grad_output, factor, None, -100, 1)
    with pytest.raises(RuntimeError, match=r"grad must be contiguous, got shape \[5, 2, 3\] with strides \[3, 15, 1\]"):
        OPS._scale_(grad.transpose(0, 1), torch.ones(()), factor, None, -100, 1)
    with pytest.raises(RuntimeError, match="one target for each row"):
        OPS._scale_(grad, torch.ones(()), factor, torch.zeros(6, dtype=torch.int64), -100, 1)
