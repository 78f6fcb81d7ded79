// Who computes the loss of a call: the kernel, native F.cross_entropy, the composite, or a node of a level of functorch. Decided
// here from metadata, never from data. Around it others decide what they alone know: functional.py which operator a subclass
// is for, autocast.cpp in which dtype, transforms.cpp whether samples are rows of one call and who computes at their level,
// autograd.cpp who multiplies a saved gradient. Knows nothing of how anybody computes.
#pragma once

#include "call.h"

#include <string>

namespace ls_loss {

enum class Route { kernel, native, composite, transform, tangent };

// Dtypes, shapes and devices of a call's tensors, for messages.
std::string described(const Call &call);

// True if a tensor of the call carries a forward-mode derivative.
bool has_tangent(const Call &call);

bool is_kernel_dtype(at::ScalarType dtype);

// Raises for what no route accepts: smoothing out of the convention's range, a bad reduction or convention, a prior of a wrong
// shape or kind.
void check_options(const Call &call);

// The class dimension counted from the front; 0 for 1-d logits. IndexError if it is out of range.
int64_t class_dim(const at::Tensor &input, int64_t dim);

// True if the target has the logits' shape, and the convention takes that for probabilities.
bool has_probabilities(const Call &call);

// True if shapes and dtypes fit together; native raises for everything else.
bool well_formed(const Call &call);

// True if the ops below autograd serve the call: dense tensors on the CPU, or without data, of the kernels' dtypes.
bool served_by_kernel(const Call &call);

// Raises unless they do.
void require_served_by_kernel(const Call &call);

Route route(const Call &call);

// Native or the composite.
Route route_without_kernel(const Call &call);

// Raises for arguments that smooth_labels does not take; what only data can tell is left to who computes.
void check_smooth_labels(const at::Tensor &target, const c10::SymInt &num_classes, double epsilon, const OptionalTensor &prior,
                         std::optional<at::ScalarType> dtype);

// Native cross entropy with the class dimension moved to where it expects it: for what the kernel does not serve, and for its
// errors.
at::Tensor hand_over(const Call &call);

} // namespace ls_loss
