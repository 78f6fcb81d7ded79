"""Memory of large gradients: freed blocks are kept, a large one and four smaller, and serve gradients that resemble them.

To everyone else they are ordinary tensors, in every thread, in forked children and at exit.
"""

import ctypes
import mmap
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cases
import pytest
import torch
from op import cross_entropy

import ls_loss

MIB = 1 << 20
HUGE_PAGE = 2 * MIB


def cached():
    return ls_loss.config()["cache_bytes"]


@pytest.fixture(autouse=True)
def empty():
    ls_loss.empty_cache()
    yield
    ls_loss.empty_cache()


def gradient(mib, classes=1024):
    """A gradient of so many MiB, as backward leaves it."""
    logits = torch.zeros(mib * MIB // 4 // classes, classes, requires_grad=True)
    cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
    return logits.grad


def test_a_freed_block_serves_the_next_gradient():
    assert cached() == 0
    first = gradient(16)
    assert cached() == 0
    place = first.data_ptr()
    del first
    assert cached() == 16 * MIB
    second = gradient(16)
    assert second.data_ptr() == place
    assert cached() == 0


def lazily_freed(address):
    """How many bytes of the mapping that holds the address the system may take back without asking."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= address < int(mapping[2], 16)
        elif inside and line.startswith("LazyFree:"):
            return int(line.split()[1]) << 10
    return None


@pytest.fixture
def lazy_freeing():
    """Skips where the system has no MADV_FREE, or does not tell of it."""
    probe = mmap.mmap(-1, HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        probe.madvise(mmap.MADV_FREE)
    except OSError:
        pytest.skip("this system has no MADV_FREE")
    if lazily_freed(gradient(16).data_ptr()) is None:
        pytest.skip("this system does not tell what is freed lazily")
    ls_loss.empty_cache()


@pytest.mark.usefixtures("lazy_freeing")
def test_the_system_may_take_a_kept_block():
    grad = gradient(16)
    place = grad.data_ptr()
    assert lazily_freed(place) == 0
    del grad
    assert lazily_freed(place) >= 14 * MIB  # the mapping may have been split


@pytest.mark.usefixtures("lazy_freeing")
def test_the_system_is_told_once_a_second():
    """Telling it interrupts every core."""
    begin = time.monotonic()
    place = gradient(16).data_ptr()
    while time.monotonic() - begin < 0.5:
        assert gradient(16).data_ptr() == place
        told_again = lazily_freed(place) > 0
        assert not told_again or time.monotonic() - begin > 1
    time.sleep(1)
    assert gradient(16).data_ptr() == place
    assert lazily_freed(place) >= 14 * MIB


def test_sizes_that_vary_within_a_factor_of_two():
    place = gradient(32).data_ptr()
    for mib in (31, 16, 20, 32):
        assert gradient(mib).data_ptr() == place
        assert cached() == 32 * MIB


def test_a_block_that_does_not_fit_stays_until_a_newer_one_is_freed():
    del_me = gradient(16)
    del del_me
    small, large = gradient(7), gradient(24)  # less than half of it; more than it
    assert cached() == 16 * MIB
    del small
    assert cached() == 8 * MIB  # whole huge pages
    del large
    assert cached() == 24 * MIB


def test_smaller_gradients_are_kept_apart():
    """A second loss over fewer classes must not drive out the block of the large one, nor the losses beside it."""
    gradient(16)
    held = [gradient(mib) for mib in (1, 2, 3)]
    places = sorted(grad.data_ptr() for grad in held)
    del held
    assert cached() == 22 * MIB
    assert sorted(grad.data_ptr() for grad in [gradient(mib) for mib in (3, 2, 1)]) == places
    held = [gradient(1) for _ in range(9)]
    del held
    assert cached() <= 16 * MIB + 4 * 3 * MIB


def test_smaller_gradients_drive_out_older_ones():
    """A change of size must not leave blocks behind that no request will fit, with no room for those that it would."""
    held = [gradient(1) for _ in range(4)]
    del held
    assert cached() == 4 * MIB
    held = [gradient(3) for _ in range(4)]
    places = sorted(grad.data_ptr() for grad in held)
    del held
    assert cached() == 12 * MIB
    assert sorted(grad.data_ptr() for grad in [gradient(3) for _ in range(4)]) == places


def test_small_gradients_come_from_malloc():
    gradient(1, classes=8192)
    assert cached() == MIB
    cross_entropy(torch.zeros(60, 1024, requires_grad=True), torch.zeros(60, dtype=torch.int64)).backward()  # 240 KiB
    assert cached() == MIB


def test_two_gradients_at_once():
    first, second = gradient(16), gradient(16)
    assert first.data_ptr() != second.data_ptr()
    expected = gradient(1)[0, :2] / 16
    assert torch.equal(first, second)
    torch.testing.assert_close(first[5, :2], expected)
    ls_loss.empty_cache()
    del first, second
    assert cached() == 16 * MIB


def test_empty_cache():
    gradient(16)
    ls_loss.empty_cache()
    assert cached() == 0
    ls_loss.empty_cache()
    assert gradient(16).data_ptr() % HUGE_PAGE == 0


def test_every_element_is_written():
    """A block comes with the numbers of the last step: rows that are ignored must be zeroed, not skipped."""
    logits, target = cases.batch((4096, 1024))
    for options in ({}, {"ignore_index": 3}, {"weight": cases.weights(1024)}, {"reduction": "none"}):
        gradient(16).fill_(torch.nan)
        x = logits.clone().requires_grad_()
        cross_entropy(x, target % 5, **options).sum().backward()
        assert x.grad.isfinite().all()
    ignored = torch.full_like(target, -100)
    gradient(16).fill_(torch.nan)
    x = logits.clone().requires_grad_()
    cross_entropy(x, ignored).backward()
    assert torch.count_nonzero(x.grad) == 0


def test_a_kept_block_whose_pages_the_system_took():
    """What MADV_FREE allows when memory is short, done at once: they come back as zeros, and the block is as good as before."""
    logits, target = cases.batch((4096, 1024))
    logits.requires_grad_()

    def step():
        return torch.autograd.grad(cross_entropy(logits, target), logits)[0]

    expected = step().clone()  # from a fresh block, for the cache was empty
    grad = step().fill_(torch.nan)
    place, nbytes = grad.data_ptr(), grad.nbytes
    del grad
    assert cached() == nbytes == 16 * MIB
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(nbytes), 4)  # MADV_DONTNEED
    assert status == 0, os.strerror(ctypes.get_errno())
    assert not any(ctypes.string_at(place + at, 4096).strip(b"\0") for at in (0, nbytes // 2, nbytes - 4096))
    grad = step()
    assert grad.data_ptr() == place
    assert torch.equal(grad.view(torch.int32), expected.view(torch.int32))


def test_working_memory_is_kept_apart():
    """Of a million rows the targets' copy is 8 MiB, which malloc would fault in again at each call."""
    logits, target = torch.zeros(1 << 20, 2), torch.zeros(1 << 20, dtype=torch.int64)
    grad = gradient(16)
    place = grad.data_ptr()
    cross_entropy(logits, target)
    working = cached()
    assert 8 * MIB <= working <= 12 * MIB
    del grad
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        cross_entropy(logits, target)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 10 * working / HUGE_PAGE / 2  # a fresh mapping takes one for each huge page at the very least
    assert cached() == working + 16 * MIB and gradient(16).data_ptr() == place


def test_no_page_faults_in_steady_state():
    logits, target = cases.batch((8192, 2048))
    logits.requires_grad_()

    def step():
        logits.grad = None
        cross_entropy(logits, target).backward()

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 5 * logits.nbytes / HUGE_PAGE / 2  # a fresh mapping takes 32 faults a step at the very least


# Ordinary tensors


def test_storage_may_be_resized():
    tensor = gradient(16)
    values = tensor.clone()
    for rows in (2 * len(tensor), len(tensor) // 2, 1, 0, len(values)):
        tensor.resize_(rows, 1024)
        assert tensor.untyped_storage().nbytes() >= tensor.nbytes
        tensor.fill_(1)
    tensor = gradient(16)
    tensor.resize_(2 * len(tensor), 1024)
    assert torch.equal(tensor[: len(values)], values)
    tensor.untyped_storage().resize_(0)


def test_views_outlive_the_tensor():
    row = gradient(16)[7]
    values = row.clone()
    assert cached() == 0
    gradient(16).fill_(5)
    assert torch.equal(row, values)


def test_numpy_pickle_shared_memory_and_clone():
    tensor = gradient(8)
    array = tensor.numpy()
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), tensor)
    assert torch.equal(torch._lazy_clone(tensor), tensor)
    copy = tensor.clone()
    tensor.share_memory_()
    assert torch.equal(tensor, copy) and tensor.is_shared()
    assert (array == copy.numpy()).all()


def test_the_memory_profiler_sees_it():
    def step():
        gradient(16)

    step()  # what comes from the cache is reported as well
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    usage = [event.self_cpu_memory_usage for event in profiler.events() if event.name == "ls_loss::_loss_grad"]
    assert len(usage) == 1 and 16 * MIB <= usage[0] < 17 * MIB
    freed = [event for event in profiler.events() if event.name == "[memory]" and event.self_cpu_memory_usage < 0]
    assert any(event.self_cpu_memory_usage == -16 * MIB for event in freed)


def test_more_memory_than_there_is():
    logits = torch.zeros(1, 1).expand(1 << 40, 256).requires_grad_()
    target = torch.zeros(1, dtype=torch.int64).expand(1 << 40)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        cross_entropy(logits, target)
    assert gradient(8).isfinite().all()


# Threads and processes


def test_many_threads():
    """Two threads that took the same block would write into each other's gradient."""
    failures = []

    def work(seed):
        torch.set_num_threads(1)
        logits, target = cases.batch((1024, 1024 + 64 * seed), seed=seed)
        logits.requires_grad_()
        (expected,) = torch.autograd.grad(cross_entropy(logits, target), logits)
        expected = expected.clone()
        for _ in range(20):
            (ours,) = torch.autograd.grad(cross_entropy(logits, target), logits)
            if seed == 0:
                ls_loss.empty_cache()
            if not torch.equal(ours, expected):
                failures.append(seed)
            del ours

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def wait(child, seconds=60):
    for _ in range(seconds * 20):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own():
    """Live and kept blocks are copies in the child: what it writes, frees and empties is not the parent's."""
    live = gradient(16)
    values = live.clone()
    gradient(16)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # torch's own operators hang in a forked child otherwise
        right = torch.equal(live, values)
        live.fill_(7)
        del live
        right = right and gradient(16).isfinite().all()
        ls_loss.empty_cache()
        os._exit(0 if right else 1)
    assert wait(child) == 0
    assert torch.equal(live, values)
    assert cached() == 16 * MIB
    assert torch.equal(gradient(16), values)


PROGRAM = """
import torch, ls_loss
def gradient():
    logits = torch.zeros(4096, 1024, requires_grad=True)
    ls_loss.cross_entropy(logits, torch.zeros(4096, dtype=torch.int64)).backward()
    return logits.grad
held = gradient()
gradient()
print(ls_loss.config()["cache"], ls_loss.config()["cache_bytes"])
"""


@pytest.mark.parametrize("setting, printed", [(None, "True 16777216"), ("1", "True 16777216"), ("0", "False 0")])
def test_the_environment_switches_it_off_and_programs_end_with_blocks_held(setting, printed):
    environment = {key: value for key, value in os.environ.items() if key != "LS_LOSS_CACHE"}
    if setting is not None:
        environment["LS_LOSS_CACHE"] = setting
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.strip()) == (0, printed), run.stderr
