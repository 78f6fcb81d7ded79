"""Losses of other libraries, as options of this one: timm's and Hugging Face's from their packages, others from their formulas.

Compared in float64 to 1e-12, which is far above the rounding of their compositions and far below any difference of formula;
what float32 costs is tested against the reference elsewhere.
"""

import importlib.util
import math

import cases
import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_within, expect

import ls_loss


def compare(ours, peer, logits, name, rtol=1e-12):
    """Asserts equal loss and gradient of two functions of the logits."""
    results = []
    for function in (ours, peer):
        x = logits.clone().requires_grad_()
        loss = function(x)
        outer = torch.linspace(-1, 2, loss.numel(), dtype=torch.float64).view(loss.shape) if loss.dim() else None
        results.append(
            (loss.detach().double(), *torch.autograd.grad(loss, x, None if outer is None else outer.to(loss)))
        )
    torch.testing.assert_close(*results, rtol=rtol, atol=rtol, msg=lambda text: f"{name}: {text}")


@pytest.fixture(scope="module")
def timm():
    """timm/loss/cross_entropy.py by its path: the package asks for torchvision, which does not load beside a CPU torch."""
    package = importlib.util.find_spec("timm")
    if package is None:
        pytest.skip("timm is not installed")
    path = f"{package.submodule_search_locations[0]}/loss/cross_entropy.py"
    spec = importlib.util.spec_from_file_location("timm_losses", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_timm(timm):
    logits, target = cases.batch((33, 7), torch.float64)
    for smoothing in (0.0, 0.05, 0.1, 0.5):
        peer = timm.LabelSmoothingCrossEntropy(smoothing)
        for module in (
            ls_loss.CrossEntropyLoss(label_smoothing=smoothing),
            ls_loss.LabelSmoothingCrossEntropy(smoothing),
            ls_loss.LabelSmoothingLoss(smoothing),
        ):
            compare(lambda x, m=module: m(x, target), lambda x, p=peer: p(x, target), logits, smoothing)


def test_timm_soft_targets(timm):
    logits, soft = cases.batch((33, 7), torch.float64)[0], cases.probabilities((33, 7), torch.float64)
    peer = timm.SoftTargetCrossEntropy()
    compare(lambda x: ls_loss.cross_entropy(x, soft), lambda x: peer(x, soft), logits, "soft targets")
    target = cases.integers(7, 33)
    smoothed = ls_loss.smooth_labels(target, 7, 0.1, dtype=torch.float64)
    compare(
        lambda x: ls_loss.cross_entropy(x, target, label_smoothing=0.1), lambda x: peer(x, smoothed), logits, "labels"
    )


def test_hugging_face():
    """Its uniform part is a sum in float32 even for float64 logits, hence 1e-6."""
    peers = pytest.importorskip("transformers.trainer_pt_utils")
    logits, target = cases.batch((3, 6, 7), torch.float64, dim=-1)
    for smoothing in cases.SMOOTHINGS:
        for ignore_index in (-100, 2):
            labels = cases.ignoring(target, ignore_index)
            peer = peers.LabelSmoother(epsilon=smoothing, ignore_index=ignore_index)
            options = dict(ignore_index=ignore_index, label_smoothing=smoothing, dim=-1)
            compare(
                lambda x, y=labels, o=options: ls_loss.cross_entropy(x, y, **o),
                lambda x, y=labels, p=peer: p({"logits": x}, y),
                logits,
                options,
                rtol=1e-6,
            )
            shifted = dict(options, dim=-1)
            compare(
                lambda x, y=labels, o=shifted: ls_loss.cross_entropy(x[:, :-1], y[:, 1:], **o),
                lambda x, y=labels, p=peer: p({"logits": x}, y, shift_labels=True),
                logits,
                f"shifted, {options}",
                rtol=1e-6,
            )


def test_hugging_face_in_16_bits():
    """Where theirs rounds in the logits' dtype and returns float32, ours stays within the error model of one rounding."""
    peers = pytest.importorskip("transformers.trainer_pt_utils")
    for dtype in (torch.bfloat16, torch.float16):
        logits, target = cases.batch((3, 6, 7), dtype, dim=-1)
        expected = expect(logits, target, label_smoothing=0.1, dim=-1)
        loss = ls_loss.cross_entropy(logits, target, label_smoothing=0.1, dim=-1)
        assert_within(loss, expected.loss, expected.loss_tolerance, dtype)
        theirs = peers.LabelSmoother(epsilon=0.1)({"logits": logits}, target)
        assert theirs.double().sub(expected.loss).abs() < 2.0**-6 * expected.loss  # its sums round in the logits' dtype


def fairseq(logits, target, epsilon, ignore_index=-100):
    """(1 - e - e/(C-1)) nll + e/(C-1) smooth, summed over the rows that count."""
    log_p = logits.log_softmax(-1)[target != ignore_index]
    nll = -log_p.gather(1, target[target != ignore_index][:, None])
    share = epsilon / (logits.shape[1] - 1)
    return (1 - epsilon - share) * nll.sum() - share * log_p.sum()


def kl_divergence(logits, target, epsilon):
    """ESPnet: sum of q (log q - log p), with q[y] = 1 - e and e/(C-1) elsewhere."""
    classes = logits.shape[1]
    q = torch.full_like(logits, epsilon / (classes - 1)).scatter(1, target[:, None], 1 - epsilon)
    return F.kl_div(logits.log_softmax(1), q.detach(), reduction="sum")


def megatron(logits, target, epsilon):
    """(1 - e') nll + e'/K sum of -log p, with e' = e K/(K-1), row by row."""
    classes = logits.shape[1]
    smoothing = epsilon * classes / (classes - 1)
    log_p = logits.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(log_p, target, reduction="none") - smoothing / classes * log_p.sum(1)


def flash_attention(logits, target, epsilon):
    """lse minus a mixture of the target's logit and the mean logit, averaged over the rows that count."""
    lse = logits.logsumexp(1)
    rows = lse - (1 - epsilon) * logits.gather(1, target[:, None].clamp_min(0))[:, 0] - epsilon * logits.mean(1)
    return rows[target != -100].mean()


def label_smooth(target, classes, epsilon, prior):
    """Paddle: (1 - e) one-hot + e u."""
    return (1 - epsilon) * F.one_hot(target, classes).double() + epsilon * prior


def test_conventions_by_formula():
    """The 'C - 1' family is the torch convention with e C/(C-1) for e."""
    logits, target = cases.batch((33, 7), torch.float64)
    ignored = cases.ignoring(target, -100)
    for epsilon in (0.0, 0.05, 0.1, 0.5):
        scaled = epsilon * 7 / 6
        compare(
            lambda x, e=scaled: ls_loss.cross_entropy(x, ignored, label_smoothing=e, reduction="sum"),
            lambda x, e=epsilon: fairseq(x, ignored, e),
            logits,
            f"fairseq, {epsilon}",
        )
        compare(
            lambda x, e=scaled: ls_loss.cross_entropy(x, target, label_smoothing=e, reduction="none"),
            lambda x, e=epsilon: megatron(x, target, e),
            logits,
            f"Megatron, {epsilon}",
        )
        compare(
            lambda x, e=epsilon: ls_loss.cross_entropy(x, ignored, label_smoothing=e),
            lambda x, e=epsilon: flash_attention(x, ignored, e),
            logits,
            f"flash-attention, {epsilon}",
        )
        entropy = 0.0 if epsilon == 0 else (1 - epsilon) * math.log(1 - epsilon) + epsilon * math.log(epsilon / 6)
        compare(
            lambda x, e=scaled, h=entropy: (
                ls_loss.cross_entropy(x, target, label_smoothing=e, reduction="sum") + 33 * h
            ),
            lambda x, e=epsilon: kl_divergence(x, target, e),
            logits,
            f"ESPnet, {epsilon}",
        )
        prior = cases.prior(7, torch.float64)
        compare(
            lambda x, e=epsilon, u=prior: ls_loss.cross_entropy(x, target, label_smoothing=e, prior=u),
            lambda x, e=epsilon, u=prior: F.cross_entropy(x, label_smooth(target, 7, e, u)),
            logits,
            f"Paddle, {epsilon}",
        )


def test_equivalences():
    """Where the conventions meet: without weights and ignored rows all are one; one-hot is index but for weighted means."""
    logits, target = cases.batch((33, 7), torch.float64)
    weight = cases.weights(7, torch.float64)
    one_hot = F.one_hot(target, 7).double()
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    for reduction in cases.REDUCTIONS:

        def torchs(x, y=target, reduction=reduction, **options):
            return ls_loss.cross_entropy(x, y, reduction=reduction, label_smoothing=0.1, **options)

        fastai = ls_loss.LabelSmoothingCrossEntropy(0.1, reduction=reduction)
        compare(torchs, lambda x, m=fastai: m(x, target), logits, f"fastai, {reduction}")
        compare(torchs, lambda x, t=torchs: t(x, prior=uniform), logits, f"uniform prior, {reduction}")
        compare(torchs, lambda x, t=torchs: t(x, one_hot), logits, f"one-hot, {reduction}")
        compare(torchs, lambda x, t=torchs: t(x, weight=torch.ones(7).double()), logits, f"weights of 1, {reduction}")
        if reduction != "mean":
            compare(
                lambda x, t=torchs: t(x, weight=weight),
                lambda x, t=torchs: t(x, one_hot, weight=weight),
                logits,
                f"weighted one-hot, {reduction}",
            )
