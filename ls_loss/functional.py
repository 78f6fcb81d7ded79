"""The functions of the library. They choose the operator or native torch by the types of the arguments.

Whatever depends on values, shapes, dtypes or devices is decided in the operator. Must not do arithmetic on tensors.
"""

from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn import _reduction
from torch.nn.parameter import Parameter
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import _library
from ._library import FASTAI, REDUCTIONS, TORCH

_TENSORS = frozenset({torch.Tensor, Parameter})
_OPTIONAL_TENSORS = _TENSORS | {type(None)}

native_cross_entropy = F.cross_entropy  # itself, also while ls_loss.patch() is on


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    prior: Tensor | None = None,
    dim: int = 1,
) -> Tensor:
    r"""Computes the cross-entropy between logits and targets, with label smoothing.

    It is :func:`torch.nn.functional.cross_entropy` with two more keywords.

    For a row of logits :math:`x` with target :math:`y`, class weights :math:`w` and smoothing :math:`\epsilon` the loss
    is

    .. math::
        \ell = -(1 - \epsilon)\, w_y \log p_y - \epsilon \sum_{c=1}^{C} w_c\, u_c \log p_c,
        \qquad p = \operatorname{softmax}(x),

    where :math:`u` is :attr:`prior`, by default uniform: :math:`u_c = 1/C`. ``'mean'`` divides the sum of both parts by
    the sum of :math:`w_y` over the rows that are not ignored. For class probabilities :math:`q` the loss is
    :math:`-\sum_c w_c\, ((1 - \epsilon) q_c + \epsilon u_c) \log p_c`, and ``'mean'`` divides by the number of rows.

    Args:
        input (Tensor): the logits, unnormalized.
        target (Tensor): class indices, of any integer dtype; or class probabilities, of the logits' shape.
        weight (Tensor, optional): a weight for each class, of shape :math:`(C)`.
        size_average (bool, optional): deprecated, see :attr:`reduction`.
        ignore_index (int, optional): a target value whose rows count for nothing: zero loss, zero gradient, whatever
            they hold. For class indices only. Default: ``-100``
        reduce (bool, optional): deprecated, see :attr:`reduction`.
        reduction (str, optional): ``'none'`` | ``'mean'`` | ``'sum'``. Default: ``'mean'``
        label_smoothing (float, optional): the amount of smoothing, in [0.0, 1.0]. Default: ``0.0``
        prior (Tensor, optional): the distribution over the classes that the targets are mixed with, of shape
            :math:`(C)`; finite and nonnegative, with a sum of 1 (to 1e-2). A class with a prior of 0 takes no part in
            the smoothing, so that its logit may be ``-inf``. Receives no gradient. Default: uniform
        dim (int, optional): the dimension of the classes, negative values counting from the end. Default: ``1``

    Shape:
        - Input: :math:`(C)`, :math:`(N, C)` or :math:`(N, C, d_1, ..., d_K)` with :math:`K \geq 1`; with :attr:`dim`,
          the classes may stand in any other place.
        - Target: the input's shape without the dimension of the classes, or the input's shape for class probabilities.
        - Output: a scalar; with ``'none'`` the input's shape without the dimension of the classes.

    .. note::
        If all rows are ignored, or there are none, ``'mean'`` is NaN and its gradient 0. A NaN or ``+inf`` logit, or a
        row of nothing but ``-inf``, makes that row's loss and gradient NaN and touches no other row. A logit of
        ``-inf`` has probability 0; where it is smoothed the loss is ``+inf`` and the gradient finite.

    .. note::
        Unlike the native function, this one takes targets of every integer dtype, raises for a ``label_smoothing`` that
        is negative or NaN (native ignores it), and leaves the gradient of ignored rows 0 even where their logits are
        not finite. Loss and gradient of 16-bit logits are computed in 32 bits and rounded once; a gradient
        from further up, other than 1, rounds once more. What the CPU kernel does not serve (other devices, sparse or
        complex logits, tensor subclasses with a ``__torch_dispatch__``) is left to native operators, which compute it
        or raise.

    Examples::

        >>> import torch, ls_loss
        >>> logits = torch.tensor([[4.2, -2.4], [1.6, -0.6], [3.6, 1.2], [-0.5, 0.5], [-0.25, 1.7]], requires_grad=True)
        >>> target = torch.tensor([0, 1, 1, 0, 0])
        >>> ls_loss.cross_entropy(logits, target, label_smoothing=0.1, reduction="none").detach()
        tensor([0.3314, 2.1951, 2.3668, 1.2633, 1.9855])
        >>> loss = ls_loss.cross_entropy(logits, target, label_smoothing=0.1)
        >>> loss.backward()
        >>> # Smoothed towards the frequencies of the classes
        >>> frequencies = torch.tensor([0.6, 0.4])
        >>> ls_loss.cross_entropy(logits, target, label_smoothing=0.1, prior=frequencies).detach()
        tensor(1.6119)
        >>> # Classes in the last dimension, as language models have them
        >>> ls_loss.cross_entropy(torch.zeros(2, 7, 10), torch.zeros(2, 7, dtype=torch.int32), dim=-1)
        tensor(2.3026)
    """
    if has_torch_function_variadic(input, target, weight, prior):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight, prior),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            prior=prior,
            dim=dim,
        )
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    try:
        number = REDUCTIONS[reduction]
    except (KeyError, TypeError):
        number = _reduction.get_enum(reduction)
    if (
        type(input) in _TENSORS
        and type(target) in _TENSORS
        and type(weight) in _OPTIONAL_TENSORS
        and type(prior) in _OPTIONAL_TENSORS
        and type(label_smoothing) is float
        and type(ignore_index) is int
        and -(1 << 63) <= ignore_index < 1 << 63
        and type(dim) is int
        and -(1 << 63) <= dim < 1 << 63
    ):
        return _library.cross_entropy(input, target, weight, number, ignore_index, label_smoothing, prior, dim, TORCH)
    return _cross_entropy_unusual(input, target, weight, ignore_index, reduction, number, label_smoothing, prior, dim)


def _cross_entropy_unusual(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    number: int,
    label_smoothing: float,
    prior: Tensor | None,
    dim: int,
) -> Tensor:
    """The call for arguments of other types: native raises for what it rejects, and what it takes goes on."""
    tensors = (input, target) if weight is None else (input, target, weight)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return native_cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    if prior is not None and not isinstance(prior, Tensor):
        raise TypeError(f"cross_entropy(): argument 'prior' must be Tensor, not {type(prior).__name__}")
    dim = _integer("cross_entropy", "dim", dim)
    if not -(1 << 63) <= dim < 1 << 63:
        within = f"[{-input.dim()}, {input.dim() - 1}]"
        raise IndexError(f"Dimension out of range (expected to be in range of {within}, but got {dim})")
    label_smoothing = _accepted(ignore_index, label_smoothing)
    apart = _any_dispatches_in_python(input, target, weight, prior)
    operator = _library.aten_cross_entropy if apart else _library.cross_entropy
    return operator(input, target, weight, number, ignore_index, label_smoothing, prior, dim, TORCH)


def _require_tensors(function: str, **arguments: object) -> None:
    """For what native has no function for: the dispatcher's own error tells of schemas. What stands for a tensor is one."""
    for name, argument in arguments.items():
        if isinstance(argument, Tensor) or hasattr(argument, "__torch_function__"):
            continue
        if argument is not None or name in ("input", "target"):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(argument).__name__}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def _integer(function: str, name: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{function}(): argument '{name}' must be int, not {type(value).__name__}") from None


def _any_dispatches_in_python(*arguments: object) -> bool:
    """Whether ATen must compute: a subclass with its own ``__torch_dispatch__`` need not know our operators."""
    return any(
        isinstance(argument, Tensor)
        and type(argument).__torch_dispatch__ is not Tensor.__torch_dispatch__
        and not isinstance(argument, (FakeTensor, FunctionalTensor))
        for argument in arguments
    )


def _accepted(ignore_index: int, label_smoothing: float) -> float:
    """The smoothing as a number of the operator. Native raises for both options: in an empty batch it sees nothing else."""
    if type(label_smoothing) is int:
        label_smoothing = float(label_smoothing)
    if type(label_smoothing) is not float or type(ignore_index) is not int or not -(1 << 63) <= ignore_index < 1 << 63:
        logits, target = torch.empty(0, 1, device="cpu"), torch.empty(0, dtype=torch.int64, device="cpu")
        native_cross_entropy(logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing)
    # Compiled code makes a tensor of a numpy scalar, which native unpacks and an operator of ours does not.
    return label_smoothing if type(label_smoothing) in (float, torch.SymFloat) else float(label_smoothing)


def fastai_cross_entropy(
    output: Tensor, target: Tensor, weight: Tensor | None, reduction: str, eps: Any, prior: Tensor | None, dim: int
) -> Tensor:
    """The loss in fastai's convention, for the modules that keep it; native torch has none to hand calls to."""
    if type(eps) is not float:
        if isinstance(eps, Tensor) and eps.requires_grad:
            raise TypeError("the smoothing must be a number: a tensor that requires grad would receive none")
        eps = _number("the smoothing", eps)
    try:
        number = REDUCTIONS[reduction]
    except (KeyError, TypeError):
        number = _reduction.get_enum(reduction)
    plain = (
        type(output) in _TENSORS
        and type(target) in _TENSORS
        and type(weight) in _OPTIONAL_TENSORS
        and type(prior) in _OPTIONAL_TENSORS
    )
    if not plain:
        _require_tensors("cross_entropy", input=output, target=target, weight=weight, prior=prior)
        if _any_dispatches_in_python(output, target, weight, prior):
            return _library.aten_cross_entropy(output, target, weight, number, -100, eps, prior, dim, FASTAI)
    return _library.cross_entropy(output, target, weight, number, -100, eps, prior, dim, FASTAI)


def smooth_labels(
    target: Tensor,
    num_classes: int,
    epsilon: float = 0.1,
    prior: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Returns the smoothed distribution over the classes that takes the place of a hard label.

    .. math::
        q_c = (1 - \epsilon)\, [c = y] + \epsilon\, u_c,

    where :math:`u` is :attr:`prior`, by default uniform: :math:`u_c = 1/C`. The losses of this library never build it.

    Args:
        target (Tensor): class indices in [0, C), of any integer dtype.
        num_classes (int): the number of classes :math:`C`.
        epsilon (float, optional): the amount of smoothing, in [0.0, 1.0]. Default: ``0.1``
        prior (Tensor, optional): the distribution to mix with, of shape :math:`(C)`. Default: uniform
        dtype (torch.dtype, optional): the dtype of the result. Default: :func:`torch.get_default_dtype`

    Shape:
        - Target: :math:`(*)`, any shape.
        - Output: :math:`(*, C)`.

    .. note::
        There are no ignored rows: a target outside [0, C), ``-100`` included, is an ``IndexError``. The result carries
        no gradient.

    Examples::

        >>> import torch, ls_loss
        >>> ls_loss.smooth_labels(torch.tensor([0, 3]), 5)
        tensor([[0.9200, 0.0200, 0.0200, 0.0200, 0.0200],
                [0.0200, 0.0200, 0.0200, 0.9200, 0.0200]])
        >>> ls_loss.smooth_labels(torch.tensor(1), 2, epsilon=0.2)
        tensor([0.1000, 0.9000])
    """
    if has_torch_function_variadic(target, prior):
        return handle_torch_function(
            smooth_labels, (target, prior), target, num_classes, epsilon=epsilon, prior=prior, dtype=dtype
        )
    if type(epsilon) not in (float, torch.SymFloat):
        epsilon = _number("epsilon", epsilon)
    if type(num_classes) not in (int, torch.SymInt):
        num_classes = _integer("smooth_labels", "num_classes", num_classes)
    if type(target) not in _TENSORS or type(prior) not in _OPTIONAL_TENSORS:
        _require_tensors("smooth_labels", target=target, prior=prior)
        if _any_dispatches_in_python(target, prior):
            return _library.aten_smooth_labels(target, num_classes, epsilon, prior, dtype)
    return _library.smooth_labels(target, num_classes, epsilon, prior, dtype)
