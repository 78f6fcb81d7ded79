"""The calls that README.md and docs/how-to/conventions.md give for other libraries' losses, against the formulas beside them.

The calls are read from the tables and run. The formulas are written out here, row by row and class by class, in float64; both
round in the fifteenth digit, so that 1e-12 is far above rounding and far below any other formula.
"""

import math
import re
from pathlib import Path

import cases
import pytest
import torch
from torch import Tensor

import ls_loss

ROOT = Path(__file__).parents[1]
TABLES = ("README.md", "docs/how-to/conventions.md")
N, C, E, PAD = 6, 5, 0.15, 2


def table_rows():
    """Of each table with a column of calls: the file, the first cell without code marks, the call."""
    for name in TABLES:
        text = (ROOT / name).read_text(encoding="utf-8")
        (table,) = re.findall(r"^\| loss \| a row \| the call \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
        for line in table.splitlines():
            loss, _, call = (cell.strip() for cell in line.strip("|").split(" | "))
            yield name, loss.replace("`", ""), call.strip("`")


ROWS = list(table_rows())


def minus_log_softmax(x: Tensor) -> Tensor:
    return x.logsumexp(-1, keepdim=True) - x


# Each takes logits, targets and the other symbols of the tables, and writes the sum over rows and classes out.


def torchs(x, y, w, **_):
    a = minus_log_softmax(x)
    rows = [i for i in range(N) if y[i] != -100]
    losses = [(1 - E) * w[y[i]] * a[i, y[i]] + E / C * sum(w[c] * a[i, c] for c in range(C)) for i in rows]
    return sum(losses) / sum(w[y[i]] for i in rows)


def fastais(x, y, w, **_):
    a = minus_log_softmax(x)
    rows = [i for i in range(N) if y[i] != -100]
    hard = sum(w[y[i]] * a[i, y[i]] for i in rows) / sum(w[y[i]] for i in rows)
    return (1 - E) * hard + sum(E / C * a[i, c] for i in range(N) for c in range(C)) / N


def plain(x, y, smoothing=E, **_):
    x, y = x.reshape(-1, C), y.reshape(-1)
    a = minus_log_softmax(x)
    rows = [i for i in range(len(y)) if y[i] != -100]
    losses = [(1 - smoothing) * a[i, y[i]] + smoothing / C * sum(a[i, c] for c in range(C)) for i in rows]
    return sum(losses) / len(rows)


def soft(x, q, **_):
    a = minus_log_softmax(x)
    return sum(q[i, c] * a[i, c] for i in range(N) for c in range(C)) / N


def over_the_others(x, y, **_):
    """(1-e) for the target, e/(C-1) for each other class; 0 for ignored rows."""
    a = minus_log_softmax(x)
    return torch.stack(
        [
            a.new_zeros(())
            if y[i] == -100
            else (1 - E) * a[i, y[i]] + E / (C - 1) * sum(a[i, c] for c in range(C) if c != y[i])
            for i in range(N)
        ]
    )


def divergence(x, y, classes=C - 1, absent=-100, **_):
    """Sum of q (log q - log p), q[y] = 1-e and e/classes for the others, without a class that is absent; 0 log 0 = 0."""
    a = minus_log_softmax(x)
    total = 0.0
    for i in range(N):
        if y[i] in (-100, absent):
            continue
        for c in range(C):
            q = 0.0 if c == absent else 1 - E if c == y[i] else E / classes
            if q:
                total = total + q * (math.log(q) + a[i, c])
    return total


def smoothed_towards(x, y, u, **_):
    a = minus_log_softmax(x)
    return sum(((1 - E) * int(c == y[i]) + E * u[c]) * a[i, c] for i in range(N) for c in range(C)) / N


# By the first word of a table's first cell; README's table says some of them in one line.
FORMULAS = {
    "torch": torchs,
    "fastai": fastais,
    "the notebooks'": fastais,
    "timm: LabelSmoothingCrossEntropy": plain,
    "timm: SoftTarget": soft,
    "Hugging Face": plain,
    "fairseq": lambda **symbols: over_the_others(**symbols).sum(),
    "Megatron": over_the_others,
    "another of that name": lambda **symbols: over_the_others(**symbols).mean(),
    "ESPnet": divergence,
    "annotated transformer": lambda **symbols: divergence(classes=C - 2, absent=PAD, **symbols),
    "flash-attention": plain,
    "mmpretrain": lambda **symbols: plain(smoothing=E / (1 + E), **symbols),
    "Paddle": smoothed_towards,
}


def symbols(loss: str) -> dict:
    """What the calls name. Rows are ignored where the loss knows ignored rows."""
    shape = (2, N // 2, C) if loss.startswith("Hugging Face") else (N, C)
    x = (2 * cases.randn(*shape)).requires_grad_()
    y = cases.integers(C, *shape[:-1], seed=3)
    y.view(-1)[1] = (PAD + 1) % C
    if loss.startswith("annotated"):
        y[4] = PAD
        u = torch.full((C,), 1 / (C - 1), dtype=torch.float64)
        u[PAD] = 0
    else:
        u = cases.prior(C, torch.float64)
    if not loss.startswith(("timm", "Paddle", "mmpretrain", "annotated", "another")):
        y.view(-1)[4] = -100
    counted = int((~torch.isin(y, torch.tensor([-100, PAD] if loss.startswith("annotated") else [-100]))).sum())
    w, q = cases.weights(C, torch.float64), cases.probabilities((N, C), torch.float64)
    return dict(x=x, y=y, w=w, u=u, q=q, e=E, C=C, pad=PAD, n=counted)


def test_the_tables_have_the_same_losses():
    """No formula is without a call, no call without a formula, and README's calls are those of the page."""
    names = {name: [loss for file, loss, _ in ROWS if file == name] for name in TABLES}
    assert len(names["README.md"]) == 6
    for losses in names.values():
        assert all(sum(loss.startswith(key) for key in FORMULAS) == 1 for loss in losses)
    page = names["docs/how-to/conventions.md"]
    assert all(any(loss.startswith(key) for loss in page) for key in FORMULAS)
    calls = {call for file, _, call in ROWS if file != "README.md"}
    assert {call for file, _, call in ROWS if file == "README.md"} <= calls


@pytest.mark.parametrize(("file", "loss", "call"), ROWS, ids=lambda value: str(value)[:40])
def test_call_is_the_formula(file, loss, call):
    values = symbols(loss)
    formula = next(formula for key, formula in FORMULAS.items() if loss.startswith(key))
    public = {name: getattr(ls_loss, name) for name in ls_loss.__all__}
    ours = eval(call, {**public, "log": math.log}, values)
    theirs = formula(**{name: values[name] for name in ("x", "y", "w", "u", "q")})
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    outer = (
        torch.linspace(-1, 2, ours.numel(), dtype=torch.float64).reshape(ours.shape)
        if ours.dim()
        else torch.ones_like(ours)
    )
    gradients = [torch.autograd.grad(value, values["x"], outer)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)
    assert gradients[0].any()
