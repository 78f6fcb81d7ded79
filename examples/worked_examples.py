"""The worked examples printed in texts on label smoothing, next to what ls_loss computes. Run it as a script.

The texts' figures stand here as printed there. Ends with status 1 if one of them disagrees.
"""

# %% Set-up
import sys

import torch

import ls_loss

ANIMALS = torch.tensor(
    [
        [4.7, -2.5, 0.6, 1.2, 0.4],
        [-1.2, 2.4, 2.6, -0.6, 2.34],
        [-2.4, 1.2, 1.1, 0.8, 1.2],
        [1.2, 0.2, 0.8, 1.9, -0.6],
        [-0.9, -0.1, -0.2, -0.5, 1.6],
    ]
)  # dog, cat, horse, bear and kangaroo, in this order
CATS_AND_DOGS = torch.tensor([[4.2, -2.4], [1.6, -0.6], [3.6, 1.2], [-0.5, 0.5], [-0.25, 1.7]])
NOTEBOOK = torch.tensor([[0, 0.2, 0.7, 0.1, 0], [0, 0.9, 0.2, 0.2, 1], [1, 0.2, 0.7, 0.9, 1]])


# %% What the texts print, beside what is computed
def examples():
    """What it shows, the decimals printed, the printed figures, the computed ones."""
    yield (
        "Smoothed labels of five animals, smoothing 0.1: 0.92 for the class, 0.02 for the others",
        2,
        [[0.92 if row == column else 0.02 for column in range(5)] for row in range(5)],
        ls_loss.smooth_labels(torch.arange(5), 5, epsilon=0.1),
    )
    yield (
        "Smoothed label of the first of two classes, smoothing 0.2",
        1,
        [0.9, 0.1],
        ls_loss.smooth_labels(torch.tensor(0), 2, epsilon=0.2),
    )
    yield (
        "Hard labels drive logits apart: softmax of [10, 0, 0]",
        4,
        [0.9999, 0, 0],
        ls_loss.LabelSmoothingCrossEntropy().activation(torch.tensor([10.0, 0.0, 0.0])),
    )
    yield (
        "Smoothed with 0.1, three classes: the label, ...",
        4,
        [0.9333, 0.0333, 0.0333],
        ls_loss.smooth_labels(torch.tensor(0), 3, epsilon=0.1),
    )
    yield (
        "... and the logits where the loss is smallest, found by descending its gradient",
        4,
        [3.3322, 0, 0],
        lowest(0.1),
    )
    yield (
        "Five images in a spreadsheet, cats and dogs, smoothing 0.1: the loss of each",
        4,
        [0.3314, 2.1951, 2.3668, 1.2633, 1.9855],
        ls_loss.LabelSmoothingCrossEntropy(eps=0.1, reduction="none")(CATS_AND_DOGS, torch.tensor([0, 1, 1, 0, 0])),
    )
    yield (
        "The notebook's three rows of five logits, smoothing 0.5: the mean loss",
        4,
        [1.4670],
        ls_loss.LabelSmoothingLoss(epsilon=0.5)(NOTEBOOK, torch.tensor([2, 1, 0])).reshape(1),
    )


def lowest(smoothing):
    """The logits of the first of three classes where the smoothed loss is smallest, the last logit being 0."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        loss = ls_loss.cross_entropy(logits, torch.tensor(0), label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 5 * gradient).detach().requires_grad_()
    return (logits - logits[-1]).detach()


def agree(decimals, printed, computed):
    """Whether the computed figures round to the printed ones."""
    unit = 10.0**-decimals
    return torch.allclose(computed.double(), torch.tensor(printed).double(), rtol=0, atol=0.505 * unit)


def side_by_side(decimals, printed, computed):
    """One line for each row of figures."""
    for theirs, ours in zip(
        torch.tensor(printed).double().reshape(-1, computed.shape[-1]),
        computed.reshape(-1, computed.shape[-1]),
        strict=True,
    ):
        texts = [" ".join(f"{value:.{decimals}f}" for value in row.tolist()) for row in (theirs, ours)]
        yield f"    printed  {texts[0]}    ls_loss  {texts[1]}"


# %% All of it
def main():
    differing = 0
    for title, decimals, printed, computed in examples():
        same = agree(decimals, printed, computed)
        differing += not same
        print(title, *side_by_side(decimals, printed, computed), "    agree" if same else "    DIFFER", "", sep="\n")
    print(
        "The smoothed loss is (1 - smoothing) x hard loss + smoothing x loss against uniform labels, animal by animal:"
    )
    smoothed, hard, uniform = (
        ls_loss.cross_entropy(ANIMALS, torch.arange(5), label_smoothing=smoothing, reduction="none")
        for smoothing in (0.1, 0.0, 1.0)
    )
    for values in zip(smoothed.tolist(), hard.tolist(), uniform.tolist(), strict=True):
        print("    {:.4f} = 0.9 x {:.4f} + 0.1 x {:.4f}".format(*values))
    return differing > 0


if __name__ == "__main__":
    sys.exit(main())
