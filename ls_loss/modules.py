"""The module for those who use torch.nn.CrossEntropyLoss. Holds options and calls the function.

Must not know how the loss is computed.
"""

import torch.nn as nn
from torch import Tensor

from .functional import cross_entropy


class CrossEntropyLoss(nn.CrossEntropyLoss):
    r"""Cross-entropy between logits and targets, with label smoothing.

    It is :class:`torch.nn.CrossEntropyLoss` with two more keywords, and a subclass of it: the same attributes, read at
    every call, the same buffer :attr:`weight`, the same keys in the ``state_dict``. The formula and more notes are at
    :func:`ls_loss.cross_entropy`.

    Args:
        weight (Tensor, optional): a weight for each class, of shape :math:`(C)` and the logits' dtype.
        size_average (bool, optional): deprecated, see :attr:`reduction`.
        ignore_index (int, optional): a target value whose rows count for nothing. Default: ``-100``
        reduce (bool, optional): deprecated, see :attr:`reduction`.
        reduction (str, optional): ``'none'`` | ``'mean'`` | ``'sum'``. Default: ``'mean'``
        label_smoothing (float, optional): the amount of smoothing, in [0.0, 1.0]. Default: ``0.0``
        prior (Tensor, optional): the distribution over the classes that the targets are mixed with, of shape
            :math:`(C)`. A buffer that is not in the ``state_dict``. Default: uniform
        dim (int, optional): the dimension of the classes, negative values counting from the end. Default: ``1``

    Shape:
        - Input: :math:`(C)`, :math:`(N, C)` or :math:`(N, C, d_1, ..., d_K)`; with :attr:`dim`, the classes may stand
          in any other place.
        - Target: the input's shape without the dimension of the classes, or the input's shape for class probabilities.
        - Output: a scalar; with ``'none'`` the input's shape without the dimension of the classes.

    .. note::
        Ignored rows give zero loss and zero gradient whatever they hold; if all rows are ignored, ``'mean'`` is NaN and
        its gradient 0. Unlike the native module this one raises for a ``label_smoothing`` that is negative or NaN, and
        takes targets of every integer dtype.

    Examples::

        >>> import torch, ls_loss
        >>> loss = ls_loss.CrossEntropyLoss(label_smoothing=0.1)
        >>> logits = torch.tensor([[4.7, -2.5, 0.6, 1.2, 0.4], [-1.2, 2.4, 2.6, -0.6, 2.34]], requires_grad=True)
        >>> output = loss(logits, torch.tensor([0, 1]))
        >>> output.backward()
        >>> output.detach()
        tensor(0.8731)
    """

    prior: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        prior: Tensor | None = None,
        dim: int = 1,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.register_buffer("prior", prior, persistent=False)
        self.dim = dim

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of ``input`` against ``target``."""
        return cross_entropy(
            input,
            target,
            self.weight,
            None,
            self.ignore_index,
            None,
            self.reduction,
            self.label_smoothing,
            prior=self.prior,
            dim=self.dim,
        )
