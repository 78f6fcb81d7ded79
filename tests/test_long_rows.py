"""Rows of several column chunks that lie far apart: the sums of one must not overflow in the frame of the other.

The chunks are joined relative to the largest reference; relative to another one exp(distance) is infinite even in double. Uses
the public package.
"""

import cases
import pytest
import torch
from tolerance import check

import ls_loss

CHUNK = 32768


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_chunks_far_apart(dtype, smoothing, threads):
    """Ascending, descending, a peak between; the target in the first or the last chunk. Two threads share the row."""
    torch.set_num_threads(threads)
    for levels in ((0, 1, 2), (2, 1, 0), (0, 2, 0)):
        logits = cases.randn(1, 2 * CHUNK + 100).to(dtype)
        for chunk, level in enumerate(levels):
            logits[:, chunk * CHUNK : (chunk + 1) * CHUNK] += 1e5 * level
        for y in (CHUNK - 1, 2 * CHUNK + 99):
            options = dict(label_smoothing=smoothing, reduction="sum")
            target = torch.tensor([y])
            check(lambda x, t, o=options: ls_loss.cross_entropy(x, t, **o), logits, target, (levels, y), **options)
