"""Compiled by Inductor: every option, dtype and layout, both ways, with the operators in the program and eager's numbers.

`make test-compile` runs it; tests/test_compile_basic.py has the few that every run of the tests can wait for.
"""

import cases
import pytest
import torch
from paths import operators, route
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import ls_loss

MODES = {
    "default": {},
    "max-autotune-no-cudagraphs": {"mode": "max-autotune-no-cudagraphs"},
    "aot_eager": {"backend": "aot_eager"},
}
all_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(logits, target, **options):
    """The logits are not a leaf, grad_output is not 1."""
    return 3 * ls_loss.cross_entropy(logits * 2, target, **({"label_smoothing": 0.1} | options))


def loss_and_gradient(function, logits, target, **options):
    leaf = logits.detach().requires_grad_()
    loss = function(leaf, target, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def check(compiled, function, logits, target, **options):
    torch.testing.assert_close(
        loss_and_gradient(compiled, logits, target, **options), loss_and_gradient(function, logits, target, **options)
    )
    _, ran = operators(loss_and_gradient, compiled, logits, target, **options)
    assert ran.count("ls_loss::_loss_grad") == 1 and "aten::_log_softmax" not in ran
    with torch.no_grad():
        torch.testing.assert_close(compiled(logits, target, **options), function(logits, target, **options))
        assert route(compiled, logits, target, **options) == "kernel"


WEIGHT, PRIOR = cases.weights(5), cases.prior(5)
CALLS = {
    "plain": ((4, 5), torch.float32, {}),
    "all options": ((4, 5), torch.float32, dict(weight=WEIGHT, prior=PRIOR, reduction="none", ignore_index=2)),
    "sum of bfloat16": ((4, 5), torch.bfloat16, dict(reduction="sum", label_smoothing=0.0)),
    "float16": ((4, 5), torch.float16, {}),
    "float64 images": ((2, 5, 3, 2), torch.float64, dict(weight=WEIGHT.double())),
    "classes last": ((2, 3, 5), torch.float32, dict(dim=-1)),
    "many rows": ((4000, 37), torch.float32, {}),
}


@all_modes
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", CALLS)
def test_calls(name, dynamic, mode):
    shape, dtype, options = CALLS[name]
    logits, target = cases.batch(shape, dtype, dim=options.get("dim", 1))
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, **MODES[mode])
    check(compiled, step, logits, target, **options)


@all_modes
def test_probabilities(mode):
    logits, target = cases.batch((4, 5))[0], cases.probabilities((4, 5))
    check(torch.compile(step, fullgraph=True, **MODES[mode]), step, logits, target)


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@pytest.mark.parametrize("marked", [(0,), (1,), (0, 1)], ids=["N", "C", "N and C"])
def test_one_program_for_marked_sizes(marked, backend):
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for size in (4, 9, 130):
        logits, target = cases.batch((size if 0 in marked else 6, size if 1 in marked else 5))
        for dim in marked:
            torch._dynamo.mark_dynamic(logits, dim)
        if 0 in marked:
            torch._dynamo.mark_dynamic(target, 0)
        leaf = logits.requires_grad_()
        loss = compiled(leaf, target)
        torch.testing.assert_close(loss, step(leaf, target))
        torch.testing.assert_close(*(torch.autograd.grad(value, leaf)[0] for value in (loss, step(leaf, target))))
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_one_program_for_all_batch_sizes(backend):
    """A last, smaller batch must not compile again."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for rows in (64, 64, 17, 1024, 3):
        logits, target = cases.batch((rows, 5))
        torch.testing.assert_close(loss_and_gradient(compiled, logits, target), loss_and_gradient(step, logits, target))
    assert counter.frame_count == 1


MODULES = {
    "CrossEntropyLoss": ls_loss.CrossEntropyLoss(WEIGHT, label_smoothing=0.1, prior=PRIOR),
    "LabelSmoothingCrossEntropy": ls_loss.LabelSmoothingCrossEntropy(0.1, WEIGHT, prior=PRIOR),
    "LabelSmoothingCrossEntropyFlat": ls_loss.LabelSmoothingCrossEntropyFlat(0.1, WEIGHT),
    "LabelSmoothingLoss": ls_loss.LabelSmoothingLoss(0.1, "sum", WEIGHT, prior=PRIOR),
}


@all_modes
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, mode):
    module = MODULES[name]
    logits, target = cases.batch((4, 5))
    check(torch.compile(module, fullgraph=True, **MODES[mode]), module, logits, target)


@all_modes
def test_patched_native_modules(mode):
    module = nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1)
    with ls_loss.patch():
        check(torch.compile(module, fullgraph=True, **MODES[mode]), module, *cases.batch((4, 5)))


@all_modes
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_whole_training_step(dynamic, mode):
    """Model, loss, backward and optimizer, the forward in one graph; then the same weights as eager."""

    def train(compile_with):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 5))
        loss = ls_loss.CrossEntropyLoss(label_smoothing=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)

        def forward(inputs, target):
            return loss(model(inputs), target)

        update = optimizer.step
        if compile_with is not None:
            forward = torch.compile(forward, fullgraph=True, dynamic=dynamic, **compile_with)
            update = torch.compile(optimizer.step, **compile_with)
        losses = []
        for rows in (8, 8, 5):
            inputs, target = cases.randn(rows, 7, seed=rows).float(), cases.integers(5, rows, seed=rows)
            optimizer.zero_grad()
            value = forward(inputs, target)
            value.backward()
            update()
            losses.append(value.item())
        assert route(forward, inputs, target) == "kernel"
        return torch.tensor(losses), torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    torch.testing.assert_close(train(MODES[mode]), train(None))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_autograd(backend):
    """Plain, then retained twice on the same shape: one trace serves them all, and must not scale the saved gradient."""
    logits, target = cases.batch((4, 5))
    logits.requires_grad_()
    expected = torch.autograd.grad(step(logits, target), logits)[0]

    def backward(loss, **options):
        logits.grad = None
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True)):
            loss.backward(**options)
        torch.testing.assert_close(logits.grad, expected)
        return logits.grad.clone()

    first = backward(step(logits, target))
    loss = step(logits, target)
    assert torch.equal(first, backward(loss, retain_graph=True)) and torch.equal(
        first, backward(loss, retain_graph=True)
    )


def test_compiled_autograd_of_a_compiled_step():
    logits, target = cases.batch((4, 5))
    logits.requires_grad_()
    with torch._dynamo.config.patch(compiled_autograd=True):

        @torch.compile
        def whole(logits, target):
            step(logits, target).backward()

        whole(logits, target)
    torch.testing.assert_close(logits.grad, torch.autograd.grad(step(logits, target), logits)[0])


@all_modes
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("rows", [8, 4000])  # native compiled aborts the process where its loop is parallel
def test_targets_out_of_range_raise(rows, requires_grad, reduction, mode):
    compiled = torch.compile(step, fullgraph=True, **MODES[mode])
    logits, target = cases.batch((rows, 37))
    good = compiled(logits.requires_grad_(requires_grad), target, reduction=reduction)
    wrong = target.clone()
    wrong[5] = 37
    with pytest.raises(IndexError, match=r"Target 37 is out of bounds\."):
        compiled(logits, wrong, reduction=reduction)
    assert torch.equal(good, compiled(logits, target, reduction=reduction))


@all_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, mode):
    model = nn.Linear(7, 5)

    def forward(inputs, target):
        with torch.autocast("cpu", dtype):
            return ls_loss.cross_entropy(model(inputs), target, WEIGHT, label_smoothing=0.1)

    inputs, target = cases.randn(4, 7).float(), cases.integers(5, 4)
    compiled = torch.compile(forward, fullgraph=True, **MODES[mode])
    loss = compiled(inputs, target)
    assert loss.dtype == torch.float32
    # Inductor may leave out a rounding of the logits to 16 bits that eager makes
    torch.testing.assert_close(loss, forward(inputs, target), rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert route(compiled, inputs, target) == "kernel"


@all_modes
def test_transforms_inside(mode):
    logits, target = cases.batch((4, 5))

    def per_sample(logits, target):
        one = torch.func.grad(lambda x, y: ls_loss.cross_entropy(x, y, label_smoothing=0.1))
        return torch.func.vmap(one)(logits, target)

    compiled = torch.compile(per_sample, fullgraph=True, **MODES[mode])
    torch.testing.assert_close(compiled(logits, target), per_sample(logits, target))


def test_second_derivatives_are_refused_as_for_native():
    """AOTAutograd compiles one backward, whatever the program."""
    logits, target = cases.batch((4, 5))
    logits.requires_grad_()
    messages = []
    for function in (ls_loss.cross_entropy, torch.nn.functional.cross_entropy):
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        (first,) = torch.autograd.grad(compiled(logits, target), logits, create_graph=True)
        with pytest.raises(RuntimeError) as error:
            torch.autograd.grad(first.sum(), logits)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
