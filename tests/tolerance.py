"""How far a result may be from float64: the error model of the kernels, for all tests.

With u the unit roundoff of the arithmetic (2^-24, also for 16-bit logits; 2^-53 for float64), D_k = max(x) - x_k and
p = softmax(x), the model allows

- a relative error of (ROUNDINGS + D_k) u in every exp(-D_k): forming D_k rounds by up to D_k u, exp has about two ULP, the
  sums, the division and the products add theirs. An exponential may be 0 below the smallest normal number, taken relative
  to a power of two that is off the largest by up to a factor of sqrt(2);
- so an error of (ROUNDINGS |log p_j| + sum_k p_k D_k) u in every -log p_j, times its coefficient q_j. There is no constant
  term: the largest probability must be left out of the sum, and log1p used, for the loss of confident rows to be right;
- an error of A p_j (ROUNDINGS + D_j + sum_k p_k D_k) u + ROUNDINGS |q_j| u in every entry of the gradient, A = sum(|q|);
- half a unit in the last place of the result's dtype, and another one in the gradient where it is stored before a
  grad_output other than 1 multiplies it;
- 64 A 2^-53 at the largest logit: the reference's own rounding, where it adds the gradients of the others.

May use reference.py; must not know the library.
"""

from dataclasses import dataclass

import reference
import torch

ROUNDINGS = 8
# dtype: unit roundoff of the arithmetic; of the dtype; half the spacing of its smallest numbers. For float64 the arithmetic's
# is doubled: the reference rounds as much as the kernel.
UNITS = {
    torch.float64: (2.0**-52, 2.0**-53, 2.0**-1075),
    torch.float32: (2.0**-24, 2.0**-24, 2.0**-150),
    torch.bfloat16: (2.0**-24, 2.0**-8, 2.0**-134),
    torch.float16: (2.0**-24, 2.0**-11, 2.0**-25),
}


@dataclass
class Expected:
    """Loss and gradient of one call in float64, in the shapes of the results, and how far results may be from them."""

    loss: torch.Tensor
    grad: torch.Tensor
    loss_tolerance: torch.Tensor
    grad_tolerance: torch.Tensor


def expect(logits, target, grad_output=None, *, dim=1, **options):
    """What cross_entropy(logits, target, **options) and its backward with grad_output (default: ones) should give."""
    x = logits.detach().double().requires_grad_()
    loss = reference.cross_entropy(x, target.detach(), dim=dim, **options)
    plain = grad_output is None or bool((grad_output == 1).all())
    grad_output = torch.ones_like(loss) if grad_output is None else grad_output.double()
    (grad,) = torch.autograd.grad(loss, x, grad_output)

    unit, unit_of_dtype, smallest = UNITS[logits.dtype]
    flushed = 2**0.5 * torch.finfo(torch.float64 if logits.dtype == torch.float64 else torch.float32).tiny
    y = reference.rows(target, dim) if target.shape == logits.shape else target.reshape(-1)
    x = reference.rows(x.detach(), dim)
    q = reference.coefficients(y.detach(), x.shape[1], **options).abs()
    log_p = reference.log_softmax(x).where(q != 0, 0.0)
    p = reference.log_softmax(x).exp()
    distance = (x.amax(-1, keepdim=True) - x).where(p != 0, 0.0)
    spread = (p * distance).sum(-1, keepdim=True)

    rows_tolerance = unit * (q * (ROUNDINGS * log_p.abs() + spread)).sum(-1) + flushed * q.sum(-1)
    loss_tolerance = rows_tolerance.reshape(loss.shape) if loss.dim() or options.get("reduction") == "none" else None
    if loss_tolerance is None:
        loss_tolerance = rows_tolerance.sum()
    loss_tolerance = loss_tolerance + unit_of_dtype * loss.detach().abs() + smallest

    total = q.sum(-1, keepdim=True)
    entries = unit * (total * p * (ROUNDINGS + distance + spread) + ROUNDINGS * q) + flushed * total
    entries = entries.scatter_add(-1, x.argmax(-1, keepdim=True), 64 * 2.0**-53 * total)
    entries = entries * grad_output.reshape(-1, 1).abs()
    shape = list(logits.shape)
    classes = shape.pop(dim if logits.dim() > 1 else 0)
    entries = entries.reshape(*shape, classes).movedim(-1, dim if logits.dim() > 1 else 0)
    roundings = 1 if plain else 2
    return Expected(loss.detach(), grad, loss_tolerance, entries + roundings * (unit_of_dtype * grad.abs() + smallest))


def assert_within(actual, expected, tolerance, name, what="value"):
    """Asserts |actual - expected| <= tolerance element by element; NaN and infinities must agree."""
    assert actual.shape == expected.shape, f"{what} of {name}: shape {list(actual.shape)}, not {list(expected.shape)}"
    largest = torch.finfo(actual.dtype).max
    got, want = actual.detach().double(), expected.detach().double()
    want = torch.where(want.abs() > largest, want.sign() * torch.inf, want)  # what cannot be represented
    near = ((got - want).abs() <= tolerance) & got.isfinite() & want.isfinite()
    alike = near | (got == want) | (got.isnan() & want.isnan())
    if not bool(alike.all()):
        worst = torch.where(alike, -1.0, ((got - want).abs() / tolerance).nan_to_num(torch.inf, torch.inf)).argmax()
        got, want, allowed = (v.expand_as(want).flatten()[worst].item() for v in (got, want, tolerance))
        raise AssertionError(
            f"{what} of {name}: {got!r} at {worst.item()} where float64 has {want!r}: "
            f"off by {abs(got - want):.3g}, allowed {allowed:.3g}"
        )


def check(function, logits, target, name, grad_output=None, **options):
    """Runs function(logits, target) forward and backward and compares both with float64. Returns loss and gradient."""
    x = logits.detach().requires_grad_()
    loss = function(x, target)
    (grad,) = torch.autograd.grad(loss, x, grad_output)
    expected = expect(logits, target, grad_output, **options)
    assert_within(loss, expected.loss, expected.loss_tolerance, name, "loss")
    assert_within(grad, expected.grad, expected.grad_tolerance, name, "gradient")
    return loss.detach(), grad
