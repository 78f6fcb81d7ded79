// What the kernels tell of a prior's data, for callers that compute without them.
#pragma once

#include "call.h"

namespace ls_loss {

// ValueError unless the prior's entries are those of a distribution. Passes what holds no data of its own: fake tensors,
// tensors within a transform, other devices.
void require_distribution(const OptionalTensor &prior);

} // namespace ls_loss
