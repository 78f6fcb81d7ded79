// See transforms.h. The nodes here do what those that PyTorch generates for its own operators do: functorch runs them at each
// of its levels, as it runs _transform_loss_grad, which has a batching rule and is differentiable where a level needs that.
// Knows levels and batch dimensions; no formula.
#include "transforms.h"
#include "composite.h"
#include "routing.h"
#include "samples.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Reduction.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/LegacyVmapTransforms.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

// As ATen/functorch/DynamicLayer.h declares it. That header needs nlohmann/json.hpp, which torch's wheels lack (pytorch #181565).
namespace at::functorch {
TORCH_API bool isDeadTensorWrapper(const Tensor &tensor);
}

namespace ls_loss::transforms {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

bool is_wrapped(const at::Tensor &tensor) { return tensor.key_set().has(c10::DispatchKey::FuncTorchGradWrapper); }

// What is kept of a call for its derivatives.
struct Kept {
    at::Tensor grad, factor, target;
    OptionalTensor weight, prior;
    Options options; // dim counts from the front

    Call call() const { return {grad, target, weight, prior, options, {}}; }
};

// A node whose first edge is that of the logits.
class Derivative : public torch::autograd::Node {
  public:
    explicit Derivative(const Kept &kept) : options_(kept.options) {
        for (const auto &tensor : {kept.grad, kept.factor, kept.target}) saved_.emplace_back(tensor, /*is_output=*/false);
        for (const auto &tensor : {kept.weight, kept.prior}) saved_.emplace_back(tensor, /*is_output=*/false);
    }

    void release_variables() override {
        const std::lock_guard lock(mutex_);
        for (auto &saved : saved_) saved.reset_data();
    }

  protected:
    // Finds targets and weights that were edited since, and what was released, and raises.
    Kept unpack() const {
        return {saved_[0].unpack(), saved_[1].unpack(), saved_[2].unpack(), saved_[3].unpack(), saved_[4].unpack(), options_};
    }

    std::vector<SavedVariable> saved_;

  private:
    Options options_;
};

// From the derivative of the gradient to those of logits and grad_output.
class Second : public Derivative {
  public:
    Second(const Kept &kept, const at::Tensor &grad_output) : Derivative(kept) {
        saved_.emplace_back(grad_output, /*is_output=*/false);
    }

    std::string name() const override { return "LsLossCrossEntropyBackwardBackward"; }

    variable_list apply(variable_list &&grads) override {
        const std::lock_guard lock(mutex_);
        if (!grads[0].defined()) return {at::Tensor(), at::Tensor()};
        const auto kept = unpack();
        const auto call = kept.call();
        auto rebuilt = composite::rebuild(call, kept.factor);
        if (at::GradMode::is_enabled() && !at::functorch::isDeadTensorWrapper(kept.grad))
            torch::autograd::impl::set_gradient_edge(rebuilt.logits, next_edge(0));
        auto [logits, grad_output] = composite::second(call, rebuilt, saved_.back().unpack(), grads[0]);
        return {std::move(logits), std::move(grad_output)};
    }
};

// torch.func differentiates with create_graph. So that this costs nothing until somebody differentiates again at this level, what
// comes out has a node of its own; other levels differentiate the operators that are called here.
class First : public Derivative {
  public:
    using Derivative::Derivative;

    std::string name() const override { return "LsLossCrossEntropyBackward"; }

    variable_list apply(variable_list &&grads) override {
        const std::lock_guard lock(mutex_);
        const auto &grad_output = grads[0];
        if (!grad_output.defined()) return {at::Tensor()};
        const auto kept = unpack();
        // A level that has ended, as that of a function that vjp returned, is differentiated no more.
        auto gradient = composite::scaled(kept.call(), grad_output, kept.factor);
        if (!at::GradMode::is_enabled() || at::functorch::isDeadTensorWrapper(kept.grad)) return {std::move(gradient)};
        TORCH_CHECK(is_wrapped(gradient), "vmap cannot differentiate the loss of a transform that encloses it");
        auto second = c10::make_intrusive<Second>(kept, grad_output);
        second->set_next_edges({next_edge(0), torch::autograd::impl::gradient_edge(grad_output)});
        torch::autograd::set_history(gradient, second); // replaces what was recorded of grad_output
        return {std::move(gradient)};
    }
};

template <auto call_below>
LossAndGradient differentiable_loss_grad(const Call &call) {
    const bool wanted = torch::autograd::compute_requires_grad(call.input, call.target, call.weight, call.prior);
    if (wanted || has_tangent(call)) return composite::loss_and_gradient(call);
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_below(call);
}

// The samples of a call at the level that functorch is at, one of vmap.
class Samples {
  public:
    // Nothing if no tensor is batched at this level, but only at levels around it.
    static std::optional<Samples> of(const Call &call) {
        const at::Tensor *innermost = nullptr;
        int64_t level = 0;
        const auto look_at = [&](const at::Tensor &tensor) {
            const auto *batched = at::functorch::maybeGetBatchedImpl(tensor);
            if (!batched || batched->level() < level) return;
            level = batched->level();
            innermost = &tensor;
        };
        look_at(call.input);
        look_at(call.target);
        for (const auto *vector : {&call.weight, &call.prior})
            if (defined(*vector)) look_at(**vector);
        if (!innermost || !is_at_this_level(*innermost)) return std::nullopt;
        return Samples(*at::functorch::maybeGetBatchedImpl(*innermost));
    }

    bool has(const at::Tensor &tensor) const { return find(tensor); }
    bool has(const OptionalTensor &vector) const { return defined(vector) && find(*vector); }

    // Of the levels below, with a dimension 0 that counts the samples.
    at::Tensor first(const at::Tensor &tensor) const {
        if (const auto *batched = find(tensor)) return batched->value().movedim(batched->bdim(), 0);
        c10::SymDimVector sizes(tensor.sym_sizes());
        sizes.insert(sizes.begin(), count_);
        return tensor.expand_symint(sizes);
    }

    at::Tensor as_batch(at::Tensor tensor) const { return at::functorch::makeBatched(std::move(tensor), 0, level_); }

  private:
    explicit Samples(const at::functorch::BatchedTensorImpl &batched)
        : level_(batched.level()), count_(batched.value().sym_size(batched.bdim())) {}

    // maybeCurrentDynamicLayer() would tell the level, but is of the header that torch's wheels lack a part of. This raises for
    // what is not batched at it.
    static bool is_at_this_level(const at::Tensor &tensor) {
        try {
            at::functorch::MultiBatchVmapTransform::logicalToPhysical(at::TensorList(tensor));
        } catch (const c10::Error &) {
            return false;
        }
        return true;
    }

    const at::functorch::BatchedTensorImpl *find(const at::Tensor &tensor) const {
        const auto *batched = at::functorch::maybeGetBatchedImpl(tensor);
        return batched && batched->level() == level_ ? batched : nullptr;
    }

    int64_t level_;
    c10::SymInt count_;
};

// While it lives, operators are called at the level below.
struct LevelBelow : c10::impl::ExcludeDispatchKeyGuard {
    LevelBelow() : ExcludeDispatchKeyGuard(c10::DispatchKey::FuncTorchBatched) {}
};

// Class weights or a prior of each sample, and a mean of two divisors, are more than rows.
bool are_rows(const Samples &samples, const Call &call) {
    const bool two_divisors = call.convention().smooths_ignored && call.options.reduction == at::Reduction::Mean;
    return !samples.has(call.weight) && !samples.has(call.prior) && !two_divisors;
}

// All samples in one call, as rows; what a sample's reduction divides by comes after.
template <auto function>
auto of_rows(const Samples &samples, const Call &call) {
    const LevelBelow below;
    const auto input = samples.first(call.input), target = samples.first(call.target);
    auto options = call.options;
    options.dim = class_dim(call.input, options.dim) + 1;
    return function(Call{input, target, call.weight, call.prior, options, call.loss_dtype});
}

LossAndGradient batched_loss_grad(const Call &call) {
    const auto samples = Samples::of(call);
    if (!samples) {
        const LevelBelow below;
        return call_transform_loss_grad(call);
    }
    if (!are_rows(*samples, call) || has_probabilities(call)) return composite::loss_and_gradient(call);
    auto [loss, grad, factor] = of_rows<composite::loss_and_gradient_of_samples>(*samples, call);
    return {samples->as_batch(std::move(loss)), samples->as_batch(std::move(grad)), std::move(factor)};
}

} // namespace

// Above all vmaps, which come before Autograd; functorch wraps everything at the level that it differentiates.
bool serves(const Call &call) {
    return is_wrapped(call.input) && is_wrapped(call.target) && (!defined(call.weight) || is_wrapped(*call.weight)) &&
           (!defined(call.prior) || is_wrapped(*call.prior)) && c10::GradMode::is_enabled() && call.input.requires_grad() &&
           !call.target.requires_grad() && !(defined(call.weight) && call.weight->requires_grad()) && !has_probabilities(call);
}

at::Tensor cross_entropy(const Call &call) {
    Kept kept{{}, {}, call.target, call.weight, call.prior, call.options};
    kept.options.dim = class_dim(call.input, call.options.dim);
    at::Tensor loss;
    {
        const at::AutoDispatchBelowADInplaceOrView below;
        std::tie(loss, kept.grad, kept.factor) = call_transform_loss_grad(call);
    }
    auto node = c10::make_intrusive<First>(kept);
    node->set_next_edges(torch::autograd::collect_next_edges(call.input));
    torch::autograd::set_history(loss, node);
    return loss;
}

at::Tensor with_tangent(const Call &call) {
    const auto input = call.input._fw_primal(/*level=*/0);
    auto [loss, grad, factor] =
        call_transform_loss_grad({input, call.target, call.weight, call.prior, call.options, call.loss_dtype});
    const Call of_gradient{grad, call.target, call.weight, call.prior, call.options, {}};
    const auto tangent = composite::tangent(of_gradient, factor, call.input._fw_grad(/*level=*/0));
    loss._set_fw_grad(tangent.to(loss.scalar_type()), /*level=*/0, /*is_inplace_op=*/false);
    return loss;
}

// The level below differentiates the rows if it has to. Logits that samples share would be copied for each.
std::optional<at::Tensor> batched_cross_entropy(const Call &call, bool rows_are_rounded) {
    const auto samples = Samples::of(call);
    if (!samples) {
        const LevelBelow below;
        return call_cross_entropy(call);
    }
    const bool rounded_twice = rows_are_rounded && call.options.reduction != at::Reduction::None;
    if (!samples->has(call.input) || !are_rows(*samples, call) || rounded_twice || !served_by_kernel(call)) return std::nullopt;
    return samples->as_batch(of_rows<composite::loss_of_samples>(*samples, call));
}

} // namespace ls_loss::transforms

// What functorch runs at each level in place of _loss_grad; and that itself, where a graph that was traced below autograd is
// differentiated.
TORCH_LIBRARY_IMPL(ls_loss, Autograd, m) {
    using namespace ls_loss;
    m.impl("_transform_loss_grad", from_inner_arguments<transforms::differentiable_loss_grad<call_transform_loss_grad>>);
    m.impl("_loss_grad", from_inner_arguments<transforms::differentiable_loss_grad<call_loss_grad>>);
}

TORCH_LIBRARY_IMPL(ls_loss, FuncTorchBatched, m) {
    m.impl("_transform_loss_grad", ls_loss::from_inner_arguments<ls_loss::transforms::batched_loss_grad>);
}

TORCH_LIBRARY_IMPL(ls_loss, CompositeExplicitAutograd, m) {
    m.impl("_transform_loss_grad", ls_loss::from_inner_arguments<ls_loss::call_loss_grad>);
}

// Tensors that have their own dispatch, as those of a traced program, need know no operators but ATen's.
TORCH_LIBRARY_IMPL(ls_loss, Python, m) {
    m.impl("_transform_loss_grad", ls_loss::from_inner_arguments<ls_loss::composite::loss_and_gradient>);
}
