"""Two processes that train one model: DDP and FSDP2 over gloo; and DTensor, whose logits are sharded.

Every test runs its function in two new processes, which import this file: what it asserts, each of them asserts.
"""

import os
import socket

import cases
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from paths import operators
from torch import nn

import ls_loss

ROWS, FEATURES, CLASSES = 16, 8, 5

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def enter(rank, function, port, *arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        function(rank, *arguments)
    finally:
        dist.destroy_process_group()


def in_two_processes(function, *arguments):
    multiprocessing.spawn(enter, (function, free_port(), *arguments), nprocs=2)


def share(rank):
    """The inputs of one process, half of the batch."""
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    return cases.randn(ROWS, FEATURES).float()[half], cases.integers(CLASSES, ROWS)[half]


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def train(wrap, loss, rank):
    model = wrap(classifier())
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    inputs, target = share(rank)
    losses = []
    for _ in range(3):
        value = loss(model(inputs), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def compare(wrap, rank):
    ours, native = (
        kind(cases.weights(CLASSES), label_smoothing=0.1) for kind in (ls_loss.CrossEntropyLoss, nn.CrossEntropyLoss)
    )
    losses, ran = operators(train, wrap, ours, rank)
    assert ran.count("ls_loss::_loss_grad") == 3 and "aten::cross_entropy_loss" not in ran
    torch.testing.assert_close(losses, train(wrap, native, rank), rtol=1e-5, atol=0)


def ddp(rank):
    compare(nn.parallel.DistributedDataParallel, rank)


def fsdp2(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))

    def wrap(model):
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        return model

    compare(wrap, rank)


def dtensor(rank, kind):
    """Sharded by rows, or whole on every process: the loss and the gradient of the whole batch, computed by native."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    logits, target = cases.batch((ROWS, CLASSES))
    if kind == "probabilities":
        target = cases.probabilities((ROWS, CLASSES))
    for combo in cases.product(rows=(True, False), weighted=(False, True), reduction=cases.REDUCTIONS):
        where = [Shard(0) if combo["rows"] else Replicate()]
        leaf, spread = distribute_tensor(logits, mesh, where).requires_grad_(), distribute_tensor(target, mesh, where)
        weight = cases.weights(CLASSES) if combo["weighted"] else None
        spread_weight = weight if weight is None else distribute_tensor(weight, mesh, [Replicate()])
        options = dict(reduction=combo["reduction"], label_smoothing=0.1)

        def outcome(function, x, y, weight, options=options):
            loss = function(x, y, weight, **options)
            return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]

        ours, native = (outcome(f, leaf, spread, spread_weight) for f in (ls_loss.cross_entropy, F.cross_entropy))
        assert all(isinstance(result, DTensor) for result in ours)
        ours, native = ([result.full_tensor() for result in results] for results in (ours, native))
        torch.testing.assert_close(ours, native, rtol=0, atol=0)
        whole = outcome(ls_loss.cross_entropy, logits.clone().requires_grad_(), target, weight)
        if kind == "index" and combo == dict(rows=True, weighted=True, reduction="mean"):
            # Native's defect: it averages the weighted means of the processes, whose sums of weights differ.
            assert (native[0] - whole[0]).abs() > 1e-2
        else:
            torch.testing.assert_close(tuple(ours), whole)


def dtensor_with_local_rows(rank):
    """The way to the kernel: the loss of the local rows, which DTensor then adds up."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    logits, target = cases.batch((ROWS, CLASSES))
    leaf = distribute_tensor(logits, mesh, [Shard(0)]).requires_grad_()
    rows = distribute_tensor(target, mesh, [Shard(0)]).to_local()

    def of_local_rows():
        local = ls_loss.cross_entropy(leaf.to_local(), rows, reduction="sum", label_smoothing=0.1) / ROWS
        return DTensor.from_local(local, mesh, [Partial()]).full_tensor()

    loss, ran = operators(of_local_rows)
    assert ran.count("ls_loss::_loss_grad") == 1
    (gradient,) = torch.autograd.grad(loss, leaf)
    x = logits.clone().requires_grad_()
    whole = ls_loss.cross_entropy(x, target, label_smoothing=0.1)
    torch.testing.assert_close(loss.detach(), whole.detach())
    torch.testing.assert_close(gradient.full_tensor(), torch.autograd.grad(whole, x)[0])


def test_ddp():
    in_two_processes(ddp)


def test_fsdp2():
    in_two_processes(fsdp2)


@pytest.mark.parametrize("kind", ["index", "probabilities"])
def test_dtensor(kind):
    in_two_processes(dtensor, kind)


def test_dtensor_with_local_rows():
    in_two_processes(dtensor_with_local_rows)
