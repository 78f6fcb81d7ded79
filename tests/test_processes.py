"""Signals, the end of the process, calls from within parallel regions, spawned processes: the next call is right.

Uses the public package in processes of its own, and of the runtimes of threads that torch brings the C functions that start a
region, through ctypes.
"""

import signal

import pytest
from processes import Ended, run

EXPECT = """
expected = step()
def right():
    return all(torch.equal(a, b) for a, b in zip(step(), expected))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupted_calls_leave_the_process_usable(threads):
    """Ctrl-C while kernels run: KeyboardInterrupt, and then the same bits. The calls are long enough that it falls into one."""
    assert run(
        EXPECT
        + f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
torch.set_num_threads({threads})
long_logits = torch.randn(8192, 4000)
inside = []  # one entry while the kernels run
interrupts = caught = 0
def interrupt():
    global interrupts
    while not inside: time.sleep(0.0001)
    time.sleep(0.003)
    interrupts += 1
    os.kill(os.getpid(), signal.SIGINT)
for _ in range(10):
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        while True:
            x = long_logits.requires_grad_()
            inside.append(1)
            loss = ls_loss.cross_entropy(x, torch.arange(8192) % 4000, label_smoothing=0.1)
            inside.clear()
            loss.backward()
    except KeyboardInterrupt:
        caught += 1
    inside.clear()
    thread.join()
    long_logits = long_logits.detach()
    assert right()
print(caught, interrupts)
"""
    ) == ["10", "10"]


LOSSES = {
    "ls_loss": "ls_loss.cross_entropy(logits, target, label_smoothing=0.1)",
    "torch": "logits.add(logits)",
}


@pytest.mark.parametrize("expression", LOSSES.values(), ids=LOSSES)
def test_daemon_threads_at_the_end_of_the_process(expression):
    """One that waits between calls is no hindrance. From a call, whatever the operator, it comes back to an interpreter that
    is gone: up to Python 3.13 that mostly ends the process with SIGABRT, which torch's operators do not expect. No more.
    """
    code = f"""
def body():
    while True:
        {expression}
        started.set()
        idle and threading.Event().wait()
started = threading.Event()
threading.Thread(target=body, daemon=True).start()
started.wait()
{expression}
"""
    assert run("idle = True" + code + "print('end')") == ["end"]
    try:
        run("idle = False" + code)
    except Ended as ended:
        assert ended.status == -signal.SIGABRT


REGIONS = {
    "OpenMP": """
gomp = ctypes.CDLL(ls_loss.config()["openmp_runtimes"][0])
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(body)
gomp.GOMP_parallel(function, None, 3, 0)
""",
    "at::parallel_for": """
libtorch = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(body)
assert libtorch.torch_parallel_for(*map(ctypes.c_int64, (0, 3, 1)), function, None) == 0
""",
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_calls_from_within_a_parallel_region(region):
    """Each uses the thread it is in, as torch's operators do, and gives the same bits."""
    code = f"""
import ctypes
torch.set_num_threads(3)
results = [right()]
start = workers()
def body(*_):
    results.append(right())
{region}
print(len(results), all(results), workers() - start)
"""
    assert run(EXPECT + code) == ["4", "True", "0"]


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing(way, tmp_path):
    """As numpy arrays, for torch's own way to send tensors shares files. A script, for what is spawned imports it again."""
    code = f"""
import multiprocessing
def work(_):
    return [tensor.numpy() for tensor in step()]
if __name__ == "__main__":
    expected = work(0)
    with multiprocessing.get_context({way!r}).Pool(2) as pool:
        results = pool.map(work, range(4), chunksize=1)
    print(all((a == b).all() for result in results for a, b in zip(result, expected)))
"""
    assert run(code, script=tmp_path / "script.py") == ["True"]
