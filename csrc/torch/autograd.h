// The differentiable losses, for the kernels of keys that come before Autograd.
#pragma once

#include "call.h"

namespace ls_loss {

at::Tensor cross_entropy(const Call &call);

// The same by ATen's operators alone: for tensors that have their own dispatch and need know no others.
at::Tensor aten_cross_entropy(const Call &call);

} // namespace ls_loss
