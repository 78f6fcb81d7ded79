"""What a bug report needs, and the control over the memory that is kept. Must not know the losses."""

import os
import sys
from contextlib import suppress

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


def _platform() -> str:
    """Distribution, kernel, architecture and C library. Module platform's own sentence would start a process for it."""
    from platform import freedesktop_os_release  # here, for the time of importing the package

    system = os.uname()
    parts = [f"{system.sysname} {system.release} {system.machine}"]
    with suppress(OSError, KeyError):
        parts.insert(0, freedesktop_os_release()["PRETTY_NAME"])
    with suppress(ValueError):  # musl
        parts.append(os.confstr("CS_GNU_LIBC_VERSION") or "an unknown C library")
    return ", ".join(parts)


def _cpu() -> str:
    """The processor's name, as far as the kernel tells it (on aarch64 numbers), and how many of its cores this process has."""
    found: dict[str, str] = {}
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, colon, value = line.partition(":")
            if not colon and found:
                break  # the first processor's paragraph has ended
            found[key.strip()] = value.strip()
    numbers = [f"{key} {found[key]}" for key in ("CPU implementer", "CPU part") if key in found]
    name = found.get("model name") or ", ".join(numbers) or "unknown"
    return f"{name}; {len(os.sched_getaffinity(0))} of {os.cpu_count()} logical cores"


def _environment() -> dict[str, str]:
    """The variables, of those that are set, which change how the kernels, the threads or the allocator run."""
    prefixes = ("OMP_", "GOMP_", "KMP_", "LS_LOSS_")
    names = ("GLIBC_TUNABLES", "LD_PRELOAD")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes) or name in names}


def config() -> Config:
    """Returns what this installation is and what it found: for diagnosis, and for tests.

    Returns:
        A mapping that prints one line per entry. It holds the version of the library, the torch it was built against
        and the one that runs, the instruction set in use and those available, how and with how many threads the kernels
        run, whether freed gradient memory is kept and how much of it is kept now, the OpenMP runtimes in the process,
        Python, the platform (distribution, kernel, C library), the processor, and those environment variables that
        change how the kernels run (``OMP_*``, ``GOMP_*``, ``KMP_*``, ``LS_LOSS_*``, ``GLIBC_TUNABLES``,
        ``LD_PRELOAD``), as they are set now.

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
        python=" ".join(sys.version.split()),
        platform=_platform(),
        cpu=_cpu(),
        environment=_environment(),
    )


def empty_cache() -> None:
    """Gives back to the system the gradient memory that is kept for the next calls.

    Gradients of 256 KiB and more come from memory that is kept when it is freed, since touching fresh memory costs more
    than the arithmetic; so does working memory of 4 MiB and more. The system cannot take back what a loop of steps
    shorter than a second leaves there: call this after training where memory is short. The environment variable
    ``LS_LOSS_CACHE=0``, read at import, switches that off.
    """
    _C.empty_cache()
