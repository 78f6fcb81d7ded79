"""What README.md shows works: its Python runs, its figures are those of the benchmarks' CSV, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ls_loss

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
ALONE = [code for code in PYTHON if code.startswith("import ")]
MESSAGE, FIRST_STEP = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE), "Errors of a first training step"
TRAINERS = [code for code in PYTHON if code not in ALONE]

sys.path.append(str(ROOT))
from benchmarks import results, table  # noqa: E402


@pytest.mark.parametrize("code", ALONE, ids=lambda code: code.splitlines()[1])
def test_python_runs(code, capsys):
    """Each block alone; where a comment says what is printed, that is printed."""
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for promised in re.findall(r"# (tensor\(.*\))$", code, re.MULTILINE):
        assert promised in printed


def test_every_block_is_seen():
    """One for each of the three drop-ins, one for the new keywords, one for trainers, and none in another language."""
    assert len(ALONE) == 4 and len(TRAINERS) == 1
    assert README.count("\n```") == 2 * len(PYTHON)


def test_lines_for_trainers_are_those_that_run():
    """What needs a trainer runs in docs/how-to/trainers.md, with what must stand before it: tests/test_docs.py."""
    page = (ROOT / "docs/how-to/trainers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    plain = TRAINERS[0].replace("  # Hugging Face", "").replace("  # fastai", "")
    shown = [block for block in blocks if block in plain]
    assert len(shown) == 3 and re.sub(r"\s", "", "".join(shown)) == re.sub(r"\s", "", plain)


def test_imports_named_in_the_text_exist():
    for name in re.findall(r"`from ls_loss import (\w+)`", README):
        exec(f"from ls_loss import {name}", {})


def test_make_targets_exist():
    targets = set(re.findall(r"\bmake (?:PYTHON=\S+ )?([a-z-]+)\b(?=`|  )", README))
    assert {"demo", "test", "bench", "docs"} <= targets
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets <= known


def test_figures_are_those_of_the_csv():
    """Written by `python -m benchmarks.table --write`, not by hand."""
    assert table.replaced(README, table.markdown(results.read(results.DEFAULT))) == README


def test_links_lead_to_files():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_messages_are_those_of_the_sources():
    """The table of failures quotes what is really said: every part of a message of ours is in some source."""
    sources = [
        ROOT / "setup.py",
        ROOT / "Makefile",
        *(ROOT / "ls_loss").glob("*.py"),
        *(ROOT / "csrc/torch").glob("*.cpp"),
    ]
    said = "".join(path.read_text(encoding="utf-8") for path in sources)
    page = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    messages = MESSAGE.findall(page.partition(FIRST_STEP)[0])
    of_tools = ("Python.h", "g++: fatal error", "must be valid exactly")
    ours = [message for message in messages if not message.startswith(of_tools)]
    assert len(ours) == len(messages) - len(of_tools)
    for message in ours:
        for part in re.split(r"\.\.\.|\bgcc\b", message):
            assert part.strip(" =") in said, message


# The call that gives each, in the order of the page.
MISTAKES = (
    lambda: ls_loss.cross_entropy(torch.randn(4, 5), torch.zeros(4, 5, dtype=torch.int64)),
    lambda: ls_loss.cross_entropy(torch.randn(2, 7, 11), torch.zeros(2, 7, dtype=torch.int64)),
    lambda: ls_loss.cross_entropy(torch.randn(2, 4, 4, 5), torch.zeros(2, 4, 3, dtype=torch.int64), dim=-1),
    lambda: ls_loss.cross_entropy(torch.randn(2, 5, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.int64)),
    lambda: ls_loss.cross_entropy(torch.randn(4, 5), torch.zeros(4)),
    lambda: ls_loss.cross_entropy(torch.randn(2, 5, 4, 4), torch.full((2, 4, 4), 255)),
    lambda: ls_loss.cross_entropy(torch.ones(4, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
)


def test_messages_of_a_first_step_are_those_of_its_mistakes():
    page = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8").partition(FIRST_STEP)[2]
    for message, mistake in zip(MESSAGE.findall(page), MISTAKES, strict=True):
        with pytest.raises((RuntimeError, IndexError), match=re.escape(message)):
            mistake()


def test_length():
    assert len(README.splitlines()) < 150


def test_worked_examples_agree():
    """The figures that texts print: the script ends with an error if one differs."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "worked_examples.py"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agree") == 7
