"""The same bits in another Python thread, from run to run, for a row alone and in a batch, for rows apart, on AVX2 and AVX-512.

What docs/numerics.md promises under "Determinism", but for the number of threads of a call and forks, which are in
test_openmp.py. It is bytes that are compared, for 0 == -0. Uses the public package; each instruction set in a process of its
own.
"""

import contextlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

import cases
import processes
import pytest
import torch

import ls_loss

SHAPES = {"few classes": (64, 10), "rows": (512, 1000), "planes": (2, 21, 64, 64), "shared rows": (3, 70_000)}
of_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
of_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
of_reductions = pytest.mark.parametrize("reduction", ["mean", "none"])


def forward(logits, target, reduction):
    x = logits.detach().requires_grad_()  # where its numbers lie: no copy
    return x, ls_loss.cross_entropy(x, target, label_smoothing=0.1, reduction=reduction)


def backward(x, loss):
    """The factor is not 1, so that backward has something to compute. The memory is left as bad as it can be."""
    (grad,) = torch.autograd.grad(loss, x, torch.full_like(loss, 0.7))
    result = loss.detach().clone(), grad.clone(memory_format=torch.contiguous_format)
    grad.fill_(torch.nan)
    return result


def step(logits, target, reduction="none"):
    return backward(*forward(logits, target, reduction))


def assert_same_bits(results, expected, name=""):
    for what, ours, wanted in zip(("loss", "gradient"), results, expected, strict=True):
        assert wanted.isfinite().all(), f"{what} {name}"
        ours, wanted = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (ours, wanted))
        assert torch.equal(ours, wanted), f"{what} {name}"


@of_reductions
@of_dtypes
@of_shapes
def test_backward_in_another_thread(shape, dtype, reduction):
    """Each executor has one thread, which is new to torch."""
    logits, target = cases.batch(shape, dtype)
    expected = step(logits, target, reduction)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        ahead = one.submit(forward, logits, target, reduction).result()
        assert_same_bits(other.submit(backward, *ahead).result(), expected, "of two threads")
        assert_same_bits(backward(*one.submit(forward, logits, target, reduction).result()), expected, "forward in one")
        ahead = forward(logits, target, reduction)
        assert_same_bits(other.submit(backward, *ahead).result(), expected, "backward in one")


@of_reductions
@of_dtypes
@of_shapes
def test_backward_with_another_number_of_threads_than_forward(shape, dtype, reduction):
    logits, target = cases.batch(shape, dtype)
    torch.set_num_threads(1)
    expected = step(logits, target, reduction)
    for threads in ((1, 7), (7, 1), (2, 3)):
        torch.set_num_threads(threads[0])
        ahead = forward(logits, target, reduction)
        torch.set_num_threads(threads[1])
        assert_same_bits(backward(*ahead), expected, "of {} and then {} threads".format(*threads))


@of_reductions
@of_dtypes
@of_shapes
def test_run_to_run(shape, dtype, reduction):
    logits, target = cases.batch(shape, dtype)
    expected = step(logits, target, reduction)
    assert_same_bits(step(logits, target, reduction), expected, "at once")
    step(*cases.batch((shape[0] + 3, shape[1] - 1, *shape[2:]), dtype, seed=2), reduction)  # in the same memory
    assert_same_bits(step(logits, target, reduction), expected, "after another shape")


# Dtype, shape of the batch, and sizes of what is taken out of it: at those sizes the strategy is that of the batch.
PARTS = [
    *((dtype, (70, classes), (1, 5)) for dtype in cases.DTYPES for classes in (1, 2, 10, 17, 32)),
    *((torch.float32, (64, classes), (32, 40)) for classes in (33, 100, 136)),
    *((torch.float64, (64, classes), (32, 40)) for classes in (33, 56)),
    *((torch.bfloat16, (64, classes), (32, 40)) for classes in (33, 160)),
    *((dtype, (20, classes), (1, 3)) for dtype in cases.DTYPES for classes in (161, 1000, 5000)),
    (torch.float32, (20, 100), (1, 3)),  # too few to be packed
    (torch.float32, (12, 70_000), (1, 2)),  # two threads share the rows of the part, not those of the batch
    (torch.bfloat16, (5, 21, 30, 30), (1, 2)),
    (torch.float32, (5, 21, 30, 30), (1, 2)),
]


@pytest.mark.parametrize("dtype, shape, sizes", PARTS, ids=str)
def test_a_row_alone_and_in_a_batch(dtype, shape, sizes):
    torch.set_num_threads(2)
    logits, target = cases.batch(shape, dtype)
    losses, grads = step(logits, target)
    for size in sizes:
        for first in {0, 1, shape[0] // 2 - size // 2, shape[0] - size}:
            part = slice(first, first + size)
            ours = step(logits[part].clone(), target[part].clone())
            assert_same_bits(ours, (losses[part], grads[part]), f"of {size} from row {first} on")


@of_reductions
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(5, 10), (64, 10), (5, 100), (64, 100), (9, 1000), (3, 70_000), (4, 21, 30, 30)], ids=str
)
def test_rows_that_lie_apart(shape, dtype, reduction):
    """Every other row, a range of columns, and both; for planes of samples and classes. Between them lies NaN."""
    logits, target = cases.batch(shape, dtype)
    expected = step(logits, target, reduction)
    memory = logits.new_full((2 * shape[0], shape[1] + 7, *shape[2:]), torch.nan)
    for view in (
        memory[: 2 * shape[0] : 2].narrow(1, 0, shape[1]),
        memory[: shape[0]].narrow(1, 3, shape[1]),
        memory.new_full((2 * shape[0], *shape[1:]), torch.nan)[::2],
    ):
        view.copy_(logits)
        assert not view.is_contiguous()
        assert_same_bits(step(view, target, reduction), expected, f"strides {view.stride()}")


# Prints a digest of each call's loss and gradient. Smoothed, with weights, with a prior, and with probabilities as targets. One
# thread makes them: torch's sum and softmax have other bits for other numbers of threads.
CODE = """
import hashlib, torch, ls_loss
print(ls_loss.config()["isa"])
generator = torch.Generator().manual_seed(0)
for shape, dtypes in {shapes}:
    for dtype in dtypes:
        torch.set_num_threads(1)
        logits = 3 * torch.randn(shape, generator=generator, dtype=dtype)
        target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
        weight = torch.rand(shape[1], generator=generator, dtype=dtype)
        prior = weight / weight.sum()
        calls = [(target, {{}}), (target, dict(weight=weight)), (target, dict(prior=prior)), (logits.softmax(1), {{}})]
        torch.set_num_threads({threads})
        for i, (of_rows, options) in enumerate(calls):
            for reduction in ("none", "mean"):
                x = logits.clone().requires_grad_()
                loss = ls_loss.cross_entropy(x, of_rows, reduction=reduction, label_smoothing=0.1, **options)
                loss.backward(torch.full_like(loss, 0.7))
                name = f"{{shape}}{{dtype}}call{{i}}{{reduction}}".replace(" ", "")
                for part, tensor in (("loss", loss.detach()), ("gradient", x.grad)):
                    assert tensor.isfinite().all()
                    print(name + part, hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""
BOTH = ("avx2", "avx512")
DTYPES = (torch.float32, torch.float64)
SHORT = [(7, 2), (100, 10), (9, 32), (64, 33), (70, 56)]
PLANES = [(2, 5, 3, 3), (2, 21, 33, 34), (1, 150, 10, 10)]
# Doubles of more than 56 classes go one by one.
OF_ROWS_OR_POSITIONS = [
    *((shape, DTYPES) for shape in SHORT + PLANES),
    *(((64, n), DTYPES[:1]) for n in (57, 100, 136)),
]


def test_two_processes():
    """One is new; this one has used its memory, and its calls take another number of threads."""
    shapes = [(shape, DTYPES) for shape in ((70, 100), (5, 3000), (3, 70_000), (2, 21, 33, 34))]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(CODE.format(shapes=shapes, threads=3), {})
    ours = printed.getvalue().split()
    assert len(ours) == 1 + 2 * len(shapes) * len(DTYPES) * 4 * 2 * 2
    assert processes.run(CODE.format(shapes=shapes, threads=1), prelude="") == ours


@pytest.mark.skipif(
    not set(BOTH) <= set(ls_loss.config()["isa_available"]), reason="the machine has not both AVX2 and AVX-512"
)
def test_two_instruction_sets_where_lanes_are_rows_or_positions():
    digests = []
    for isa in BOTH:
        code = CODE.format(shapes=OF_ROWS_OR_POSITIONS, threads=torch.get_num_threads())
        ran, *words = processes.run(code, prelude="", env={**os.environ, "LS_LOSS_ISA": isa})
        assert ran == isa
        digests.append(dict(zip(words[::2], words[1::2], strict=True)))
    assert len(digests[0]) == sum(len(dtypes) for _, dtypes in OF_ROWS_OR_POSITIONS) * 4 * 2 * 2
    differing = [name for name, digest in digests[0].items() if digests[1][name] != digest]
    assert not differing
