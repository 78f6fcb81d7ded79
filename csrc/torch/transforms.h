// The kernel's gradient within torch.func.grad and what is built on it, where torch::autograd::Function is refused.
#pragma once

#include "call.h"

namespace ls_loss::transforms {

// True if the innermost transform wants the gradient of the logits alone.
bool serves(const Call &call);

at::Tensor cross_entropy(const Call &call);

} // namespace ls_loss::transforms
