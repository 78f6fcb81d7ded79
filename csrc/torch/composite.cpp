// See composite.h. Masks are masked_fill, not where: it makes no tensor of its constant, which would be a plain one beside
// subclasses.
#include "composite.h"
#include "routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss_nd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

namespace ls_loss::composite {
namespace {

// Gradients of the kernel that are stored divided by a factor; that of other dtypes is 1.
bool has_factor(at::ScalarType dtype) { return dtype == at::kHalf; }

at::Scalar uniform(double total, const c10::SymInt &num_classes) { return c10::SymFloat(total) / c10::SymFloat(num_classes); }

// [C] as [C, 1, ...], so that it broadcasts along dimension `dim` of `rank`.
at::Tensor along(const at::Tensor &vector, int64_t dim, int64_t rank) {
    c10::SymDimVector sizes(rank - dim, 1);
    sizes[0] = vector.sym_size(0);
    return vector.reshape_symint(sizes);
}

// A value for each row with the class dimension put back as 1. 1-d logits are one row, whose target may have shape () or (1).
at::Tensor rows(const at::Tensor &values, int64_t dim, int64_t rank) {
    return (rank == 1 ? values.reshape({}) : values).unsqueeze(dim);
}

// Index targets with the class dimension as 1.
struct Targets {
    at::Tensor ignored; // bool
    at::Tensor index;   // 0 where ignored
};

at::Tensor long_targets(const Call &call, int64_t dim) { return rows(call.target.to(at::kLong), dim, call.input.dim()); }

Targets read_targets(const Call &call, int64_t dim) {
    const auto target = long_targets(call, dim), ignored = target.eq(call.options.ignore_index);
    return {ignored, target.masked_fill(ignored, 0)};
}

// grad_output as a factor of the stored gradient. Where ignored rows count for nothing it is 0 for them: the loss of 0, or of NaN
// for a mean over no row, that they have makes infinite and NaN derivatives of it likely, and 0 times those is NaN.
at::Tensor outer_factor(const Call &call, const at::Tensor &grad_output) {
    const auto dim = call.options.dim;
    const auto outer = grad_output.dim() == 0 ? grad_output : rows(grad_output, dim, call.input.dim());
    if (!leaves_out_ignored(call)) return outer;
    return outer.masked_fill(ignored_rows(call, dim), 0.0);
}

// w[y] of each row, 0 where ignored.
at::Tensor target_weights(const Call &call, const Targets &targets, at::ScalarType dtype) {
    if (!defined(call.weight)) return targets.ignored.logical_not().to(dtype);
    const auto weights = call.weight->to(dtype).gather(0, targets.index.flatten());
    return weights.view_symint(targets.index.sym_sizes()).masked_fill(targets.ignored, 0.0);
}

// The distribution of probability targets once smoothed and weighted: s of each row.
at::Tensor smoothed_probabilities(const Call &call, int64_t dim, at::ScalarType dtype) {
    const double e = call.options.label_smoothing;
    const auto rank = call.target.dim();
    auto q = call.target.to(dtype);
    if (e != 0.0) {
        q = q * (1.0 - e);
        q = defined(call.prior) ? q + along(call.prior->to(dtype), dim, rank) * e : q + uniform(e, q.sym_size(dim));
    }
    return defined(call.weight) ? q * along(call.weight->to(dtype), dim, rank) : q;
}

at::Tensor probability_loss(const Call &call, int64_t dim, at::ScalarType dtype) {
    const auto log_p = at::log_softmax(call.input.to(dtype), dim);
    const auto losses = -(log_p * smoothed_probabilities(call, dim, dtype)).sum(dim);
    if (call.options.reduction == at::Reduction::None) return losses;
    return call.options.reduction == at::Reduction::Mean ? losses.mean() : losses.sum();
}

// -<s, log p> of each row, s with its 1/C but without the smoothing.
at::Tensor smoothing_losses(const Call &call, const at::Tensor &log_p, int64_t dim) {
    const auto dtype = log_p.scalar_type();
    const auto rank = log_p.dim();
    const bool weighted = defined(call.weight) && call.convention().weights_smoothing;
    const auto terms = weighted ? log_p * along(call.weight->to(dtype), dim, rank) : log_p;
    // Not mean(): its gradient is a tensor of quotients, that of sum() a view.
    if (!defined(call.prior)) return terms.sum(dim) * uniform(-1.0, terms.sym_size(dim));
    const auto prior = along(call.prior->to(dtype), dim, rank);
    return -(terms * prior).masked_fill(prior.eq(0), 0.0).sum(dim);
}

// Native's function, for its errors alone: targets out of range, weights that require grad.
void require_targets(const Call &call, const at::Tensor &log_p, const at::Tensor &target, int64_t dim) {
    const bool unbatched = log_p.dim() == 1;
    OptionalTensor weight;
    if (defined(call.weight)) weight = call.weight->to(log_p.scalar_type());
    at::nll_loss_nd_symint(unbatched ? log_p.unsqueeze(0) : log_p.movedim(dim, 1), unbatched ? target.reshape({1}) : target,
                           weight, at::Reduction::None, call.options.ignore_index);
}

at::Tensor index_loss(const Call &call, int64_t dim, at::ScalarType dtype) {
    const auto &options = call.options;
    const bool smooths_ignored = call.convention().smooths_ignored;
    const auto targets = read_targets(call, dim);
    // What an ignored row holds must not reach its gradient, not even as 0 times NaN.
    const auto input = call.input.to(dtype);
    const auto log_p = at::log_softmax(leaves_out_ignored(call) ? input.masked_fill(targets.ignored, 0.0) : input, dim);

    const auto target = call.target.to(at::kLong);
    require_targets(call, log_p.detach(), target, dim);
    const auto ignored = targets.ignored.squeeze(dim);
    const auto weights = target_weights(call, targets, dtype).squeeze(dim);
    const auto nll = (-log_p.gather(dim, targets.index).squeeze(dim)).masked_fill(ignored, 0.0) * weights;
    const auto reduced = [&](const at::Tensor &losses, bool every_row_counts) {
        if (options.reduction == at::Reduction::None) return losses.reshape_symint(target.sym_sizes());
        if (options.reduction == at::Reduction::Sum) return losses.sum();
        if (every_row_counts) return losses.mean();
        // The mean over no row is NaN, its derivative 0.
        return (losses.sum() / weights.sum()).masked_fill(ignored.all(), NAN);
    };
    const double e = options.label_smoothing;
    if (e == 0.0) return reduced(nll, false);
    auto smoothing = smoothing_losses(call, log_p, dim);
    if (!smooths_ignored) smoothing = smoothing.masked_fill(ignored, 0.0);
    return reduced(nll, false) * (1.0 - e) + reduced(smoothing, smooths_ignored) * e;
}

// Adds alpha onehot(y) + beta s to the gradient of index targets, which leaves A p, and returns A.
at::Tensor add_index_terms(at::Tensor &gradient, const Call &call, int64_t dim) {
    const auto &options = call.options;
    const bool mean = options.reduction == at::Reduction::Mean;
    const double e = options.label_smoothing;
    const auto dtype = gradient.scalar_type();
    const auto targets = read_targets(call, dim);
    const auto weights = target_weights(call, targets, dtype);
    const auto divisor = mean ? weights.sum() : at::ones({}, weights.options());
    const auto alpha = (weights * (1.0 - e) / divisor).masked_fill(targets.ignored, 0.0);
    gradient = gradient.scatter_add(dim, targets.index, alpha);
    if (e == 0.0) return alpha;

    const auto every_row = at::full_like(alpha, e) / (mean ? at::Scalar(alpha.sym_numel()) : at::Scalar(1));
    const auto beta = call.convention().smooths_ignored ? every_row : (e / divisor).masked_fill(targets.ignored, 0.0);
    const auto num_classes = gradient.sym_size(dim);
    auto s = defined(call.prior) ? call.prior->to(dtype)
                                 : at::full_symint({num_classes}, uniform(1.0, num_classes), gradient.options());
    if (defined(call.weight) && call.convention().weights_smoothing) s = s * call.weight->to(dtype);
    gradient = gradient + beta * along(s, dim, gradient.dim());
    return alpha + beta * s.sum();
}

// The same for probability targets.
at::Tensor add_probability_terms(at::Tensor &gradient, const Call &call, int64_t dim) {
    auto s = smoothed_probabilities(call, dim, gradient.scalar_type());
    if (call.options.reduction == at::Reduction::Mean) s = s / at::Scalar(s.sym_numel() / s.sym_size(dim));
    gradient = gradient + s;
    return s.sum(dim, /*keepdim=*/true);
}

// p from gradients of 16 bits: the entry that the target's terms are largest in was rounded near -alpha, where a small p is lost.
// What the others leave of 1 is nearer if their entries are all much smaller, and so were rounded more finely.
at::Tensor with_target_from_others(const at::Tensor &p, const at::Tensor &gradient, const at::Tensor &terms, int64_t dim) {
    const auto target = terms.argmax(dim, /*keepdim=*/true);
    const auto sizes = gradient.abs();
    const auto others = sizes.scatter(dim, target, 0.0).amax(dim, /*keepdim=*/true);
    const auto missing = 1.0 - p.sum(dim, /*keepdim=*/true);
    const auto correction = missing.masked_fill(others.gt(sizes.gather(dim, target) * 0.25), 0.0);
    return p.scatter_add(dim, target, correction).clamp_min(0);
}

} // namespace

at::ScalarType computation_dtype(at::ScalarType dtype) {
    return dtype == at::kHalf || dtype == at::kBFloat16 ? at::kFloat : dtype;
}

at::Tensor ignored_rows(const Call &call, int64_t dim) { return long_targets(call, dim).eq(call.options.ignore_index); }

at::Tensor target_weights(const Call &call, int64_t dim, at::ScalarType dtype) {
    return target_weights(call, read_targets(call, dim), dtype);
}

bool leaves_out_ignored(const Call &call) {
    return !has_probabilities(call) && (!call.convention().smooths_ignored || call.options.label_smoothing == 0.0);
}

at::Tensor loss(const Call &call) {
    if (!well_formed(call)) {
        hand_over(call);
        TORCH_CHECK(false, "the convention ", call.convention().name, " takes logits of at least one class, ",
                    call.convention().takes_probabilities ? "class indices or probabilities" : "class indices",
                    " as target, and weight of the logits' dtype; got ", described(call));
    }
    const auto dim = class_dim(call.input, call.options.dim);
    const bool probabilities = has_probabilities(call);
    auto dtype = call.input.scalar_type();
    if (probabilities) {
        dtype = at::promote_types(dtype, call.target.scalar_type());
        if (defined(call.weight)) dtype = at::promote_types(dtype, call.weight->scalar_type());
    }
    const auto computed = computation_dtype(dtype);
    const auto result = probabilities ? probability_loss(call, dim, computed) : index_loss(call, dim, computed);
    return result.to(call.loss_dtype.value_or(dtype));
}

LossAndGradient loss_and_gradient(const Call &call) {
    const auto dim = class_dim(call.input, call.options.dim);
    auto x = call.input.to(computation_dtype(call.input.scalar_type()));
    const bool probabilities = has_probabilities(call);
    if (leaves_out_ignored(call)) x = x.masked_fill(ignored_rows(call, dim), 0.0);
    auto terms = at::zeros_like(x);
    const auto scale = (probabilities ? add_probability_terms : add_index_terms)(terms, call, dim);
    const auto gradient = scale * at::softmax(x, dim) - terms;
    return {loss(call), gradient.to(call.input.scalar_type()), at::ones({}, call.input.options().dtype(at::kFloat))};
}

Rebuilt rebuild(const Call &call, const at::Tensor &factor) {
    const auto &stored = call.input;
    auto gradient = stored.to(computation_dtype(stored.scalar_type()));
    if (has_factor(stored.scalar_type())) gradient = gradient * factor;
    auto scaled_p = gradient;
    const auto scale = (has_probabilities(call) ? add_probability_terms : add_index_terms)(scaled_p, call, call.options.dim);
    auto p = (scaled_p / scale).clamp_min(0);
    if (stored.scalar_type() != gradient.scalar_type())
        p = with_target_from_others(p, gradient, scaled_p - gradient, call.options.dim);
    // Rows of scale 0 have no second derivative, whatever p is.
    return {p.masked_fill(scale.eq(0), 1.0).log(), scale, gradient, scaled_p};
}

at::Tensor gradient(const Call &call, const Rebuilt &rebuilt, const at::Tensor &grad_output) {
    const auto p = at::softmax(rebuilt.logits, call.options.dim);
    return (rebuilt.gradient + rebuilt.scale * (p - p.detach())) * outer_factor(call, grad_output.to(p.scalar_type()));
}

std::pair<at::Tensor, at::Tensor> second(const Call &call, const Rebuilt &rebuilt, const at::Tensor &grad_output,
                                         const at::Tensor &derivative) {
    const auto dim = call.options.dim;
    const auto p = at::softmax(rebuilt.logits, dim);
    auto given = derivative.to(p.scalar_type());
    if (leaves_out_ignored(call)) given = given.masked_fill(ignored_rows(call, dim), 0.0);
    const auto of_p = given * outer_factor(call, grad_output.to(p.scalar_type())) * rebuilt.scale;
    const auto logits = p * (of_p - (p * of_p).sum(dim, /*keepdim=*/true));
    // Not by p - p.detach(): detach() is that of every level of functorch, and others differentiate `rebuilt` too.
    const auto products = given * (rebuilt.scale * p - (rebuilt.scaled_p - rebuilt.gradient));
    const auto outer = grad_output.dim() == 0 ? products.sum() : products.sum(dim).view_symint(grad_output.sym_sizes());
    return {logits.to(derivative.scalar_type()), outer.to(grad_output.scalar_type())};
}

at::Tensor scaled(const Call &call, const at::Tensor &grad_output, const at::Tensor &factor) {
    const auto &grad = call.input;
    const auto dtype = computation_dtype(grad.scalar_type());
    auto outer = outer_factor(call, grad_output.to(dtype));
    // With the rank of the logits: vmap of no samples cannot multiply numbers.
    if (has_factor(grad.scalar_type())) outer = outer * factor.view_symint(c10::SymDimVector(grad.dim(), 1));
    return (grad.to(dtype) * outer).to(grad.scalar_type());
}

at::Tensor tangent(const Call &call, const at::Tensor &factor, const at::Tensor &of_logits) {
    const auto &grad = call.input;
    const auto dim = class_dim(grad, call.options.dim);
    const auto dtype = computation_dtype(grad.scalar_type());
    auto of_rows = (grad.to(dtype) * of_logits.to(dtype)).sum(dim);
    if (has_factor(grad.scalar_type())) of_rows = of_rows * factor;
    const bool probabilities = has_probabilities(call);
    if (leaves_out_ignored(call)) of_rows = of_rows.masked_fill(ignored_rows(call, dim).squeeze(dim), 0.0);
    if (call.options.reduction != at::Reduction::None) return of_rows.sum();
    return probabilities ? of_rows : of_rows.view_symint(call.target.sym_sizes());
}

} // namespace ls_loss::composite
