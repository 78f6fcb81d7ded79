"""A small language model on the help texts of Python: hard labels, smoothed ones, and smoothed towards the words' frequencies.

Prints perplexity and calibration on text held back, and draws both over the epochs into build/demo. The model and the text are
those of benchmarks/train_lm.py, which compares the speed with native's. Run it as a script; two minutes.
"""

# %% Set-up
import torch
from pictures import plt, save
from tqdm import tqdm

import ls_loss
from benchmarks.train_lm import LEARNING_RATE, VOCABULARY, LanguageModel, batches

SMOOTHING = 0.1
EPOCHS = 3
HELD_BACK = 4  # batches


# %% The three losses
def losses(training):
    """By name: a function of logits [tokens, words] and the next words."""
    words = torch.cat([batch[:, 1:].flatten() for batch in training])
    frequencies = torch.bincount(words, minlength=VOCABULARY) / len(words)
    return {
        "hard labels": ls_loss.CrossEntropyLoss(),
        f"smoothed, {SMOOTHING}": ls_loss.CrossEntropyLoss(label_smoothing=SMOOTHING),
        f"smoothed, {SMOOTHING}, towards frequencies": ls_loss.CrossEntropyLoss(
            label_smoothing=SMOOTHING, prior=frequencies
        ),
    }


# %% Training, and what the model does on text that it has not seen
def train(loss, training, held_back, progress):
    """Trains one model; returns a result for each epoch. The seed gives the first weights: the same for every loss."""
    torch.manual_seed(0)
    model = LanguageModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    results = []
    for _ in range(EPOCHS):
        for batch in training:
            optimizer.zero_grad()
            loss(model(batch[:, :-1]), batch[:, 1:].flatten()).backward()
            optimizer.step()
            progress.update()
        results.append(examine(model, held_back))
    return results


@torch.no_grad()
def examine(model, held_back):
    """Perplexity, accuracy and mean confidence."""
    loss, correct, confidence = [], [], []
    for batch in held_back:
        logits, target = model(batch[:, :-1]), batch[:, 1:].flatten()
        loss.append(ls_loss.cross_entropy(logits, target))
        surest, predicted = logits.softmax(1).max(1)
        correct.append(predicted.eq(target).float().mean())
        confidence.append(surest.mean())
    loss, correct, confidence = (torch.stack(values).mean().item() for values in (loss, correct, confidence))
    return {
        "perplexity": torch.tensor(loss).exp().item(),
        "accuracy, %": 100 * correct,
        "confidence above accuracy, %": 100 * (confidence - correct),
    }


# %% The picture
def draw(results):
    """Each measure over the epochs."""
    titles = list(next(iter(results.values()))[0])
    figure, axes = plt.subplots(1, len(titles), figsize=(12, 4), layout="constrained")
    epochs = range(1, EPOCHS + 1)
    for axis, title in zip(axes, titles, strict=True):
        for name, each in results.items():
            axis.plot(epochs, [result[title] for result in each], "o-", markersize=4, label=name)
        axis.set(title=title, xlabel="epochs", xticks=epochs)
        axis.grid(alpha=0.3)
    axes[-1].axhline(0, color="gray", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
    return save(figure, "language-model")


# %% All of it
def main():
    everything = batches()
    training, held_back = everything[:-HELD_BACK], everything[-HELD_BACK:]
    results = {}
    ways = losses(training)
    with tqdm(total=len(ways) * EPOCHS * len(training), unit="step", mininterval=0.5) as progress:
        for name, loss in ways.items():
            progress.set_description(name)
            results[name] = train(loss, training, held_back, progress)
    print(f"\nOn text held back, after {EPOCHS} epochs of {len(training)} steps")
    print(f"    {'':36}" + "".join(f"{title:>32}" for title in results[name][-1]))
    for name, each in results.items():
        print(f"    {name:36}" + "".join(f"{value:32.1f}" for value in each[-1].values()))
    print(f"Over the epochs: {draw(results)}")


if __name__ == "__main__":
    main()
