"""The loss for those who use the LabelSmoothingLoss that many notebooks carry. Holds options.

Must not do arithmetic on tensors.
"""

from typing import Any

import torch.nn as nn
from torch import Tensor

from .functional import fastai_cross_entropy


class LabelSmoothingLoss(nn.Module):
    r"""Label-smoothed cross-entropy as a widespread notebook class computes it, with one more keyword.

    The formula, the class weights and the rows with target -100 are those of
    :class:`ls_loss.LabelSmoothingCrossEntropy`; the classes are in the last dimension.

    Args:
        epsilon (float, optional): the amount of smoothing, in [0.0, 1.0]; read and checked at every call. Default:
            ``0.1``
        reduction (str, optional): ``'none'`` | ``'mean'`` | ``'sum'``. Default: ``'mean'``
        weight (Tensor, optional): a weight for each class, of shape :math:`(C)` and the logits' dtype. A plain
            attribute, moved to the logits' device by the call. Default: ``None``
        prior (Tensor, optional): the distribution over the classes that the targets are mixed with, of shape
            :math:`(C)`. A buffer that is not in the ``state_dict``. Default: uniform

    Shape:
        - Input: the logits, :math:`(C)` or :math:`(N, C)`.
        - Target: class indices, :math:`()` or :math:`(N)`, of any integer dtype.
        - Loss: a scalar; with ``'none'`` the target's shape.

    .. note::
        A target of -100 leaves out the first part of the loss only, the row is still smoothed; if all targets are -100,
        ``'mean'`` is NaN. A row that holds NaN makes its own loss and gradient NaN. Unlike the original, this one takes
        an ``epsilon`` of 1, raises ``ValueError`` where that one asserts, and refuses logits of more than two
        dimensions, which that one pairs with the wrong targets.

    Examples::

        >>> import torch, ls_loss
        >>> logits = torch.tensor([[0, 0.2, 0.7, 0.1, 0], [0, 0.9, 0.2, 0.2, 1], [1, 0.2, 0.7, 0.9, 1]])
        >>> ls_loss.LabelSmoothingLoss(epsilon=0.5)(logits, torch.tensor([2, 1, 0]))
        tensor(1.4670)
    """

    prior: Tensor | None

    def __init__(
        self,
        epsilon: float = 0.1,
        reduction: str = "mean",
        weight: Tensor | None = None,
        *,
        prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.reduction = reduction
        self.weight = weight
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, predict_tensor: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of the logits ``predict_tensor`` against ``target``."""
        epsilon: Any = self.epsilon
        if epsilon is None or isinstance(epsilon, str):
            raise TypeError(f"epsilon must be a number, not {type(epsilon).__name__}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")
        if predict_tensor.dim() > 2:
            raise ValueError(f"LabelSmoothingLoss takes logits (C) or (N, C), got shape {list(predict_tensor.shape)}")
        if isinstance(self.weight, Tensor):
            self.weight = self.weight.to(predict_tensor.device)
        return fastai_cross_entropy(predict_tensor, target, self.weight, self.reduction, self.epsilon, self.prior, -1)
