"""Calibration on real data: hard labels, smoothed labels, and temperature scaling, which needs no smoothing at all.

Trains small networks on two data sets that come with scikit-learn, prints accuracy, likelihood and calibration on test data,
and draws reliability diagrams before and after temperature scaling into build/demo. Run it as a script; a minute.
"""

# %% Set-up
import statistics

import torch
from pictures import plt, save
from sklearn.datasets import load_breast_cancer, load_wine
from torch import nn
from tqdm import tqdm
from train_digits import bins, verdict

import ls_loss

DATA = {"breast cancer, 30 measurements, 2 classes": load_breast_cancer, "wine, 13 measurements, 3 classes": load_wine}
SMOOTHINGS = (0.0, 0.1)
SEEDS = 10
EPOCHS, BATCH, LEARNING_RATE, HIDDEN = 200, 32, 0.01, 64  # enough to learn the training data by heart
SHARES = (0.4, 0.3, 0.3)  # of the rows: training, temperature, test
TEMPERATURES = (0.25, 20.0)

# Title, value of logits and labels, whether more of it is better (1), less (-1), or neither.
MEASURES = (
    ("accuracy, %", lambda logits, labels: 100 * correct(logits, labels).mean().item(), 1),
    ("NLL", lambda logits, labels: ls_loss.cross_entropy(logits, labels).item(), -1),
    ("calibration error, %", lambda logits, labels: 100 * calibration_error(logits, labels), -1),
    ("confidence above accuracy, %", lambda logits, labels: 100 * overconfidence(logits, labels), 0),
)


# %% What is measured
def correct(logits, labels):
    return logits.argmax(1).eq(labels).float()


def confidence(logits):
    return logits.softmax(1).max(1).values


def overconfidence(logits, labels):
    return (confidence(logits) - correct(logits, labels)).mean().item()


def calibration_error(logits, labels):
    share, mean_confidence, accuracy = bins(confidence(logits), correct(logits, labels))
    return (share * (mean_confidence - accuracy).abs()).sum().item()


# %% Training, and the temperature that fits best
def split(features, labels, seed):
    """Training, temperature and test rows, others for every seed; features standardised by the training rows."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first, second = (round(share * len(labels)) for share in SHARES[:2])
    parts = order[:first], order[first : first + second], order[first + second :]
    training = features[parts[0]]
    features = (features - training.mean(0)) / training.std(0)
    return [(features[part], labels[part]) for part in parts]


def train(features, labels, num_classes, smoothing, seed):
    """A network trained with this smoothing; the seed gives the first weights and the batches."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(features.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    )
    loss = ls_loss.CrossEntropyLoss(label_smoothing=smoothing)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            loss(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return model.requires_grad_(False)


def temperature(logits, labels):
    """The number by which to divide logits so that these labels are likeliest: one parameter, found by L-BFGS. Held to
    TEMPERATURES: where every one of few rows is right, the likelihood knows no end."""
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = ls_loss.cross_entropy(logits.double() * scale.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.exp(-scale.detach()).clamp(*TEMPERATURES).item()


def outcomes(load, progress):
    """Test logits and labels of every seed, for each way to get them."""
    data = load()
    features, labels = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    found = {}
    for seed in range(SEEDS):
        training, held_back, test = split(features, labels, seed)
        for smoothing in SMOOTHINGS:
            model = train(*training, len(data.target_names), smoothing, seed)
            name = f"smoothed, {smoothing}" if smoothing else "hard labels"
            logits = model(test[0])
            number = temperature(model(held_back[0]), held_back[1])
            found.setdefault(name, []).append((logits, test[1]))
            found.setdefault(f"{name}, temperature", []).append((logits / number, test[1]))
            progress.update()
    return found


# %% The table and the reliability diagrams
def table(found):
    """Means over the seeds and their standard deviations; then what smoothing beats."""
    yield f"    {'':28}" + "".join(f"{title:>30}" for title, *_ in MEASURES)
    values = {name: [[measure(*one) for one in each] for _, measure, _ in MEASURES] for name, each in found.items()}
    for name, columns in values.items():
        cells = (f"{statistics.mean(column):22.3f} ± {statistics.stdev(column):5.3f}" for column in columns)
        yield f"    {name:28}" + "".join(cells)
    hard, scaled, smoothed, _ = found
    for before in (hard, scaled):
        verdicts = (
            f"{title.partition(',')[0]} {verdict([b - a for a, b in zip(*columns, strict=True)], better)}"
            for (title, _, better), *columns in zip(MEASURES, values[before], values[smoothed], strict=True)
            if better
        )
        yield f"    {smoothed}, against {before}: " + "; ".join(verdicts)


def draw(title, found):
    """A reliability diagram for each way, all seeds together; the area of a point is the share of the predictions in it."""
    figure, axes = plt.subplots(2, len(found) // 2, figsize=(8, 8), sharex=True, sharey=True, layout="constrained")
    for axis, (name, each) in zip(axes.flat, found.items(), strict=True):
        logits, labels = (torch.cat(parts) for parts in zip(*each, strict=True))
        share, mean_confidence, accuracy = bins(confidence(logits), correct(logits, labels))
        seen = share > 0
        axis.plot([0, 1], [0, 1], "--", color="gray")
        axis.plot(mean_confidence[seen], accuracy[seen], color="tab:blue", linewidth=0.8)
        axis.scatter(mean_confidence[seen], accuracy[seen], 10 + 400 * share[seen], color="tab:blue", alpha=0.6)
        axis.set(title=f"{name}\ncalibration error {100 * calibration_error(logits, labels):.1f} %")
        axis.set(xlim=(0.3, 1.03), ylim=(-0.03, 1.05))
    figure.supxlabel("confidence")
    figure.supylabel("accuracy")
    figure.suptitle(f"{title}; {SEEDS} splits together")
    return save(figure, f"reliability-{title.partition(',')[0].replace(' ', '-')}")


# %% All of it
def main():
    torch.set_num_threads(1)  # networks this small have no work for more
    with tqdm(total=len(DATA) * SEEDS * len(SMOOTHINGS), unit="network", mininterval=0.5) as progress:
        everything = {title: outcomes(load, progress) for title, load in DATA.items()}
    for title, found in everything.items():
        print(f"\n{title}; {SEEDS} splits", *table(found), f"    {draw(title, found)}", sep="\n")
    print("\nMean ± standard deviation over the splits; better or worse where a paired t-test at 95 % says so.")


if __name__ == "__main__":
    main()
