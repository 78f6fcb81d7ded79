// The kernel at functorch's levels: within vmap, and within torch.func.grad and what is built on it, where
// torch::autograd::Function is refused.
#pragma once

#include "call.h"

namespace ls_loss::transforms {

// True if the innermost transform wants the gradient of the logits alone.
bool serves(const Call &call);

at::Tensor cross_entropy(const Call &call);

// The loss with its forward-mode derivative, for logits that carry one: their gradient times it.
at::Tensor with_tangent(const Call &call);

// The loss under vmap, of all samples as rows; nothing where they cannot be taken for rows, or where the losses of rows are
// rounded (to 16 bits) before they are reduced.
std::optional<at::Tensor> batched_cross_entropy(const Call &call, bool rows_are_rounded);

} // namespace ls_loss::transforms
