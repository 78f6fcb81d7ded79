"""Compiled and exported programs hold the operator itself, forward and backward, for any batch size.

Inductor compiles few of them, since that takes long; the other cases do without code generation.
"""

import io

import cases
import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from op import cross_entropy
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

import ls_loss


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch(*shape, dtype=torch.float32):
    logits, target = cases.batch(shape, dtype)
    return logits.requires_grad_(), target


def step(logits, target, **options):
    """Loss and gradient as a training step has them: the logits are not a leaf, grad_output is not 1."""
    return 3 * cross_entropy(logits * 2, target, **options)


def compare(compiled, logits, target, **options):
    loss, expected = compiled(logits, target, **options), step(logits, target, **options)
    (ours,), (wanted,) = (torch.autograd.grad(value.sum(), logits) for value in (loss, expected))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, wanted)


def operators_in(graph):
    """In their order; a mutating operator is an argument of the one that makes it functional."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    wrapped = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
    return [str(name) for call in calls for name in (call.target, *call.args[:1]) if isinstance(name, wrapped)]


def capturing(forward, backward):
    def compiler(into):
        def compile_graph(graph, _):
            into.extend(operators_in(graph))
            return make_boxed_func(graph.forward)

        return compile_graph

    return aot_autograd(fw_compiler=compiler(forward), bw_compiler=compiler(backward))


@pytest.mark.parametrize("dynamic", [False, True])
def test_graphs_hold_the_operators(dynamic):
    """A silent fallback to native, or a break, would give right numbers slowly."""
    forward, backward = [], []
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=capturing(forward, backward))
    compare(compiled, *batch(4, 5))
    assert forward.count("ls_loss._loss_grad.default") == 1
    assert backward.count("ls_loss._scale_.default") == 1
    assert not any("softmax" in name for name in forward + backward)


def test_the_operator_is_in_the_captured_program():
    captured = []

    def backend(graph, _):
        captured.extend(operators_in(graph))
        return graph.forward

    compare(torch.compile(step, fullgraph=True, backend=backend), *batch(4, 5))
    assert captured.count("ls_loss.cross_entropy") == 1


INDUCTOR = {
    "static": ((4, 5), False, {}),
    "dynamic": ((4, 5), True, {"weight": cases.weights(5), "reduction": "none"}),
    "images in bfloat16": ((2, 5, 3), None, {"label_smoothing": 0.2}),
}


@pytest.mark.parametrize("name", INDUCTOR)
def test_inductor(name):
    shape, dynamic, options = INDUCTOR[name]
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    compare(compiled, *batch(*shape, dtype=dtype), **options)


def test_transposed_producer_under_inductor():
    """What the operator reads need not be contiguous, what it returns is."""

    def transposed(logits, target):
        return cross_entropy(logits.t() + 1, target, reduction="none")

    logits, target = batch(5, 4)[0], cases.integers(5, 4)
    loss = torch.compile(transposed, fullgraph=True)(logits, target)
    expected = transposed(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize("marked", [0, 1])
def test_no_recompilation_when_a_marked_size_changes(marked):
    counter = CompileCounter()
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for size in (4, 7, 12):
        logits, target = batch(*((size, 5) if marked == 0 else (6, size)))
        torch._dynamo.mark_dynamic(logits, marked)
        if marked == 0:
            torch._dynamo.mark_dynamic(target, 0)
        compare(compiled, logits, target)
    assert counter.frame_count == 1


def test_one_recompilation_when_batches_vary():
    counter = CompileCounter()
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for rows in (4, 7, 12, 9):
        compare(compiled, *batch(rows, 5))
    assert counter.frame_count == 2


def test_rows_chosen_by_a_mask():
    """Their number is known when the program runs, not before."""

    def chosen(logits, target, mask):
        return cross_entropy(logits[mask], target[mask], reduction="sum")

    logits, target = batch(6, 5)
    mask = torch.tensor([True, False, True, True, False, True])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        loss = torch.compile(chosen, fullgraph=True, backend="aot_eager")(logits, target, mask)
    torch.testing.assert_close(loss, chosen(logits, target, mask))
    expected = torch.autograd.grad(chosen(logits, target, mask), logits)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), expected)


@pytest.mark.parametrize("rows", [8, 4000])
def test_targets_out_of_range_raise(rows):
    """Native compiled aborts the process where its loop is parallel."""
    compiled = torch.compile(step, fullgraph=True)
    logits, target = batch(rows, 37)
    target[5] = 37
    with pytest.raises(IndexError, match=r"Target 37 is out of bounds\."):
        compiled(logits, target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    logits, target = batch(4, 5, dtype=dtype)

    def under_autocast(logits, target):
        with torch.autocast("cpu", dtype):
            return cross_entropy(logits, target)

    forward, backward = [], []
    compiled = torch.compile(under_autocast, fullgraph=True, backend=capturing(forward, backward))
    loss = compiled(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, under_autocast(logits, target))
    assert torch.autograd.grad(loss, logits)[0].dtype == dtype
    assert "ls_loss._loss_grad.default" in forward and not any("_to_copy" in name for name in forward)


def test_transforms_inside():
    logits, target = batch(4, 5)
    logits = logits.detach()

    def function(logits, target):
        per_sample = torch.func.vmap(torch.func.grad(lambda x, y: cross_entropy(x[None], y[None])))
        return per_sample(logits, target)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, target), function(logits, target))


def test_smooth_labels():
    def function(target, logits):
        return torch.ops.ls_loss.smooth_labels(target, logits.shape[1], 0.1, None, None) * 2

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for classes in (5, 6):
        args = cases.integers(5, 3, 2), torch.zeros(4, classes)
        torch.testing.assert_close(compiled(*args), function(*args))


@pytest.mark.parametrize("create_graph", [False, True])
def test_eager_backward_after_a_compiled_forward_of_the_model(create_graph):
    """Only the model is compiled; derivatives of any order of the loss are eager."""
    model = torch.compile(torch.nn.Linear(5, 5), backend="aot_eager")
    inputs, target = batch(4, 5)
    loss = cross_entropy(model(inputs), target)
    (gradient,) = torch.autograd.grad(loss, inputs, create_graph=create_graph)
    assert gradient.isfinite().all()


# Compiled autograd


def test_compiled_autograd():
    """One trace serves a plain backward and then retained ones of the same shape: it must not scale in place."""
    logits, target = batch(4, 5)
    expected = torch.autograd.grad(F.cross_entropy(logits, target, label_smoothing=0.1), logits)[0]

    def compiler(graph):
        return torch.compile(graph, backend="aot_eager", fullgraph=True)

    def backward(loss, **options):
        logits.grad = None
        with torch._dynamo.compiled_autograd._enable(compiler):
            loss.backward(**options)
        torch.testing.assert_close(logits.grad, 3 * expected)
        return logits.grad.clone()

    first = backward(3 * cross_entropy(logits, target))
    loss = 3 * cross_entropy(logits, target)
    second, third = backward(loss, retain_graph=True), backward(loss, retain_graph=True)
    assert torch.equal(first, second) and torch.equal(second, third)
    backward(3 * cross_entropy(logits, target, weight=torch.ones(5), prior=torch.full((5,), 0.2)))


# Export


class Loss(torch.nn.Module):
    def forward(self, logits, target):
        return cross_entropy(logits, target)


@pytest.mark.parametrize("dynamic", [False, True])
def test_export_round_trip(dynamic):
    logits, target = cases.batch((4, 5))
    rows = torch.export.Dim("rows", min=2)
    shapes = {"logits": {0: rows}, "target": {0: rows}} if dynamic else None
    program = torch.export.export(Loss(), (logits, target), dynamic_shapes=shapes)
    assert "ls_loss.cross_entropy.default" in operators_in(program.graph_module)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    for rows in (4, 9) if dynamic else (4,):
        args = cases.batch((rows, 5), seed=rows)
        assert torch.equal(loaded.module()(*args), cross_entropy(*args))
    decomposed = program.run_decompositions()
    assert operators_in(decomposed.graph_module) == ["ls_loss._loss.default"]
    assert torch.equal(decomposed.module()(logits, target), cross_entropy(logits, target))


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_smoothing_as_a_number_of_numpy(kind):
    """Dynamo makes a tensor of it. Where native needs a break of the graph for its value, so may ours."""
    numpy = pytest.importorskip("numpy")
    logits, target = batch(6, 5)
    smoothing = getattr(numpy, kind)(0.25)
    for module in (torch.nn.CrossEntropyLoss, ls_loss.CrossEntropyLoss):
        torch._dynamo.reset()
        compiled = torch.compile(module(label_smoothing=smoothing), backend="eager", fullgraph=kind == "float64")
        torch.testing.assert_close(compiled(logits, target), step(logits / 2, target, label_smoothing=0.25) / 3)
