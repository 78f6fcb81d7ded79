"""The oracles of the other tests, reference.py and climb.truth, against their formulas in 50 digits.

The formulas are written out here from logarithms of sums, which cost nothing but digits. Knows no library.
"""

import cases
import climb
import pytest
import reference
import torch
from mpmath import exp, fsum, log, mp, mpf

ROWS = 250
U = 2.0**-53


def draw(classes):
    """Rows from flat to steep, in half of which the target leads by up to 60.

    Multiples of 2^-18, as far as float32 holds them: differences of logits are exact in float64, so that the oracles' own
    roundings are all there is.
    """
    source = cases.generator(classes)
    x = cases.randn(ROWS, classes, seed=classes) * 10 ** (2 * torch.rand(ROWS, 1, generator=source) - 1)
    target = torch.randint(classes, (ROWS,), generator=source)
    lead = 60 * torch.rand(ROWS, 1, generator=source).double() * (torch.rand(ROWS, 1, generator=source) < 0.5)
    x.scatter_add_(1, target[:, None], lead)
    return (x * 2**18).round().div(2**18).float(), target


def exactly(x, coefficients):
    """The loss -sum(q log p) and its gradient of a row, for q as exact numbers."""
    exps = [exp(mpf(v)) for v in x]
    z, total = log(fsum(exps)), fsum(coefficients)
    loss = fsum(q * (z - v) for q, v in zip(coefficients, x, strict=True))
    return loss, [total * e / fsum(exps) - q for e, q in zip(exps, coefficients, strict=True)]


def errors(got, exact):
    return torch.tensor([float(abs(mpf(g) - e)) for g, e in zip(got.tolist(), exact, strict=True)], dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 5, 12, 30])
def test_oracles_are_float64s_best(classes, monkeypatch):
    """Each row in a convention of its own, with and without weights and a prior, for an index or probabilities.

    Every term of a loss has one sign. A log p has C + 1 roundings of the sum, two units of exp and two of log1p, one of the
    difference; its coefficient has five; the sum of the terms C: 2 C + 15 roundings u of the loss. So has each entry of the
    gradient, relative to A p + q. The largest logit's entry is the sum of the others' with C roundings more, of 2 A at most.
    """
    monkeypatch.setattr(mp, "dps", 50)
    x, target = draw(classes)
    weight, prior = cases.weights(classes, torch.float64), cases.prior(classes, torch.float64)
    soft = cases.probabilities((ROWS, classes), torch.float64)
    for i, row in enumerate(x.tolist()):
        smoothing = (0.0, 0.1, 1.0)[i % 3]
        weighted, with_prior, fastais, of_soft = i % 2, i // 2 % 2, i // 4 % 2, i // 8 % 2
        y, e = int(target[i]), mpf(smoothing)
        w = [mpf(v) for v in weight.tolist()] if weighted else [mpf(1)] * classes
        u = [mpf(v) for v in prior.tolist()] if with_prior else [mpf(1) / classes] * classes
        if of_soft:
            q = [w[c] * ((1 - e) * mpf(t) + e * u[c]) for c, t in enumerate(soft[i].tolist())]
        else:
            q = [(1 - e) * w[y] * (c == y) + e * u[c] * (1 if fastais else w[c]) for c in range(classes)]
        options = dict(
            label_smoothing=smoothing,
            weight=weight if weighted else None,
            prior=prior if with_prior else None,
            convention="fastai" if fastais else "torch",
        )
        logits = x[i : i + 1].double().requires_grad_()
        of_row = soft[i : i + 1] if of_soft else target[i : i + 1]
        loss = reference.cross_entropy(logits, of_row, reduction="sum", **options)
        (grad,) = torch.autograd.grad(loss, logits)
        exact, exact_grad = exactly(row, q)
        where = f"row {i}: {options}"
        assert abs(mpf(loss.item()) - exact) <= (2 * classes + 15) * U * exact, where
        a, p = float(fsum(q)), x[i].double().softmax(0)
        size = a * p + torch.tensor([float(v) for v in q], dtype=torch.float64)
        allowed = (2 * classes + 15) * U * size
        allowed[x[i].argmax()] = (3 * classes + 15) * U * 2 * a
        assert (errors(grad[0], exact_grad) <= allowed).all(), where


@pytest.mark.parametrize("convention", ["torch", "fastai"])
def test_divisors_of_the_mean(convention, monkeypatch):
    """Both parts of the loss over the sum of the targets' weights; fastai's second one over the number of rows, all of them.

    For each row as many roundings as above, and one for each row in the sums over them.
    """
    monkeypatch.setattr(mp, "dps", 50)
    x, target = (part[:9] for part in draw(5))
    target, weight = cases.ignoring(target, -100), cases.weights(5, torch.float64)
    w, e, fastais = [mpf(v) for v in weight.tolist()], mpf(0.1), convention == "fastai"
    kept = [y for y in target.tolist() if y != -100]
    divisor = fsum(w[y] for y in kept)
    exact = mpf(0)
    for row, y in zip(x.tolist(), target.tolist(), strict=True):
        hard = [(1 - e) * w[c] * (c == y) / divisor for c in range(5)]
        soft = [e / 5 / 9 if fastais else e / 5 * w[c] * (y != -100) / divisor for c in range(5)]
        exact += exactly(row, [a + b for a, b in zip(hard, soft, strict=True)])[0]
    assert len(kept) < 9
    got = reference.cross_entropy(x, target, weight=weight, label_smoothing=0.1, convention=convention)
    assert abs(mpf(got.item()) - exact) <= (2 * 5 + 15 + 2 * 9) * U * exact


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 30])
def test_truth_of_the_climb(classes, smoothing, monkeypatch):
    """C + 8 roundings of the logarithm; with smoothing as many of the mean, whose terms may cancel against it."""
    monkeypatch.setattr(mp, "dps", 50)
    x, target = draw(classes)
    got = climb.truth(x, target, smoothing)
    e = mpf(smoothing)
    exact, allowed = [], []
    for row, y in zip(x.tolist(), target.tolist(), strict=True):
        loss, _ = exactly(row, [(1 - e) * (c == y) + e / classes for c in range(classes)])
        of_target, _ = exactly(row, [mpf(c == y) for c in range(classes)])
        exact.append(loss)
        allowed.append(float(of_target + e * fsum(abs(mpf(v) - row[y]) for v in row) / classes) * (classes + 8) * U)
    assert (errors(got, exact) <= torch.tensor(allowed, dtype=torch.float64)).all()
