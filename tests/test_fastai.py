"""fastai's losses: equal to those of the real package in value and gradient, and all that its Learner asks of a loss.

Ours are judged by their distance to float64. That fastai's losses are there too is asserted with float64 logits, for which
their few operations are within 1e-12 of the reference.
"""

import copy
import pickle

import cases
import pytest
import torch
from tolerance import check, expect

import ls_loss

theirs = pytest.importorskip("fastai.losses")
from fastai.torch_core import TensorBase, TensorCategory, TensorImage, TensorMask  # noqa: E402

OPTIONS = dict(
    reduction=cases.REDUCTIONS,
    weighted=(False, True),
    smoothing=cases.SMOOTHINGS,
    ignored=(False, True),
    scaled=(False, True),
)


def arrange(combo, dtype, dim=1):
    """Logits, target, grad_output, and the arguments of the loss, for a combination of OPTIONS and a shape."""
    logits, target = cases.batch(combo["shape"], dtype, dim=dim)
    if combo["ignored"]:
        target = cases.ignoring(target, -100)
    weight = cases.weights(logits.shape[dim], dtype) if combo["weighted"] else None
    outer = torch.tensor(0.75 if combo["scaled"] else 1.0, dtype=dtype)
    if combo["reduction"] == "none":
        outer = outer * torch.linspace(-1, 2, target.numel(), dtype=dtype).view(target.shape)
    return logits, target, outer, dict(eps=combo["smoothing"], weight=weight, reduction=combo["reduction"])


FLOAT32 = 1e-5  # fastai's Flat rounds float64 to float32, and sums five classes there


def check_theirs(function, logits, target, outer, name, tolerance=1e-12, **options):
    """Asserts that fastai's loss has the reference's value and gradient."""
    x = logits.detach().double().requires_grad_()
    loss = function(x, target).as_subclass(torch.Tensor)
    (grad,) = torch.autograd.grad(loss, x, outer.to(loss.dtype))
    expected = expect(logits, target, outer, **options)
    for got, want in ((loss.detach(), expected.loss), (grad, expected.grad)):
        torch.testing.assert_close(
            got.double(), want, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}"
        )


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_plain_class(dtype):
    for combo in cases.product(shape=((4, 5), (3, 5, 4), (2, 5, 3, 2)), **OPTIONS):
        logits, target, outer, arguments = arrange(combo, dtype)
        options = dict(
            weight=arguments["weight"],
            reduction=combo["reduction"],
            label_smoothing=combo["smoothing"],
            convention="fastai",
        )
        check(ls_loss.LabelSmoothingCrossEntropy(**arguments), logits, target, combo, outer, **options)
        if dtype == torch.float64:
            check_theirs(theirs.LabelSmoothingCrossEntropy(**arguments), logits, target, outer, combo, **options)


def flat(module, axis, rows_shape):
    """The Flat loss as a function whose unreduced loss has the shape of the rows, not that of fastai's vector."""
    shape = list(rows_shape)
    if axis not in (-1, len(shape)):
        shape.insert(axis, shape.pop())

    def function(x, y):
        loss = module(x, y)
        if loss.dim() == 0:
            return loss
        assert loss.dim() == 1
        return loss.reshape(shape) if axis in (-1, len(shape)) else loss.reshape(shape).movedim(axis, -1)

    return function


FASTAIS = (((4, 5), -1), ((3, 4, 5), -1), ((3, 5, 4), 1), ((2, 3, 2, 5), -1), ((2, 5, 3, 2), 1))
FLAT = (*FASTAIS, ((4, 5), 1), ((4, 3, 2), 0))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_flat_class(dtype):
    for combo in cases.product(place=FLAT, **OPTIONS):
        combo["shape"], axis = combo["place"]
        logits, target, outer, arguments = arrange(combo, dtype, axis)
        options = dict(
            weight=arguments["weight"],
            reduction=combo["reduction"],
            label_smoothing=combo["smoothing"],
            convention="fastai",
            dim=axis,
        )
        module = ls_loss.LabelSmoothingCrossEntropyFlat(axis=axis, **arguments)
        check(flat(module, axis, target.shape), logits, target, combo, outer, **options)
        if dtype == torch.float32 and combo["place"] in FASTAIS:
            module = theirs.LabelSmoothingCrossEntropyFlat(axis=axis, **arguments)
            check_theirs(flat(module, axis, target.shape), logits, target, outer, combo, FLOAT32, **options)


def test_flat_pairs_every_row_with_its_own_target():
    """fastai's pairs the wrong ones for axes other than -1 and 1, and for 1 from five dimensions on."""
    for shape, axis in (((2, 5, 3, 4, 2), 1), ((2, 3, 5, 4), 2), ((2, 5, 3, 4), -3), ((2, 5, 4), -2), ((5, 3), 0)):
        logits, target = cases.batch(shape, torch.float64, dim=axis)
        for reduction in cases.REDUCTIONS:
            module = ls_loss.LabelSmoothingCrossEntropyFlat(axis=axis, reduction=reduction)
            outer = torch.linspace(-1, 2, target.numel()).double().view(target.shape) if reduction == "none" else None
            positive = axis % len(shape)
            options = dict(reduction=reduction, label_smoothing=0.1, convention="fastai", dim=axis)
            check(flat(module, positive, target.shape), logits, target, (shape, axis), outer, **options)


def test_flat_takes_targets_of_other_shapes():
    """Classes last: whatever has as many targets as there are rows, as fastai."""
    logits, target = cases.batch((3, 4, 5), dim=-1)
    for placed in (target.reshape(-1), target.reshape(2, 6), target[..., None]):
        for module in (ls_loss, theirs):
            loss = module.LabelSmoothingCrossEntropyFlat(reduction="none")(logits, placed)
            assert torch.equal(loss, module.LabelSmoothingCrossEntropyFlat(reduction="none")(logits, target))
    one = cases.randn(5).float()
    assert ls_loss.LabelSmoothingCrossEntropyFlat()(one, torch.tensor(2)).dim() == 0


@pytest.mark.parametrize("flags", [dict(flatten=False), dict(floatify=True), dict(is_2d=False)], ids=str)
def test_flat_flags(flags):
    logits, target = cases.batch((4, 5))
    for module in (ls_loss, theirs):
        loss = module.LabelSmoothingCrossEntropyFlat(**flags)
        assert {name: getattr(loss, name) for name in flags} == flags
        if "is_2d" in flags:
            with pytest.raises(IndexError, match="tuple index out of range"):
                loss(logits, target)
        else:
            torch.testing.assert_close(
                torch.Tensor(loss(logits, target)), ls_loss.LabelSmoothingCrossEntropy()(logits, target)
            )


@pytest.mark.parametrize("name", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
def test_any_eps_computes(name):
    logits, target = cases.batch((4, 5), torch.float64)
    for eps in (1.5, -0.5, 7, True, float("nan")):
        ours, fastai = (getattr(module, name)(eps=eps)(logits, target) for module in (ls_loss, theirs))
        rtol = FLOAT32 if name.endswith("Flat") else 1e-12
        torch.testing.assert_close(ours, torch.Tensor(fastai).double(), rtol=rtol, atol=0, equal_nan=True)


def test_targets_are_cast_to_integers():
    """As by .long(): 1.7 is class 1, True is class 1."""
    logits, _ = cases.batch((4, 5))
    for target in (
        torch.tensor([1.7, 0.0, 4.9, 2.0]),
        torch.tensor([True, False, True, True]),
        *(torch.tensor([1, 0, 4, 2], dtype=dtype) for dtype in cases.INTEGERS),
    ):
        for module in (ls_loss.LabelSmoothingCrossEntropy(), ls_loss.LabelSmoothingCrossEntropyFlat()):
            assert torch.equal(module(logits, target), module(logits, target.long())), target


def test_all_rows_ignored():
    """mean: NaN, with the gradient of the uniform part; sum and none hold the uniform part."""
    logits, target = cases.batch((4, 5), torch.float64)
    target = torch.full_like(target, -100)
    for reduction in cases.REDUCTIONS:
        losses, grads = [], []
        for module in (ls_loss, theirs):
            x = logits.clone().requires_grad_()
            loss = module.LabelSmoothingCrossEntropy(reduction=reduction)(x, target)
            loss.sum().backward()
            losses.append(loss.detach())
            grads.append(x.grad)
        torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12, equal_nan=True)
        assert not grads[0].isnan().any()
        uniform = expect(logits, target, reduction="sum", label_smoothing=0.1, convention="fastai").grad
        uniform = uniform / 4 if reduction == "mean" else uniform
        torch.testing.assert_close(grads[0], uniform, rtol=1e-12, atol=1e-15)
        assert losses[0].isnan().all() == (reduction == "mean")


def test_empty_batch():
    logits, target = torch.empty(0, 5), torch.empty(0, dtype=torch.int64)
    for reduction in cases.REDUCTIONS:
        ours, fastai = (
            module.LabelSmoothingCrossEntropy(reduction=reduction)(logits, target) for module in (ls_loss, theirs)
        )
        torch.testing.assert_close(ours, fastai, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("convention", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
def test_prior(convention):
    logits, target = cases.batch((4, 5))
    prior = cases.prior(5)
    for combo in cases.product(reduction=cases.REDUCTIONS, weighted=(False, True), smoothing=cases.SMOOTHINGS):
        weight = cases.weights(5) if combo["weighted"] else None
        options = dict(reduction=combo["reduction"], weight=weight, prior=prior)
        module = getattr(ls_loss, convention)(eps=combo["smoothing"], **options)
        outer = torch.ones(4) if combo["reduction"] == "none" else None
        options.update(label_smoothing=combo["smoothing"], convention="fastai")
        check(module, logits, cases.ignoring(target, -100), combo, outer, **options)


def test_attributes():
    weight = cases.weights(5)
    for module in (ls_loss, theirs):
        plain = module.LabelSmoothingCrossEntropy(0.2, weight, "sum")
        assert (plain.eps, plain.reduction, plain.y_int) == (0.2, "sum", True) and plain.weight is weight
        assert list(plain.state_dict()) == [] and plain.double().weight.dtype == torch.float32
        loss = module.LabelSmoothingCrossEntropyFlat(0.2, weight, "sum", axis=1)
        assert (loss.eps, loss.reduction, loss.y_int, loss.axis) == (0.2, "sum", True, 1) and loss.weight is weight
        assert repr(loss) == "FlattenedLoss of LabelSmoothingCrossEntropy()"
        assert not isinstance(loss, torch.nn.Module) and loss.to("cpu") is None
        loss.reduction = "none"
        assert loss.func.reduction == "none"
        with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
            module.LabelSmoothingCrossEntropyFlat(smoothing=0.1)
    assert list(ls_loss.LabelSmoothingCrossEntropy(prior=cases.prior(5)).state_dict()) == []
    assert ls_loss.LabelSmoothingCrossEntropy(prior=cases.prior(5)).double().prior.dtype == torch.float64


@pytest.mark.parametrize("name", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
def test_attributes_are_read_at_every_call(name):
    logits, target = cases.batch((4, 5))
    module = getattr(ls_loss, name)()
    settings = {}
    for attribute, value in (
        ("reduction", "none"),
        ("eps", 0.4),
        ("weight", cases.weights(5)),
        ("prior", cases.prior(5)),
    ):
        setattr(module, attribute, value)
        settings[attribute] = value
        assert torch.equal(module(logits, target), getattr(ls_loss, name)(**settings)(logits, target)), settings


@pytest.mark.parametrize("name", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
def test_copies(name):
    logits, target = cases.batch((4, 5))
    module = getattr(ls_loss, name)(eps=0.3, weight=cases.weights(5), reduction="none", prior=cases.prior(5))
    for twin in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(logits, target), module(logits, target)) and twin.eps == 0.3


def test_activation_and_decodes():
    logits = cases.randn(4, 5)
    for name in ("LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"):
        ours, fastai = getattr(ls_loss, name)(), getattr(theirs, name)()
        assert torch.equal(ours.activation(logits), fastai.activation(logits))
        assert torch.equal(ours.decodes(logits), fastai.decodes(logits))
    # Over the class dimension, where fastai's takes the last whatever the axis (fastai/fastai#3603).
    loss, logits = ls_loss.LabelSmoothingCrossEntropyFlat(axis=1), cases.randn(2, 5, 3)
    assert torch.equal(loss.activation(logits), logits.softmax(1)) and torch.equal(
        loss.decodes(logits), logits.argmax(1)
    )


def test_types_are_kept():
    """fastai's tensors are plain CPU tensors to the dispatcher: they take the kernel (test_dispatch.py) and keep their type."""
    logits, target = cases.batch((4, 5))
    value = ls_loss.LabelSmoothingCrossEntropy()(logits, target)
    for ours, fastai in (
        (ls_loss.LabelSmoothingCrossEntropy(), theirs.LabelSmoothingCrossEntropy()),
        (ls_loss.LabelSmoothingCrossEntropyFlat(), theirs.LabelSmoothingCrossEntropyFlat()),
    ):
        for x, y in (
            (TensorBase(logits), target),
            (TensorBase(logits), TensorCategory(target)),
            (TensorImage(logits), target),
            (logits, TensorCategory(target)),
        ):
            loss = ours(x, y)
            assert type(loss) is type(fastai(x, y)), (type(x), type(y))
            assert torch.equal(loss.as_subclass(torch.Tensor), value)
        assert type(ours(logits, target)) is torch.Tensor
    mask = ls_loss.LabelSmoothingCrossEntropyFlat(axis=1)(TensorImage(logits), TensorMask(target))
    assert type(mask) is TensorBase and torch.equal(mask.as_subclass(torch.Tensor), value)
    assert type(ls_loss.cross_entropy(TensorBase(logits), TensorCategory(target))) is TensorCategory


def learner(loss, callbacks=()):
    from fastai.basics import SGD, DataLoader, DataLoaders, Learner

    torch.manual_seed(0)
    features, labels = cases.randn(64, 7).float(), cases.integers(5, 64)
    model = torch.nn.Linear(7, 5)
    data = DataLoaders(*(DataLoader(list(zip(features, labels, strict=True)), bs=16, num_workers=0) for _ in range(2)))
    return Learner(data, model, loss_func=loss, opt_func=SGD, lr=0.1, cbs=callbacks, default_cbs=True)


@pytest.mark.parametrize("name", ["LabelSmoothingCrossEntropy", "LabelSmoothingCrossEntropyFlat"])
@pytest.mark.parametrize("mix", [None, "MixUp"])
def test_learner(name, mix):
    """Trains, predicts, reports losses one by one, and mixes, with the weights that fastai's loss leads to."""
    from fastai.callback import mixup

    trained = []
    for module in (ls_loss, theirs):
        learn = learner(getattr(module, name)(eps=0.2), [getattr(mixup, mix)()] if mix else [])
        with learn.no_logging():
            learn.fit(2)
            predictions, _, decoded, losses = learn.get_preds(dl=learn.dls.valid, with_decoded=True, with_loss=True)
        assert losses.shape == (64,) and torch.equal(decoded, predictions.argmax(1))
        torch.testing.assert_close(predictions.sum(1), torch.ones(64))
        trained.append((learn.model.weight.detach(), predictions, losses, torch.tensor(learn.recorder.values)))
    for ours, fastai in zip(*trained, strict=True):
        # Eight steps of gradients that differ by float32 rounding.
        torch.testing.assert_close(ours, torch.Tensor(fastai), rtol=1e-5, atol=1e-6)


def test_can_be_traced_by_fx():
    """As the class of the package can: nothing in it may ask a tensor for its number of dimensions to decide what to do."""
    logits, target = cases.batch((4, 5))
    for module in (theirs.LabelSmoothingCrossEntropy, ls_loss.LabelSmoothingCrossEntropy):

        class Net(torch.nn.Module):
            def __init__(self, loss):
                super().__init__()
                self.loss = loss

            def forward(self, x, y):
                return self.loss(x, y)

        traced = torch.fx.symbolic_trace(Net(module()))
        torch.testing.assert_close(traced(logits, target), module()(logits, target))
