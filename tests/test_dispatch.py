"""That the kernel ran, not a fallback, for every front end; which instruction set it ran on; and each of them in turn.

The decision itself, branch by branch, is in test_routing.py.
"""

import os
import subprocess
import sys

import cases
import pytest
import torch
import torch.nn.functional as F
from op import cross_entropy
from paths import operators, route
from torch import nn

import ls_loss

LOGITS, TARGET = cases.batch((4, 5))
WEIGHT, PRIOR = cases.weights(5), cases.prior(5)
NATIVE = ("aten::_log_softmax", "aten::nll_loss_forward", "aten::cross_entropy_loss")

FRONT_ENDS = {
    "function": lambda x, y: ls_loss.cross_entropy(x, y, WEIGHT, label_smoothing=0.1),
    "function, prior": lambda x, y: ls_loss.cross_entropy(x, y, prior=PRIOR, label_smoothing=0.1),
    "function, integer options": lambda x, y: ls_loss.cross_entropy(x, y, label_smoothing=1),
    "function, int32 target": lambda x, y: ls_loss.cross_entropy(x, y.int(), label_smoothing=0.1),
    "function, probabilities": lambda x, y: ls_loss.cross_entropy(x, F.one_hot(y, 5).float(), label_smoothing=0.1),
    "module": ls_loss.CrossEntropyLoss(WEIGHT, label_smoothing=0.1),
    "module, none": ls_loss.CrossEntropyLoss(reduction="none", prior=PRIOR),
    "fastai": ls_loss.LabelSmoothingCrossEntropy(0.1, WEIGHT, "sum"),
    "fastai, Flat": ls_loss.LabelSmoothingCrossEntropyFlat(0.1, WEIGHT, axis=1),
    "notebook": ls_loss.LabelSmoothingLoss(0.1, "none", WEIGHT),
    "parameter": lambda x, y: ls_loss.cross_entropy(nn.Parameter(x.detach(), x.requires_grad), y),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends_take_the_kernel(name):
    function = FRONT_ENDS[name]
    _, ran = operators(function, LOGITS, TARGET)
    assert "ls_loss::_loss" in ran and "ls_loss::_loss_grad" not in ran and not set(NATIVE) & set(ran)
    _, ran = operators(lambda: function(LOGITS.clone().requires_grad_(), TARGET).sum().backward())
    assert "ls_loss::_loss_grad" in ran and "ls_loss::_loss" not in ran and not set(NATIVE) & set(ran)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dtypes_take_the_kernel(dtype):
    for shape in cases.SHAPES:
        logits, target = cases.batch(shape, dtype)
        assert route(ls_loss.cross_entropy, logits.requires_grad_(), target, label_smoothing=0.1) == "kernel", shape


def test_nothing_is_saved_where_nothing_requires_grad():
    with torch.no_grad():
        _, ran = operators(ls_loss.cross_entropy, LOGITS.clone().requires_grad_(), TARGET)
    assert "ls_loss::_loss" in ran
    with torch.inference_mode():
        _, ran = operators(ls_loss.cross_entropy, LOGITS, TARGET)
    assert "ls_loss::_loss" in ran


def test_fastai_tensors_take_the_kernel():
    """Subclasses in Python only: to the dispatcher plain CPU tensors. On the route of other subclasses nobody would gain."""
    core = pytest.importorskip("fastai.torch_core")
    x, y = core.TensorBase(LOGITS), core.TensorCategory(TARGET)
    for name, function in FRONT_ENDS.items():
        if name != "parameter":
            assert route(function, x, y) == "kernel", name
    assert route(FRONT_ENDS["fastai, Flat"], core.TensorImage(LOGITS), core.TensorMask(TARGET)) == "kernel"


class Logged(torch.Tensor):
    """A wrapper with a __torch_dispatch__ that knows aten's operators and must never see ours."""

    seen: tuple = ()

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func.namespace == "aten", func
        cls.seen = (*cls.seen, func)
        plain = torch.utils._pytree.tree_map_only(Logged, lambda tensor: tensor.inner, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(torch.Tensor, Logged, func(*plain[0], **plain[1]))


def test_dispatch_subclasses_within_transforms():
    """Functorch's wrappers hide them from the front ends."""
    logits, target = cases.batch((4, 5), torch.float64)
    target[1] = -100
    for transformed in (torch.func.grad(cross_entropy), torch.vmap(torch.func.grad(cross_entropy))):
        gradient = transformed(Logged(logits), target)
        assert isinstance(gradient, Logged)
        torch.testing.assert_close(gradient.inner, transformed(logits, target), rtol=1e-12, atol=1e-14)


def test_dispatch_subclasses_go_to_native():
    logits, target = cases.batch((2, 3, 5), dim=-1)
    soft = cases.probabilities((2, 3, 5), dim=-1)
    for wrapped in ((0,), (1,), (0, 1)):
        for y in (target, target.int(), soft):
            arguments = [Logged(tensor) if i in wrapped else tensor for i, tensor in enumerate((logits, y))]
            Logged.seen = ()
            loss = ls_loss.cross_entropy(*arguments, label_smoothing=0.1, dim=-1)
            assert type(loss) is Logged and Logged.seen
            torch.testing.assert_close(loss.inner, ls_loss.cross_entropy(logits, y, label_smoothing=0.1, dim=-1))
    weighted = ls_loss.cross_entropy(LOGITS, TARGET, Logged(WEIGHT))
    torch.testing.assert_close(weighted.inner, ls_loss.cross_entropy(LOGITS, TARGET, WEIGHT))
    with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: -0.1"):
        ls_loss.cross_entropy(Logged(LOGITS), TARGET, label_smoothing=-0.1)


OF_ATEN = {
    "function": lambda x, y, w, u: ls_loss.cross_entropy(x, y, w, label_smoothing=0.1),
    "function, prior": lambda x, y, w, u: ls_loss.cross_entropy(x, y, w, label_smoothing=0.1, prior=u),
    "module, prior": lambda x, y, w, u: ls_loss.CrossEntropyLoss(w, prior=u, label_smoothing=0.1, dim=-1)(x, y),
    "fastai": lambda x, y, w, u: ls_loss.LabelSmoothingCrossEntropy(0.1, w, prior=u)(x, y),
    "fastai, Flat": lambda x, y, w, u: ls_loss.LabelSmoothingCrossEntropyFlat(0.1, w, "sum", prior=u)(x, y),
    "notebook": lambda x, y, w, u: ls_loss.LabelSmoothingLoss(0.1, "none", w, prior=u)(x, y),
}


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
@pytest.mark.parametrize("name", OF_ATEN)
def test_dispatch_subclasses_see_aten_alone(name, inference):
    """Any of the tensors may be one, also the short ones, and for losses that native has not."""
    function, arguments = OF_ATEN[name], (LOGITS, TARGET, WEIGHT, PRIOR)
    with torch.inference_mode(inference):
        expected = function(*arguments)
        for wrapped in ({0}, {1}, {2}, {3}, {0, 1, 2, 3}):
            if wrapped == {3} and name == "function":
                continue  # takes none
            given = [Logged(tensor) if i in wrapped else tensor for i, tensor in enumerate(arguments)]
            loss = function(*given)
            assert type(loss) is Logged
            torch.testing.assert_close(loss.inner, expected)
    if not inference:
        leaf = Logged(LOGITS).requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf, TARGET, WEIGHT, PRIOR).sum(), leaf)
        plain = LOGITS.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(function(plain, TARGET, WEIGHT, PRIOR).sum(), plain)
        torch.testing.assert_close(gradient.inner, wanted)


@pytest.mark.parametrize("name", OF_ATEN)
def test_dispatch_subclasses_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        loss = OF_ATEN[name](Logged(LOGITS.bfloat16()), TARGET, WEIGHT, PRIOR)
        expected = OF_ATEN[name](LOGITS.bfloat16(), TARGET, WEIGHT, PRIOR)
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss.inner, expected)


def test_dispatch_subclasses_are_refused_what_others_are():
    """What only data can tell is told of those that have some."""
    for function in list(OF_ATEN.values())[1:]:
        with pytest.raises(ValueError, match="prior must have a sum of 1"):
            function(Logged(LOGITS), TARGET, WEIGHT, 2 * PRIOR)
        with pytest.raises(ValueError, match="prior must hold one probability for each of the 5 classes"):
            function(Logged(LOGITS), TARGET, WEIGHT, Logged(PRIOR[:4]))
    with pytest.raises(ValueError, match="prior must have a sum of 1"):
        ls_loss.smooth_labels(Logged(TARGET), 5, prior=2 * PRIOR)


@pytest.mark.parametrize("inference", [False, True], ids=["", "inference mode"])
def test_smooth_labels_of_dispatch_subclasses(inference):
    with torch.inference_mode(inference):
        for target, prior in ((Logged(TARGET), None), (Logged(TARGET), PRIOR), (TARGET, Logged(PRIOR))):
            smoothed = ls_loss.smooth_labels(target, 5, 0.2, prior, torch.bfloat16)
            assert type(smoothed) is Logged
            expected = ls_loss.smooth_labels(TARGET, 5, 0.2, None if prior is None else PRIOR, torch.bfloat16)
            assert torch.equal(smoothed.inner, expected)


def test_fake_tensors_keep_the_operator():
    """They have a __torch_dispatch__, too, but it is by them that a compiler sees which operators a program calls."""
    from torch._subclasses import FakeTensorMode

    graph = torch.fx.experimental.proxy_tensor.make_fx(
        lambda x, y: ls_loss.cross_entropy(x, y, label_smoothing=0.1), tracing_mode="fake"
    )(LOGITS, TARGET)
    assert any(node.target is torch.ops.ls_loss._loss.default for node in graph.graph.nodes)
    with FakeTensorMode() as mode:
        x, y = mode.from_tensor(LOGITS), mode.from_tensor(TARGET)
        assert ls_loss.cross_entropy(x, y, reduction="none").shape == (4,)


def captured(function, *args, **kwargs):
    """The operators in the graph of the compiled call."""
    seen = []

    def backend(graph, _):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    result = torch.compile(function, fullgraph=True, backend=backend)(*args, **kwargs)
    return result, seen


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_compiled_front_ends_hold_the_operator(name):
    if name == "parameter":
        return  # made in the graph
    result, seen = captured(FRONT_ENDS[name], LOGITS.clone().requires_grad_(), TARGET)
    assert torch.ops.ls_loss.cross_entropy.default in seen
    assert torch.equal(result, FRONT_ENDS[name](LOGITS, TARGET))


def test_isa_is_the_best_available():
    config = ls_loss.config()
    available = config["isa_available"]
    assert available[0] == "scalar" and len(set(available)) == len(available)
    assert config["isa"] == os.environ.get("LS_LOSS_ISA", available[-1])


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


OTHERS = [isa for isa in ls_loss.config()["isa_available"] if isa != ls_loss.config()["isa"]]


@pytest.mark.parametrize("isa", OTHERS)
def test_every_other_isa(isa):
    """Vector widths, short rows, planes and moving references, in a process that is told to use this instruction set."""
    chosen = "every_width or short_rows or (named_logits and (ascending or jump or wrong))"
    file = os.path.join(os.path.dirname(__file__), "test_backward.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, file]
    environment = {**os.environ, "LS_LOSS_ISA": isa}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert run("import ls_loss; print(ls_loss.config()['isa'])", LS_LOSS_ISA=isa).stdout.split() == [isa]


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", "scalar "])
def test_unknown_isa_is_an_error_that_lists_what_there_is(isa):
    done = run("import ls_loss", LS_LOSS_ISA=isa)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError")]
    assert f"LS_LOSS_ISA={isa} " in error
    assert all(available in error for available in ls_loss.config()["isa_available"])
    assert "built against" not in error  # not the message for another torch


def test_isas_agree():
    """The same call on every instruction set, within the error model of two of them: none computes another formula."""
    code = """
import torch, ls_loss
x = torch.randn(9, 37, generator=torch.Generator().manual_seed(0)).requires_grad_()
loss = ls_loss.cross_entropy(x, torch.arange(9), label_smoothing=0.1)
loss.backward()
print(float(loss), float(x.grad.double().abs().sum()))
"""
    results = [
        tuple(map(float, run(code, LS_LOSS_ISA=isa).stdout.split())) for isa in ls_loss.config()["isa_available"]
    ]
    for result in results:
        assert len(result) == 2 and result == pytest.approx(results[0], rel=2.0**-20)
