"""What a step takes of the machine's memory: its peak over what is there before, and its page faults. Linux only."""

import ctypes
import gc
import resource
import statistics
from collections.abc import Callable

import ls_loss


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith(field + ":"))
    return kibibytes * 1024


def peak_bytes(step: Callable[[], object]) -> tuple[int, int]:
    """The most that the step holds beyond what the process holds before it, nothing being kept from last time; and what the
    loss has parked of it for the next step, which can be given back."""
    gc.collect()
    ls_loss.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # sets the peak, VmHWM, to what is held now
    before = _status("VmRSS")
    step()
    peak, after = _status("VmHWM"), _status("VmRSS")
    ls_loss.empty_cache()
    return max(0, peak - before), max(0, after - _status("VmRSS"))


def peak_of_process() -> int:
    """The most that this process ever held."""
    return _status("VmHWM")


def page_faults(step: Callable[[], object], steps: int = 3) -> float:
    """The page faults of a step that has run before: the median of so many."""
    step()
    faults = []
    for _ in range(steps):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return statistics.median(faults)
