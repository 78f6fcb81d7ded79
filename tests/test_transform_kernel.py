"""The kernel within torch.func.grad: per-sample gradients by one call of it, and every derivative that can follow.

Expected are the kernel's own results outside transforms, sample by sample, and native's higher derivatives. The op itself is
called, so that nothing of the Python front ends can help.
"""

import cases
import pytest
import torch
import torch.nn.functional as F
from op import cross_entropy
from paths import operators, route
from tolerance import UNITS, assert_within, expect
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import ls_loss

LOGITS, TARGET = cases.batch((4, 5), torch.float64)
WEIGHT, PRIOR = cases.weights(5, torch.float64), cases.prior(5, torch.float64)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14, equal_nan=True)


SHAPES = {"single rows": (3, 5), "rows": (3, 4, 5), "images": (3, 2, 5, 3, 2), "classes last": (3, 2, 3, 5)}
OPTIONS = {
    "plain": {},
    "no smoothing": {"label_smoothing": 0.0},
    "weight": {"weight": WEIGHT},
    "weight and prior": {"weight": WEIGHT, "prior": PRIOR},
    "fastai": {"convention": "fastai"},
}


def samples(layout, dtype=torch.float64):
    """Logits and targets of three samples, the first one ignored wholly, another in part; and the classes' dimension."""
    shape = SHAPES[layout]
    dim = {"single rows": 0, "rows": 1, "images": 1, "classes last": 2}[layout]
    logits, target = cases.batch(shape, dtype, dim=dim + 1)
    target[0] = -100
    target[1] = cases.ignoring(target[1], -100) if target[1].dim() else target[1]
    return logits, target, dim


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("layout", SHAPES)
def test_samples_are_those_of_a_loop(layout, name, reduction):
    logits, target, dim = samples(layout)

    def one(x, y):
        losses = cross_entropy(x, y, reduction=reduction, dim=dim, **OPTIONS[name])
        return (losses * losses).sum(), losses

    each = vmap(grad(one, has_aux=True))
    leaf = logits.clone().requires_grad_()
    values, losses = zip(*(one(x, y) for x, y in zip(leaf, target, strict=True)), strict=True)
    (expected,) = torch.autograd.grad(torch.stack(values).nansum(), leaf)
    gradients, inner = each(logits, target)
    assert_close(inner, torch.stack(losses).detach())
    assert_close(gradients, expected)
    two_divisors = name == "fastai" and reduction == "mean"
    assert route(each, logits, target) == ("composite" if two_divisors else "kernel")


@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["single rows", "rows"])
def test_errors_of_samples(layout, dtype, reduction):
    """One rounding more than outside: a mean's divisor comes after the gradient is stored."""
    logits, target, _ = samples(layout, dtype)

    def one(x, y):
        losses = cross_entropy(x, y, reduction=reduction, dim=-1)
        return losses.sum(), losses

    gradients, losses = vmap(grad(one, has_aux=True))(logits, target)
    _, unit, smallest = UNITS[dtype]
    for x, y, gradient, loss in zip(logits, target, gradients, losses, strict=True):
        if (y == -100).all():  # a mean over no row, which the loop of the test above covers
            continue
        x, y = (x, y) if x.dim() == 2 else (x[None], y[None])
        expected = expect(x, y, reduction=reduction, label_smoothing=0.1)
        more = unit * expected.grad.abs() + smallest
        assert_within(loss.reshape(expected.loss.shape), expected.loss, expected.loss_tolerance, layout, "loss")
        assert_within(gradient.reshape(x.shape), expected.grad, expected.grad_tolerance + more, layout, "gradient")


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (0, None), (None, 1)])
def test_where_the_samples_are(in_dims):
    logits, target = cases.batch((3, 4, 5), torch.float64, dim=2)
    arguments = [
        value if dim == 0 else value[0] if dim is None else value.movedim(0, 1)
        for value, dim in zip((logits, target), in_dims, strict=True)
    ]
    each = vmap(grad(cross_entropy), in_dims)
    assert route(each, *arguments) == "kernel"
    picked = [
        [value if dim is None else value.select(dim, i) for i in range(3)]
        for value, dim in zip(arguments, in_dims, strict=True)
    ]
    assert_close(each(*arguments), torch.stack([grad(cross_entropy)(x, y) for x, y in zip(*picked, strict=True)]))


def test_samples_of_samples():
    logits, target = cases.batch((2, 3, 4, 5), torch.float64, dim=3)
    expected = torch.stack([vmap(grad(cross_entropy))(x, y) for x, y in zip(logits, target, strict=True)])
    assert route(vmap(vmap(grad(cross_entropy))), logits, target) == "kernel"
    assert_close(vmap(vmap(grad(cross_entropy)))(logits, target), expected)
    assert_close(vmap(vmap(grad(cross_entropy), (0, None)), (0, None))(logits, target[0, 0])[0, 0], expected[0, 0])


def test_weights_of_each_sample_take_the_composite():
    weight = torch.stack([WEIGHT, 2 * WEIGHT.flip(0)])

    def one(x, w):
        return cross_entropy(x, TARGET, weight=w)

    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    expected = torch.stack([grad(one)(x, w) for x, w in zip(logits, weight, strict=True)])
    assert_close(vmap(grad(one))(logits, weight), expected)


def test_no_samples():
    gradients = vmap(grad(cross_entropy))(torch.zeros(0, 4, 5), torch.zeros(0, 4, dtype=torch.int64))
    assert gradients.shape == (0, 4, 5)


def test_one_call_of_the_kernel_and_nothing_else_of_the_logits_size_but_a_product():
    each = vmap(grad(cross_entropy))
    _, names = operators(each, LOGITS, TARGET)
    assert names.count("ls_loss::_loss_grad") == 1
    assert not {"aten::_log_softmax", "aten::softmax", "aten::gather", "aten::scatter_add"} & set(names)


def test_targets_out_of_range():
    with pytest.raises(IndexError, match=r"^Target 9 is out of bounds\.$"):
        vmap(grad(cross_entropy))(LOGITS, TARGET.clone().index_fill_(0, torch.tensor([2]), 9))


def test_logits_may_be_edited_before_backward():
    def loss(x, edit):
        x = x * 1
        value = cross_entropy(x, TARGET)
        if edit:
            x.zero_()
        return value

    assert torch.equal(grad(loss)(LOGITS, True), grad(loss)(LOGITS, False))


# Derivatives that follow; `loss` is ours or native's. What torch.func differentiates, and what torch.autograd does around
# and within it.


def squared(loss, x):
    """A function of the losses whose gradient is not constant."""
    return loss(x).pow(2).sum()


def within(loss, x):
    (first,) = torch.autograd.grad(squared(loss, x), x, create_graph=True)
    return first.pow(2).sum()


def around(transformed, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(transformed(x).pow(2).sum(), x)[0]


def kept_vjp(loss, x):
    """Its level has ended when the next one, of the same number, begins."""
    pull = vjp(lambda z: squared(loss, z), x)[1]
    return grad(lambda v: pull(v)[0].pow(3).sum())(x.new_tensor(2.0))


HIGHER = {
    "grad grad": lambda loss, x: grad(lambda z: grad(lambda u: squared(loss, u))(z).pow(2).sum())(x),
    "grad grad grad": lambda loss, x: grad(lambda z: HIGHER["grad grad"](loss, z).pow(2).sum())(x),
    "hessian": lambda loss, x: hessian(lambda z: squared(loss, z))(x),
    "jacrev jacrev": lambda loss, x: jacrev(jacrev(lambda z: squared(loss, z)))(x),
    "jacrev jacfwd": lambda loss, x: jacrev(jacfwd(lambda z: squared(loss, z)))(x),
    "jvp grad": lambda loss, x: jvp(grad(lambda z: squared(loss, z)), (x,), (x.cos(),))[1],
    "grad jvp": lambda loss, x: grad(lambda z: jvp(lambda u: squared(loss, u), (z,), (x.cos(),))[1])(x),
    "grad of vjp": lambda loss, x: grad(lambda z: vjp(lambda u: squared(loss, u), z)[1](x.new_tensor(2.0))[0].norm())(
        x
    ),
    "kept vjp": kept_vjp,
    "jvp jvp": lambda loss, x: jvp(lambda z: jvp(lambda u: squared(loss, u), (z,), (x.cos(),))[1], (x,), (x.sin(),))[1],
    "vmap jvp": lambda loss, x: vmap(lambda v: jvp(lambda u: squared(loss, u), (x,), (v,))[1])(
        torch.stack([x, x.sin()])
    ),
    "jvp vmap": lambda loss, x: jvp(
        vmap(lambda z: squared(loss, z)), (torch.stack([x, x.sin()]),), (torch.stack([x, x]),)
    )[1],
    "grad vmap": lambda loss, x: grad(lambda z: vmap(lambda u: squared(loss, u))(torch.stack([z, z.sin()])).sum())(x),
    "hessian vmap": lambda loss, x: hessian(
        lambda z: vmap(lambda u: squared(loss, u))(torch.stack([z, z.sin()])).sum()
    )(x),
    "autograd around plain vmap": lambda loss, x: around(vmap(lambda z: loss(z)), torch.stack([x, x.sin()])),
    "autograd within": lambda loss, x: grad(lambda z: within(loss, z))(x),
    "autograd within, twice": lambda loss, x: grad(lambda z: grad(lambda u: within(loss, u))(z).pow(2).sum())(x),
    "autograd around": lambda loss, x: around(grad(lambda z: squared(loss, z)), x),
    "autograd around jacrev": lambda loss, x: around(jacrev(lambda z: squared(loss, z)), x),
    "autograd around vmap": lambda loss, x: around(vmap(grad(lambda z: squared(loss, z))), torch.stack([x, x.sin()])),
    "vmap hessian": lambda loss, x: vmap(hessian(lambda z: squared(loss, z)))(torch.stack([x, x.sin()])),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}, {"reduction": "none"}], ids=str)
@pytest.mark.parametrize("name", HIGHER)
def test_higher_derivatives(name, options):
    target = cases.ignoring(TARGET, -100)
    ours = HIGHER[name](lambda x: cross_entropy(x, target, **options), LOGITS)
    native = HIGHER[name](lambda x: F.cross_entropy(x, target, label_smoothing=0.1, **options), LOGITS)
    assert ours.requires_grad == native.requires_grad
    assert_close(ours, native)


def test_same_bits_for_every_number_of_threads():
    logits, target = cases.batch((256, 1000))
    results = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        results.append(vmap(grad(ls_loss.cross_entropy))(logits, target))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
