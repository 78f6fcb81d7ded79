"""What smoothed labels look like, and what the loss asks of the logits then: two pictures in build/demo, drawn in seconds.

Run it as a script; another folder is its argument: docs/figures is where the documentation has its pictures from.
"""

# %% Set-up
import torch
from pictures import plt, save

import ls_loss

ANIMALS = ("dog", "cat", "horse", "bear", "kangaroo")
FREQUENCIES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])  # of the animals, for a prior that is not uniform
SMOOTHING = 0.1
SMOOTHINGS = (0.0, 0.1, 0.2)
DISTANCES = torch.linspace(-2, 10, 1201, dtype=torch.float64)


# %% The labels, and what the loss of them is
def labels():
    """The labels of five images, one of each animal: as they are, smoothed, and smoothed towards the frequencies."""
    images, classes = torch.arange(len(ANIMALS)), len(ANIMALS)
    return {
        "hard": ls_loss.smooth_labels(images, classes, epsilon=0.0),
        f"smoothed, {SMOOTHING}": ls_loss.smooth_labels(images, classes, epsilon=SMOOTHING),
        f"smoothed, {SMOOTHING}, towards frequencies": ls_loss.smooth_labels(
            images, classes, epsilon=SMOOTHING, prior=FREQUENCIES
        ),
    }


def losses(smoothing):
    """Loss and gradient of the target's logit, over how far it leads the others, which are equal."""
    logits = torch.zeros(len(DISTANCES), len(ANIMALS), dtype=torch.float64)
    logits[:, 0] = DISTANCES
    target = torch.zeros(len(DISTANCES), dtype=torch.long)
    loss = ls_loss.cross_entropy(logits.requires_grad_(), target, label_smoothing=smoothing, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient[:, 0]


# %% The pictures
def draw_labels():
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (title, table) in zip(axes, labels().items(), strict=True):
        axis.imshow(table, cmap="Blues", vmin=0, vmax=1)
        for row, values in enumerate(table.tolist()):
            for column, value in enumerate(values):
                axis.text(
                    column, row, f"{value:.3g}", ha="center", va="center", color="white" if value > 0.5 else "black"
                )
        axis.set_xticks(range(len(ANIMALS)), ANIMALS)
        axis.set_yticks(range(len(ANIMALS)), [f"image of a {animal}" for animal in ANIMALS])
        axis.set_title(title)
    return save(figure, "smoothed-labels")


def draw_losses():
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for smoothing in SMOOTHINGS:
        loss, gradient = losses(smoothing)
        (line,) = axes[0].plot(DISTANCES, loss, label=f"smoothing {smoothing}")
        axes[1].plot(DISTANCES, gradient, color=line.get_color(), label=f"smoothing {smoothing}")
        if smoothing > 0:
            axes[0].plot(DISTANCES[loss.argmin()], loss.min(), "o", color=line.get_color())
    axes[1].axhline(0, color="gray", linewidth=0.8)
    axes[0].set(ylabel="loss", title="the loss; its smallest value is marked")
    axes[1].set(ylabel="gradient of the label's logit", title="where the gradient is above 0, a step lowers the logit")
    for axis in axes:
        axis.set_xlabel("how far the label's logit leads the four others")
        axis.legend()
        axis.grid(alpha=0.3)
    return save(figure, "smoothed-losses")


# %% All of it
def main():
    for title, table in labels().items():
        print(title, f"{'':20}" + "".join(f"{animal:>10}" for animal in ANIMALS), sep="\n")
        for animal, values in zip(ANIMALS, table.tolist(), strict=True):
            print(f"    image of a {animal:8}" + "".join(f"{value:10.3g}" for value in values))
    for smoothing in SMOOTHINGS[1:]:
        loss, _ = losses(smoothing)
        print(f"smoothing {smoothing}: the loss is smallest where the label leads by {DISTANCES[loss.argmin()]:.2f}")
    print(draw_labels(), draw_losses(), sep="\n")


if __name__ == "__main__":
    main()
