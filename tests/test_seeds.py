"""The worked examples of the three documents that the library started from: every number they print, through every front end.

Their numbers are printed with four decimals (or fewer), so half a unit of the last one is allowed; the known values in float64
were computed once from the documents' formulas.
"""

import math

import pytest
import torch
from torch.testing import assert_close

import ls_loss

NOTEBOOK = torch.tensor([[0, 0.2, 0.7, 0.1, 0], [0, 0.9, 0.2, 0.2, 1], [1, 0.2, 0.7, 0.9, 1]])
NOTEBOOK_TARGET = torch.tensor([2, 1, 0])
SPREADSHEET = torch.tensor([[4.2, -2.4], [1.6, -0.6], [3.6, 1.2], [-0.5, 0.5], [-0.25, 1.7]], dtype=torch.float64)
SPREADSHEET_TARGET = torch.tensor([0, 1, 1, 0, 0])
ANIMALS = torch.tensor(
    [
        [4.7, -2.5, 0.6, 1.2, 0.4],
        [-1.2, 2.4, 2.6, -0.6, 2.34],
        [-2.4, 1.2, 1.1, 0.8, 1.2],
        [1.2, 0.2, 0.8, 1.9, -0.6],
        [-0.9, -0.1, -0.2, -0.5, 1.6],
    ],
    dtype=torch.float64,
)
ANIMALS_TARGET = torch.arange(5)


def losses(epsilon, reduction):
    """Every front end, where all conventions are one."""
    yield lambda x, y: ls_loss.cross_entropy(x, y, label_smoothing=epsilon, reduction=reduction)
    yield ls_loss.CrossEntropyLoss(label_smoothing=epsilon, reduction=reduction)
    yield ls_loss.LabelSmoothingCrossEntropy(epsilon, reduction=reduction)
    yield ls_loss.LabelSmoothingCrossEntropyFlat(epsilon, reduction=reduction)
    yield ls_loss.LabelSmoothingLoss(epsilon, reduction=reduction)


def agree(logits, target, epsilon, reduction, expected, atol=0.5e-12):
    for loss in losses(epsilon, reduction):
        got = loss(logits, target)
        assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=0, atol=atol)


def test_notebook_example():
    """epsilon 0.5 on three rows of five logits: tensor(1.4670)."""
    agree(NOTEBOOK, NOTEBOOK_TARGET, 0.5, "mean", 1.4670, atol=0.5e-4)
    agree(NOTEBOOK.double(), NOTEBOOK_TARGET, 0.5, "mean", 1.466952797653212)
    agree(NOTEBOOK.double(), NOTEBOOK_TARGET, 0.5, "sum", 4.400858392959636)
    agree(NOTEBOOK.double(), NOTEBOOK_TARGET, 0.5, "none", [1.3969302509571033, 1.4741651885155318, 1.5297629534870005])
    printed = str(ls_loss.LabelSmoothingLoss(epsilon=0.5)(NOTEBOOK, NOTEBOOK_TARGET))
    assert printed == "tensor(1.4670)"


def test_spreadsheet():
    """Five images of cats and dogs, epsilon 0.1: the sheet, step by step, and the column that PyTorch prints."""
    labels = ls_loss.smooth_labels(SPREADSHEET_TARGET, 2, 0.1)
    assert_close(labels, torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.05, 0.95], [0.95, 0.05], [0.95, 0.05]]))
    exponentials = SPREADSHEET.exp()
    probabilities = exponentials / exponentials.sum(1, keepdim=True)
    column = -(labels.double() * probabilities.log()).sum(1)
    published = [0.3314, 2.1951, 2.3668, 1.2633, 1.9855]
    assert_close(column, torch.tensor(published, dtype=torch.float64), rtol=0, atol=0.5e-4)
    agree(SPREADSHEET.float(), SPREADSHEET_TARGET, 0.1, "none", published, atol=0.5e-4)
    for loss in losses(0.1, "none"):
        assert str(loss(SPREADSHEET.float(), SPREADSHEET_TARGET)) == "tensor([0.3314, 2.1951, 2.3668, 1.2633, 1.9855])"


def test_five_images():
    """The logits of the five animals; the losses are known values in float64."""
    agree(ANIMALS, ANIMALS_TARGET, 0.1, "mean", 0.932167909, atol=0.5e-9)
    agree(ANIMALS, ANIMALS_TARGET, 0.1, "sum", 4.660839546, atol=0.5e-9)
    rows = [0.441292161, 1.304859154, 1.453622827, 0.859183514, 0.601881890]
    agree(ANIMALS, ANIMALS_TARGET, 0.1, "none", rows, atol=0.5e-9)
    rows = [0.059292161, 1.175659154, 1.381622827, 0.739183514, 0.439881890]
    agree(ANIMALS, ANIMALS_TARGET, 0.0, "none", rows, atol=0.5e-9)


def test_five_images_where_the_conventions_part():
    """Class weights and ignored rows: torch smooths by the weights and drops the row, fastai does neither."""
    weight, ignored = torch.arange(1, 6).double(), torch.tensor([0, -100, 2, 3, 4])
    flipped = ANIMALS.flip(1).softmax(1)
    table = (
        # weight, target, then none, sum, mean of torch, then of fastai
        (
            weight,
            ANIMALS_TARGET,
            ([1.315150594, 2.774884224, 4.224868480, 3.280815703, 2.505433072], 14.101152072, 0.940076805),
            ([0.441292161, 2.362952393, 3.940543914, 2.854979000, 2.185456694], 11.785224163, 0.951650138),
        ),
        (
            None,
            ignored,
            ([0.441292161, 0, 1.453622827, 0.859183514, 0.601881890], 3.355980392, 0.838995098),
            ([0.441292161, 0.246765915, 1.453622827, 0.859183514, 0.601881890], 3.602746307, 0.838448379),
        ),
        (
            weight,
            ignored,
            ([1.315150594, 0, 4.224868480, 3.280815703, 2.505433072], 11.326267849, 0.871251373),
            ([0.441292161, 0.246765915, 3.940543914, 2.854979000, 2.185456694], 9.669037686, 0.896973847),
        ),
        (
            None,
            flipped,
            ([4.332764729, 3.012410152, 2.385539438, 2.305338051, 2.566691909], 14.602744280, 2.920548856),
            (),
        ),
        (
            weight,
            flipped,
            ([20.306251378, 7.619511609, 4.804475, 7.244804226, 4.358504705], 44.333546918, 8.866709384),
            (),
        ),
    )
    for weight, target, torchs, fastais in table:
        for reduction, expected in zip(("none", "sum", "mean"), torchs, strict=True):
            loss = ls_loss.cross_entropy(ANIMALS, target, weight, reduction=reduction, label_smoothing=0.1)
            assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
        for reduction, expected in zip(("none", "sum", "mean"), fastais, strict=False):
            for loss in (
                ls_loss.LabelSmoothingCrossEntropy(0.1, weight, reduction),
                ls_loss.LabelSmoothingCrossEntropyFlat(0.1, weight, reduction),
                ls_loss.LabelSmoothingLoss(0.1, reduction, weight),
            ):
                got = loss(ANIMALS, target)
                assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_five_images_gradients_where_the_conventions_part():
    weight, ignored = torch.arange(1, 6).double(), torch.tensor([0, -100, 2, 3, 4])
    for loss, first, second in (
        (
            ls_loss.CrossEntropyLoss(weight, label_smoothing=0.1),
            [0.0162244, -0.0030120, -0.0031737, -0.0035269, -0.0065119],
            [0, 0, 0, 0, 0],
        ),
        (
            ls_loss.LabelSmoothingCrossEntropy(0.1, weight),
            [0.0108631, -0.0039372, -0.0026063, -0.0014606, -0.0028590],
            [-0.0038313, 0.0021723, 0.0035389, -0.0036927, 0.0018129],
        ),
    ):
        x = ANIMALS.clone().requires_grad_()
        loss(x, ignored).backward()
        expected = torch.tensor([first, second], dtype=torch.float64)
        assert_close(x.grad[:2], expected, rtol=0, atol=0.6e-7)


def test_smoothed_labels():
    """0.92 and 0.02 for five classes and 0.1; [0.1 0.9] for two and 0.2; 0.9333 and 0.0333 for three and 0.1."""
    table = ls_loss.smooth_labels(ANIMALS_TARGET, 5, 0.1)
    assert_close(table, torch.full((5, 5), 0.02).fill_diagonal_(0.92))
    assert_close(ls_loss.smooth_labels(torch.tensor(1), 2, 0.2), torch.tensor([0.1, 0.9]))
    three = ls_loss.smooth_labels(torch.tensor(0), 3, 0.1, dtype=torch.float64)
    assert_close(three, torch.tensor([0.9333, 0.0333, 0.0333], dtype=torch.float64), rtol=0, atol=0.5e-4)


def test_ends_of_the_range():
    """0 gives the hard label, 1 the uniform distribution; y = (1 - e) y + e / |y| in between."""
    assert_close(ls_loss.smooth_labels(ANIMALS_TARGET, 5, 0.0), torch.eye(5), rtol=0, atol=0)
    assert_close(ls_loss.smooth_labels(ANIMALS_TARGET, 5, 1.0), torch.full((5, 5), 0.2))
    for epsilon in (0.05, 0.1, 0.5):
        expected = (1 - epsilon) * torch.eye(5) + epsilon / 5
        assert_close(ls_loss.smooth_labels(ANIMALS_TARGET, 5, epsilon), expected)


def test_smoothed_logits_that_minimize_the_loss():
    """Logits [3.3322, 0, 0] give the smoothed label of three classes: there the loss has its minimum.

    [10, 0, 0], whose probabilities are [0.9999, 0, 0], is better for the hard label and worse for the smoothed one.
    """
    target = torch.tensor([0])
    smoothed, confident = (torch.tensor([[first, 0, 0]], dtype=torch.float64) for first in (3.3322, 10.0))
    assert_close(confident.softmax(1)[0, 0].item(), 0.9999, rtol=0, atol=0.5e-4)
    x = smoothed.clone().requires_grad_()
    ls_loss.cross_entropy(x, target, label_smoothing=0.1).backward()
    assert x.grad.abs().max() < 1e-5
    exact = math.log(0.1 / 3 + 0.9) - math.log(0.1 / 3)
    assert exact == pytest.approx(3.3322, abs=0.5e-4)
    assert ls_loss.cross_entropy(confident, target) < ls_loss.cross_entropy(smoothed, target)
    smoothing = dict(label_smoothing=0.1)
    assert ls_loss.cross_entropy(confident, target, **smoothing) > ls_loss.cross_entropy(smoothed, target, **smoothing)


def test_loss_is_a_mixture():
    """H(q', p) = (1 - e) H(q, p) + e H(u, p), for the uniform distribution and for another u."""
    for prior in (None, torch.tensor([0.5, 0.3, 0.1, 0.05, 0.05], dtype=torch.float64)):
        uniform = torch.full_like(ANIMALS, 0.2) if prior is None else prior.expand_as(ANIMALS)
        hard, noise = ls_loss.cross_entropy(ANIMALS, ANIMALS_TARGET), ls_loss.cross_entropy(ANIMALS, uniform)
        loss = ls_loss.cross_entropy(ANIMALS, ANIMALS_TARGET, label_smoothing=0.1, prior=prior)
        assert_close(loss, 0.9 * hard + 0.1 * noise, rtol=1e-14, atol=0)
