"""Training loops of others, run for real on small random data, with the loss of this library where they take a loss.

Each asserts that the kernel computed it and that the losses of a few steps are native's. `make test-trainers` installs the
libraries and runs it; fastai's Learner is in tests/test_fastai.py.
"""

import cases
import pytest
import torch
import torch.nn.functional as F
from paths import operators
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ls_loss

CLASSES, FEATURES, ROWS = 5, 8, 32


def data():
    return cases.randn(ROWS, FEATURES).float(), cases.integers(CLASSES, ROWS)


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def ours_and_native(train):
    """The losses of both; train takes a loss and returns the list of its values."""
    losses, ran = operators(train, ls_loss.CrossEntropyLoss(label_smoothing=0.1))
    assert ran.count("ls_loss::_loss_grad") == len(losses) > 1
    assert "aten::cross_entropy_loss" not in ran and "aten::_log_softmax" not in ran
    native = train(nn.CrossEntropyLoss(label_smoothing=0.1))
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(native), rtol=1e-4, atol=1e-6)
    assert losses[-1] < losses[0]


# Hugging Face


def huggingface_arguments(folder, **more):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **more,
    )


def huggingface_losses(model, dataset, arguments, compute_loss_func=None):
    transformers = pytest.importorskip("transformers")
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=dataset, compute_loss_func=compute_loss_func
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def causal_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


def causal_data():
    tokens = cases.integers(50, ROWS, 12)
    return [
        dict(input_ids=row, labels=labels) for row, labels in zip(tokens, cases.ignoring(tokens, -100), strict=True)
    ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_huggingface_trainer_of_a_causal_model(tmp_path, accumulate):
    def train(loss):
        def compute(outputs, labels, num_items_in_batch=None):
            logits, target = outputs.logits[:, :-1], labels[:, 1:]
            if isinstance(loss, ls_loss.CrossEntropyLoss):
                summed = ls_loss.cross_entropy(logits, target, reduction="sum", label_smoothing=0.1, dim=-1)
            else:
                summed = F.cross_entropy(logits.transpose(1, 2), target, reduction="sum", label_smoothing=0.1)
            return summed / (num_items_in_batch if num_items_in_batch is not None else (target != -100).sum())

        arguments = huggingface_arguments(tmp_path, gradient_accumulation_steps=accumulate)
        return huggingface_losses(causal_model(), causal_data(), arguments, compute)

    losses, ran = operators(train, ls_loss.CrossEntropyLoss())
    assert ran.count("ls_loss::_loss_grad") == 4 * accumulate and "aten::cross_entropy_loss" not in ran
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(train(nn.CrossEntropyLoss())), rtol=1e-3, atol=1e-3)


def test_huggingface_trainer_of_a_classifier_under_patch(tmp_path):
    """Nothing is handed to the Trainer: the model's own loss is reached by the switch."""
    transformers = pytest.importorskip("transformers")

    def train():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=50,
            num_labels=3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = transformers.BertForSequenceClassification(config)
        rows = zip(cases.integers(50, ROWS, 12), cases.integers(3, ROWS, seed=1).tolist(), strict=True)
        dataset = [dict(input_ids=row, labels=label) for row, label in rows]
        return huggingface_losses(model, dataset, huggingface_arguments(tmp_path))

    with ls_loss.patch():
        losses, ran = operators(train)
    assert ran.count("ls_loss::_loss_grad") == 4 and "aten::cross_entropy_loss" not in ran
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(train()), rtol=1e-3, atol=1e-3)


def test_huggingface_label_smoother_is_the_same_loss(tmp_path):
    """label_smoothing_factor of the Trainer, against compute_loss_func with our loss. Both divide by the Trainer's count."""
    theirs = huggingface_losses(
        causal_model(), causal_data(), huggingface_arguments(tmp_path, label_smoothing_factor=0.1)
    )

    def compute(outputs, labels, num_items_in_batch):
        logits, target = outputs.logits[:, :-1], labels[:, 1:]
        summed = ls_loss.cross_entropy(logits, target, label_smoothing=0.1, dim=-1, reduction="sum")
        return summed / num_items_in_batch

    arguments = huggingface_arguments(tmp_path)
    ours, ran = operators(huggingface_losses, causal_model(), causal_data(), arguments, compute)
    assert ran.count("ls_loss::_loss_grad") == 4
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-3, atol=1e-3)


# Lightning, Fabric, accelerate, skorch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning(tmp_path, precision):
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self, loss):
            super().__init__()
            self.model, self.loss, self.seen = classifier(), loss, []

        def training_step(self, batch, _):
            value = self.loss(self.model(batch[0]), batch[1])
            self.seen.append(value.item())
            return value

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.5)

    def train(loss):
        module = Module(loss)
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(tmp_path),
        )
        trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=ROWS))
        return module.seen

    losses, ran = operators(train, ls_loss.CrossEntropyLoss(label_smoothing=0.1))
    assert ran.count("ls_loss::_loss_grad") == 3 and "aten::cross_entropy_loss" not in ran
    tolerance = 1e-5 if precision == "32-true" else 2e-2  # native's gradients of bfloat16 are many units off
    native = train(nn.CrossEntropyLoss(label_smoothing=0.1))
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(native), rtol=tolerance, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_fabric():
    fabric_of = pytest.importorskip("lightning_fabric")

    def train(loss):
        fabric = fabric_of.Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(model := classifier(), torch.optim.SGD(model.parameters(), 0.5))
        losses = []
        for inputs, target in fabric.setup_dataloaders(DataLoader(TensorDataset(*data()), batch_size=16)):
            value = loss(model(inputs), target)
            fabric.backward(value)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(value.item())
        return losses

    losses, ran = operators(train, ls_loss.CrossEntropyLoss(label_smoothing=0.1))
    assert ran.count("ls_loss::_loss_grad") == 2
    torch.testing.assert_close(losses, train(nn.CrossEntropyLoss(label_smoothing=0.1)), rtol=1e-5, atol=0)


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")

    def train(loss):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = classifier()
        loader = DataLoader(TensorDataset(*data()), batch_size=8)
        model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.5), loader)
        losses = []
        for _ in range(2):
            for inputs, target in loader:
                with accelerator.accumulate(model):
                    value = loss(model(inputs), target)
                    accelerator.backward(value)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(value.item())
        return losses

    ours_and_native(train)


@pytest.mark.filterwarnings("ignore")
def test_skorch_asks_for_the_class():
    """It applies a softmax of its own only where the criterion is a CrossEntropyLoss: a subclass must be taken for one."""
    skorch = pytest.importorskip("skorch")

    def train(criterion):
        torch.manual_seed(0)
        inputs, target = data()
        net = skorch.NeuralNetClassifier(
            classifier(),
            criterion=criterion,
            criterion__label_smoothing=0.1,
            max_epochs=3,
            lr=0.5,
            train_split=None,
            iterator_train__shuffle=False,
            verbose=0,
        )
        net.fit(inputs.numpy(), target.numpy())
        probabilities = net.predict_proba(inputs.numpy())
        assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
        return [entry["train_loss"] for entry in net.history]

    losses, ran = operators(train, ls_loss.CrossEntropyLoss)
    assert ran.count("ls_loss::_loss_grad") == 3
    torch.testing.assert_close(losses, train(nn.CrossEntropyLoss), rtol=1e-5, atol=0)


# torch's own


def loop(loss, loader, after_step=lambda model: None, epochs=2):
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    losses = []
    for _ in range(epochs):
        for inputs, target in loader:
            value = loss(model(inputs), target)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            after_step(model)
            losses.append(value.item())
    return losses


@pytest.mark.parametrize("average", ["SWA", "EMA"])
def test_averaged_models(average):
    from torch.optim import swa_utils

    def train(loss):
        function = swa_utils.get_ema_multi_avg_fn(0.9) if average == "EMA" else None
        averaged = swa_utils.AveragedModel(classifier(), multi_avg_fn=function)
        losses = loop(loss, DataLoader(TensorDataset(*data()), batch_size=16), averaged.update_parameters)
        swa_utils.update_bn(DataLoader(TensorDataset(data()[0]), batch_size=16), averaged)
        with torch.no_grad():
            return [*losses, loss(averaged(data()[0]), data()[1]).item()]

    losses, ran = operators(train, ls_loss.CrossEntropyLoss(label_smoothing=0.1))
    assert ran.count("ls_loss::_loss_grad") == len(losses) - 1 and ran.count("ls_loss::_loss") == 1
    torch.testing.assert_close(losses, train(nn.CrossEntropyLoss(label_smoothing=0.1)), rtol=1e-5, atol=0)


def test_averaged_module_that_holds_the_loss():
    """AveragedModel copies the module deeply, buffers and all."""
    model = nn.Sequential(classifier(), ls_loss.CrossEntropyLoss(cases.weights(CLASSES)))
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    assert torch.equal(averaged.module[1].weight, cases.weights(CLASSES))


class LossInWorkers(torch.utils.data.Dataset):
    """Computes a large enough loss in the worker, where native hangs after a fork."""

    def __init__(self, loss):
        self.loss = loss
        self.logits, self.target = cases.batch((4096, 40))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        leaf = self.logits.clone().requires_grad_()
        value = self.loss(leaf, self.target)
        value.backward()
        return torch.cat([value.detach()[None], leaf.grad.flatten()])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader(context):
    """The parent's threads have run, forked workers have none of them."""
    dataset = LossInWorkers(ls_loss.CrossEntropyLoss(label_smoothing=0.1))
    here = dataset[0]
    loader = DataLoader(dataset, num_workers=2, multiprocessing_context=context, timeout=120)
    for batch in loader:
        assert torch.equal(batch[0], here)
    losses = loop(
        ls_loss.CrossEntropyLoss(label_smoothing=0.1),
        DataLoader(TensorDataset(*data()), batch_size=16, num_workers=2, multiprocessing_context=context, timeout=120),
    )
    assert losses == loop(
        ls_loss.CrossEntropyLoss(label_smoothing=0.1), DataLoader(TensorDataset(*data()), batch_size=16)
    )
