"""What tools/support_table.py tries: one function for each feature, run once with the losses of this library and once with
native's. A probe returns if the feature works, fails an assertion if the outcome is another than it should be, and lets
errors pass. Values are judged by tests/reference.py in float64.

Must not know which losses it is given; what needs a training library is in support_training.py.
"""

import copy
import io
import pickle
import warnings

import cases
import reference
import torch
from torch import nn


def close(got, wanted, rtol=1e-5, atol=1e-6):
    torch.testing.assert_close(got.double(), wanted.double(), rtol=rtol, atol=atol)


def loss_and_gradient(function, logits, target, **options):
    leaf = logits.detach().clone().requires_grad_()
    loss = function(leaf, target, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def judged(function, logits, target, rtol=1e-5, atol=1e-6, **options):
    """Loss and gradient against the reference in float64."""
    wanted = loss_and_gradient(reference.cross_entropy, logits.double(), target, **options)
    for got, right in zip(loss_and_gradient(function, logits, target, **options), wanted, strict=True):
        close(got, right, rtol, atol)


def raises(kind, function, *arguments, **options):
    """The call raises that. Its error is not ours to pass on: raising nothing is the outcome that differs."""
    try:
        function(*arguments, **options)
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


# The call


def options_and_shapes(loss):
    for shape in cases.SHAPES:
        logits, target = cases.batch(shape)
        for combo in cases.product(reduction=cases.REDUCTIONS, label_smoothing=(0.0, 0.1), weighted=(False, True)):
            weight = cases.weights(5) if combo.pop("weighted") else None
            judged(loss.function, logits, cases.ignoring(target, -100), weight=weight, **combo)


def probabilities(loss):
    logits, _ = cases.batch((4, 5, 3))
    judged(loss.function, logits, cases.probabilities((4, 5, 3)), label_smoothing=0.1, reduction="none")


def confident_rows(loss):
    logits = torch.tensor([[20.0, 0, 0], [40.0, 0, 0]])
    wanted = reference.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    close(loss.function(logits, torch.tensor([0, 0]), reduction="none"), wanted, 1e-6, 0)


def mean_of_bfloat16(loss):
    logits = torch.zeros(1000, 10, dtype=torch.bfloat16)
    close(loss.function(logits, torch.zeros(1000, dtype=torch.long)), torch.tensor(10.0).log(), 2**-8, 0)


def float16_of_many_classes(loss):
    logits, target = cases.batch((8, 32000), torch.float16)
    wanted = reference.cross_entropy(logits, target, label_smoothing=0.1)
    close(loss.function(logits, target, label_smoothing=0.1), wanted, 2**-10, 0)


def integer_targets(loss):
    logits, target = cases.batch((4, 5))
    for dtype in cases.INTEGERS:
        close(loss.function(logits, target.to(dtype)), reference.cross_entropy(logits, target))


def smoothing_out_of_range(loss):
    for smoothing in (-0.1, 1.1, float("nan")):
        raises(RuntimeError, loss.function, *cases.batch((4, 5)), label_smoothing=smoothing)


def targets_out_of_range(loss):
    raises(IndexError, loss.function, torch.zeros(4, 5), torch.tensor([0, 1, 5, 2]))


def ignored_rows_of_anything(loss):
    logits, target = torch.zeros(3, 5), torch.tensor([0, -100, 1])
    logits[1] = torch.nan
    _, gradient = loss_and_gradient(loss.function, logits, target, label_smoothing=0.1)
    assert gradient.isfinite().all()


def nothing_to_average(loss):
    assert loss.function(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).isnan()
    value, gradient = loss_and_gradient(loss.function, torch.zeros(2, 5), torch.tensor([-100, -100]))
    assert value.isnan() and not gradient.any()


def prior(loss):
    judged(loss.function, *cases.batch((4, 5)), label_smoothing=0.1, prior=cases.prior(5))


def class_dimension(loss):
    judged(loss.function, *cases.batch((2, 3, 5), dim=-1), label_smoothing=0.1, dim=-1)


def deprecated_arguments(loss):
    logits, target = cases.batch((4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summed = loss.function(logits, target, None, False, -100, True, "mean", 0.1)
    close(summed, reference.cross_entropy(logits, target, reduction="sum", label_smoothing=0.1))


def copies_and_files(loss):
    logits, target = cases.batch((4, 5))
    module, file = loss.module(cases.weights(5), label_smoothing=0.1), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    other = loss.module(torch.ones(5), label_smoothing=0.1)
    other.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False), other
    assert all(torch.equal(each(logits, target), module(logits, target)) for each in copied)
    assert repr(module) == "CrossEntropyLoss()" and isinstance(module, nn.CrossEntropyLoss)


def hooks(loss):
    seen, module = [], loss.module()
    module.register_forward_hook(lambda *_: seen.append("forward"))
    module.register_full_backward_hook(lambda *_: seen.append("backward"))
    logits, target = cases.batch((4, 5))
    module(logits.requires_grad_(), target).backward()
    assert seen == ["forward", "backward"]


# Derivatives


def higher_derivatives(loss):
    x, target = cases.batch((3, 4), torch.float64)
    options = dict(weight=cases.weights(4, torch.float64), label_smoothing=0.1)
    function = lambda leaf: loss.function(leaf, target, **options)
    assert torch.autograd.gradcheck(function, x.requires_grad_())
    assert torch.autograd.gradgradcheck(function, x)
    first = torch.autograd.grad(function(x), x, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]
    assert torch.autograd.grad(second.square().sum(), x)[0].isfinite().all()


def transforms(loss):
    x, target = cases.batch((3, 4), torch.float64)
    function = lambda leaf: loss.function(leaf, target, label_smoothing=0.1)
    right = lambda leaf: reference.cross_entropy(leaf, target, label_smoothing=0.1)
    hessian = torch.autograd.functional.hessian(right, x)
    close(torch.func.grad(function)(x), torch.autograd.functional.jacobian(right, x))
    close(torch.func.hessian(function)(x), hessian)
    close(torch.func.jacrev(torch.func.jacrev(function))(x), hessian)
    close(torch.func.jacfwd(torch.func.grad(function))(x), hessian)
    rows = torch.vmap(lambda a, b: loss.function(a, b, label_smoothing=0.1))(x, target)
    close(rows, reference.cross_entropy(x, target, label_smoothing=0.1, reduction="none"))


def forward_mode(loss):
    x, target = cases.batch((3, 4), torch.float64)
    tangent = cases.randn(3, 4, seed=9)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        got = torch.autograd.forward_ad.unpack_dual(loss.function(dual, target, label_smoothing=0.1)).tangent
    (gradient,) = torch.autograd.grad(reference.cross_entropy(x.requires_grad_(), target, label_smoothing=0.1), x)
    close(got, (gradient * tangent).sum())


def transforms_of_shared_logits(loss):
    x, target = cases.randn(4, 5), cases.integers(5, 3, 4)
    each = torch.vmap(lambda a, y: loss.function(a, y, label_smoothing=0.1), (None, 0))
    wanted = [loss_and_gradient(reference.cross_entropy, x, y, label_smoothing=0.1)[1] for y in target]
    close(torch.func.jacfwd(lambda a: each(a, target))(x), torch.stack(wanted))


def kept_graphs(loss):
    x, target = cases.batch((4, 5))
    value = loss.function(x.requires_grad_(), target, label_smoothing=0.1)
    first, second = (torch.autograd.grad(3 * value, x, retain_graph=True)[0] for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t), torch.autograd.detect_anomaly():
        again = torch.autograd.grad(3 * loss.function(x, target, label_smoothing=0.1), x)[0]
    checkpointed = torch.utils.checkpoint.checkpoint(loss.function, x, target, use_reentrant=False)
    checkpointed.backward()
    assert torch.equal(first, second) and torch.equal(first, again)


def backward_after_a_hook_that_raised(loss):
    x, target = cases.batch((4, 5))
    value = loss.function(x.requires_grad_(), target)

    def fail(grad_inputs, grad_outputs):
        raise ZeroDivisionError

    handle = value.grad_fn.register_hook(fail)
    raises(ZeroDivisionError, (8 * value).backward)
    handle.remove()
    close(torch.autograd.grad(value, x)[0], loss_and_gradient(reference.cross_entropy, x, target)[1])


def node_called_by_hand(loss):
    x, target = cases.batch((4, 5))
    loss.function(x.requires_grad_(), target).grad_fn(torch.tensor(1.0))


def batched_gradients(loss):
    x, target = cases.batch((4, 5))
    value = loss.function(x.requires_grad_(), target, reduction="none", label_smoothing=0.1)
    (both,) = torch.autograd.grad(value, x, torch.eye(4), is_grads_batched=True)
    close(both.sum(0), loss_and_gradient(reference.cross_entropy, x, target, reduction="sum", label_smoothing=0.1)[1])


def logits_edited(loss):
    x, target = cases.batch((4, 5))
    wanted = loss_and_gradient(reference.cross_entropy, x, target)[1]
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    value = loss.function(logits, target)
    logits.zero_()
    close(torch.autograd.grad(value, leaf)[0], wanted)


def logits_edited_under_create_graph(loss):
    x, target = cases.batch((4, 5))
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    value = loss.function(logits, target)
    (first,) = torch.autograd.grad(value, leaf, create_graph=True)
    logits.detach().zero_()
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    right = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(reference.cross_entropy(right, target), right, create_graph=True)
    close(second, torch.autograd.grad(first.square().sum(), right)[0])


def gradients_of_probabilities(loss):
    x, target = cases.batch((4, 5))[0], cases.probabilities((4, 5)).requires_grad_()
    (got,) = torch.autograd.grad(loss.function(x, target, label_smoothing=0.1), target)
    (wanted,) = torch.autograd.grad(reference.cross_entropy(x, target, label_smoothing=0.1), target)
    close(got, wanted)


def gradients_of_weights(loss):
    weight = cases.weights(5).requires_grad_()
    loss.function(*cases.batch((4, 5)), weight=weight).backward()
    assert weight.grad is not None


def one_to_three_threads(loss):
    for shape in ((8, 256000), (64, 20000), (3, 37, 200, 50)):
        logits, target = cases.batch(shape)
        outcomes = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(loss_and_gradient(loss.function, logits, target, label_smoothing=0.1))
        assert all(torch.equal(a, b) for other in outcomes[1:] for a, b in zip(outcomes[0], other, strict=True))


# Mixed precision


def autocast(loss):
    logits, target = cases.batch((4, 5), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss.function(logits, target, label_smoothing=0.1)
    assert value.dtype == torch.float32
    close(value, reference.cross_entropy(logits, target, label_smoothing=0.1))


def grad_scaler(loss):
    """float16 logits, a mean over many rows: no entry of the gradient may be lost before the scale arrives."""
    logits, target = cases.batch((8192, 100), torch.float16)
    leaf = logits.clone().requires_grad_()
    (loss.function(leaf, target, label_smoothing=0.1) * 2.0**15).backward()
    wanted = loss_and_gradient(reference.cross_entropy, logits.double(), target, label_smoothing=0.1)[1]
    close(leaf.grad.double() * 2.0**-15, wanted, 2**-5, 1e-9)


# Tensors


def strides(loss):
    logits, target = cases.batch((4, 5, 6, 2))
    wanted = reference.cross_entropy(logits, target, label_smoothing=0.1)
    for laid_out in (logits.to(memory_format=torch.channels_last), logits.mT.contiguous().mT, logits[:, :, ::1]):
        close(loss.function(laid_out, target, label_smoothing=0.1), wanted)
    close(loss.function(logits[:1, :, :1, :1].expand(4, 5, 6, 2), target).isfinite().float(), torch.tensor(1.0))


class Tagged(torch.Tensor):
    pass


def subclasses(loss):
    logits, target = cases.batch((4, 5))
    tagged = loss.function(logits.as_subclass(Tagged), target)
    assert type(tagged) is Tagged
    assert type(loss.function(nn.Parameter(logits), target)) is torch.Tensor


def fake_and_meta(loss):
    from torch._subclasses.fake_tensor import FakeTensorMode

    logits, target = cases.batch((4, 5))
    with FakeTensorMode() as mode:
        assert loss.function(mode.from_tensor(logits), mode.from_tensor(target)).shape == ()
    assert loss.function(logits.to("meta"), target.to("meta"), reduction="none").shape == (4,)


def negative_views(loss):
    logits, target = cases.batch((4, 5))
    negated = torch._neg_view(logits)
    close(loss.function(negated, target), reference.cross_entropy(-logits, target))


def copy_on_write(loss):
    logits, target = cases.batch((4, 5))
    lazy = torch._lazy_clone(logits)
    loss.function(lazy, target, label_smoothing=0.1)
    assert torch._C._is_cow_tensor(lazy)


def jagged_values(loss):
    jagged = torch.nested.nested_tensor([torch.zeros(2, 5), torch.zeros(3, 5)], layout=torch.jagged)
    close(loss.function(jagged.values(), torch.tensor([0, 1, 2, 3, 4])), torch.tensor(5.0).log())


def refused(make):
    """A probe of logits that nobody computes with."""

    def probe(loss):
        loss.function(make(torch.zeros(4, 5)), torch.tensor([0, 1, 2, 3]))

    return probe
