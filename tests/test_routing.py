"""Who computes a call, for every branch of the decision; and that what is refused raises as native raises."""

import cases
import pytest
import torch
import torch.nn.functional as F
from op import cross_entropy
from paths import operators, route

LOGITS, TARGET = cases.batch((4, 5))
Q = cases.probabilities((4, 5))
WEIGHT, PRIOR = cases.weights(5), cases.prior(5)


def strided(tensor):
    """The same values, every other element of a larger tensor."""
    return tensor.repeat_interleave(2, -1)[..., ::2]


KERNEL = {
    **{f"{dtype} logits": (LOGITS.to(dtype), TARGET, {}) for dtype in cases.DTYPES},
    **{f"{dtype} target": (LOGITS, TARGET.to(dtype), {}) for dtype in cases.INTEGERS},
    **{
        f"{dtype} target of images": (cases.batch((2, 5, 3))[0], cases.batch((2, 5, 3))[1].to(dtype), {})
        for dtype in cases.INTEGERS
    },
    "probabilities": (LOGITS, Q, {}),
    "probabilities, ignore_index": (LOGITS, Q, {"ignore_index": -1}),
    "weight": (LOGITS, TARGET, {"weight": WEIGHT}),
    "prior": (LOGITS, TARGET, {"prior": PRIOR}),
    "strided weight and prior": (LOGITS, TARGET, {"weight": strided(WEIGHT), "prior": strided(PRIOR)}),
    "fastai": (LOGITS, TARGET, {"convention": "fastai", "label_smoothing": 1.5}),
    "1-d": (LOGITS[0], TARGET[0], {}),
    "1-d, dim -1": (LOGITS[0], TARGET[0], {"dim": -1}),
    "1-d, dim 0, target (1,)": (LOGITS[0], TARGET[:1], {"dim": 0}),
    "classes last": (LOGITS.view(2, 2, 5), TARGET.view(2, 2), {"dim": -1}),
    "transposed": (LOGITS.t().contiguous().t(), TARGET, {}),
    "expanded": (LOGITS[:1].expand(4, 5), TARGET[:1].expand(4), {}),
    "every other": (strided(LOGITS), strided(TARGET), {}),
    "permuted images": (cases.randn(5, 3, 2, 4).permute(3, 0, 2, 1), cases.integers(5, 4, 2, 3), {}),
    "permuted probabilities": (cases.randn(3, 4, 5).permute(1, 2, 0), cases.randn(4, 3, 5).exp().permute(0, 2, 1), {}),
    "negative view": (torch.complex(LOGITS, -LOGITS).conj().imag, TARGET, {}),
    "parameter": (torch.nn.Parameter(LOGITS), TARGET, {}),
    "no rows": (LOGITS[:0], TARGET[:0], {}),
}
NATIVE = {
    "target that requires grad": (LOGITS, Q.clone().requires_grad_(), {}),
    "weight that requires grad": (LOGITS, Q, {"weight": WEIGHT.clone().requires_grad_()}),
    "probabilities of another dtype": (LOGITS, Q.double(), {}),
    "probabilities and a weight of another dtype": (LOGITS, Q, {"weight": WEIGHT.double()}),
}
COMPOSITE = {
    "target that requires grad": (LOGITS, Q.clone().requires_grad_(), {"prior": PRIOR}),
    "weight that requires grad": (LOGITS, Q, {"weight": WEIGHT.clone().requires_grad_(), "prior": PRIOR}),
    "probabilities of another dtype": (LOGITS, Q.double(), {"prior": PRIOR}),
    "prior of another dtype": (LOGITS, TARGET, {"prior": PRIOR.double()}),
    "prior of another dtype, fastai": (LOGITS, TARGET, {"prior": PRIOR.double(), "convention": "fastai"}),
}


@pytest.mark.parametrize("name", KERNEL)
def test_served_by_the_kernel(name):
    logits, target, options = KERNEL[name]
    assert route(cross_entropy, logits, target, **options) == "kernel"
    if "fastai" in name or "prior" in name:
        return
    dim = options.get("dim", 1)
    options = {key: value for key, value in options.items() if key != "dim"}
    loss = cross_entropy(logits, target, dim=dim, **options)
    if logits.dim() == 1:  # with smoothing, native refuses a target of shape (1,)
        target = target.reshape(())
    else:
        logits = logits.movedim(dim, 1)
    target = target if target.is_floating_point() else target.long()
    native = F.cross_entropy(logits, target, label_smoothing=0.1, **options)
    torch.testing.assert_close(loss, native, equal_nan=True)


@pytest.mark.parametrize("name", NATIVE)
def test_handed_to_native(name):
    logits, target, options = NATIVE[name]
    assert route(cross_entropy, logits, target, **options) == "native"
    native = F.cross_entropy(logits, target, label_smoothing=0.1, **options)
    assert torch.equal(cross_entropy(logits, target, **options), native)
    with torch.no_grad():  # then there is nothing that the kernel does not serve, unless dtypes are mixed
        assert route(cross_entropy, logits, target, **options) == ("kernel" if "grad" in name else "native")


@pytest.mark.parametrize("name", COMPOSITE)
def test_computed_by_the_composite(name):
    logits, target, options = COMPOSITE[name]
    assert route(cross_entropy, logits, target, **options) == "composite"
    plain = {
        key: value.detach().float() if isinstance(value, torch.Tensor) else value for key, value in options.items()
    }
    kernel = cross_entropy(logits, target.detach().to(torch.float32) if target.is_floating_point() else target, **plain)
    torch.testing.assert_close(cross_entropy(logits, target, **options).to(kernel.dtype), kernel)


def test_meta_tensors_take_the_meta_kernels():
    loss = cross_entropy(LOGITS.to("meta"), TARGET.to("meta"), reduction="none")
    assert loss.is_meta and loss.shape == (4,)


@pytest.mark.parametrize("dim, expected", [(1, "native"), (-1, "kernel")])
def test_more_classes_than_the_kernels_count(dim, expected):
    """Where they are not adjacent, the kernels count them in 32 bits."""
    target = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    for classes, computed_by in [(2**31 - 1, "kernel"), (2**31, expected)]:
        logits = torch.empty((1, classes, 2), device="meta").movedim(1, dim)
        assert route(cross_entropy, logits, target, dim=dim) == computed_by


@pytest.mark.parametrize("dim", [0, 2, -1])
def test_what_native_computes_has_its_classes_moved(dim):
    """Native knows the classes in dimension 1 only, and probabilities with them."""
    logits = cases.randn(3, 4, 5).movedim(1, dim)
    target = cases.probabilities((3, 4, 5), torch.float64).movedim(1, dim).requires_grad_()
    assert route(cross_entropy, logits, target, dim=dim) == "native"
    loss = cross_entropy(logits, target, dim=dim, reduction="none")
    with torch.no_grad():
        torch.testing.assert_close(loss, cross_entropy(logits, target, dim=dim, reduction="none"))


# What is refused

REFUSED = {
    "batch sizes": (LOGITS, TARGET[:3], {}),
    "1-d, two targets": (LOGITS[0], TARGET[:2], {}),
    "column of targets": (LOGITS, TARGET[:, None], {}),
    "other 2-d probabilities": (LOGITS, Q[:, :3], {}),
    "3-d": (cases.randn(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64), {}),
    "4-d": (cases.randn(2, 3, 5, 5), torch.zeros(2, 5, 4, dtype=torch.int64), {}),
    "4-d, 2-d target": (cases.randn(2, 3, 5, 5), torch.zeros(2, 5, dtype=torch.int64), {}),
    "0-d logits": (cases.randn(), torch.tensor(0), {}),
    "weight too short": (LOGITS, TARGET, {"weight": WEIGHT[:4]}),
    "weight of two dimensions": (LOGITS, TARGET, {"weight": WEIGHT[None]}),
    "weight of another dtype": (LOGITS, TARGET, {"weight": WEIGHT.double()}),
    "16-bit logits, weight of another dtype": (LOGITS.bfloat16(), TARGET, {"weight": WEIGHT}),
    "bool target": (LOGITS, TARGET > 2, {}),
    "float target": (LOGITS, TARGET.float(), {}),
    "integer target of the logits' shape": (LOGITS, Q.long(), {}),
    "int32 target of the logits' shape": (LOGITS, Q.int(), {}),
    "probabilities, ignore_index": (LOGITS, Q, {"ignore_index": 1}),
    "integer logits": (LOGITS.long(), TARGET, {}),
    "bool logits": (LOGITS > 0, TARGET, {}),
    "complex logits": (torch.complex(LOGITS, LOGITS), TARGET, {}),
    "float8 logits": (LOGITS.to(torch.float8_e5m2), TARGET, {}),
    "sparse logits": (LOGITS.to_sparse(), TARGET, {}),
    "meta target": (LOGITS, TARGET.to("meta"), {}),
    "meta logits": (LOGITS.to("meta"), TARGET, {}),
    "meta weight": (LOGITS, TARGET, {"weight": WEIGHT.to("meta")}),
    "smoothing above 1": (LOGITS, TARGET, {"label_smoothing": 1.2}),
    "smoothing above 1, probabilities": (LOGITS, Q, {"label_smoothing": 1.2}),
    "target out of range": (LOGITS, TARGET + 5, {}),
    "huge target": (LOGITS, TARGET + 2**62, {}),
    "negative target": (LOGITS, TARGET - 7, {}),
    "no classes": (LOGITS[:, :0], TARGET * 0, {}),
}


def error_of(function, *args, **kwargs):
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_native_refuses(name):
    logits, target, options = REFUSED[name]
    options = {"label_smoothing": 0.1} | options
    native = error_of(F.cross_entropy, logits, target, **options)
    ours = error_of(cross_entropy, logits, target, **options)
    assert (type(ours), str(ours)) == (type(native), str(native))
    assert route(cross_entropy, LOGITS, cases.batch((4, 5))[1]) == "kernel"  # the next good call is right


@pytest.mark.parametrize(
    "options", [{"convention": "fastai"}, {"convention": "fastai", "prior": PRIOR}, {"prior": PRIOR}]
)
@pytest.mark.parametrize(
    "name",
    (
        "batch sizes",
        "column of targets",
        "weight too short",
        "weight of another dtype",
        "bool target",
        "float target",
        "integer logits",
        "target out of range",
        "negative target",
    ),
)
def test_other_conventions_refuse_the_same(name, options):
    """They have no native function to raise for them; a prior must not hide that another argument is wrong."""
    logits, target, wrong = REFUSED[name]
    native = error_of(F.cross_entropy, logits, target, **wrong)
    ours = error_of(cross_entropy, logits, target, **wrong, **options)
    assert (type(ours), str(ours)) == (type(native), str(native))


def test_fastai_has_no_probabilities():
    message = (
        "fastai takes logits .*, class indices as target, .* got input Float .4, 5. on cpu, target Float .4, 5. on"
    )
    with pytest.raises(RuntimeError, match=message):
        cross_entropy(LOGITS, Q, convention="fastai")


@pytest.mark.parametrize("smoothing", [-0.1, float("nan"), float("-inf"), float("inf"), 1.0001])
def test_smoothing_out_of_range(smoothing):
    """Native lets those below 0 and NaN pass, without a word or an effect."""
    for target in (TARGET, Q):
        with pytest.raises(RuntimeError, match=r"label_smoothing must be between 0.0 and 1.0. Got: "):
            cross_entropy(LOGITS, target, label_smoothing=smoothing)


@pytest.mark.parametrize("dim", [-3, 2, 5])
def test_dim_out_of_range(dim):
    with pytest.raises(IndexError, match=r"Dimension out of range \(expected to be in range of \[-2, 1\], but got"):
        cross_entropy(LOGITS, TARGET, dim=dim)
    with pytest.raises(IndexError, match="Dimension out of range"):
        cross_entropy(LOGITS[0], TARGET[0], dim=-2)


@pytest.mark.parametrize("convention", ["torch", "fastai"])
def test_what_is_no_prior(convention):
    for prior, message in (
        (PRIOR[:4], "prior must hold one probability for each of the 5 classes"),
        (PRIOR[None], "prior must hold one probability for each of the 5 classes"),
        (PRIOR.long(), "prior must be a floating point tensor"),
        (PRIOR * 2, r"prior must have a sum of 1 \(to 0.01\), got 2"),
        (PRIOR - PRIOR.max(), "prior must be finite and not negative, got -"),
        (PRIOR / 0, "prior must be finite and not negative"),
    ):
        for logits in (LOGITS, LOGITS.double()):  # the kernel and the composite
            with pytest.raises(ValueError, match=message):
                cross_entropy(logits, TARGET, prior=prior, convention=convention)


def test_numbers_that_mean_nothing():
    call = torch.ops.ls_loss.cross_entropy
    with pytest.raises(ValueError, match="3 is not a valid value for reduction"):
        call(LOGITS, TARGET, None, 3, -100, 0.1, None, 1, 0)
    with pytest.raises(ValueError, match="99 is not a valid value for convention"):
        call(LOGITS, TARGET, None, 1, -100, 0.1, None, 1, 99)


def test_targets_out_of_range_are_found_in_order():
    """The first in the order of the rows, for any number of threads; uint64 beyond int64 must not become negative."""
    logits, target = cases.batch((70000, 3))
    target[[100, 40000, 69999]] = torch.tensor([5, -7, 9])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(IndexError, match=r"^Target 5 is out of bounds\.$"):
            cross_entropy(logits, target)
    for value in (2**63 + 5, 2**64 - 100):  # the second would be ignore_index
        huge = torch.tensor([1, value], dtype=torch.uint64)
        with pytest.raises(IndexError, match=rf"^Target {value} is out of bounds\.$"):
            cross_entropy(logits[:2], huge)


def test_smooth_labels_refuses():
    smooth = torch.ops.ls_loss.smooth_labels
    for args, error, message in (
        ((TARGET.float(), 5, 0.1, None, None), TypeError, "target must be a tensor of integers, got"),
        ((TARGET, 0, 0.1, None, None), ValueError, "num_classes must be at least 1, got 0"),
        ((TARGET, 5, 1.5, None, None), ValueError, "epsilon must be between 0 and 1, got 1.5"),
        ((TARGET, 5, float("nan"), None, None), ValueError, "epsilon must be between 0 and 1"),
        ((TARGET, 5, 0.1, PRIOR[:4], None), ValueError, "prior must hold one probability"),
        ((TARGET, 5, 0.1, PRIOR * 2, None), ValueError, "prior must have a sum of 1"),
        ((TARGET, 5, 0.1, None, torch.int64), ValueError, "dtype must be float32"),
        ((TARGET + 5, 5, 0.1, None, None), IndexError, r"Target \d is out of bounds"),
        ((torch.tensor([-100]), 5, 0.1, None, None), IndexError, "Target -100 is out of bounds"),
    ):
        with pytest.raises(error, match=message):
            smooth(*args)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_logits_that_the_kernel_can_read_are_not_copied(requires_grad):
    """Rows with a gap between them, planes, and classes in the last of several dimensions."""
    for logits, dim in ((cases.randn(64, 50)[:, :40], 1), (cases.randn(4, 40, 16), 1), (cases.randn(4, 16, 40), 2)):
        target = cases.integers(40, *cases.rows_shape(logits.shape, dim))
        _, names = operators(cross_entropy, logits.detach().requires_grad_(requires_grad), target, dim=dim)
        assert not {"aten::clone", "aten::contiguous", "aten::copy_"} & set(names)
