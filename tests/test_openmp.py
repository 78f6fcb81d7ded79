"""One OpenMP runtime in the process, torch's settings obeyed, the same bits for any number of threads, forks survived.

Uses the public package, the built extension's file, and Linux's /proc. What must not be assumed of a process that other
tests have used (its pool of threads, its forks) runs in a process of its own.
"""

import functools
import itertools
import subprocess
import sys

import pytest
import torch
from processes import PRELUDE, RUNTIMES, run
from torch.testing import assert_close

import ls_loss

# scikit-learn imports scipy, which therefore has orders of its own.
ORDERS = [
    *itertools.permutations(("ls_loss", "numpy", "sklearn.cluster")),
    *itertools.permutations(("ls_loss", "scipy.linalg")),
]


def imports(order):
    return "".join(f"import {module}\n" for module in order)


@functools.cache
def runtimes_of_torch_beside(neighbours):
    use = "torch.ones(10**6).add(1); print(*runtimes())"
    return set(run(RUNTIMES + use, prelude=imports(("torch", *sorted(neighbours)))))


def test_extension_links_no_openmp():
    """GOMP_* must resolve to the runtime that torch loaded: a runtime of our own costs milliseconds per call."""
    dynamic = subprocess.run(
        ["readelf", "-d", sys.modules["ls_loss._C"].__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if any(name in line for name in ("gomp", "libomp", "iomp"))]


def test_process_maps_torchs_runtime_and_no_other():
    before = set(run(RUNTIMES + "torch.ones(10**6).add(1); print(*runtimes())", prelude="import torch\n"))
    after = set(run(RUNTIMES + "step(); print(*runtimes())"))
    assert len(after) == 1
    assert after == before == set(run("print(*ls_loss.config()['openmp_runtimes'])"))


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_no_order_of_imports_adds_a_runtime(order):
    """scikit-learn brings a runtime of its own beside torch's; ours must add none to what the two have without it."""
    ours = set(run(RUNTIMES + "step(); print(*runtimes())", prelude=imports(order) + PRELUDE))
    assert ours == runtimes_of_torch_beside(frozenset(order) - {"ls_loss"})
    assert len(ours) == 1 + ("sklearn.cluster" in order)


def test_kernels_use_the_pool_of_threads_that_torch_made():
    """Torch's region makes the team; a second runtime would add a team of its own."""
    start, torchs, ours = map(
        int,
        run("""
torch.set_num_threads(4)
start = workers()
torch.ones(10**7).add(1)
torchs = workers()
step()
print(start, torchs, workers())
"""),
    )
    assert torchs == start + 3
    assert ours == torchs


def test_kernels_make_the_pool_where_torch_has_not():
    """The call is parallel at all: without a region of torch's, its team appears with the first call."""
    start, ours = map(int, run("torch.set_num_threads(3); start = workers(); step(); print(start, workers())"))
    assert ours == start + 2


def test_one_thread_is_one_thread():
    start, ours = map(int, run("torch.set_num_threads(1); start = workers(); step(); print(start, workers())"))
    assert ours == start


@pytest.mark.parametrize("threads", [1, 3])
def test_setting_reaches_a_new_python_thread(threads):
    """Torch applies its setting to a thread when that thread first asks for it; before, OpenMP's default holds."""
    start, ours = map(
        int,
        run(f"""
torch.set_num_threads({threads})
counts = []
def body():
    counts.append(workers())
    step()
    counts.append(workers())
thread = threading.Thread(target=body)
thread.start()
thread.join()
print(*counts)
"""),
    )
    assert ours - start == threads - 1


SHAPES = {
    "rows": (4096, 100),
    "few classes": (60000, 10),
    "fewer rows than threads": (3, 100_000),
    "one row": (1, 300_000),
    "planes": (4, 30, 64, 65),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_same_bits_for_any_number_of_threads(shape, dtype):
    logits = (3 * torch.randn(shape)).to(dtype)
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    weight = torch.rand(shape[1]).to(dtype)

    def step(threads):
        torch.set_num_threads(threads)
        x = logits.clone().requires_grad_()
        loss = ls_loss.cross_entropy(x, target, weight, label_smoothing=0.1)
        loss.backward()
        return loss.detach(), x.grad

    first = step(1)
    assert torch.isfinite(first[0])
    for threads in (2, 7, max(torch.get_num_threads(), 16)):
        assert_close(step(threads), first, rtol=0, atol=0, msg=lambda text, n=threads: f"{n} threads: {text}")


@pytest.mark.parametrize(
    "parent",
    ["torch.ones(10**7).add(1)", "torch.nn.functional.cross_entropy(logits, target)"],
    ids=["sum", "native loss"],
)
def test_forked_child_of_a_pool_that_others_made(parent):
    """The pool is the process's: a child must not wait for its threads although this library never ran in the parent."""
    assert run(f"""
torch.set_num_threads(2)
{parent}
child = os.fork()
if child == 0:
    step()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""") == ["0"]


@pytest.mark.parametrize("before", ["", "torch.set_num_threads(1)"], ids=["as forked", "one thread, as in DataLoader"])
def test_forked_child_finishes_with_the_same_result(before):
    """A pool of threads does not survive a fork: native's child waits for it for ever. Hence numpy in the child."""
    assert run(f"""
torch.set_num_threads(2)
loss, grad = (tensor.numpy() for tensor in step())
child = os.fork()
if child == 0:
    {before}
    again = [tensor.numpy() for tensor in step()]
    os._exit(0 if (again[0] == loss).all() and (again[1] == grad).all() else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
step()
""") == ["0"]


def test_forked_grandchild_and_fork_before_the_first_call():
    """What is remembered of a fork must be inherited, and must not depend on a call before it."""
    assert run("""
torch.set_num_threads(2)
def descend(generations):
    child = os.fork()
    if child == 0:
        step()
        if generations:
            descend(generations - 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        os._exit(code)
descend(0)
step()
descend(2)
print("done")
""") == ["done"]


def test_workers_of_a_dataloader():
    """Loss and gradient of two workers, with the bits that the parent has."""
    assert run("""
torch.set_num_threads(2)
def collate(rows):
    return step()
expected = step()
loader = torch.utils.data.DataLoader(range(4), batch_size=2, num_workers=2, collate_fn=collate)
batches = list(loader)
print(len(batches), all(torch.equal(a, b) for batch in batches for a, b in zip(batch, expected)))
""") == ["2", "True"]


def test_python_threads_at_once():
    """Nothing is shared between calls: each thread gets its own result."""
    assert run("""
batches = [torch.randn(5000, 50, generator=torch.Generator().manual_seed(i)) for i in range(8)]
def loss_and_grad(i):
    x = batches[i].clone().requires_grad_()
    loss = ls_loss.cross_entropy(x, torch.arange(5000) % 50, label_smoothing=0.1)
    loss.backward()
    return loss.detach(), x.grad
expected, wrong = [loss_and_grad(i) for i in range(8)], []
def body(i):
    for _ in range(50):
        if not all(torch.equal(a, b) for a, b in zip(loss_and_grad(i), expected[i])):
            wrong.append(i)
threads = [threading.Thread(target=body, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(wrong))
""") == ["0"]
