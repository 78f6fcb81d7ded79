"""What is measured: shapes, dtypes, threads, and the logits and targets of each. Must not know who computes."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = (
    (32, 10),
    (128, 10),
    (256, 1000),
    (65536, 10),
    (8, 256000),
    (32768, 1000),
    (16, 1000, 32, 32),
    (4096, 32000),
)
QUICK_SHAPES = ((32, 10), (256, 1000), (65536, 10), (1024, 32000))
LARGE = (4096, 32000)
OTHER_DTYPES = (torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Batch:
    """One batch of logits, classes in dimension 1, and the number of threads that work on it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    threads: int

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{list(self.shape)} {name_of(self.dtype)}, {self.threads} thread{'s' * (self.threads > 1)}"

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Logits that require a gradient, and targets: the same on every run."""
        random = torch.Generator().manual_seed(0)
        logits = torch.randn(self.shape, generator=random).mul_(3).to(self.dtype)
        target = torch.randint(self.shape[1], (self.shape[0], *self.shape[2:]), generator=random)
        return logits.requires_grad_(), target


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def batches(quick: bool, threads: list[int] | None = None) -> list[Batch]:
    """All of them, small ones first, each with these numbers of threads: by default one and all, of quick ones all."""
    everyone = os.cpu_count() or 1
    threads = threads or ([everyone] if quick else sorted({1, everyone}))
    kinds = [(shape, torch.float32) for shape in (QUICK_SHAPES if quick else SHAPES)]
    if not quick:
        kinds += [(LARGE, dtype) for dtype in OTHER_DTYPES]
    return [Batch(shape, dtype, number) for shape, dtype in kinds for number in threads]
