"""Whether a loss computes what it should, before its time counts: against the float64 reference of the tests."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from .providers import SMOOTHING, Loss

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import reference

# Relative to the loss, and to the largest entry of the gradient: far above the rounding of any serious implementation,
# native's 16-bit sums included (its bfloat16 mean over many rows is off by percents), far below a wrong coefficient.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
ERRORS = ("loss error", "gradient error")  # the metrics in the results
CHUNK = 1 << 20  # elements that the reference takes at once


class Oracle:
    """The loss of a batch in float64, and its gradient for the first and the last rows."""

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        rows = max(1, CHUNK * len(logits) // logits.numel())
        self.ends = (slice(0, rows), slice(max(0, len(logits) - rows), None))
        chunks = zip(logits.detach().split(rows), target.split(rows), strict=True)
        total = sum(self._sum(x, y) for x, y in chunks)
        self.loss = float(total) / target.numel()
        self.grads = []
        for end in self.ends:
            x = logits.detach()[end].double().requires_grad_()
            (grad,) = torch.autograd.grad(self._sum(x, target[end]), x)
            self.grads.append(grad / target.numel())

    @staticmethod
    def _sum(logits: Tensor, target: Tensor) -> Tensor:
        return reference.cross_entropy(logits, target, reduction="sum", label_smoothing=SMOOTHING)

    def errors(self, loss: Loss, logits: Tensor, target: Tensor) -> tuple[float, float]:
        """The relative errors of loss and gradient."""
        value = loss(logits, target)
        value.backward()
        loss_error = abs(value.item() / self.loss - 1)
        largest = max(grad.abs().max() for grad in self.grads)
        grad_error = max(
            float((logits.grad[end].double() - grad).abs().max() / largest)
            for end, grad in zip(self.ends, self.grads, strict=True)
        )
        logits.grad = None
        return loss_error, grad_error
