// See samples.h.
#include "samples.h"
#include "composite.h"
#include "routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>

#include <cmath>

namespace ls_loss::composite {
namespace {

// Samples of one row each have targets of shape () or (1).
bool are_single_rows(const Call &samples) { return samples.input.dim() == 2; }

at::Tensor targets_of_rows(const Call &samples) {
    return are_single_rows(samples) && !has_probabilities(samples) ? samples.target.flatten() : samples.target;
}

// What the sums of means of index targets are divided by, one for each sample; nothing where that is 1.
OptionalTensor divisors(const Call &samples, const Call &rows, at::ScalarType dtype) {
    const bool is_one = are_single_rows(samples) && !defined(rows.weight);
    if (samples.options.reduction != at::Reduction::Mean || has_probabilities(samples) || is_one) return std::nullopt;
    const auto weights = target_weights(rows, rows.options.dim, dtype);
    return are_single_rows(samples) ? weights.flatten() : weights.flatten(1).sum(1);
}

// Losses of rows as the samples' own reduction has them.
at::Tensor reduced_to_samples(const at::Tensor &losses, const Call &samples, const Call &rows, const OptionalTensor &divisor) {
    const auto reduction = samples.options.reduction;
    const bool probabilities = has_probabilities(samples);
    if (reduction == at::Reduction::None) return probabilities ? losses : losses.view_symint(samples.target.sym_sizes());
    const auto of_samples = are_single_rows(samples) ? losses.unsqueeze(1) : losses.flatten(1);
    if (probabilities) return reduction == at::Reduction::Mean ? of_samples.mean(1) : of_samples.sum(1);
    const auto sums = of_samples.sum(1);
    if (reduction == at::Reduction::Sum) return sums;
    const auto means = defined(divisor) ? sums / *divisor : sums;
    return means.masked_fill(ignored_rows(rows, rows.options.dim).flatten(1).all(1), NAN);
}

// The call of the rows of all samples, which refers to what `target` holds.
Call rows_of(const Call &samples, const at::Tensor &target, const OptionalTensor &weight, const OptionalTensor &prior,
             std::optional<at::ScalarType> loss_dtype) {
    Call rows{samples.input, target, weight, prior, samples.options, loss_dtype};
    rows.options.reduction = at::Reduction::None;
    return rows;
}

} // namespace

LossAndGradient loss_and_gradient_of_samples(const Call &call) {
    const auto result_dtype = call.loss_dtype.value_or(call.input.scalar_type()), dtype = computation_dtype(result_dtype);
    const auto cast = [&](const OptionalTensor &tensor) {
        return defined(tensor) ? OptionalTensor(tensor->to(dtype)) : tensor;
    };
    const auto target = targets_of_rows(call);
    const auto weight = cast(call.weight), prior = cast(call.prior);
    const Call rows = rows_of(call, target, weight, prior, dtype);
    auto [losses, gradient, factor] = call_transform_loss_grad(rows);
    const auto divisor = divisors(call, rows, dtype);
    if (defined(divisor)) {
        c10::SymDimVector sizes(gradient.dim(), 1);
        sizes[0] = divisor->sym_size(0);
        const auto of_rows = divisor->view_symint(sizes).masked_fill(ignored_rows(rows, rows.options.dim), 1.0);
        gradient = (gradient / of_rows).to(gradient.scalar_type());
    }
    return {reduced_to_samples(losses, call, rows, divisor).to(result_dtype), gradient, factor};
}

at::Tensor loss_of_samples(const Call &call) {
    const auto target = targets_of_rows(call);
    const Call rows = rows_of(call, target, call.weight, call.prior, {});
    const auto losses = call_cross_entropy(rows);
    return reduced_to_samples(losses, call, rows, divisors(call, rows, losses.scalar_type()));
}

} // namespace ls_loss::composite
