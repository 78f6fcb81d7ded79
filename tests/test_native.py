"""torch.nn.functional.cross_entropy over its whole option space, and over the samples that ship with torch.

First that the reference of these tests is native's formula, in float64; then that ours is nowhere further from float64 than
native by more than a rounding, and has its dtype, strides and NaN.
"""

import re

import cases
import pytest
import torch
import torch.nn.functional as F
from tolerance import expect
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import ls_loss

OP = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss)


def results(function, logits, target, outer, **options):
    """The loss, and the gradients of whatever requires one."""
    loss = function(logits, target, **options)
    leaves = [tensor for tensor in (logits, target) if tensor.requires_grad]
    return [loss, *torch.autograd.grad(loss, leaves, outer(loss))] if leaves else [loss]


def not_one(loss):
    """A grad_output that must be multiplied with."""
    return (
        torch.linspace(-1, 2, max(loss.numel(), 1), dtype=torch.float64)[: loss.numel()].view(loss.shape).to(loss.dtype)
    )


def assert_no_worse(ours, native, truth, name):
    """Not further from float64 than native, but for one rounding of the largest value and what float32 cannot tell from 0."""
    assert ours.dtype == native.dtype and ours.shape == native.shape and ours.stride() == native.stride(), name
    assert torch.equal(ours.isnan(), native.isnan()), name
    if not truth.numel():
        return
    truth = truth.detach().nan_to_num()
    error, natives = ((got.detach().double().nan_to_num() - truth).abs().max() for got in (ours, native))
    assert error <= natives + 8 * torch.finfo(ours.dtype).eps * truth.abs().max() + 1e-12, (
        f"{name}: {error} > {natives}"
    )


def option_space():
    for combo in cases.product(
        shape=cases.SHAPES,
        kind=("index", "probabilities"),
        reduction=cases.REDUCTIONS,
        weighted=(False, True),
        smoothing=cases.SMOOTHINGS,
        ignore_index=(-100, 1, 4, -1, 10**12),
    ):
        if combo["kind"] == "index" or combo["ignore_index"] < 0:
            yield combo


def arrange(combo, dtype):
    logits, target = cases.batch(combo["shape"], dtype, scale=1.0)
    if combo["kind"] == "probabilities":
        target = cases.probabilities(combo["shape"], dtype).requires_grad_()
    else:
        target = cases.ignoring(target, combo["ignore_index"])
    classes = cases.num_classes(combo["shape"])
    options = dict(
        weight=cases.weights(classes, dtype) if combo["weighted"] else None,
        reduction=combo["reduction"],
        label_smoothing=combo["smoothing"],
        ignore_index=combo["ignore_index"],
    )
    return logits.requires_grad_(), target, options


def test_the_reference_is_natives_formula():
    for combo in option_space():
        logits, target, options = arrange(combo, torch.float64)
        loss, grad, *_ = results(F.cross_entropy, logits, target, not_one, **options)
        if not loss.isnan().any():  # all rows of a small batch may be ignored
            expected = expect(logits, target, not_one(loss), **options)
            for got, want in ((loss.detach(), expected.loss), (grad, expected.grad)):
                torch.testing.assert_close(
                    got, want, rtol=1e-12, atol=1e-13, msg=lambda text, combo=combo: f"{combo}: {text}"
                )


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_no_worse_over_the_option_space(dtype):
    for combo in option_space():
        calls = []
        for function, kind in (
            (ls_loss.cross_entropy, dtype),
            (F.cross_entropy, dtype),
            (F.cross_entropy, torch.float64),
        ):
            logits, target, options = arrange(combo, dtype)
            if kind != dtype:  # the same numbers, wider
                logits = logits.detach().double().requires_grad_()
                if target.is_floating_point():
                    target = target.detach().double().requires_grad_()
                options["weight"] = None if options["weight"] is None else options["weight"].double()
            calls.append(results(function, logits, target, not_one, **options))
        for outcomes in zip(*calls, strict=True):
            assert_no_worse(*outcomes, combo)


def widened(value):
    if torch.is_tensor(value) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def test_torchs_own_samples_of_the_function():
    """84 samples, each also non-contiguous, times five amounts of smoothing, of which torch itself tests none."""
    count = 0
    for dtype in cases.DTYPES:
        for contiguous in OP.sample_inputs("cpu", dtype, requires_grad=True):
            for sample in (contiguous, contiguous.noncontiguous()):
                for smoothing in cases.SMOOTHINGS:
                    options = dict(sample.kwargs, label_smoothing=smoothing)
                    wide = {name: widened(value) for name, value in options.items()}
                    ours, native, truth = (
                        results(ls_loss.cross_entropy, sample.input, *sample.args, not_one, **options),
                        results(OP.op, sample.input, *sample.args, not_one, **options),
                        results(OP.op, widened(sample.input), *map(widened, sample.args), not_one, **wide),
                    )
                    for outcomes in zip(ours, native, truth, strict=True):
                        assert_no_worse(*outcomes, (sample, options))
                    count += 1
    assert count == 840


def test_torchs_own_samples_of_the_module():
    count = 0
    for dtype in cases.DTYPES:
        for training in (True, False):
            for sample in MODULE.module_inputs_func(
                MODULE, device="cpu", dtype=dtype, requires_grad=False, training=training
            ):
                made, called = sample.constructor_input, sample.forward_input
                native, truth = (
                    torch.nn.CrossEntropyLoss(*map(up, made.args), **{name: up(v) for name, v in made.kwargs.items()})(
                        *map(up, called.args)
                    )
                    for up in (lambda value: value, widened)
                )
                ours = ls_loss.CrossEntropyLoss(*made.args, **made.kwargs).train(training)(*called.args)
                assert_no_worse(ours, native, truth, sample)
                count += 1
    assert count == 840


def test_torchs_own_error_samples_of_the_module():
    samples = MODULE.module_error_inputs_func(
        MODULE, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert len(samples) == 7
    for sample in samples:
        made, called = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type) as error:
            ls_loss.CrossEntropyLoss(*made.args, **made.kwargs)(*called.args, **called.kwargs)
        assert re.search(sample.error_regex, str(error.value)), sample


def test_weight_of_another_dtype_with_probabilities():
    """Promoted, as native."""
    logits, soft = cases.batch((4, 5))[0], cases.probabilities((4, 5))
    for weight in (cases.weights(5, torch.float64), cases.weights(5, torch.bfloat16)):
        ours, native = (f(logits, soft, weight, label_smoothing=0.1) for f in (ls_loss.cross_entropy, F.cross_entropy))
        assert ours.dtype == native.dtype
        torch.testing.assert_close(ours, native)


def test_gradient_of_weight_with_probabilities():
    logits, soft = cases.batch((4, 5), torch.float64)[0], cases.probabilities((4, 5), torch.float64)
    grads = []
    for function in (ls_loss.cross_entropy, F.cross_entropy):
        weight = cases.weights(5, torch.float64).requires_grad_()
        function(logits, soft, weight, label_smoothing=0.1).backward()
        grads.append(weight.grad)
    torch.testing.assert_close(*grads)
