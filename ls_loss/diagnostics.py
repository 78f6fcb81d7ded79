"""What a bug report needs, and the control over the memory that is kept. Must not know the losses."""

import os

import torch

from . import _C


class Config(dict[str, object]):
    """A mapping that prints one line per entry."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in self.items())


def _openmp_runtimes() -> list[str]:
    """The OpenMP runtime libraries mapped into this process; more than one of them is a fault."""
    names = ("libgomp", "libomp", "libiomp")
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            files = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    except OSError:
        return []
    return sorted(file for file in files if os.path.basename(file).startswith(names))


def config() -> Config:
    """Returns what this installation is and what it found: for diagnosis, and for tests.

    Returns:
        A mapping that prints one line per entry. It holds the version of the library, the torch it was built against
        and the one that runs, the instruction set in use and those available, how and with how many threads the kernels
        run, whether freed gradient memory is kept and how much of it is kept now, and the OpenMP runtimes in the
        process.

    Examples::

        >>> import ls_loss
        >>> ls_loss.config()["isa"] in ls_loss.config()["isa_available"]
        True
    """
    return Config(
        _C.config(),
        torch_running=torch.__version__,
        threads=torch.get_num_threads(),
        openmp_runtimes=_openmp_runtimes(),
    )


def empty_cache() -> None:
    """Gives back to the system the gradient memory that is kept for the next calls.

    Gradients of 256 KiB and more come from memory that is kept when it is freed, since touching fresh memory costs more
    than the arithmetic. The environment variable ``LS_LOSS_CACHE=0``, read at import, switches that off.
    """
    _C.empty_cache()
