"""What programs do with nn.CrossEntropyLoss that no other file tests: kinds of tensors, mixed precision, hooks, files.

Value, gradient or error are native's; other devices stand behind a device of our own, in a process of its own.
"""

import io
import subprocess
import sys
from functools import partial

import cases
import pytest
import torch
import torch.nn.functional as F
from paths import operators, route
from torch import nn
from torch.masked import masked_tensor

import ls_loss

LOGITS, TARGET = cases.batch((4, 5))
WEIGHT, PRIOR = cases.weights(5), cases.prior(5)


def same_as_native(logits, target, **options):
    """The error, or loss and gradient; returns which of them it was."""
    outcomes = []
    for function in (ls_loss.cross_entropy, F.cross_entropy):
        try:
            loss = function(logits, target, **options)
            outcomes.append((loss, *torch.autograd.grad(loss.sum(), logits)) if loss.requires_grad else (loss,))
        except Exception as error:
            outcomes.append((type(error), str(error).splitlines()[0]))
    if isinstance(outcomes[1][0], type):
        assert outcomes[0] == outcomes[1]
        return "error"
    torch.testing.assert_close(outcomes[0], outcomes[1], equal_nan=True)
    return "value"


# Kinds of tensors


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    {
        "csr logits": lambda: (LOGITS.to_sparse_csr(), TARGET, {}),
        "sparse target": lambda: (LOGITS, TARGET.to_sparse(), {}),
        "sparse weight": lambda: (LOGITS, TARGET, {"weight": WEIGHT.to_sparse()}),
        "mkldnn logits": lambda: (LOGITS.to_mkldnn(), TARGET, {}),
        "mkldnn weight": lambda: (LOGITS, TARGET, {"weight": WEIGHT.to_mkldnn()}),
        "quantized logits": lambda: (torch.quantize_per_tensor(LOGITS, 0.1, 0, torch.qint8), TARGET, {}),
        "conjugated logits": lambda: (torch.complex(LOGITS, LOGITS).conj(), TARGET, {}),
        "float8 target": lambda: (LOGITS, TARGET.float().to(torch.float8_e4m3fn), {}),
        "nested logits": lambda: (torch.nested.nested_tensor([LOGITS]), torch.nested.nested_tensor([TARGET]), {}),
        "nested target": lambda: (LOGITS, torch.nested.nested_tensor([TARGET, TARGET]), {}),
        "jagged logits": lambda: (*jagged(), {}),
        "masked logits": lambda: (masked_tensor(LOGITS, LOGITS > 0), TARGET, {}),
    }.items(),
    ids=lambda item: item[0],
)
def test_kinds_that_native_refuses(make):
    assert same_as_native(*make[1]()[:2], **make[1]()[2]) == "error"


def jagged():
    logits = torch.nested.nested_tensor([LOGITS, LOGITS[:2]], layout=torch.jagged)
    return logits, torch.nested.nested_tensor([TARGET, TARGET[:2]], layout=torch.jagged)


def test_values_of_jagged_tensors():
    """The way both serve them: the rows of all samples."""
    logits, target = (nested.values() for nested in jagged())
    assert same_as_native(logits, target) == "value"
    assert route(ls_loss.cross_entropy, logits, target) == "kernel"


def test_zero_tensors():
    """Tensors that hold no memory, as forward-mode derivatives make them: a raw pointer would be null."""
    zeros, targets = torch._efficientzerotensor(4, 5), torch._efficientzerotensor(4, dtype=torch.int64)
    for logits, target, options in (
        (zeros, TARGET, {}),
        (zeros, TARGET, {"label_smoothing": 0.1}),
        (LOGITS, targets, {}),
        (LOGITS, TARGET, {"weight": torch._efficientzerotensor(5)}),
        (LOGITS, torch._efficientzerotensor(4, 5), {"label_smoothing": 0.1}),
    ):
        assert same_as_native(logits, target, **options) == "value"


def test_named_dimensions_are_gone():
    """Torch no longer has them; this fails when they return."""
    assert not hasattr(LOGITS, "refine_names")


ANOTHER_DEVICE = """
import sys
sys.path.insert(0, sys.argv[1])
import cases, ls_loss, op, torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("elsewhere")


class Elsewhere(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl
    seen = []

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="elsewhere:0")
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function.namespace)
        inner = tree_map(lambda value: value.inner if isinstance(value, cls) else value, args)
        outputs = function(*inner, **(kwargs or {}))
        return tree_map(lambda value: cls(value) if isinstance(value, torch.Tensor) else value, outputs)


x, y = cases.batch((4, 5))
weight = cases.weights(5)
logits, target = Elsewhere(x).requires_grad_(), Elsewhere(y)
leaf = x.clone().requires_grad_()
module = ls_loss.CrossEntropyLoss(Elsewhere(weight), label_smoothing=0.1)
public = lambda x, y, w: ls_loss.cross_entropy(x, y, w, label_smoothing=0.1)
for function in (public, op.cross_entropy, lambda x, y, w: module(x, y)):
    loss = function(logits, target, Elsewhere(weight))
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = F.cross_entropy(leaf, y, weight, label_smoothing=0.1)
    assert loss.device.type == gradient.device.type == "elsewhere"
    assert torch.equal(loss.inner, wanted.detach()) and torch.equal(gradient.inner, torch.autograd.grad(wanted, leaf)[0])
prior = cases.prior(5)
for wrap in (Elsewhere, lambda tensor: tensor):
    arguments = [wrap(tensor) for tensor in (x, y, weight, prior)]
    results = [
        ls_loss.cross_entropy(*arguments[:3], prior=arguments[3], label_smoothing=0.1),
        ls_loss.LabelSmoothingCrossEntropy()(*arguments[:2]),
        ls_loss.LabelSmoothingCrossEntropy(weight=arguments[2], prior=arguments[3], reduction="none")(*arguments[:2]),
        ls_loss.smooth_labels(arguments[1], 5),
        ls_loss.smooth_labels(arguments[1], 5, prior=arguments[3]),
    ]
    if wrap is Elsewhere:
        there = [result.inner for result in results]
torch.testing.assert_close(there, results)
assert set(Elsewhere.seen) == {"aten"}, set(Elsewhere.seen)
print("as native")
"""


def test_other_devices():
    """Native computes torch's convention there, the composite the others, and nothing is copied to the CPU."""
    folder = cases.__file__.rpartition("/")[0]
    result = subprocess.run([sys.executable, "-c", ANOTHER_DEVICE, folder], capture_output=True, text=True)
    assert result.stdout == "as native\n", result.stderr[-2000:]


# Transforms


@pytest.mark.parametrize(("in_dims", "out_dims"), [((2, 1), 0), ((-1, -1), 1)], ids=str)
def test_dimensions_of_vmap(in_dims, out_dims):
    """Eight samples of three rows, in the last dimension; with 'none' the result has a dimension to put them before."""
    logits, target = cases.randn(3, 5, 8), cases.integers(5, 3, 8)
    for reduction in cases.REDUCTIONS:
        ours, native = (
            torch.func.vmap(
                partial(function, reduction=reduction, label_smoothing=0.1),
                in_dims=in_dims,
                out_dims=out_dims if reduction == "none" else 0,
            )(logits, target)
            for function in (ls_loss.cross_entropy, F.cross_entropy)
        )
        torch.testing.assert_close(ours, native, rtol=1e-12, atol=1e-14)


# Mixed precision


def test_functions_with_their_own_casts():
    """custom_fwd leaves autocast off inside, or casts first: the loss inside must follow."""

    def make(cast_inputs):
        class Loss(torch.autograd.Function):
            @staticmethod
            @torch.amp.custom_fwd(device_type="cpu", cast_inputs=cast_inputs)
            def forward(context, logits, target):
                with torch.enable_grad():
                    leaf = logits.detach().requires_grad_()
                    loss = ls_loss.cross_entropy(leaf, target, label_smoothing=0.1)
                (gradient,) = torch.autograd.grad(loss, leaf)
                context.save_for_backward(gradient)
                return loss.detach()

            @staticmethod
            @torch.amp.custom_bwd(device_type="cpu")
            def backward(context, grad_output):
                return context.saved_tensors[0] * grad_output, None

        return Loss

    logits = LOGITS.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cast, kept = make(torch.float32).apply(logits, TARGET), make(None).apply(logits, TARGET)
    assert cast.dtype == kept.dtype == torch.float32
    wide = LOGITS.bfloat16().float().requires_grad_()
    expected = ls_loss.cross_entropy(wide, TARGET, label_smoothing=0.1)
    for loss in (cast, kept):
        torch.testing.assert_close(loss.detach(), expected.detach())
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.dtype == torch.bfloat16
        (wanted,) = torch.autograd.grad(expected, wide, retain_graph=True)
        torch.testing.assert_close(gradient, wanted.bfloat16(), rtol=2**-7, atol=0)


def scaled_gradient(function, rows, classes):
    """The gradient of fp16 logits as GradScaler has it, and that of float64 times the scale."""
    logits, target = cases.batch((rows, classes), torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = function(leaf, target, label_smoothing=0.1)
    scaler.scale(loss).backward()
    wide = logits.double().requires_grad_()
    F.cross_entropy(wide, target, label_smoothing=0.1).mul(2.0**16).backward()
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, target[:, None], False)
    return leaf.grad.double()[others], wide.grad[others]


@pytest.mark.parametrize(("rows", "classes"), [(64, 100), (4096, 50), (256, 5000)])
def test_grad_scaler(rows, classes):
    """No more zeros than native by 0.1 %, and entries other than the target's within 1e-3, in the 2-norm."""
    (ours, exact), (native, _) = (scaled_gradient(f, rows, classes) for f in (ls_loss.cross_entropy, F.cross_entropy))
    assert (ours == 0).double().mean() <= (native == 0).double().mean() + 1e-3
    assert (ours - exact).norm() / exact.norm() <= 1e-3


def test_training_with_grad_scaler():
    """An overflow is found in our gradient, the step skipped and the scale halved."""
    model = nn.Linear(5, 5)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1)
    for scale in (2.0**126, 2.0**125):
        with torch.autocast("cpu", torch.float16):
            loss = ls_loss.CrossEntropyLoss(reduction="sum")(model(1e3 * LOGITS), TARGET)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale and torch.equal(model.weight, before)


# Hooks


def test_gradients_of_logits_that_are_no_leaf():
    inner = LOGITS.clone().requires_grad_()
    seen = []
    logits = inner * 2
    logits.retain_grad()
    logits.register_hook(lambda gradient: seen.append(gradient.clone()) or gradient * 3)
    ls_loss.cross_entropy(logits, TARGET, label_smoothing=0.1).backward()
    expected = LOGITS.mul(2).requires_grad_()
    F.cross_entropy(expected, TARGET, label_smoothing=0.1).backward()
    torch.testing.assert_close(seen, [expected.grad])
    torch.testing.assert_close(logits.grad, 3 * expected.grad)
    torch.testing.assert_close(inner.grad, 6 * expected.grad)


def test_hooks_of_modules():
    for module in (ls_loss.CrossEntropyLoss(), ls_loss.LabelSmoothingCrossEntropy(), ls_loss.LabelSmoothingLoss()):
        logits, seen = LOGITS.clone().requires_grad_(), []
        module.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append("before") or (args[0] * 2, args[1])
        )
        module.register_forward_hook(lambda module, args, loss, seen=seen: seen.append("after") or loss * 2)
        module.register_full_backward_hook(lambda module, inputs, outputs, seen=seen: seen.append(inputs[0].shape))
        loss = module(logits, TARGET)
        loss.backward()
        assert seen == ["before", "after", LOGITS.shape]
        torch.testing.assert_close(loss.detach(), 2 * module.forward(LOGITS * 2, TARGET))


# Files


def test_saved_files():
    """A state loads under the strict rules; a whole module only by permission, or with its class allowed, as native."""
    ours, native = ls_loss.CrossEntropyLoss(WEIGHT, label_smoothing=0.1, prior=PRIOR), nn.CrossEntropyLoss(WEIGHT)

    def file(value):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        buffer.seek(0)
        return buffer

    for module in (ours, native):
        module.load_state_dict(torch.load(file(module.state_dict()), weights_only=True))
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(file(module), weights_only=True)
    loaded = torch.load(file(ours), weights_only=False)
    assert torch.equal(loaded(LOGITS, TARGET), ours(LOGITS, TARGET))


def test_dtypes_of_modules():
    """.half() and its kin move weight and prior, as for native."""
    for change in (nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float):
        module, native = change(ls_loss.CrossEntropyLoss(WEIGHT, prior=PRIOR)), change(nn.CrossEntropyLoss(WEIGHT))
        assert module.weight.dtype == module.prior.dtype == native.weight.dtype
        logits = LOGITS.to(module.weight.dtype)
        assert module(logits, TARGET).dtype == native(logits, TARGET).dtype
        assert "ls_loss::_loss" in operators(module, logits, TARGET)[1]
