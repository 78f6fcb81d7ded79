"""Further probes of tools/support_table.py, see support_probes.py: compiled and exported programs, and the training loops of
others. Each training probe compares the losses of a few steps with those of the reference.

Must not know which losses it is given. Functions that run in processes of their own stand at the top level.
"""

import io
import multiprocessing
import os
import socket
import tempfile

import cases
import reference
import torch
from support_probes import close, loss_and_gradient, raises
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROWS, FEATURES, CLASSES = 32, 8, 5


# Compiled and exported


def compiled_as(**options):
    def probe(loss):
        step = torch.compile(lambda x, y: loss.function(x, y, label_smoothing=0.1), fullgraph=True, **options)
        for rows in (4, 7):
            logits, target = cases.batch((rows, 37))
            wanted = loss_and_gradient(reference.cross_entropy, logits, target, label_smoothing=0.1)
            for got, right in zip(loss_and_gradient(step, logits, target), wanted, strict=True):
                close(got, right)

    return probe


def same_bits_compiled(loss):
    def step(x, y):
        return loss.function(x, y, label_smoothing=0.1)

    logits, target = cases.batch((64, 1000))
    outcomes = (loss_and_gradient(each, logits, target) for each in (step, torch.compile(step, fullgraph=True)))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def compiled_autograd(loss):
    logits, target = cases.batch((4, 5))
    with torch._dynamo.config.patch(compiled_autograd=True):

        @torch.compile
        def whole(x, y):
            loss.function(x, y, label_smoothing=0.1).backward()

        whole(logits.requires_grad_(), target)
    close(logits.grad, loss_and_gradient(reference.cross_entropy, logits, target, label_smoothing=0.1)[1])


def compiled_transforms(loss):
    logits, target = cases.batch((4, 5))
    gradient = torch.compile(torch.func.grad(lambda x: loss.function(x, target, label_smoothing=0.1)), fullgraph=True)
    close(gradient(logits), loss_and_gradient(reference.cross_entropy, logits, target, label_smoothing=0.1)[1])


def compiled_targets_out_of_range(loss):
    step = torch.compile(loss.function, fullgraph=True)
    logits, target = cases.batch((4000, 37))
    step(logits, target)
    target[5] = 37
    raises(IndexError, step, logits, target)


def compiled_second_derivative(loss):
    logits, target = cases.batch((4, 5))
    value = torch.compile(loss.function)(logits.requires_grad_(), target)
    (first,) = torch.autograd.grad(value, logits, create_graph=True)
    first.square().sum().backward()


class Scored(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.model, self.loss = nn.Linear(FEATURES, CLASSES), loss.module(label_smoothing=0.1)

    def forward(self, features, target):
        return self.loss(self.model(features), target)


def exported_program(loss):
    """Exported with a free number of rows; what it takes, and what the module itself says."""
    module, (features, target) = Scored(loss), data()
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, (features, target), dynamic_shapes=({0: rows}, {0: rows}))
    return program, (features[:9], target[:9]), module(features[:9], target[:9])


def export(loss):
    program, batch, wanted = exported_program(loss)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    close(torch.export.load(file).module()(*batch), wanted)


def aot_inductor(loss):
    program, batch, wanted = exported_program(loss)
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        (got,) = (torch._inductor.aoti_load_package(path)(*batch),)
    close(got, wanted)


def traced(loss):
    module = loss.module(label_smoothing=0.1)
    program = torch.jit.trace(module, cases.batch((4, 5)))
    close(program(*cases.batch((7, 5))), module(*cases.batch((7, 5))))


def scripted(loss):
    torch.jit.script(loss.module(label_smoothing=0.1))(*cases.batch((4, 5)))


# Training


def data():
    return cases.randn(ROWS, FEATURES).float(), cases.integers(CLASSES, ROWS)


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class Reference(nn.Module):
    """The loss of tests/reference.py as a module."""

    def forward(self, logits, target):
        return reference.cross_entropy(logits, target, label_smoothing=0.1).to(logits.dtype)


def trains(train):
    """A probe: train(loss module) gives the losses of its steps, which are the reference's and fall."""

    def probe(loss):
        losses, wanted = train(loss.module(label_smoothing=0.1)), train(Reference())
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted), rtol=1e-3, atol=1e-4)
        assert losses[-1] < losses[0]

    return probe


def loop(loss, model=None, loader=None, after_step=lambda: None, backward=torch.Tensor.backward, epochs=3):
    model = model or classifier()
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.5), []
    for _ in range(epochs):
        for features, target in loader or DataLoader(TensorDataset(*data()), batch_size=16):
            value = loss(model(features), target)
            optimizer.zero_grad()
            backward(value)
            optimizer.step()
            after_step()
            losses.append(value.item())
    return losses


def averaged(loss):
    model = classifier()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    return loop(loss, model, after_step=lambda: average.update_parameters(model))


def fastai(loss):
    from fastai.basics import DataLoaders, Learner

    pairs = list(zip(*data(), strict=True))
    learner = Learner(
        DataLoaders.from_dsets(pairs, pairs, bs=ROWS, num_workers=0), classifier(), loss_func=loss, lr=0.1
    )
    losses = []
    with learner.no_logging():
        for _ in range(3):
            learner.fit(1)
            losses.append(float(learner.recorder.losses[-1]))
    return losses


def hugging_face(loss):
    import transformers

    transformers.set_seed(0)
    sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = transformers.BertConfig(**sizes, num_labels=CLASSES, hidden_dropout_prob=0.0)
    model = transformers.BertForSequenceClassification(config).train()
    examples = [dict(input_ids=[i % 50, 7, 9], labels=i % 2) for i in range(8)]
    losses = []

    def of_outputs(outputs, labels, num_items_in_batch=None):
        value = loss(outputs.logits, labels)
        losses.append(value.item())
        return value

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=4, learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
        )
        transformers.Trainer(model, arguments, train_dataset=examples, compute_loss_func=of_outputs).train()
    return losses


def lightning(loss):
    import pytorch_lightning

    losses = []

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss = classifier(), loss

        def training_step(self, batch, _):
            value = self.loss(self.model(batch[0]), batch[1])
            losses.append(value.item())
            return value

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.5)

    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pytorch_lightning.Trainer(max_epochs=3, accelerator="cpu", **quiet)
    trainer.fit(Module(), DataLoader(TensorDataset(*data()), batch_size=ROWS))
    return losses


def accelerate(loss):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, loader = accelerator.prepare(classifier(), DataLoader(TensorDataset(*data()), batch_size=16))
    return loop(loss, model, loader, backward=accelerator.backward)


def skorch(loss):
    """Of its criterion skorch asks whether it is a CrossEntropyLoss, and then applies a softmax."""
    import skorch

    kind = (
        dict(criterion=type(loss))
        if isinstance(loss, Reference)
        else dict(criterion=type(loss), criterion__label_smoothing=0.1)
    )
    options = dict(max_epochs=3, lr=0.5, train_split=None, iterator_train__shuffle=False, verbose=0)
    net = skorch.NeuralNetClassifier(classifier(), **kind, **options)
    features, target = (tensor.numpy() for tensor in data())
    net.fit(features, target)
    if not isinstance(loss, Reference):
        assert abs(net.predict_proba(features).sum(1) - 1).max() < 1e-5
    return [entry["train_loss"] for entry in net.history]


class LossInWorkers(Dataset):
    """A loss large enough for several threads, computed where the items are made."""

    def __init__(self, loss):
        self.loss, (self.logits, self.target) = loss, cases.batch((4096, 40))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        leaf = self.logits.clone().requires_grad_()
        value = self.loss(leaf, self.target)
        value.backward()
        return torch.cat([value.detach()[None], leaf.grad.flatten()])


def workers(context):
    """A probe: the parent has computed in several threads, the workers are its children."""

    def probe(loss):
        dataset = LossInWorkers(loss.module(label_smoothing=0.1))
        here = dataset[0]
        for batch in DataLoader(dataset, num_workers=2, multiprocessing_context=context, timeout=0):
            close(batch[0], here)

    return probe


def forked(loss):
    """As os.fork and multiprocessing do it: unlike a worker of a DataLoader the child has its parent's number of threads."""
    torch.set_num_threads(2)
    logits, target = cases.batch((4096, 40))
    compute, fork = loss.module(label_smoothing=0.1), multiprocessing.get_context("fork")
    here, queue = compute(logits, target), fork.Queue()
    child = fork.Process(target=lambda: queue.put(compute(logits, target).item()))
    child.start()
    close(torch.tensor(queue.get()), here)
    child.join()


def enter(rank, function, module, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    try:
        function(rank, module)
    finally:
        torch.distributed.destroy_process_group()


def in_two_processes(function):
    def probe(loss):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        torch.multiprocessing.spawn(enter, (function, loss.module, port), nprocs=2)

    return probe


def compare_wrapped(rank, module, wrap):
    share = TensorDataset(*(tensor[rank::2] for tensor in data()))
    train = lambda loss: loop(loss, wrap(classifier()), DataLoader(share, batch_size=ROWS))
    torch.testing.assert_close(train(module(label_smoothing=0.1)), train(Reference()), rtol=1e-3, atol=1e-4)


def ddp(rank, module):
    compare_wrapped(rank, module, nn.parallel.DistributedDataParallel)


def fsdp2(rank, module):
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    compare_wrapped(rank, module, lambda model: fully_shard(model, mesh=mesh))


def dtensor(weighted):
    return in_two_processes(dtensor_weighted if weighted else dtensor_plain)


def dtensor_plain(rank, module, weight=None):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    logits, target = cases.batch((16, CLASSES))
    spread = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (logits, target)]
    spread_weight = None if weight is None else distribute_tensor(weight, mesh, [Replicate()])
    got = module(spread_weight, label_smoothing=0.1)(*spread).full_tensor()
    close(got, reference.cross_entropy(logits, target, weight=weight, label_smoothing=0.1))


def dtensor_weighted(rank, module):
    dtensor_plain(rank, module, cases.weights(CLASSES))
