"""ls_loss.patch(): what it reaches, what it leaves alone, and that nothing of it remains.

Who computes is asserted for every kind of call; the values are those of ls_loss.cross_entropy, which other tests hold
against float64.
"""

import inspect
import pickle
import subprocess
import sys
import threading

import cases
import pytest
import torch
import torch.nn.functional as F
from paths import operators, route
from torch import nn
from torch.nn.functional import cross_entropy as taken_before
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import ls_loss

LOGITS, TARGET = cases.batch((4, 5))
Q, WEIGHT = cases.probabilities((4, 5)), cases.weights(5)
MADE_BEFORE = nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1)


@pytest.fixture
def patched():
    with ls_loss.patch():
        yield


@pytest.fixture(autouse=True)
def nothing_remains():
    yield
    assert F.cross_entropy is taken_before


# What it reaches


def test_signature_is_natives(patched):
    assert inspect.signature(F.cross_entropy) == inspect.signature(taken_before)
    assert F.cross_entropy.__name__ == "cross_entropy" and F.cross_entropy is not taken_before


@pytest.mark.parametrize("requires_grad", [False, True])
def test_modules_and_functions(patched, requires_grad):
    logits = LOGITS.clone().requires_grad_(requires_grad)
    made_now = nn.CrossEntropyLoss(reduction="none")
    for function, target, options in (
        (F.cross_entropy, TARGET, {}),
        (F.cross_entropy, TARGET, {"label_smoothing": 0.3, "weight": WEIGHT, "reduction": "sum", "ignore_index": 2}),
        (F.cross_entropy, TARGET, {"label_smoothing": 1}),
        (F.cross_entropy, Q, {"label_smoothing": 0.3}),
        (torch.nn.functional.cross_entropy, TARGET.to(torch.int16), {}),
    ):
        assert route(function, logits, target, **options) == "kernel", options
        assert torch.equal(function(logits, target, **options), ls_loss.cross_entropy(logits, target, **options))
    for module, options in (
        (MADE_BEFORE, dict(weight=WEIGHT, label_smoothing=0.1)),
        (made_now, dict(reduction="none")),
    ):
        assert route(module, logits, TARGET) == "kernel"
        assert torch.equal(module(logits, TARGET), ls_loss.cross_entropy(logits, TARGET, **options))
    assert route(ls_loss.CrossEntropyLoss(), logits, TARGET) == "kernel"


def test_positional_and_deprecated_arguments(patched):
    positional = (LOGITS, TARGET, WEIGHT, None, 3, None, "sum", 0.2)
    assert torch.equal(F.cross_entropy(*positional), ls_loss.cross_entropy(*positional))
    for arguments in (dict(size_average=False), dict(reduce=False), dict(size_average=True, reduce=True)):
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            loss = F.cross_entropy(LOGITS, TARGET, **arguments)
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            module = nn.CrossEntropyLoss(**arguments)
        assert torch.equal(loss, module(LOGITS, TARGET)) and route(module, LOGITS, TARGET) == "kernel"


def test_torchs_own_samples_of_the_function(patched):
    info = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
    for dtype in cases.DTYPES:
        for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
            targets_require_grad = any(torch.is_tensor(value) and value.requires_grad for value in sample.args)
            loss, ran = operators(F.cross_entropy, sample.input, *sample.args, **sample.kwargs)
            assert torch.equal(
                loss.nan_to_num(), ls_loss.cross_entropy(sample.input, *sample.args, **sample.kwargs).nan_to_num()
            )
            assert ("aten::cross_entropy_loss" if targets_require_grad else "ls_loss::_loss_grad") in ran, sample


def test_torchs_own_samples_of_the_module(patched):
    info = next(module for module in module_db if module.module_cls is nn.CrossEntropyLoss)
    for dtype in cases.DTYPES:
        for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True):
            made, called = sample.constructor_input, sample.forward_input
            loss, ran = operators(nn.CrossEntropyLoss(*made.args, **made.kwargs), *called.args)
            ours = ls_loss.CrossEntropyLoss(*made.args, **made.kwargs)(*called.args)
            assert torch.equal(loss.nan_to_num(), ours.nan_to_num()), sample
            assert "ls_loss::_loss" in ran, sample
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        made, called = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type, match=sample.error_regex):
            nn.CrossEntropyLoss(*made.args, **made.kwargs)(*called.args, **called.kwargs)


def test_a_model_of_others_trains():
    """transformers calls F.cross_entropy and nn.CrossEntropyLoss deep inside; nothing of it is changed."""
    transformers = pytest.importorskip("transformers")
    tiny = dict(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    small = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50, num_labels=3
    )
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, problem_type="single_label_classification")
    tokens = cases.integers(50, 4, 8)
    labels = cases.ignoring(tokens, -100)

    def causal():
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**tiny)), labels

    def classifier():
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**small, **quiet))
        return model, torch.tensor([0, 2, 1, 1])

    def train(make):
        torch.manual_seed(0)
        model, target = make()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        losses = []
        for _ in range(3):
            loss = model(input_ids=tokens, labels=target).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    for make in (causal, classifier):
        with ls_loss.patch():
            ours, ran = operators(train, make)
        native, ran_natively = operators(train, make)
        assert ran.count("ls_loss::_loss_grad") == 3 and "aten::cross_entropy_loss" not in ran
        assert ran_natively.count("aten::cross_entropy_loss") == 3
        assert ours[-1] < ours[0]
        torch.testing.assert_close(ours, native)


def test_other_threads(patched):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(route(F.cross_entropy, LOGITS, TARGET)))
    thread.start()
    thread.join()
    assert seen == ["kernel"]


# What native keeps


@pytest.mark.parametrize("smoothing", [-0.1, float("nan"), float("-inf"), -1])
def test_smoothing_that_native_ignores(patched, smoothing):
    """A program that runs must go on running: ours raises for these, native takes them for 0."""
    for target in (TARGET, Q):
        assert route(F.cross_entropy, LOGITS, target, label_smoothing=smoothing) == "native"
        assert torch.equal(F.cross_entropy(LOGITS, target, label_smoothing=smoothing), taken_before(LOGITS, target))
    assert route(nn.CrossEntropyLoss(label_smoothing=smoothing), LOGITS, TARGET) == "native"
    with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: -0.1"):
        ls_loss.cross_entropy(LOGITS, TARGET, label_smoothing=-0.1)


class Logged(torch.Tensor):
    """A subclass with a __torch_dispatch__ of its own, which goes to native: by the patched name that would not end."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func.namespace == "aten"
        inner = torch.utils._pytree.tree_map(lambda value: value.inner if isinstance(value, cls) else value, args)
        return func(*inner, **(kwargs or {}))


def test_what_is_handed_over_arrives_at_native(patched):
    with torch.no_grad():
        torch.testing.assert_close(F.cross_entropy(Logged(LOGITS), TARGET), taken_before(LOGITS, TARGET))
    assert route(F.cross_entropy, LOGITS, Q.clone().requires_grad_()) == "native"
    assert torch.equal(F.cross_entropy(LOGITS, Q.double()), taken_before(LOGITS, Q.double()))
    for wrong in (
        lambda function: function("no tensor", TARGET),
        lambda function: function(LOGITS, [0, 1, 2, 3]),
        lambda function: function(LOGITS, TARGET, label_smoothing="0.1"),
        lambda function: function(LOGITS, TARGET, label_smoothing=1.5),
        lambda function: function(LOGITS, TARGET, ignore_index=0.5),
        lambda function: function(LOGITS, TARGET, reduction="other"),
        lambda function: function(LOGITS, TARGET + 5),
        lambda function: function(LOGITS, TARGET[:3]),
    ):
        with pytest.raises(Exception) as native:
            wrong(taken_before)
        with pytest.raises(type(native.value)) as ours:
            wrong(F.cross_entropy)
        assert str(ours.value) == str(native.value)


class Kept(torch.Tensor):
    """A subclass with the default __torch_function__."""


class Asked(torch.Tensor):
    seen = ()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.cross_entropy:
            cls.seen = (args, kwargs)
            return "asked"
        return super().__torch_function__(func, types, args, kwargs)


def test_subclasses_and_modes_see_the_call(patched):
    loss = F.cross_entropy(LOGITS.as_subclass(Kept), TARGET)
    assert type(loss) is Kept and route(F.cross_entropy, LOGITS.as_subclass(Kept), TARGET) == "kernel"
    assert F.cross_entropy(LOGITS, TARGET, WEIGHT.as_subclass(Asked), label_smoothing=0.2) == "asked"
    args, kwargs = Asked.seen
    assert args[0] is LOGITS and args[1] is TARGET and kwargs["label_smoothing"] == 0.2
    assert kwargs.keys() == inspect.signature(taken_before).parameters.keys() - {"input", "target"}
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        assert torch.equal(F.cross_entropy(LOGITS, TARGET), ls_loss.cross_entropy(LOGITS, TARGET))
    assert seen.count(F.cross_entropy) == 1


def test_copies_of_the_name_are_not_reached(patched):
    assert route(taken_before, LOGITS, TARGET) == "native"


# How it ends


def test_undo():
    switch = ls_loss.patch()
    assert route(MADE_BEFORE, LOGITS, TARGET) == "kernel"
    switch.undo()
    assert F.cross_entropy is taken_before and route(MADE_BEFORE, LOGITS, TARGET) == "native"
    switch.undo()
    with pytest.raises(RuntimeError, match="has been undone"), switch:
        pass


def test_undone_by_an_error():
    with pytest.raises(IndexError, match="Target 9 is out of bounds"), ls_loss.patch():
        F.cross_entropy(LOGITS, torch.full_like(TARGET, 9))
    assert F.cross_entropy is taken_before


def test_patches_nest():
    with ls_loss.patch():
        with ls_loss.patch():
            assert route(F.cross_entropy, LOGITS, TARGET) == "kernel"
        assert route(F.cross_entropy, LOGITS, TARGET) == "kernel"
    assert F.cross_entropy is taken_before


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], ids=str)
def test_patches_end_in_any_order(order):
    switches = [ls_loss.patch() for _ in range(3)]
    for count, which in enumerate(order):
        assert route(F.cross_entropy, LOGITS, TARGET) == "kernel"
        switches[which].undo()
        assert (F.cross_entropy is taken_before) == (count == 2)


def test_the_object_that_was_found_returns(monkeypatch):
    """Another library's patch, below ours and between two of ours; ours hands over to native all the same."""

    def others(*args, **kwargs):
        raise AssertionError("native is the function saved at import")

    monkeypatch.setattr(F, "cross_entropy", others)
    with ls_loss.patch():
        assert route(F.cross_entropy, LOGITS, TARGET, label_smoothing=-1.0) == "native"
        monkeypatch.setattr(F, "cross_entropy", others)
        with ls_loss.patch():
            assert route(F.cross_entropy, LOGITS, TARGET) == "kernel"
        assert F.cross_entropy is others
    assert F.cross_entropy is others
    monkeypatch.undo()


def test_pickled_by_name(patched):
    assert pickle.loads(pickle.dumps(F.cross_entropy)) is F.cross_entropy
    assert type(pickle.loads(pickle.dumps(nn.CrossEntropyLoss()))) is nn.CrossEntropyLoss


def test_for_the_rest_of_a_program():
    """As the first statement of a script, before anything else is imported."""
    script = (
        "import ls_loss; ls_loss.patch(); import torch; loss = torch.nn.CrossEntropyLoss();"
        "print(loss(torch.zeros(2, 4, requires_grad=True), torch.tensor([1, 2])).grad_fn.name())"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "CrossEntropy" in result.stdout and "Nll" not in result.stdout


# Compiled programs


def captured(function):
    """The function compiled, and the names of the operators in the graphs that were."""
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend), graphs


@pytest.mark.parametrize("first", [False, True], ids=["off first", "on first"])
@pytest.mark.parametrize("function", [lambda x, y: F.cross_entropy(x, y), MADE_BEFORE], ids=["function", "module"])
def test_compiled_programs_notice_the_switch(function, first):
    compiled, graphs = captured(function)
    for on in (first, not first, first, not first):
        with ls_loss.patch() if on else torch.enable_grad():
            torch.testing.assert_close(compiled(LOGITS, TARGET), function(LOGITS, TARGET))
    assert [any("ls_loss.cross_entropy" in name for name in graph) for graph in graphs] == [first, not first]


def test_modules_made_in_compiled_programs(patched):
    logits = LOGITS.clone().requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, y: nn.CrossEntropyLoss()(x, y), fullgraph=True, backend="aot_eager")
    assert route(compiled, logits, TARGET) == "kernel"


def test_exported_and_traced_programs(patched):
    program = torch.export.export(MADE_BEFORE, (LOGITS, TARGET))
    assert "ls_loss.cross_entropy.default" in program.graph_module.code
    traced = torch.jit.trace(MADE_BEFORE, (LOGITS, TARGET))
    assert route(traced, LOGITS, TARGET) == "kernel"


def test_transforms(patched):
    per_sample = torch.func.vmap(torch.func.grad(lambda x, y: F.cross_entropy(x, y)))
    with_switch = per_sample(LOGITS, TARGET)
    torch.testing.assert_close(with_switch, torch.func.vmap(torch.func.grad(taken_before))(LOGITS, TARGET))
    assert "aten::cross_entropy_loss" not in operators(per_sample, LOGITS, TARGET)[1]
