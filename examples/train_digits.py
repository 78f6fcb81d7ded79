"""Trains a small network on handwritten digits with wrong labels among them: with hard labels, and with smoothed ones.

Prints what that does to accuracy, loss and calibration on clean test data, draws a reliability diagram into build/demo,
and times the loss at the size of a language model's. Run it as a script, or with make demo.
"""

# %% Set-up
import statistics
import subprocess
import sys
from dataclasses import dataclass

import torch
from pictures import EXAMPLES, plt, save
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

import ls_loss

SMOOTHING = 0.1
LOSSES = {
    "hard labels": ls_loss.CrossEntropyLoss(),
    f"smoothed, {SMOOTHING}": ls_loss.CrossEntropyLoss(label_smoothing=SMOOTHING),
}
WRONG = 0.3  # the share of the training labels that are replaced by another digit
TRAINING_IMAGES = 900
EPOCHS, BATCH, LEARNING_RATE = 100, 90, 0.004  # enough to learn every training label by heart, the wrong ones too
SEEDS = 5
BINS = 15


# %% What is measured of a trained network
@dataclass
class Result:
    """What one trained network does on the test data."""

    learnt: float  # the share of the training labels that it reproduces
    correct: torch.Tensor
    confidence: torch.Tensor
    auc: float
    nll: float

    @property
    def accuracy(self):
        return self.correct.float().mean().item()

    @property
    def overconfidence(self):
        return self.confidence.mean().item() - self.accuracy

    @property
    def calibration_error(self):
        share, confidence, accuracy = bins(self.confidence, self.correct)
        return (share * (confidence - accuracy).abs()).sum().item()


# Title, value, whether more of it is better (1), less (-1), or neither, and what texts say that smoothing makes it.
MEASURES = (
    ("training labels learnt, %", lambda result: 100 * result.learnt, 0, ""),
    ("test accuracy, %", lambda result: 100 * result.accuracy, 1, "better"),
    ("test AUC, %", lambda result: 100 * result.auc, 1, "better"),
    ("test NLL", lambda result: result.nll, -1, ""),
    ("expected calibration error, %", lambda result: 100 * result.calibration_error, -1, "better"),
    ("confidence above accuracy, %", lambda result: 100 * result.overconfidence, 0, "lower"),
)


def bins(confidence, correct):
    """Of every bin of confidence: the share of the predictions in it, their mean confidence, their accuracy."""
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    count = torch.bincount(index, minlength=BINS)
    confidence, accuracy = (
        torch.bincount(index, values.float(), BINS) / count.clamp(min=1) for values in (confidence, correct)
    )
    return count / len(index), confidence, accuracy


# %% Data with wrong labels, and training on them
def split(images, digits, seed, share_wrong=WRONG):
    """Training and test data, others for every seed; only training labels are wrong."""
    random = torch.Generator().manual_seed(seed)
    training, test = torch.randperm(len(images), generator=random).split(
        [TRAINING_IMAGES, len(images) - TRAINING_IMAGES]
    )
    labels = digits[training]
    wrong = torch.randperm(len(labels), generator=random)[: round(share_wrong * len(labels))]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, wrong.shape, generator=random)) % 10
    return images[training], labels, images[test], digits[test]


def train(loss, images, labels, seed, progress, epochs):
    """A network trained with this loss. The seed gives the first weights and the batches: the same for every loss."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        progress.update()
    return model.requires_grad_(False)


def examine(model, images, labels, test_images, test_digits):
    """The network's result."""
    logits = model(test_images)
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    return Result(
        learnt=(model(images).argmax(1) == labels).float().mean().item(),
        correct=predicted == test_digits,
        confidence=confidence,
        auc=roc_auc_score(test_digits, probabilities, multi_class="ovr"),
        nll=ls_loss.cross_entropy(logits, test_digits).item(),
    )


# %% The table and the reliability diagram
def verdict(differences, better):
    """Whether differences, one for each seed, are more than chance: a paired t-test at 95 %."""
    mean = statistics.mean(differences)
    if not stats.ttest_1samp(differences, 0).pvalue < 0.05:  # all the same: not a number
        return "no clear difference"
    if not better:
        return "higher" if mean > 0 else "lower"
    return "better" if mean * better > 0 else "worse"


def table(results):
    """Means over the seeds and their standard deviations, and what smoothing changes."""
    yield f"{'':31}" + "".join(f"{name:>18}" for name in results) + "   smoothed: texts say   here"
    for title, measure, better, claim in MEASURES:
        columns = [[measure(result) for result in each] for each in results.values()]
        cells = (f"{statistics.mean(column):10.2f} ± {statistics.stdev(column):5.2f}" for column in columns)
        hard, smoothed = columns
        here = verdict([b - a for a, b in zip(hard, smoothed, strict=True)], better)
        yield f"{title:31}" + "".join(cells) + f"   {claim:19}   {here}"


def draw(results):
    """The reliability diagram, accuracy against confidence, and how often each confidence occurs; all seeds together."""
    figure, axes = plt.subplots(
        2, len(results), figsize=(9, 6.5), sharex=True, sharey="row", height_ratios=(3, 1), layout="constrained"
    )
    centres = (torch.arange(BINS) + 0.5) / BINS
    for (upper, lower), (name, each) in zip(axes.T, results.items(), strict=True):
        confidence, correct = (
            torch.cat([getattr(result, field) for result in each]) for field in ("confidence", "correct")
        )
        share, mean_confidence, accuracy = bins(confidence, correct)
        seen = share > 0
        upper.bar(centres[seen], accuracy[seen], 0.9 / BINS, color="tab:blue", label="accuracy")
        upper.plot(
            mean_confidence[seen], accuracy[seen], "o", color="black", markersize=3, label="at the mean confidence"
        )
        upper.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
        error = 100 * statistics.mean(result.calibration_error for result in each)
        upper.set_title(f"{name}: calibration error {error:.1f} %")
        lower.bar(centres, 100 * share, 0.9 / BINS, color="tab:gray")
        lower.axvline(confidence.mean(), color="tab:red", label=f"mean confidence {100 * confidence.mean():.0f} %")
        lower.axvline(
            correct.float().mean(),
            color="tab:blue",
            linestyle="--",
            label=f"accuracy {100 * correct.float().mean():.0f} %",
        )
        lower.set_xlabel("confidence")
        for part in (upper, lower):
            part.legend(loc="upper left", fontsize="small")
            part.set_xlim(0, 1)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("predictions, %")
    return save(figure, "reliability-digits")


# %% All of it
def main():
    data = load_digits()
    images, digits = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    print(
        f"Training on {TRAINING_IMAGES} handwritten digits, {100 * WRONG:.0f} % of the labels wrong, with {SEEDS} seeds; "
        f"testing on the other {len(images) - TRAINING_IMAGES}, all labels right."
    )
    results = {name: [] for name in LOSSES}
    torch.set_num_threads(1)  # a network this small has no work for more
    with tqdm(total=EPOCHS * SEEDS * len(LOSSES), unit="epoch", mininterval=0.5) as progress:
        for seed in range(SEEDS):
            *training, test_images, test_digits = split(images, digits, seed)
            for name, loss in LOSSES.items():
                progress.set_description(f"seed {seed}, {name}")
                model = train(loss, *training, seed, progress, EPOCHS)
                results[name].append(examine(model, *training, test_images, test_digits))
    print("", *table(results), sep="\n")
    print("Mean ± standard deviation over the seeds; a difference is clear if it passes a paired t-test at 95 %.")
    print(f"Reliability diagram with confidence histogram: {draw(results)}\n", flush=True)
    # In a process of its own: scikit-learn brings an OpenMP runtime, and two in one process spoil any timing.
    subprocess.run([sys.executable, EXAMPLES / "time_step.py"], check=True)


if __name__ == "__main__":
    main()
