"""The two losses for those who use fastai's of the same names. They hold options and arrange dimensions.

The names of their arguments differ because those of the originals do (`output` and `target`, `inp` and `targ`; `predict_tensor`
in notebook.py), and a caller may give them by keyword. Needs no fastai. Must not do arithmetic on tensors, but for the
activation and the decoding that a Learner asks for.
"""

from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from .functional import fastai_cross_entropy


class LabelSmoothingCrossEntropy(nn.Module):
    r"""Label-smoothed cross-entropy in fastai's convention.

    It is ``fastai.losses.LabelSmoothingCrossEntropy`` with one more keyword.

    For a row of logits :math:`x` with target :math:`y` and class weights :math:`w` the loss is

    .. math::
        \ell = -(1 - \epsilon)\, w_y \log p_y - \epsilon \sum_{c=1}^{C} u_c \log p_c,
        \qquad p = \operatorname{softmax}(x),

    where :math:`u` is :attr:`prior`, by default uniform: :math:`u_c = 1/C`. The class weights are for the first part
    only. ``'mean'`` divides the first part by the sum of :math:`w_y` over the rows whose target is not -100, the second
    by the number of rows.

    Args:
        eps (float, optional): the amount of smoothing; any number computes. Default: ``0.1``
        weight (Tensor, optional): a weight for each class, of shape :math:`(C)` and the logits' dtype. A plain
            attribute: not in the ``state_dict``, not moved with the module. Default: ``None``
        reduction (str, optional): ``'none'`` | ``'mean'`` | ``'sum'``. Default: ``'mean'``
        prior (Tensor, optional): the distribution over the classes that the targets are mixed with, of shape
            :math:`(C)`. A buffer that is not in the ``state_dict``. Default: uniform

    Shape:
        - Output: the logits, :math:`(N, C)` or :math:`(N, C, d_1, ..., d_K)`.
        - Target: class indices, :math:`(N)` or :math:`(N, d_1, ..., d_K)`, of any dtype that casts to integers.
        - Loss: a scalar; with ``'none'`` the target's shape.

    .. note::
        A target of -100 leaves out the first part only: the row is still smoothed, and counts as a row. If all targets
        are -100 ``'mean'`` is NaN and its gradient that of the second part. A row that holds NaN makes its own loss and
        gradient NaN. Where no class is weighted and no target is -100 the loss is that of
        :class:`ls_loss.CrossEntropyLoss`.

    .. note::
        The attributes are read at every call. :meth:`activation` and :meth:`decodes` work on the last dimension, as
        fastai's.

    Examples::

        >>> import torch, ls_loss
        >>> logits = torch.tensor([[4.2, -2.4], [1.6, -0.6], [3.6, 1.2], [-0.5, 0.5], [-0.25, 1.7]])
        >>> ls_loss.LabelSmoothingCrossEntropy(eps=0.1, reduction="none")(logits, torch.tensor([0, 1, 1, 0, 0]))
        tensor([0.3314, 2.1951, 2.3668, 1.2633, 1.9855])
    """

    y_int = True
    """Tells fastai's mixing callbacks to mix two losses, for the targets are integers."""

    prior: Tensor | None

    def __init__(
        self, eps: float = 0.1, weight: Tensor | None = None, reduction: str = "mean", *, prior: Tensor | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = weight
        self.reduction = reduction
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of the logits ``output`` against ``target``."""
        if not isinstance(cast(object, output), Proxy) and output.dim() < 2:  # a Proxy knows no numbers
            raise IndexError(f"tuple index out of range: logits are (N, C, ...), got shape {list(output.shape)}")
        return fastai_cross_entropy(output, target.long(), self.weight, self.reduction, self.eps, self.prior, 1)

    def activation(self, out: Tensor) -> Tensor:
        """Returns the probabilities of the classes, over the last dimension."""
        return F.softmax(out, dim=-1)

    def decodes(self, out: Tensor) -> Tensor:
        """Returns the most probable class, over the last dimension."""
        return out.argmax(dim=-1)


def _of_func(name: str) -> property:
    return property(
        lambda self: getattr(self.func, name),
        lambda self, value: setattr(self.func, name, value),
        doc=f"The ``{name}`` of the loss inside, ``func``.",
    )


class LabelSmoothingCrossEntropyFlat:
    r"""The label-smoothed cross-entropy over all rows of logits of any shape, in fastai's convention.

    It is ``fastai.losses.LabelSmoothingCrossEntropyFlat`` with one more keyword. The formula and the notes are those of
    :class:`ls_loss.LabelSmoothingCrossEntropy`, which it holds in :attr:`func`.

    Args:
        *args: those of :class:`ls_loss.LabelSmoothingCrossEntropy`.
        axis (int, optional): the dimension of the classes. Default: ``-1``
        flatten (bool, optional): whether logits and target are flattened to rows. Default: ``True``
        floatify (bool, optional): whether the target goes through ``float()`` first. Default: ``False``
        is_2d (bool, optional): whether flattening keeps the classes apart. Default: ``True``
        **kwargs: those of :class:`ls_loss.LabelSmoothingCrossEntropy`.

    Shape:
        - Input: any, with the classes in dimension :attr:`axis`.
        - Target: the input's shape without that dimension; for classes in the last dimension any shape of as many
          elements.
        - Loss: a scalar; with ``'none'`` a vector, in the order of the rows once :attr:`axis` and the last dimension
          have changed places.

    .. note::
        Unlike fastai's, this one makes no contiguous copy of logits whose classes are not last, pairs every row with
        its own target for any :attr:`axis` and number of dimensions (fastai's does for ``-1``, and for ``1`` of three
        or four dimensions), takes :attr:`axis` for :meth:`activation` and :meth:`decodes` too, keeps ``float64``, and
        returns a ``TensorBase`` only for one. Ignored rows and NaN are as in
        :class:`ls_loss.LabelSmoothingCrossEntropy`.

    Examples::

        >>> import torch, ls_loss
        >>> loss = ls_loss.LabelSmoothingCrossEntropyFlat(axis=1, reduction="none")
        >>> loss
        FlattenedLoss of LabelSmoothingCrossEntropy()
        >>> loss(torch.zeros(2, 10, 3), torch.zeros(2, 3, dtype=torch.int64))
        tensor([2.3026, 2.3026, 2.3026, 2.3026, 2.3026, 2.3026])
    """

    y_int = True
    """Tells fastai's mixing callbacks to mix two losses, for the targets are integers."""

    eps, weight, reduction, prior = map(_of_func, ("eps", "weight", "reduction", "prior"))

    def __init__(
        self,
        *args: Any,
        axis: int = -1,
        flatten: bool = True,
        floatify: bool = False,
        is_2d: bool = True,
        **kwargs: Any,
    ) -> None:
        self.axis = axis
        self.flatten = flatten
        self.floatify = floatify
        self.is_2d = is_2d
        self.func = LabelSmoothingCrossEntropy(*args, **kwargs)

    def __repr__(self) -> str:
        return f"FlattenedLoss of {self.func}"

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Returns the loss of the logits ``inp`` against ``targ``."""
        inp, targ = _without_kind(inp), _without_kind(targ)
        if self.floatify and targ.dtype != torch.float16:
            targ = targ.float()
        dims = inp.dim()
        axis = self.axis + dims if self.axis < 0 else self.axis
        if self.flatten and self.is_2d and axis < dims - 1 and targ.shape == inp.shape[:axis] + inp.shape[axis + 1 :]:
            loss: Tensor = self.func(inp.movedim(axis, 1), targ)
            return loss.movedim(-1, axis).reshape(-1) if loss.dim() else loss
        if axis != dims - 1:
            inp, targ = inp.transpose(self.axis, -1), targ.transpose(self.axis, -1)
        if self.flatten:
            inp, targ = inp.reshape((-1, inp.shape[-1]) if self.is_2d else -1), targ.reshape(-1)
        return self.func(inp, targ)  # type: ignore[no-any-return]

    def to(self, device: torch.device | str | int) -> None:
        """Moves the buffers of the loss inside to ``device``."""
        self.func.to(device)

    def activation(self, out: Tensor) -> Tensor:
        """Returns the probabilities of the classes, over :attr:`axis`."""
        return F.softmax(out, dim=self.axis)

    def decodes(self, out: Tensor) -> Tensor:
        """Returns the most probable class, over :attr:`axis`."""
        return out.argmax(dim=self.axis)


def _without_kind(tensor: Tensor) -> Tensor:
    """Casts fastai's kinds of tensor (an image, a mask) to their base, as its Flat losses do: two kinds do not mix."""
    if type(tensor) is Tensor or not isinstance(tensor, Tensor):
        return tensor
    base = next(kind for kind in reversed(type(tensor).__mro__) if issubclass(kind, Tensor) and kind is not Tensor)
    if base is type(tensor):
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(base)
