"""Wrong labels and smoothing: accuracy and calibration over the share of wrong labels and the amount of smoothing.

Trains on handwritten digits, as train_digits.py, and draws both as heat maps into build/demo. Run it as a script; a minute.
"""

# %% Set-up
import statistics

import torch
from pictures import plt, save
from sklearn.datasets import load_digits
from tqdm import tqdm
from train_digits import examine, split, train

import ls_loss

NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SMOOTHINGS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6)
SEEDS, EPOCHS = 2, 45


# %% Every share of wrong labels with every smoothing
def sweep(images, digits):
    """Accuracy and calibration error on right labels, in percent: the mean over the seeds, [noise][smoothing]."""
    results = {}
    with tqdm(total=len(NOISES) * len(SMOOTHINGS) * SEEDS * EPOCHS, unit="epoch", mininterval=0.5) as progress:
        for noise in NOISES:
            for smoothing in SMOOTHINGS:
                progress.set_description(f"{100 * noise:.0f} % wrong, smoothing {smoothing}")
                loss = ls_loss.CrossEntropyLoss(label_smoothing=smoothing)
                for seed in range(SEEDS):
                    *training, test_images, test_digits = split(images, digits, seed, noise)
                    model = train(loss, *training, seed, progress, EPOCHS)
                    result = examine(model, *training, test_images, test_digits)
                    results.setdefault((noise, smoothing), []).append(result)
    measures = (lambda result: 100 * result.accuracy, lambda result: 100 * result.calibration_error)
    return [
        [[statistics.mean(map(measure, results[noise, smoothing])) for smoothing in SMOOTHINGS] for noise in NOISES]
        for measure in measures
    ]


# %% The heat maps
def draw(grids):
    """Both as heat maps, with their figures; a frame around the best smoothing of each noise."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    kinds = (("test accuracy, %", "viridis", max), ("expected calibration error, %", "viridis_r", min))
    for axis, grid, (title, colours, best) in zip(axes, grids, kinds, strict=True):
        image = axis.imshow(grid, cmap=colours, aspect="auto")
        middle = (max(map(max, grid)) + min(map(min, grid))) / 2
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                bright = (value > middle) == (best is max)
                axis.text(column, row, f"{value:.1f}", ha="center", va="center", color="black" if bright else "white")
            frame = plt.Rectangle(
                (values.index(best(values)) - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2
            )
            axis.add_patch(frame)
        axis.set_xticks(range(len(SMOOTHINGS)), SMOOTHINGS)
        axis.set_yticks(range(len(NOISES)), [f"{100 * noise:.0f}" for noise in NOISES])
        axis.set(
            title=f"{title}: the best of each row framed", xlabel="label smoothing", ylabel="wrong training labels, %"
        )
        figure.colorbar(image, ax=axis)
    return save(figure, "noise-sweep")


# %% All of it
def main():
    data = load_digits()
    images, digits = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.set_num_threads(1)  # a network this small has no work for more
    accuracy, calibration = sweep(images, digits)
    print(f"\nTest accuracy, %, mean of {SEEDS} seeds: wrong labels down, smoothing across")
    print(" " * 8 + "".join(f"{smoothing:8}" for smoothing in SMOOTHINGS))
    for noise, values in zip(NOISES, accuracy, strict=True):
        print(f"{100 * noise:6.0f} %" + "".join(f"{value:8.1f}" for value in values))
    print(f"Heat maps of accuracy and calibration error: {draw((accuracy, calibration))}")


if __name__ == "__main__":
    main()
