"""python -m ls_loss: what it prints, and that a wrong result makes it fail."""

import importlib
import os
import platform
import re
import subprocess
import sys

import pytest
import torch

import ls_loss

main = importlib.import_module("ls_loss.__main__")  # what the command runs


def run(monkeypatch, capsys):
    """Its status and what it prints, with little time for the speed."""
    monkeypatch.setattr(main, "SECONDS", 0.0)
    monkeypatch.setattr(main, "SHAPES", ((32, 10),))
    monkeypatch.setattr(sys, "argv", ["ls_loss"])
    return main.main(), capsys.readouterr().out


def test_as_a_command():
    """All of it: the configuration, a passed self-test and a line of times for every shape."""
    done = subprocess.run([sys.executable, "-m", "ls_loss"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for key in ls_loss.config():
        assert re.search(rf"^{key} ", done.stdout, re.MULTILINE)
    passed, of = map(int, re.search(r"(\d+) of (\d+) checks passed", done.stdout).groups())
    assert passed == of > 40
    rows = re.findall(r"^    \[(\d+), (\d+)\] +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.MULTILINE)
    assert [(int(row[0]), int(row[1])) for row in rows] == list(main.SHAPES)
    for *_, ours, native, ratio in rows:
        assert float(ratio) == pytest.approx(float(native) / float(ours), rel=0.1, abs=0.06)


def test_the_configuration_tells_python_machine_and_environment():
    """What a bug report needs and nobody thinks of. Variables of others stay out of it: they may hold secrets."""
    code = "import ls_loss; print(ls_loss.config())"
    variables = {"OMP_NUM_THREADS": "2", "LS_LOSS_CACHE": "0", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables, "SOME_TOKEN": "hunter2"},
    )
    assert done.returncode == 0, done.stderr
    told = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    assert told["python"].startswith(platform.python_version())
    assert platform.release() in told["platform"] and platform.machine() in told["platform"]
    assert "glibc" in told["platform"] or "glibc" not in platform.libc_ver()[0]
    assert re.search(r"\w.*; \d+ of \d+ logical cores", told["cpu"])
    for name, value in variables.items():
        assert f"{name!r}: {value!r}" in told["environment"]
    assert "hunter2" not in done.stdout


def wrong(change):
    """A loss with a mistake: change(loss, logits) after the right one."""

    def loss(logits, target, **options):
        return change(ls_loss.cross_entropy(logits, target, **options), logits)

    return loss


MISTAKES = {
    "loss": lambda loss, logits: loss * (1 + 3e-2),
    "gradient": lambda loss, logits: loss + 0 * logits.sum() + 1e-3 * (logits - logits.detach()).sum(),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_result_is_found(name, monkeypatch, capsys):
    """In every dtype, for a mistake in the loss alone and in the gradient alone."""
    monkeypatch.setattr(main, "cross_entropy", wrong(MISTAKES[name]))
    status, printed = run(monkeypatch, capsys)
    assert status == 1
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        assert re.search(rf"FAILED  {dtype}[^:]*: {name}: ", printed)


def test_a_difference_between_threads_is_found(monkeypatch, capsys):
    monkeypatch.setattr(main, "cross_entropy", wrong(lambda loss, _: loss * (1 + 1e-6 * torch.get_num_threads())))
    torch.set_num_threads(2)
    assert run(monkeypatch, capsys)[0] == 1
    assert torch.get_num_threads() == 2


def test_an_accepted_bad_target_is_found(monkeypatch, capsys):
    def lenient(logits, target, **options):
        return ls_loss.cross_entropy(logits, target.clamp(max=logits.shape[1] - 1), **options)

    monkeypatch.setattr(main, "cross_entropy", lenient)
    status, printed = run(monkeypatch, capsys)
    failed = re.findall("FAILED  ([^:]*):", printed)
    # What other tests have imported may have brought runtimes.
    assert status == 1 and set(failed) - {"one OpenMP runtime in the process"} == {
        "an IndexError for a target out of range"
    }


def test_a_second_runtime_is_found(monkeypatch, capsys):
    monkeypatch.setattr(main, "config", lambda: ls_loss.config() | {"openmp_runtimes": ["libgomp.so.1", "libomp.so"]})
    status, printed = run(monkeypatch, capsys)
    assert status == 1 and "FAILED  one OpenMP runtime" in printed
