// The differentiable loss, for the kernels of keys that come before Autograd.
#pragma once

#include "call.h"

namespace ls_loss {

at::Tensor cross_entropy(const Call &call);

} // namespace ls_loss
