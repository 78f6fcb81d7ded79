"""CrossEntropyLoss as torch.nn.CrossEntropyLoss: what it inherits, what it adds, and that options are read at every call."""

import copy
import inspect
import pickle
from typing import ClassVar

import cases
import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_within, expect
from torch import nn

import ls_loss


def equal(module, logits, target, **options):
    """Asserts that the module computes the function with these options, to the bit."""
    assert torch.equal(module(logits, target), ls_loss.cross_entropy(logits, target, **options)), options


def test_every_option_reaches_the_function():
    logits, target = cases.batch((4, 5))
    for combo in cases.product(
        weight=(None, cases.weights(5)),
        ignore_index=(-100, 2),
        reduction=cases.REDUCTIONS,
        label_smoothing=cases.SMOOTHINGS,
        prior=(None, cases.prior(5)),
    ):
        module = ls_loss.CrossEntropyLoss(**combo)
        equal(module, logits, target, **combo)
        expected = expect(logits, target, **combo)
        assert_within(module(logits, target), expected.loss, expected.loss_tolerance, combo)
    logits, target = cases.batch((3, 4, 5), dim=2)
    equal(ls_loss.CrossEntropyLoss(dim=-1), logits, target, dim=2)


def test_signatures_are_torchs_and_more():
    def names(function):
        return list(inspect.signature(function).parameters.values())

    for ours, native in (
        (ls_loss.cross_entropy, F.cross_entropy),
        (ls_loss.CrossEntropyLoss.__init__, nn.CrossEntropyLoss.__init__),
        (ls_loss.CrossEntropyLoss.forward, nn.CrossEntropyLoss.forward),
    ):
        ours, native = names(ours), names(native)
        same, more = ours[: len(native)], ours[len(native) :]
        assert [(p.name, p.kind, p.default) for p in same] == [(p.name, p.kind, p.default) for p in native]
        assert all(p.kind is p.KEYWORD_ONLY for p in more)


def test_is_a_native_module():
    module = ls_loss.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1)
    assert isinstance(module, nn.CrossEntropyLoss)
    assert list(module.state_dict()) == list(nn.CrossEntropyLoss(torch.ones(3)).state_dict()) == ["weight"]
    assert list(ls_loss.CrossEntropyLoss().state_dict()) == []
    assert repr(module) == repr(nn.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1)) == "CrossEntropyLoss()"
    assert module.__constants__ == nn.CrossEntropyLoss.__constants__


def test_state_dict_goes_both_ways():
    native = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))
    ours = ls_loss.CrossEntropyLoss(torch.ones(3), prior=torch.full((3,), 1 / 3))
    ours.load_state_dict(native.state_dict())
    assert torch.equal(ours.weight, native.weight)
    native.load_state_dict(ours.state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weight"'):
        ls_loss.CrossEntropyLoss().load_state_dict(native.state_dict())


def test_buffers_move_with_the_module():
    module = ls_loss.CrossEntropyLoss(cases.weights(5), prior=cases.prior(5)).double()
    assert module.weight.dtype == module.prior.dtype == torch.float64
    assert {name for name, _ in module.named_buffers()} == {"weight", "prior"}
    logits, target = cases.batch((4, 5), torch.float64)
    equal(module, logits, target, weight=cases.weights(5).double(), prior=cases.prior(5).double())
    assert module.to("meta").prior.device.type == "meta"


def test_attributes_are_read_at_every_call():
    logits, target = cases.batch((4, 5))
    module = ls_loss.CrossEntropyLoss()
    for name, value in (
        ("reduction", "sum"),
        ("label_smoothing", 0.3),
        ("ignore_index", 1),
        ("weight", cases.weights(5)),
        ("prior", cases.prior(5)),
        ("dim", -1),
    ):
        setattr(module, name, value)
        names = ("reduction", "label_smoothing", "ignore_index", "weight", "prior", "dim")
        equal(module, logits, target, **{name: getattr(module, name) for name in names})
    assert module(logits, target) != ls_loss.CrossEntropyLoss()(logits, target)


def test_copies():
    logits, target = cases.batch((4, 5))
    module = ls_loss.CrossEntropyLoss(
        cases.weights(5), reduction="none", label_smoothing=0.2, prior=cases.prior(5), dim=-1
    )
    for twin in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is ls_loss.CrossEntropyLoss
        assert torch.equal(twin(logits, target), module(logits, target))


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_deprecated_arguments(size_average, reduce):
    logits, target = cases.batch((4, 5))
    if size_average is None and reduce is None:
        return
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        native = nn.CrossEntropyLoss(size_average=size_average, reduce=reduce)
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        ours = ls_loss.CrossEntropyLoss(size_average=size_average, reduce=reduce)
    with pytest.warns(UserWarning, match="please use reduction='") as said:
        loss = ls_loss.cross_entropy(logits, target, size_average=size_average, reduce=reduce, reduction="none")
    assert ours.reduction == native.reduction and f"'{native.reduction}'" in str(said[0].message)
    assert torch.equal(ours(logits, target), loss) and loss.shape == native(logits, target).shape


def test_elementwise_mean():
    """An older name of 'mean' that native still takes, with a warning."""
    logits, target = cases.batch((4, 5))
    with pytest.warns(UserWarning, match="elementwise_mean' is deprecated"):
        loss = ls_loss.cross_entropy(logits, target, reduction="elementwise_mean")
    assert torch.equal(loss, ls_loss.cross_entropy(logits, target))


def test_numbers_of_other_types():
    """What native takes for a float or an integer: numpy's numbers, integers, booleans, tensors of no dimension."""
    numpy = pytest.importorskip("numpy")
    logits, target = cases.batch((4, 5))
    for smoothing in (0, 1, True, numpy.float32(0.5), numpy.float64(0.5), torch.tensor(0.5)):
        loss = ls_loss.cross_entropy(logits, target, label_smoothing=smoothing)
        assert torch.equal(loss, ls_loss.cross_entropy(logits, target, label_smoothing=float(smoothing))), smoothing
    for ignore_index in (numpy.int64(2), torch.tensor(2)):
        loss = ls_loss.cross_entropy(logits, target, ignore_index=ignore_index)
        assert torch.equal(loss, ls_loss.cross_entropy(logits, target, ignore_index=2)), ignore_index
    assert torch.equal(ls_loss.cross_entropy(logits, target, dim=numpy.int64(1)), ls_loss.cross_entropy(logits, target))


def test_parameter_as_logits():
    logits, target = cases.batch((4, 5))
    parameter = nn.Parameter(logits)
    loss = ls_loss.CrossEntropyLoss(nn.Parameter(cases.weights(5), requires_grad=False))(parameter, target)
    loss.backward()
    assert type(loss) is torch.Tensor and parameter.grad.shape == logits.shape


class Kept(torch.Tensor):
    """A subclass with the default __torch_function__: results keep the type."""


class Asked(torch.Tensor):
    """A subclass with its own: it is asked first, and told every argument."""

    calls: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (ls_loss.cross_entropy, ls_loss.smooth_labels):
            cls.calls.append((func, args, kwargs))
            return "asked"
        return super().__torch_function__(func, types, args, kwargs)


def test_torch_function():
    logits, target = cases.batch((4, 5))
    loss = ls_loss.cross_entropy(logits.as_subclass(Kept), target, label_smoothing=0.1)
    assert type(loss) is Kept
    assert torch.equal(loss.as_subclass(torch.Tensor), ls_loss.cross_entropy(logits, target, label_smoothing=0.1))
    weight, prior = cases.weights(5), cases.prior(5)
    for position in range(4):
        tensors = [logits, target, weight, prior]
        tensors[position] = tensors[position].as_subclass(Asked)
        Asked.calls.clear()
        options = dict(ignore_index=3, reduction="sum", label_smoothing=0.2, dim=-1)
        asked = ls_loss.cross_entropy(tensors[0], tensors[1], tensors[2], prior=tensors[3], **options)
        assert asked == "asked"
        ((_, args, kwargs),) = Asked.calls
        assert args[0] is tensors[0] and args[1] is tensors[1]
        assert kwargs["weight"] is tensors[2] and kwargs["prior"] is tensors[3]
        assert {name: kwargs[name] for name in options} == options
        assert kwargs["size_average"] is kwargs["reduce"] is None
    assert ls_loss.smooth_labels(target.as_subclass(Asked), 5) == "asked"


def test_torch_function_mode():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        ls_loss.cross_entropy(*cases.batch((4, 5)))
    assert ls_loss.cross_entropy in seen


def test_smooth_labels():
    target = cases.integers(5, 3, 2)
    for combo in cases.product(
        epsilon=cases.SMOOTHINGS,
        prior=(None, cases.prior(5, torch.float64)),
        dtype=(None, *cases.DTYPES),
        integers=cases.INTEGERS,
    ):
        prior, dtype = combo["prior"], combo["dtype"]
        smoothed = ls_loss.smooth_labels(target.to(combo["integers"]), 5, combo["epsilon"], prior, dtype)
        uniform = torch.full((5,), 0.2, dtype=torch.float64) if prior is None else prior
        expected = (1 - combo["epsilon"]) * F.one_hot(target, 5).double() + combo["epsilon"] * uniform
        assert smoothed.dtype == (dtype or torch.float32) and smoothed.shape == (3, 2, 5), combo
        eps = torch.finfo(smoothed.dtype).eps
        assert_within(smoothed, expected, eps * expected + 1e-300, combo)
    with torch.device("meta"):
        assert ls_loss.smooth_labels(torch.empty(3, dtype=torch.int64), 7).shape == (3, 7)
    assert ls_loss.smooth_labels(torch.tensor(2), 3, 0.3).tolist() == pytest.approx([0.1, 0.1, 0.8])
    assert ls_loss.smooth_labels(torch.empty(0, dtype=torch.int64), 3).shape == (0, 3)


def test_smooth_labels_are_the_targets_of_the_loss():
    """As class probabilities they give the smoothed loss, prior or not."""
    logits, target = cases.batch((4, 5), torch.float64)
    for prior in (None, cases.prior(5, torch.float64)):
        soft = ls_loss.smooth_labels(target, 5, 0.3, prior, torch.float64)
        hard = ls_loss.cross_entropy(logits, target, label_smoothing=0.3, prior=prior)
        torch.testing.assert_close(ls_loss.cross_entropy(logits, soft), hard, rtol=1e-13, atol=0)


def test_config_prints_one_line_per_entry():
    config = ls_loss.config()
    lines = str(config).splitlines()
    assert len(lines) == len(config) and all(line.startswith(key) for line, key in zip(lines, config, strict=True))
    wanted = {"version", "torch_built", "torch_running", "isa", "isa_available", "threads", "cache", "openmp_runtimes"}
    assert wanted <= config.keys()
    assert config["torch_running"] == torch.__version__ and config["threads"] == torch.get_num_threads()
    assert ls_loss.empty_cache() is None


def test_public_names():
    for name in ls_loss.__all__:
        assert getattr(ls_loss, name).__doc__, name
