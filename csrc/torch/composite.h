// The loss and its gradient as differentiable ATen calls, on any device, under any transform: for what the kernel does not
// serve, and for derivatives beyond the first. The one file of the glue with the loss's formula; docs/design.md states it. No branch
// on data, no shape that depends on data.
#pragma once

#include "call.h"

#include <utility>

namespace ls_loss::composite {

// Where 16-bit numbers are computed: a sum of many of them would stick or overflow.
at::ScalarType computation_dtype(at::ScalarType dtype);

// Of index targets, a value for each row with the class dimension `dim` as 1: whether it is ignored; w[y], 0 where it is.
at::Tensor ignored_rows(const Call &call, int64_t dim);
at::Tensor target_weights(const Call &call, int64_t dim, at::ScalarType dtype);

// True if ignored rows count for nothing, whatever they hold: neither alpha nor beta is theirs.
bool leaves_out_ignored(const Call &call);

at::Tensor loss(const Call &call);

// Loss, gradient and 1, its factor: what the kernel computes, as a function that can be differentiated.
LossAndGradient loss_and_gradient(const Call &call);

// What is left of a gradient that the kernel has computed: enough to differentiate it again without the logits.
struct Rebuilt {
    at::Tensor logits;   // log p: the logits up to a constant per row, which softmax ignores
    at::Tensor scale;    // A of each row, with the divisor of `mean` in it
    at::Tensor gradient; // unscaled, in the dtype of the computation
    at::Tensor scaled_p; // A p
};

// In these five `call.input` is the stored gradient; its shape and dtype are those of the logits. `call.options.dim` counts
// from the front.
Rebuilt rebuild(const Call &call, const at::Tensor &factor);

// The gradient times grad_output, as a function of `rebuilt.logits` and of grad_output; its value is the kernel's.
at::Tensor gradient(const Call &call, const Rebuilt &rebuilt, const at::Tensor &grad_output);

// The derivatives by logits and by grad_output of what gradient() returns, for that of its value.
std::pair<at::Tensor, at::Tensor> second(const Call &call, const Rebuilt &rebuilt, const at::Tensor &grad_output,
                                         const at::Tensor &derivative);

// The stored gradient times grad_output in a new tensor, rounded once.
at::Tensor scaled(const Call &call, const at::Tensor &grad_output, const at::Tensor &factor);

// The derivative of the loss in the direction of the logits' tangent.
at::Tensor tangent(const Call &call, const at::Tensor &factor, const at::Tensor &of_logits);

} // namespace ls_loss::composite
