"""What one training step spends in the loss, on this machine: ls_loss, native and compiled native. Run it as a script.

4096 rows of 32000 logits by default, as a language model has them; needs 4 GB of memory. Other sizes are two arguments.
"""

# %% Set-up
import sys
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
import ls_loss
from benchmarks.providers import compiled, forward_backward, native, ours
from benchmarks.timing import copy_of, interleave, load_average, machine, sampler

SECONDS = 5.0
FEWEST_ROUNDS = 3


# %% Every step in turn
def measure(rows, num_classes):
    """The timing of every step, and of the copy."""
    logits = torch.randn(rows, num_classes, requires_grad=True)
    target = torch.randint(num_classes, (rows,))
    torch._dynamo.reset()
    steps = {
        "copy of the logits": copy_of(logits),
        "ls_loss": forward_backward(ours, logits, target),
        "native": forward_backward(native, logits, target),
        "native, compiled": forward_backward(compiled(native), logits, target),
    }
    progress = tqdm(steps.items(), desc="warming up and compiling", leave=False)
    samplers = {name: sampler(step) for name, step in progress}
    with tqdm(desc=f"sampling for {SECONDS:.0f} seconds or more", unit="sample", leave=False) as progress:

        def counted(take):
            progress.update()
            return take()

        return interleave({name: partial(counted, take) for name, take in samplers.items()}, SECONDS, FEWEST_ROUNDS)


# %% The table
def main(rows=4096, num_classes=32000):
    print(f"Loss and gradient of [{rows}, {num_classes}] float32 logits, label smoothing 0.1")
    timings = measure(rows, num_classes)
    copy_time, our_time = timings["copy of the logits"].median, timings["ls_loss"].median
    print(f"    {'':20}{'ms':>9}{'x copy':>9}{'x ls_loss':>11}")
    for name, timing in timings.items():
        time = timing.median
        print(f"    {name:20}{time * 1e3:9.1f}{time / copy_time:9.2f}{time / our_time:11.1f}")
    config, load = ls_loss.config(), load_average()
    print(
        f"Medians, interleaved; {config['threads']} threads, {config['isa']}, torch {config['torch_running']}, {machine()}."
    )
    if load > config["threads"] + 1:
        print(f"The machine is busy with other work, load average {load:.1f}: the figures mean little.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
