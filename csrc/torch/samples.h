// Samples of a batch, each of which is a call of its own, as the rows of one call: what the reduction of each makes of the rows'
// losses and gradients, as differentiable ATen calls. Knows who divides by what; neither levels of functorch nor the formula.
#pragma once

#include "call.h"

namespace ls_loss::composite {

// In both dimension 0 of the call's input and target counts the samples, and `call.options.dim` counts from the front.

// The kernel's results, of index targets.
LossAndGradient loss_and_gradient_of_samples(const Call &call);

// The loss alone, by whoever serves rows; probability targets too.
at::Tensor loss_of_samples(const Call &call);

} // namespace ls_loss::composite
