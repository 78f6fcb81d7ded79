// One call of the loss as a struct, and the ops below autograd as functions. What computes or routes a call uses it; it knows
// nothing of kernels, memory or autograd.
#pragma once

#include "convention.h"

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <optional>
#include <tuple>

namespace ls_loss {

using OptionalTensor = std::optional<at::Tensor>;

inline bool defined(const OptionalTensor &tensor) { return tensor.has_value() && tensor->defined(); }

struct Options {
    int64_t reduction; // at::Reduction
    c10::SymInt ignore_index;
    double label_smoothing;
    int64_t dim;
    int64_t convention; // a number of the schema
};

// Refers to its tensors: lives no longer than the call it describes.
struct Call {
    const at::Tensor &input, &target;
    const OptionalTensor &weight, &prior;
    Options options;
    std::optional<at::ScalarType> loss_dtype; // that of the input unless given; float32 under autocast

    const Convention &convention() const { return convention_of(options.convention); }
};

// Adapts a function of a Call to the argument lists of the schemas: of cross_entropy, and of the ops below autograd.
template <auto function>
auto from_arguments(const at::Tensor &input, const at::Tensor &target, const OptionalTensor &weight, int64_t reduction,
                    c10::SymInt ignore_index, double label_smoothing, const OptionalTensor &prior, int64_t dim,
                    int64_t convention) {
    return function({input, target, weight, prior, {reduction, std::move(ignore_index), label_smoothing, dim, convention}, {}});
}

template <auto function>
auto from_inner_arguments(const at::Tensor &input, const at::Tensor &target, const OptionalTensor &weight, int64_t reduction,
                          c10::SymInt ignore_index, double label_smoothing, const OptionalTensor &prior, int64_t dim,
                          int64_t convention, std::optional<at::ScalarType> loss_dtype) {
    return function(
        {input, target, weight, prior, {reduction, std::move(ignore_index), label_smoothing, dim, convention}, loss_dtype});
}

// Ops through the dispatcher.
using LossAndGradient = std::tuple<at::Tensor, at::Tensor, at::Tensor>; // loss, gradient, factor of the gradient
at::Tensor call_loss(const Call &call);
LossAndGradient call_loss_grad(const Call &call);
LossAndGradient call_transform_loss_grad(const Call &call); // the same at functorch's levels
at::Tensor call_cross_entropy(const Call &call);            // the public op, for the level below
void call_scale_(const at::Tensor &grad, const at::Tensor &grad_output, const at::Tensor &factor, const OptionalTensor &target,
                 c10::SymInt ignore_index, int64_t dim);

} // namespace ls_loss
