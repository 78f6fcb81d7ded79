"""LabelSmoothingLoss: equal to the notebook's class, written out here from its formula, in value and gradient."""

import copy
import pickle

import cases
import pytest
import torch
import torch.nn.functional as F
from tolerance import check, expect

import ls_loss


class Notebook(torch.nn.Module):
    """(1 - epsilon) nll + epsilon (sum of -log p over the classes) / C, each part reduced by itself.

    The notebook's own text asserts epsilon < 1; here 1 is allowed, as in the library.
    """

    def __init__(self, epsilon=0.1, reduction="mean", weight=None):
        super().__init__()
        self.epsilon, self.reduction, self.weight = epsilon, reduction, weight

    def reduced(self, loss):
        return loss.mean() if self.reduction == "mean" else loss.sum() if self.reduction == "sum" else loss

    def forward(self, predict_tensor, target):
        assert 0 <= self.epsilon <= 1
        log_p = F.log_softmax(predict_tensor, dim=-1)
        uniform = self.reduced(-log_p.sum(dim=-1)) / predict_tensor.size(-1)
        nll = F.nll_loss(log_p, target, weight=self.weight, reduction=self.reduction)
        return (1 - self.epsilon) * nll + self.epsilon * uniform


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_equal_to_the_notebook(dtype):
    for combo in cases.product(
        shape=((5,), (4, 5), (33, 7)),
        reduction=cases.REDUCTIONS,
        weighted=(False, True),
        smoothing=cases.SMOOTHINGS,
        ignored=(False, True),
    ):
        logits, target = cases.batch(combo["shape"], dtype)
        target = cases.ignoring(target, -100) if combo["ignored"] else target
        weight = cases.weights(logits.shape[-1], dtype) if combo["weighted"] else None
        outer = torch.tensor(-1.5, dtype=dtype)
        if combo["reduction"] == "none":
            outer = torch.linspace(-1, 2, target.numel(), dtype=dtype).view(target.shape)
        arguments = combo["smoothing"], combo["reduction"], weight
        options = dict(
            weight=weight, reduction=combo["reduction"], label_smoothing=combo["smoothing"], convention="fastai"
        )
        check(ls_loss.LabelSmoothingLoss(*arguments), logits, target, combo, outer, **options)
        if dtype == torch.float64:
            x = logits.clone().requires_grad_()
            loss = Notebook(*arguments)(x, target)
            expected = expect(logits, target, outer, **options)
            torch.testing.assert_close(loss.detach(), expected.loss, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(torch.autograd.grad(loss, x, outer)[0], expected.grad, rtol=1e-12, atol=1e-12)


def test_prior():
    logits, target = cases.batch((4, 5))
    for reduction in cases.REDUCTIONS:
        options = dict(reduction=reduction, weight=cases.weights(5), prior=cases.prior(5))
        outer = torch.ones(4) if reduction == "none" else None
        module = ls_loss.LabelSmoothingLoss(0.3, **options)
        check(module, logits, target, reduction, outer, label_smoothing=0.3, convention="fastai", **options)


def test_integer_targets_of_every_dtype():
    logits, target = cases.batch((4, 5))
    for dtype in cases.INTEGERS:
        assert torch.equal(
            ls_loss.LabelSmoothingLoss()(logits, target.to(dtype)), ls_loss.LabelSmoothingLoss()(logits, target)
        )


def test_attributes_are_read_at_every_call():
    logits, target = cases.batch((4, 5))
    module, settings = ls_loss.LabelSmoothingLoss(), {}
    for name, value in dict(reduction="sum", epsilon=0.4, weight=cases.weights(5), prior=cases.prior(5)).items():
        setattr(module, name, value)
        settings[name] = value
        assert torch.equal(module(logits, target), ls_loss.LabelSmoothingLoss(**settings)(logits, target)), settings


def test_positional_arguments_are_the_notebooks():
    weight = cases.weights(5)
    module = ls_loss.LabelSmoothingLoss(0.5, "sum", weight)
    assert (module.epsilon, module.reduction) == (0.5, "sum") and module.weight is weight
    assert list(module.state_dict()) == [] and list(ls_loss.LabelSmoothingLoss(prior=cases.prior(5)).state_dict()) == []


def test_weight_moves_to_the_logits():
    """As the notebook's: the call moves it, for good."""
    module = ls_loss.LabelSmoothingLoss(weight=cases.weights(5))
    loss = module(torch.empty(4, 5, device="meta"), torch.empty(4, dtype=torch.int64, device="meta"))
    assert loss.device.type == module.weight.device.type == "meta"


def test_copies():
    logits, target = cases.batch((4, 5))
    module = ls_loss.LabelSmoothingLoss(0.3, "none", cases.weights(5), prior=cases.prior(5))
    for twin in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(logits, target), module(logits, target))


def test_rejected():
    logits, target = cases.batch((4, 5))
    for epsilon in (-0.1, 1.1, float("nan"), float("inf")):
        module = ls_loss.LabelSmoothingLoss()
        module.epsilon = epsilon  # read at the call, as the notebook's
        with pytest.raises(ValueError, match=f"epsilon must be between 0 and 1, got {epsilon}"):
            module(logits, target)
    with pytest.raises(ValueError, match=r"takes logits \(C\) or \(N, C\), got shape \[2, 5, 3\]"):
        ls_loss.LabelSmoothingLoss()(*cases.batch((2, 5, 3)))
    with pytest.raises(ValueError, match="bad is not a valid value for reduction"):
        ls_loss.LabelSmoothingLoss(reduction="bad")(logits, target)
    with pytest.raises(IndexError, match="Target 5 is out of bounds"):
        ls_loss.LabelSmoothingLoss()(logits, torch.tensor([0, 5, 1, 2]))
    with pytest.raises(TypeError, match="a tensor that requires grad would receive none"):
        ls_loss.LabelSmoothingLoss(torch.tensor(0.1, requires_grad=True))(logits, target)
    assert ls_loss.LabelSmoothingLoss()(logits, target).isfinite()
