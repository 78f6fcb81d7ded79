"""Who owns the gradient: it is computed in forward and handed out by backward, in place where nobody else can see it.

Every case is one in which a buffer that is scaled or returned twice would spoil somebody's numbers.
"""

import cases
import pytest
import reference
import torch
import torch.nn.functional as F
from op import cross_entropy
from paths import operators
from torch.autograd import grad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def batch(*shape, dtype=torch.float64):
    logits, target = cases.batch(shape, dtype)
    return logits.requires_grad_(), target


def expected_grad(logits, target, grad_output=None, **options):
    loss = reference.cross_entropy(logits, target, **({"label_smoothing": 0.1} | options))
    return grad(loss, logits, grad_output)[0]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


# Other values of grad_output than 1


def test_losses_that_are_scaled_and_added():
    logits, target = batch(4, 5)
    (3 * cross_entropy(logits, target)).backward()
    assert_close(logits.grad, 3 * expected_grad(logits, target))
    cross_entropy(logits, target).backward()  # accumulates into what the first backward left
    assert_close(logits.grad, 4 * expected_grad(logits, target))


def test_two_losses_on_one_pair_of_logits():
    """The engine adds the second gradient into the first one's buffer."""
    logits, target = batch(4, 5)
    other = (target + 1) % 5
    (cross_entropy(logits, target) + 2 * cross_entropy(logits, other)).backward()
    assert_close(logits.grad, expected_grad(logits, target) + 2 * expected_grad(logits, other))


def test_one_loss_used_twice():
    logits, target = batch(4, 5)
    loss = cross_entropy(logits, target)
    (loss * loss + loss).backward()
    assert_close(logits.grad, (2 * loss.detach() + 1) * expected_grad(logits, target))


@pytest.mark.parametrize("retain_graph", [False, True])
@pytest.mark.parametrize("kind", ["contiguous", "expanded", "every other", "transposed", "one"])
def test_strides_of_grad_output(kind, retain_graph):
    """A kernel that took grad_output for contiguous would read past a tensor of one element."""
    logits, target = batch(3, 5, 4)
    grad_output = {
        "contiguous": lambda: cases.randn(3, 4),
        "expanded": lambda: torch.tensor(2.5, dtype=torch.float64).expand(3, 4),
        "every other": lambda: cases.randn(3, 8)[:, ::2],
        "transposed": lambda: cases.randn(4, 3).t(),
        "one": lambda: torch.ones(3, 4, dtype=torch.float64),
    }[kind]()
    loss = cross_entropy(logits, target, reduction="none")
    (ours,) = grad(loss, logits, grad_output, retain_graph=retain_graph)
    assert_close(ours, expected_grad(logits, target, grad_output, reduction="none"))


@pytest.mark.parametrize("target_shape", [(), (1,)])
def test_grad_output_of_one_row(target_shape):
    logits, _ = batch(5)
    loss = cross_entropy(logits, torch.full(target_shape, 3), reduction="none")
    assert loss.shape == target_shape
    for retain_graph in (True, False):
        (ours,) = grad(loss, logits, torch.full(target_shape, 2.0, dtype=torch.float64), retain_graph=retain_graph)
        assert_close(ours, 2 * expected_grad(logits, torch.tensor(3)))
    (second,) = grad(grad(cross_entropy(logits, torch.tensor(3)), logits, create_graph=True)[0].norm(), logits)
    assert second.isfinite().all()


@pytest.mark.parametrize("retain_graph", [False, True])
def test_float16_gradients_do_not_underflow(retain_graph):
    """They are stored under a power of two: in a mean over many rows they are too small until the scaler multiplies."""
    logits, target = batch(4096, 10, dtype=torch.float16)
    scale = torch.tensor(2.0**14, dtype=torch.float16)
    (ours,) = grad(cross_entropy(logits, target), logits, scale, retain_graph=retain_graph)
    expected = expected_grad(logits.detach().double().requires_grad_(), target, scale.double())
    assert (ours.double() - expected).abs().max() <= 2.0**-10 * expected.abs().max()
    assert ((ours == 0) & (expected.abs() > 2.0**-24)).sum() == 0


# A graph that is kept


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_kept_graph_gives_the_same_bits_again(scale, dtype):
    logits, target = batch(8, 5, dtype=dtype)
    loss = cross_entropy(logits, target)
    grad_output = torch.tensor(scale, dtype=dtype)
    first, second, third = (grad(loss, logits, grad_output, retain_graph=keep)[0] for keep in (True, True, False))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert first.data_ptr() != second.data_ptr()


def test_results_of_a_kept_graph_may_be_edited():
    """autograd.grad hands out the very tensor that backward returns."""
    logits, target = batch(4, 5)
    loss = cross_entropy(logits, target)
    (first,) = grad(loss, logits, retain_graph=True)
    expected = first.clone()
    first.zero_()
    assert torch.equal(grad(loss, logits, retain_graph=True)[0], expected)
    assert torch.equal(grad(loss, logits)[0], expected)


def test_backward_twice_raises():
    logits, target = batch(4, 5)
    loss = cross_entropy(logits, target)
    loss.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("retain_graph", [False, True])
def test_batched_grad_output(retain_graph):
    """A batched grad_output has no data to read, and an operator that writes no batching rule."""
    logits, target = batch(3, 5)
    loss = cross_entropy(logits, target, reduction="none")
    outputs = cases.randn(4, 3)
    (ours,) = grad(loss, logits, outputs, is_grads_batched=True, retain_graph=retain_graph)
    expected = torch.stack([expected_grad(logits, target, output, reduction="none") for output in outputs])
    assert_close(ours, expected)


def test_vectorized_jacobian():
    logits, target = batch(3, 5)
    ours = torch.autograd.functional.jacobian(
        lambda x: cross_entropy(x, target, reduction="none"), logits, vectorize=True
    )
    native = torch.autograd.functional.jacobian(
        lambda x: F.cross_entropy(x, target, reduction="none", label_smoothing=0.1), logits
    )
    assert_close(ours, native)


# Memory


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_backward_scales_in_place(scale):
    logits, target = batch(64, 1000, dtype=torch.float32)
    _, names = operators(cross_entropy(logits, target).backward, torch.tensor(scale))
    assert "ls_loss::_scale_" in names
    assert not {"aten::mul", "aten::mul_", "aten::clone", "aten::copy_", "aten::empty_like"} & set(names)


def test_forward_and_backward_allocate_one_gradient():
    """The leaf takes the buffer that the kernel wrote: the engine copies it if anybody else still holds it."""
    logits, target = batch(64, 1000, dtype=torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        cross_entropy(logits, target).backward()
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profiler.events())
    assert logits.nbytes <= allocated <= 1.05 * logits.nbytes


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "rows apart"])
def test_gradients_are_contiguous_for_every_layout(layout):
    """As native's: PyTorch's generic tests compare strides."""
    target = cases.integers(5, 4, 6, 3)
    logits = {
        "transposed": lambda: cases.randn(3, 6, 5, 4).permute(3, 2, 1, 0),
        "channels_last": lambda: cases.randn(4, 5, 6, 3).to(memory_format=torch.channels_last),
        "rows apart": lambda: cases.randn(4, 9, 6, 3)[:, 2:7],
    }[layout]()
    gradients = []
    inner = logits.requires_grad_() * 1
    inner.register_hook(gradients.append)
    cross_entropy(inner, target).backward()
    assert gradients[0].is_contiguous()
    assert_close(gradients[0], expected_grad(logits, target))


# Edits in place


@pytest.mark.parametrize("edit", ["logits", "logits.data", "logits.detach()"])
def test_logits_may_be_edited_after_forward(edit):
    """Native saves the log-probabilities, not the logits: training loops that reuse the logits' memory work."""
    leaf, target = batch(4, 5)
    expected = expected_grad(leaf, target)
    for create_graph in (False, True):
        logits = leaf * 1
        loss = cross_entropy(logits, target)
        with torch.no_grad():
            {"logits": logits, "logits.data": logits.data, "logits.detach()": logits.detach()}[edit].zero_()
        (first,) = grad(loss, leaf, create_graph=create_graph)
        assert_close(first, expected)
    (second,) = grad(first.pow(2).sum(), leaf)
    (native,) = grad(F.cross_entropy(leaf, target, label_smoothing=0.1), leaf, create_graph=True)
    assert_close(second, grad(native.pow(2).sum(), leaf)[0])


def test_the_loss_may_be_edited_after_forward():
    logits, target = batch(4, 5)
    loss = cross_entropy(logits, target)
    loss *= 2
    loss.backward()
    assert_close(logits.grad, 2 * expected_grad(logits, target))


@pytest.mark.parametrize("edited", ["target", "weight"])
def test_edits_of_target_and_weight_raise(edited):
    logits, target = batch(4, 5)
    weight = cases.weights(5, torch.float64)
    loss = cross_entropy(logits, target, weight=weight)
    {"target": target, "weight": weight}[edited].add_(1)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        loss.backward()


def test_logits_are_not_kept_alive():
    leaf, target = batch(4, 5)
    logits = leaf.detach().clone().requires_grad_()
    loss = cross_entropy(logits * 1, target)
    saved = []
    with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        loss = cross_entropy(logits, target)
    assert [tensor.shape for tensor in saved if tensor.dim() == 2] == [logits.shape]
    assert all(tensor.data_ptr() != logits.data_ptr() for tensor in saved)
    assert loss.requires_grad


# Hooks, checkpoints, other ways to run a backward


def test_what_hooks_hold_is_not_scaled():
    """A hook may keep the packed gradient itself: scaling in place would change what its owner sees."""
    logits, target = batch(4, 5)
    held = []
    with saved_tensors_hooks(lambda tensor: held.append(tensor) or tensor, lambda tensor: tensor):
        loss = cross_entropy(logits, target)
    before = [tensor.clone() for tensor in held]
    (3 * loss).backward()
    assert_close(logits.grad, 3 * expected_grad(logits, target))
    assert all(torch.equal(now, then) for now, then in zip(held, before, strict=True))


def test_hooks_that_pack():
    logits, target = batch(4, 5)
    for hooks in (save_on_cpu(), saved_tensors_hooks(lambda x: x.numpy().copy(), torch.from_numpy)):
        with hooks:
            loss = cross_entropy(logits, target)
        (ours,) = grad(3 * loss, logits)
        assert_close(ours, 3 * expected_grad(logits, target))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    logits, target = batch(4, 5)
    loss = checkpoint(lambda x: cross_entropy(x.sin(), target), logits, use_reentrant=use_reentrant)
    (3 * loss).backward()
    assert_close(logits.grad, 3 * grad(reference.cross_entropy(logits.sin(), target, label_smoothing=0.1), logits)[0])


def test_only_some_inputs_are_asked_for():
    logits, target = batch(4, 5)
    other = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = cross_entropy(logits * other, target)
    (of_other,) = grad(loss, other, retain_graph=True)
    loss.backward(inputs=[logits])
    assert other.grad is None
    assert_close(logits.grad, expected_grad(logits, target))
    assert_close(of_other, (logits * logits.grad).sum())


def test_gradients_accumulate_over_micro_batches():
    logits, target = batch(8, 5)
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        (cross_entropy(logits[rows], target[rows]) / 4).backward()
    assert_close(logits.grad, expected_grad(logits, target))


def test_anomaly_mode():
    logits, target = batch(4, 5)
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        cross_entropy(logits, target).backward()
    assert_close(logits.grad, expected_grad(logits, target))


def test_wrong_grad_output_raises():
    logits, target = batch(4, 5)
    with pytest.raises(RuntimeError, match="Mismatch in shape: grad_output"):
        grad(cross_entropy(logits, target), logits, torch.ones(2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="Mismatch in shape: grad_output"):
        grad(cross_entropy(logits, target, reduction="none"), logits, torch.ones(5, dtype=torch.float64))
