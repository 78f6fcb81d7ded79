"""The thirteen defects of native cross_entropy that are known by letters, A to M: native's figure beside ours, against float64.

Each test first shows that ours is right, prints both figures (`pytest -rP` shows them), then skips, saying so, where this
torch has mended native. Uses the public package; native only to be measured.
"""

import math
import subprocess
import sys

import cases
import numpy
import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_within, expect

import ls_loss

INF = math.inf
SECONDS = 300  # of a process that compiles


def both(*args, grad_output=None, **options):
    """(loss, gradient) of ours, then of native."""
    logits, target = args
    results = []
    for function in (ls_loss.cross_entropy, F.cross_entropy):
        x = logits.detach().clone().requires_grad_()
        loss = function(x, target, **options)
        results.append((loss.detach(), torch.autograd.grad(loss, x, grad_output)[0]))
    return results


def report(letter, what, ours, native):
    print(f"defect {letter}: {what}: ours {ours:.3g}, native {native:.3g}")


def skip_if_mended(is_mended):
    if is_mended:
        pytest.skip(f"torch {torch.__version__} has mended this: native is right too")


def assert_right(loss, grad, expected, name):
    assert_within(loss, expected.loss, expected.loss_tolerance, name, "loss")
    assert_within(grad, expected.grad, expected.grad_tolerance, name, "gradient")


def ulps(got, want, bits, least):
    """Errors in units in the last place of the exact values, for a dtype of so many bits after the leading one."""
    exponent = torch.floor(torch.log2(want.abs().clamp_min(2.0**least)))
    return (got.double() - want).abs() / 2.0 ** (exponent - bits)


def test_a_sum_of_float16_exps_overflows():
    logits, target = torch.zeros(1, 70000, dtype=torch.float16), torch.zeros(1, dtype=torch.int64)
    (loss, grad), (native, _) = both(logits, target)
    assert_right(loss, grad, expect(logits, target), "A")
    report("A", f"fp16 loss of 70000 equal logits, true {math.log(70000):.5g}", loss, native)
    skip_if_mended(native.isfinite())


@pytest.mark.parametrize(("rows", "classes"), [(1, 8000), (64, 200)])
def test_b_sum_of_float16_log_probabilities_overflows(rows, classes):
    logits, target = torch.zeros(rows, classes, dtype=torch.float16), torch.zeros(rows, dtype=torch.int64)
    (loss, grad), (native, _) = both(logits, target, label_smoothing=0.1)
    assert_right(loss, grad, expect(logits, target, label_smoothing=0.1), "B")
    report("B", f"fp16 smoothed loss of {rows} x {classes} equal logits, true {math.log(classes):.5g}", loss, native)
    skip_if_mended(native.isfinite())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_c_float16_mean_of_many_rows_loses_the_gradient(smoothing):
    logits, target = cases.randn(70000, 10).half(), cases.integers(10, 70000)
    (loss, grad), (native, native_grad) = both(logits, target, label_smoothing=smoothing)
    expected = expect(logits, target, label_smoothing=smoothing)
    assert_right(loss, grad, expected, "C")
    report("C", f"fp16 mean of 70000 rows, smoothing {smoothing}, true {expected.loss:.5g}", loss, native)
    zeros = [(tensor == 0).double().mean() for tensor in (grad, native_grad)]
    report(
        "C", f"the same: share of zeros in the gradient, true {(expected.grad.half() == 0).double().mean():.3g}", *zeros
    )
    skip_if_mended(native.isfinite() and zeros[1] < 0.5)


@pytest.mark.parametrize(("rows", "classes", "gap"), [(64, 128256, 5.0), (8, 10, 20.0)])
def test_d_confident_rows_have_no_digits(rows, classes, gap):
    logits = (0.1 * cases.randn(rows, classes)).float()
    target = cases.integers(classes, rows)
    logits.scatter_(1, target[:, None], gap + math.log(classes))
    (loss, grad), (native, native_grad) = both(logits, target, reduction="none", grad_output=torch.ones(rows))
    expected = expect(logits, target, torch.ones(rows), reduction="none")
    assert_right(loss, grad, expected, "D")
    errors = [ulps(got, expected.loss, 23, -126).max() for got in (loss, native)]
    report("D", f"fp32 loss, {classes} classes, target {gap:g} + ln C above the others, error in ULP", *errors)
    entries = [(g.double() - expected.grad).gather(1, target[:, None]).abs().max() * 2**24 for g in (grad, native_grad)]
    report("D", "the same: the target's entry of the gradient, error in 2^-24", *entries)
    assert errors[0] <= 4 and entries[0] <= 1.1
    skip_if_mended(errors[1] <= 100)


def test_e_rows_of_the_smoothed_gradient_do_not_sum_to_zero():
    logits, target = cases.randn(16, 32000).float(), cases.integers(32000, 16)
    (_, grad), (_, native_grad) = both(logits, target, reduction="sum", label_smoothing=0.1)
    sums = [tensor.double().sum(1).abs().max() for tensor in (grad, native_grad)]
    report(
        "E",
        "fp32, 32000 classes, smoothing 0.1: sum of a row of the gradient in 2^-24, true 0",
        *(s * 2**24 for s in sums),
    )
    assert sums[0] <= 4 * 2**-24
    skip_if_mended(sums[1] <= 40 * 2**-24)


def test_f_bfloat16_gradients_are_rounded_in_between():
    logits, target = (10 * cases.randn(64, 1000)).bfloat16(), cases.integers(1000, 64)
    (loss, grad), (_, native_grad) = both(logits, target, reduction="sum")
    expected = expect(logits, target, reduction="sum")
    assert_right(loss, grad, expected, "F")
    elsewhere = torch.ones_like(grad, dtype=torch.bool).scatter_(1, target[:, None], False)
    errors = [ulps(tensor, expected.grad, 7, -126)[elsewhere].max() for tensor in (grad, native_grad)]
    report("F", "bf16 gradient of randn * 10, 1000 classes, error in ULP", *errors)
    assert errors[0] <= 0.54
    skip_if_mended(errors[1] <= 2)


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_g_ignored_rows_have_nan_gradients(value):
    logits, target = cases.randn(3, 5).float(), torch.tensor([0, -100, 2])
    logits[1] = value
    (loss, grad), (_, native_grad) = both(logits, target)
    report(
        "G", f"largest gradient of an ignored row of {value}, true 0", grad[1].abs().max(), native_grad[1].abs().max()
    )
    assert torch.equal(grad[1], torch.zeros(5)) and loss.isfinite()
    skip_if_mended((native_grad[1] == 0).all())


@pytest.mark.parametrize("inner", [(), (2,), (2, 2)], ids=["rows", "sequences", "images"])
def test_h_targets_changed_after_forward_are_used_unchecked(inner):
    """Through numpy, which no version counter sees. The value stays inside native's tensor, so that the damage can be seen.

    Native has other code for positions beside each other than for rows.
    """
    grads, target = [], numpy.zeros((2, *inner), dtype=numpy.int64)
    target[1] = 1
    for function in (ls_loss.cross_entropy, F.cross_entropy):
        alias = target.copy()
        x = torch.zeros(2, 3, *inner, requires_grad=True)
        loss = function(x, torch.from_numpy(alias), reduction="none")
        alias.flat[0] = 3  # of sample 0: the first class of sample 1
        loss.sum().backward()
        grads.append(x.grad)
    truth = torch.full_like(grads[0], 1 / 3).scatter_add(1, torch.from_numpy(target)[:, None], -torch.ones_like(x))
    errors = [(grad - truth).abs().max() for grad in grads]
    shape = list(x.shape)
    report("H", f"largest error of the gradient of {shape} where a target changed before backward", *errors)
    assert errors[0] <= 2**-23
    skip_if_mended(errors[1] <= 2**-23)


@pytest.mark.parametrize("smoothing", [-0.1, -5.0, -INF, math.nan])
def test_i_smoothing_out_of_range_is_ignored(smoothing):
    logits, target = cases.batch((4, 5))
    for y in (target, cases.probabilities((4, 5))):
        with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0\.0 and 1\.0\. Got: "):
            ls_loss.cross_entropy(logits, y, label_smoothing=smoothing)
    try:
        native = F.cross_entropy(logits, target, label_smoothing=smoothing)
    except RuntimeError:
        skip_if_mended(True)
    print(f"defect I: label_smoothing {smoothing}: ours RuntimeError, native {native:.3g}, as for 0")
    skip_if_mended(not torch.equal(native, F.cross_entropy(logits, target)))


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=SECONDS)


FORK = """
import os, signal, sys, time, torch, torch.nn.functional as F, ls_loss
torch.set_num_threads(2)
function = {"ours": ls_loss.cross_entropy, "native": F.cross_entropy}[sys.argv[1]]
logits, target = torch.zeros(4096, 100), torch.zeros(4096, dtype=torch.int64)
function(logits, target)
child = os.fork()
if child == 0:
    function(logits, target)
    os._exit(0)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    if os.waitpid(child, os.WNOHANG)[0]:
        print("finished")
        break
    time.sleep(0.02)
else:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("hangs")
"""


def test_j_forked_children_hang():
    ours, native = run(FORK, "ours", "120").stdout.strip(), run(FORK, "native", "8").stdout.strip()
    print(f"defect J: a forked child that takes a loss: ours {ours}, native {native} (8 s)")
    assert ours == "finished"
    skip_if_mended(native == "finished")


def test_k_uint8_targets_fail_with_positions():
    mended = True
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 4), (2, 3, 2, 2, 2)):
        logits, target = cases.batch(shape)
        loss = ls_loss.cross_entropy(logits, target.to(torch.uint8), label_smoothing=0.1)
        assert torch.equal(loss, ls_loss.cross_entropy(logits, target, label_smoothing=0.1))
        try:
            F.cross_entropy(logits, target.to(torch.uint8))
        except RuntimeError as error:
            mended = False
            print(
                f"defect K: uint8 targets for {list(shape)}: ours {loss:.3g}, native raises {str(error).splitlines()[0]!r}"
            )
    skip_if_mended(mended)


COMPILED = """
import sys, torch, torch.nn.functional as F, ls_loss
torch.set_num_threads(2)
function = {"ours": ls_loss.cross_entropy, "native": F.cross_entropy}[sys.argv[1]]
try:
    torch.compile(function)(torch.randn(1000, 37), torch.full((1000,), 37))
except IndexError as error:
    print("IndexError:", str(error).splitlines()[0])
"""


def test_l_compiled_calls_abort_the_process():
    ours, native = run(COMPILED, "ours"), run(COMPILED, "native")
    print(
        f"defect L: compiled, target out of range: ours {ours.stdout.strip()}, native: exit status {native.returncode}"
    )
    assert ours.returncode == 0 and ours.stdout.strip() == "IndexError: Target 37 is out of bounds."
    skip_if_mended(native.stdout.startswith("IndexError"))


def test_m_bits_depend_on_the_number_of_threads():
    """Configurations in which another number of threads gives other bits of loss or gradient."""
    counts = {}
    for name, function in (("ours", ls_loss.cross_entropy), ("native", F.cross_entropy)):
        counts[name] = 0
        for rows, classes, seed in ((100_000, 10, 0), (100_000, 10, 1), (70_000, 37, 2)):
            logits, target = cases.randn(rows, classes, seed=seed).float(), cases.integers(classes, rows, seed=seed)
            bits = []
            for threads in (1, 2, 3, 4, 7):
                torch.set_num_threads(threads)
                x = logits.clone().requires_grad_()
                loss = function(x, target, cases.weights(classes), label_smoothing=0.1)
                bits.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
            counts[name] += not all(torch.equal(a, b) for other in bits for a, b in zip(other, bits[0], strict=True))
    report(
        "M", "of 3 configurations, those whose bits depend on the number of threads", counts["ours"], counts["native"]
    )
    assert counts["ours"] == 0
    skip_if_mended(counts["native"] == 0)
