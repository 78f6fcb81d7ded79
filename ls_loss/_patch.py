"""The switch that puts this library in the place of native cross-entropy in a whole program, and takes it out again.

May replace one attribute of torch.nn.functional. Must not do arithmetic on tensors, nor know how the loss is computed.
"""

from types import TracebackType
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import functional


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """What stands in the place of :func:`torch.nn.functional.cross_entropy` while :func:`ls_loss.patch` is on."""
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    disregarded = isinstance(label_smoothing, (float, int)) and not label_smoothing >= 0
    function = functional.native_cross_entropy if disregarded else functional.cross_entropy
    return function(input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing)


_active: list["Patch"] = []


class Patch:
    """One call of :func:`ls_loss.patch`: what it found, until :meth:`undo` puts that back."""

    def __init__(self) -> None:
        self._found: Any = F.cross_entropy
        _active.append(self)
        F.cross_entropy = cross_entropy

    def undo(self) -> None:
        """Puts back what this patch found. Patches that are undone in another order than the reverse stay right too."""
        if self not in _active:
            return
        position = _active.index(self)
        del _active[position]
        if position == len(_active):
            F.cross_entropy = self._found
        elif _active[position]._found is cross_entropy:
            _active[position]._found = self._found

    def __enter__(self) -> "Patch":
        if self not in _active:
            raise RuntimeError("this patch has been undone: call ls_loss.patch() for another")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def patch() -> Patch:
    r"""Lets this library compute :func:`torch.nn.functional.cross_entropy` in the whole program, from now on.

    It takes effect at once, for every call of ``torch.nn.functional.cross_entropy`` and of every
    :class:`torch.nn.CrossEntropyLoss`, those that exist included; with ``label_smoothing`` 0 too. As a context manager it
    is undone at the end of the block. Calls that the kernel does not serve go to the native function, and so do those
    with a ``label_smoothing`` that is negative or NaN, which native takes for 0.

    Returns:
        An object with the method ``undo()``, which puts back the function that was found; a second call of it does
        nothing. Patches nest.

    .. note::
        Not reached is what a program took from the module before, as by ``from torch.nn.functional import
        cross_entropy``, and who calls ``torch.ops.aten`` or C++. The switch is for all threads of the process. A
        ``__torch_function__`` is asked as ever, and sees the function that stands in ``torch.nn.functional``.

    .. note::
        Programs of :func:`torch.compile` notice the switch and compile once for either side of it, unless the compiled
        code itself makes its :class:`torch.nn.CrossEntropyLoss`: those stay what they were. What was exported or traced
        under it keeps the operator of this library; :func:`torch.jit.script` does not compile calls under it.

    Examples::

        >>> import torch, ls_loss
        >>> logits, target = torch.zeros(2, 4), torch.tensor([3, 1])
        >>> with ls_loss.patch():
        ...     torch.nn.CrossEntropyLoss()(logits, target)
        tensor(1.3863)
        >>> switch = ls_loss.patch()  # for the rest of the program, or until:
        >>> switch.undo()
    """
    return Patch()
