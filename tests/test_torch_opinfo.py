"""The function and the modules as torch describes its own (OpInfo, ModuleInfo), under the checks that torch has for those.

The inputs are torch's, times the amounts of smoothing that torch does not test, and those of our own keywords. Samples whose
targets require grad are computed by native operators: the checks of values leave that out, so that the kernel is judged.
"""

import copy
import io
import pickle
from functools import partial

import cases
import reference
import torch
from paths import route
from torch.testing import make_tensor
from torch.testing._internal.common_device_type import instantiate_device_type_tests, ops
from torch.testing._internal.common_dtype import floating_types_and
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import FunctionInput, ModuleInfo, ModuleInput, module_db, modules
from torch.testing._internal.common_utils import TestCase, TestGradients, noncontiguous_like
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import ls_loss

NATIVE = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
NATIVE_MODULE = next(info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss)
DTYPES = floating_types_and(torch.float16, torch.bfloat16)


def own_samples(device, dtype, requires_grad):
    """Prior, class dimension and small integers, none of which torch has; ignored rows beside them."""
    make = partial(make_tensor, device=device, dtype=dtype)
    prior = make((3,), low=0.1, high=1.0).softmax(0)
    for reduction in cases.REDUCTIONS:
        index = torch.tensor([2, -100, 0, 1], device=device)
        options = dict(label_smoothing=0.1, reduction=reduction)
        logits = partial(make, requires_grad=requires_grad)
        yield SampleInput(logits((4, 3)), index, prior=prior, **options)
        yield SampleInput(logits((4, 3)), index, make((3,), low=0.5, high=2.0), prior=prior, **options)
        yield SampleInput(logits((4, 3)), make((4, 3), low=0.0, high=1.0).softmax(1), prior=prior, **options)
        yield SampleInput(logits((2, 2, 3)), index.view(2, 2).int(), dim=-1, **options)
        yield SampleInput(logits((3, 2, 2)), index.view(2, 2).short(), dim=0, **options)


def samples(op_info, device, dtype, requires_grad, **kwargs):
    for smoothing in cases.SMOOTHINGS:
        for sample in NATIVE.sample_inputs(device, dtype, requires_grad):
            sample.kwargs["label_smoothing"] = smoothing
            yield sample
    yield from own_samples(device, dtype, requires_grad)


OURS = OpInfo(
    "ls_loss.cross_entropy",
    op=ls_loss.cross_entropy,
    dtypes=DTYPES,
    sample_inputs_func=samples,
    supports_out=False,
    supports_forward_ad=True,
    supports_fwgrad_bwgrad=True,
    gradcheck_fast_mode=True,
)


def leaf(value, dtype=None):
    """A copy that shares no history, in another floating point dtype if one is given."""
    if not torch.is_tensor(value):
        return value
    dtype = dtype if value.is_floating_point() else None
    return value.detach().to(dtype or value.dtype).requires_grad_(value.requires_grad)


def outcome(function, sample, dtype=None, grad_output=None):
    """Loss and gradient of the logits of a sample whose target requires none."""
    logits = leaf(sample.input, dtype).requires_grad_()
    arguments = [leaf(value, dtype).detach() if torch.is_tensor(value) else value for value in sample.args]
    loss = function(logits, *arguments, **{name: leaf(value, dtype) for name, value in sample.kwargs.items()})
    grad_output = torch.ones_like(loss) if grad_output is None else torch.full_like(loss, grad_output)
    return loss.detach(), torch.autograd.grad(loss, logits, grad_output)[0]


def natives(sample):
    return "prior" not in sample.kwargs and "dim" not in sample.kwargs


class TestOp(TestCase):
    @ops([OURS], allowed_dtypes=(torch.float32, torch.float16, torch.bfloat16))
    def test_never_further_from_float64_than_native(self, device, dtype, op):
        """The largest error of a tensor is not above native's, or every entry is as near as the roundings of a result allow.

        In 16 bits that is one of half a unit in the last place (two for a gradient with a grad_output other than 1, which is
        stored before it is multiplied), and 1 % of it for the arithmetic, which is float32; in float32, where the
        arithmetic has the dtype of the result, 16 of the largest entry.
        """
        narrow = dtype.itemsize == 2
        unit = torch.finfo(dtype).eps / 2
        smallest = torch.finfo(dtype).smallest_normal * unit
        count = 0
        for sample in filter(natives, op.sample_inputs(device, dtype)):
            for grad_output in (1.0, -0.7):
                rounded = torch.tensor(grad_output, dtype=dtype).double().item()
                truth = outcome(NATIVE.op, sample, torch.float64, rounded)
                results = (outcome(function, sample, None, grad_output) for function in (op.op, NATIVE.op))
                for what, (exact, ours, native) in enumerate(zip(truth, *results, strict=True)):
                    layouts = [(got.dtype, got.shape, got.stride()) for got in (ours, native)]
                    self.assertEqual(layouts[0], layouts[1])
                    error, theirs = ((got.double() - exact).abs() for got in (ours, native))
                    roundings = 2 if what == 1 and grad_output != 1 else 1
                    allowed = 1.01 * roundings * exact.abs() if narrow else 16 * exact.abs().max()
                    near = error <= unit * allowed + roundings * smallest
                    self.assertTrue(error.max() <= theirs.max() or near.all(), f"{sample}")
                    count += 1
        self.assertEqual(count, 21 * 5 * 4)

    @ops([OURS], allowed_dtypes=DTYPES)
    def test_the_kernel_computes(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            by_native = any(torch.is_tensor(value) and value.requires_grad for value in sample.args)
            self.assertEqual(
                route(op.op, sample.input, *sample.args, **sample.kwargs),
                "native" if by_native else "kernel",
                f"{sample}",
            )

    @ops([OURS], allowed_dtypes=DTYPES)
    def test_noncontiguous_samples(self, device, dtype, op):
        """Not to the bit: the strategy, and so the order of sums, follows from strides."""
        for sample in op.sample_inputs(device, dtype):
            for expected, got in zip(outcome(op.op, sample), outcome(op.op, sample.noncontiguous()), strict=True):
                self.assertEqual(got, expected, exact_stride=True)

    @ops([OURS], allowed_dtypes=DTYPES)
    def test_copy_on_write_inputs_are_not_copied(self, device, dtype, op):
        """A pointer for writing, taken of something that is only read, would copy the logits."""
        for sample in op.sample_inputs(device, dtype):
            shared = sample.transform(lambda value: torch._lazy_clone(value) if torch.is_tensor(value) else value)
            for requires_grad in (False, True):
                loss = op.op(shared.input.requires_grad_(requires_grad), *shared.args, **shared.kwargs)
                if requires_grad:
                    loss.sum().backward()
                for value in (shared.input, *shared.args, *shared.kwargs.values()):
                    self.assertTrue(not torch.is_tensor(value) or torch._C._is_cow_tensor(value), f"{sample}")

    @ops([OURS], allowed_dtypes=(torch.float32, torch.bfloat16))
    def test_fake_tensors_have_the_metadata_of_the_real(self, device, dtype, op):
        with torch._subclasses.CrossRefFakeMode(ignore_op_fn=lambda function: "ls_loss" not in str(function)):
            for sample in op.sample_inputs(device, dtype):
                outcome(op.op, sample)

    def test_error_inputs(self, device):
        """Torch has none for the function, but some for the module."""
        self.assertIsNone(NATIVE.error_inputs_func)
        errors = NATIVE_MODULE.module_error_inputs_func(NATIVE_MODULE, device, torch.float32, False, True)
        self.assertEqual(len(errors), 7)
        for error in errors:
            made, called = error.module_error_input.constructor_input, error.module_error_input.forward_input
            for smoothing in cases.SMOOTHINGS:
                with self.assertRaisesRegex(error.error_type, error.error_regex):
                    ls_loss.cross_entropy(*called.args, *made.args, **({"label_smoothing": smoothing} | made.kwargs))


class TestDerivatives(TestGradients):
    """In float64, by finite differences; targets that require grad included."""

    @ops([OURS], allowed_dtypes=(torch.float64,))
    def test_grad(self, device, dtype, op):
        self._grad_test_helper(device, dtype, op, op.op)

    @ops([OURS], allowed_dtypes=(torch.float64,))
    def test_gradgrad(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.op, "bwgrad_bwgrad")

    @ops([OURS], allowed_dtypes=(torch.float64,))
    def test_forward_over_reverse(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.op, "fwgrad_bwgrad")

    @ops([OURS], allowed_dtypes=(torch.float64,))
    def test_forward_mode(self, device, dtype, op):
        self._grad_test_helper(
            device,
            dtype,
            op,
            op.op,
            check_forward_ad=True,
            check_backward_ad=False,
            check_batched_grad=False,
            check_batched_forward_grad=True,
        )


# Modules


def torchs_inputs(info, device, dtype, requires_grad, training, **kwargs):
    """Torch's, and once more with a prior."""
    for smoothing in (None, 0.05, 0.1, 0.5, 1.0):
        for sample in NATIVE_MODULE.module_inputs_func(info, device, dtype, requires_grad, training):
            if smoothing is not None:
                sample.constructor_input.kwargs["label_smoothing"] = smoothing
            yield sample
    yield from other_inputs(info, device, dtype, requires_grad, training)


def other_inputs(info, device, dtype, requires_grad, training, **kwargs):
    make = partial(make_tensor, device=device, dtype=dtype)
    for reduction in cases.REDUCTIONS:
        for prior in (None, make((3,), low=0.1, high=1.0).softmax(0)):
            for weight in (None, make((3,), low=0.5, high=2.0)):
                yield ModuleInput(
                    constructor_input=FunctionInput(weight=weight, reduction=reduction, prior=prior),
                    forward_input=FunctionInput(
                        make((4, 3), requires_grad=requires_grad), torch.tensor([2, -100, 0, 1], device=device)
                    ),
                )


MODULES = [
    ModuleInfo(ls_loss.CrossEntropyLoss, module_inputs_func=torchs_inputs, dtypes=DTYPES),
    ModuleInfo(ls_loss.LabelSmoothingCrossEntropy, module_inputs_func=other_inputs, dtypes=DTYPES),
    ModuleInfo(ls_loss.LabelSmoothingLoss, module_inputs_func=other_inputs, dtypes=DTYPES),
]


def expected(module, logits, target):
    """The reference with what the module holds, in float64."""
    of_torch = isinstance(module, torch.nn.CrossEntropyLoss)
    return reference.cross_entropy(
        logits,
        target,
        weight=module.weight,
        prior=module.prior,
        reduction=module.reduction,
        ignore_index=getattr(module, "ignore_index", -100),
        label_smoothing=next(
            getattr(module, name) for name in ("label_smoothing", "eps", "epsilon") if hasattr(module, name)
        ),
        convention="torch" if of_torch else "fastai",
    )


def made(info, device, dtype, training, requires_grad=False):
    for sample in info.module_inputs_func(info, device, dtype, requires_grad, training):
        module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        yield module.to(device).to(dtype).train(training), sample.forward_input.args


class TestModules(TestCase):
    @modules(MODULES, allowed_dtypes=DTYPES)
    def test_forward(self, device, dtype, module_info, training):
        for module, (logits, target) in made(module_info, device, dtype, training):
            loss = module(logits, target)
            self.assertEqual((loss.dtype, loss.device), (dtype, logits.device))
            torch.testing.assert_close(
                loss.double(), expected(module, logits, target), equal_nan=True, **tolerance(dtype)
            )

    @modules(MODULES, allowed_dtypes=DTYPES)
    def test_noncontiguous_tensors(self, device, dtype, module_info, training):
        for module, (logits, target) in made(module_info, device, dtype, training):
            spread = [noncontiguous_like(value) for value in (logits, target)]
            self.assertEqual(module(*spread), module(logits, target))

    @modules(MODULES, allowed_dtypes=(torch.float32,))
    def test_copies(self, device, dtype, module_info, training):
        """The dictionary of the state, the pickle, a deep copy and what is saved whole compute the same."""
        for module, arguments in made(module_info, device, dtype, training):
            loss = module(*arguments)
            file = io.BytesIO()
            torch.save(module, file)
            file.seek(0)
            copies = [pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(file, weights_only=False)]
            copies.append(copy.deepcopy(module))
            copies[-1].load_state_dict(module.state_dict())
            for twin in copies:
                self.assertEqual((type(twin), twin.training), (type(module), training))
                self.assertEqual(twin(*arguments), loss, rtol=0, atol=0)
                self.assertEqual(repr(twin), repr(module))

    @modules(MODULES, allowed_dtypes=(torch.float64,))
    def test_grad_and_gradgrad(self, device, dtype, module_info, training):
        for module, (logits, target) in made(module_info, device, dtype, training, requires_grad=True):
            inputs = [value for value in (logits, target) if value.requires_grad]
            if module(logits, target).isnan().any():  # all rows of a small batch may be ignored
                continue

            def function(*inputs, module=module, rest=(target,)):
                return module(*inputs, *(rest if len(inputs) == 1 else ()))

            self.assertTrue(torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True))
            self.assertTrue(torch.autograd.gradgradcheck(function, inputs, fast_mode=True))

    @modules(MODULES, allowed_dtypes=(torch.float32,))
    def test_moves(self, device, dtype, module_info, training):
        """Buffers of any dtype and device, and logits that hold no data."""
        for module, (logits, target) in made(module_info, device, dtype, training):
            if target.is_floating_point():
                continue
            shape = module(logits, target).shape
            for name in ("weight", "prior"):  # attributes of fastai's and the notebook's do not move with the module
                value = getattr(module, name)
                setattr(module, name, None if value is None else value.to("meta"))
            loss = module(logits.to("meta"), target.to("meta"))
            self.assertEqual((loss.device.type, loss.shape), ("meta", shape))

    @modules(MODULES, allowed_dtypes=DTYPES)
    def test_training_changes_nothing(self, device, dtype, module_info, training):
        for module, arguments in made(module_info, device, dtype, training):
            self.assertTrue(
                torch.equal(module(*arguments).nan_to_num(), module.train(not training)(*arguments).nan_to_num())
            )


def tolerance(dtype):
    """Of losses that are up to 10 times 3 classes' logits of at most 9; the error model proper is in tolerance.py."""
    return dict(
        rtol=torch.finfo(dtype).eps * (1 if dtype.itemsize == 2 else 16), atol=1e-5 if dtype != torch.float64 else 1e-13
    )


instantiate_device_type_tests(TestOp, globals(), only_for="cpu")
instantiate_device_type_tests(TestDerivatives, globals(), only_for="cpu")
instantiate_device_type_tests(TestModules, globals(), only_for="cpu")
