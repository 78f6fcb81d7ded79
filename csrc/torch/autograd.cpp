// The differentiable op: its Function, and where a call goes. Knows the routes and who owns a gradient; no formula.
#include "autograd.h"
#include "composite.h"
#include "prior.h"
#include "routing.h"
#include "transforms.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

namespace ls_loss {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// False for what has no data to read or gives more than numbers: batches, wrappers and subclasses that dispatch in Python (but
// not where both stand for a traced program), and tensors with a tangent.
bool is_plain_beside(const at::Tensor &grad_output, const at::Tensor &grad) {
    using at::DispatchKey;
    const c10::DispatchKeySet kinds(
        {DispatchKey::Batched, DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchGradWrapper, DispatchKey::Python});
    return (grad_output.key_set() & kinds) == (grad.key_set() & kinds) && !grad_output._fw_grad(/*level=*/0).defined();
}

// True if somebody may hold the saved gradient itself: a tensor that went through Python, as that of a saved-tensor hook, has
// an object there. Those that stand for a traced program always have one; there nobody else can hold the value.
bool may_be_shared(const at::Tensor &grad) {
    const auto *impl = grad.unsafeGetTensorImpl();
    return impl->pyobj_slot()->load_pyobj() != nullptr && !impl->is_python_dispatch();
}

// The engine hands what backward returns to the user or to the leaf. While the graph is kept the saved gradient must survive
// that.
bool may_scale_in_place(const at::Tensor &grad, const at::Tensor &grad_output) {
    return !torch::autograd::get_current_graph_task_keep_graph() && is_plain_beside(grad_output, grad) && !may_be_shared(grad);
}

// The gradient is computed in forward, in the kernel's one sweep. The logits are not saved: they may be edited after forward,
// and are freed when nobody else needs them.
struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
    static constexpr bool is_traceable = true;

    // False under compiled autograd, which calls backward without the node: there one trace serves graphs that are kept and
    // graphs that are not, whatever the graph task says that happens to run.
    static bool is_run_by_engine(const AutogradContext *context) {
        const auto node = torch::autograd::get_current_node();
        const auto *own = dynamic_cast<const torch::autograd::CppNode<CrossEntropy> *>(node.get());
        return own && &own->ctx_ == context;
    }

    static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const Call &call) {
        const at::AutoDispatchBelowADInplaceOrView below;
        auto [loss, grad, factor] = call_loss_grad(call);
        variable_list saved{std::move(grad), std::move(factor), call.target};
        if (defined(call.weight)) saved.push_back(*call.weight);
        if (defined(call.prior)) saved.push_back(*call.prior);
        context->save_for_backward(std::move(saved));
        context->set_materialize_grads(false); // no gradient in is no gradient out, and no sweep over zeros
        const auto &options = call.options;
        // One entry: each costs a look-up. As a tuple its numbers stay constants under compiled autograd.
        context->saved_data["options"] =
            std::make_tuple(options.reduction, options.ignore_index, options.label_smoothing, class_dim(input, options.dim),
                            options.convention, defined(call.weight), defined(call.prior), composite::leaves_out_ignored(call));
        return loss;
    }

    static variable_list backward(AutogradContext *context, const variable_list &grad_outputs) {
        if (!grad_outputs[0].defined()) return {at::Tensor(), at::Tensor()};
        // Unpacking finds targets and weights that were edited since, and raises.
        const auto saved = context->get_saved_variables();
        const auto &grad = saved[0], &factor = saved[1], &grad_output = grad_outputs[0];
        const at::ArrayRef<c10::IValue> options = context->saved_data["options"].toTupleRef().elements().asArrayRef();
        const auto dim = options[3].toInt();

        const bool differentiable = at::GradMode::is_enabled();
        if (!differentiable && is_run_by_engine(context) && may_scale_in_place(grad, grad_output)) {
            const at::AutoDispatchBelowADInplaceOrView below;
            const auto target = options[7].toBool() ? OptionalTensor(saved[2]) : OptionalTensor();
            call_scale_(grad, grad_output, factor, target, options[1].toSymInt(), dim); // returns at once if grad_output is 1
            return {grad, at::Tensor()};
        }
        const OptionalTensor weight = options[5].toBool() ? OptionalTensor(saved[3]) : OptionalTensor();
        const OptionalTensor prior = options[6].toBool() ? OptionalTensor(saved.back()) : OptionalTensor();
        const Call call{grad,
                        saved[2],
                        weight,
                        prior,
                        {options[0].toInt(), options[1].toSymInt(), options[2].toDouble(), dim, options[4].toInt()},
                        {}};
        if (!differentiable) return {composite::scaled(call, grad_output, factor), at::Tensor()};
        TORCH_CHECK_NOT_IMPLEMENTED(is_run_by_engine(context),
                                    "cross_entropy's grad_fn cannot be called by hand, or by compiled autograd, with grad mode "
                                    "on: use torch.autograd.grad(..., create_graph=True)");
        auto rebuilt = [&] {
            const at::NoGradGuard no_grad;
            // Within a transform too the logits are those of this graph, which is not the transform's.
            const c10::impl::ExcludeDispatchKeyGuard below_transforms(c10::DispatchKeySet(
                {c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode}));
            return composite::rebuild(call, factor);
        }();
        torch::autograd::impl::set_gradient_edge(rebuilt.logits, torch::autograd::get_current_node()->next_edge(0));
        return {composite::gradient(call, rebuilt, grad_output).to(grad.scalar_type()), at::Tensor()};
    }
};

at::Tensor take(Route route, const Call &call) {
    switch (route) {
    case Route::native:
        return hand_over(call);
    case Route::composite:
        require_distribution(call.prior);
        return composite::loss(call);
    case Route::transform:
        return transforms::cross_entropy(call);
    case Route::tangent:
        return transforms::with_tangent(call);
    case Route::kernel:
        break;
    }
    // Inference mode has no graph, even where grad mode is turned on in it.
    const bool recorded = at::GradMode::is_enabled() && !c10::InferenceMode::is_enabled();
    if (recorded && call.input.requires_grad()) return CrossEntropy::apply(call.input, call);
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_loss(call);
}

// The ops below autograd in a graph of operators that was traced below it, as that of an exported program once decomposed.
at::Tensor traced_loss(const Call &call) {
    check_options(call);
    require_served_by_kernel(call);
    const auto way = route(call);
    return take(way == Route::native ? Route::composite : way, call); // native knows no loss_dtype
}

void traced_scale_(at::Tensor grad, const at::Tensor &grad_output, const at::Tensor &factor, const OptionalTensor &target,
                   c10::SymInt ignore_index, int64_t dim) {
    const bool recorded = at::GradMode::is_enabled() && (grad.requires_grad() || grad_output.requires_grad());
    const bool has_tangent = grad._fw_grad(/*level=*/0).defined() || grad_output._fw_grad(/*level=*/0).defined();
    TORCH_CHECK_NOT_IMPLEMENTED(!recorded && !has_tangent,
                                "ls_loss::_scale_ has no derivative: trace the backward of the loss with create_graph=True");
    const at::AutoDispatchBelowADInplaceOrView below;
    call_scale_(grad, grad_output, factor, target, std::move(ignore_index), dim);
}

} // namespace

at::Tensor cross_entropy(const Call &call) {
    check_options(call);
    return take(route(call), call);
}

at::Tensor aten_cross_entropy(const Call &call) {
    check_options(call);
    return take(route_without_kernel(call), call);
}

} // namespace ls_loss

// One function for every key but vmap's: without autograd keys, as for inference tensors, nothing requires grad.
TORCH_LIBRARY_IMPL(ls_loss, Autograd, m) {
    m.impl("cross_entropy", ls_loss::from_arguments<ls_loss::cross_entropy>);
    m.impl("_loss", ls_loss::from_inner_arguments<ls_loss::traced_loss>);
    m.impl("_scale_", ls_loss::traced_scale_);
}

TORCH_LIBRARY_IMPL(ls_loss, CompositeExplicitAutograd, m) {
    m.impl("cross_entropy", ls_loss::from_arguments<ls_loss::cross_entropy>);
}

TORCH_LIBRARY_IMPL(ls_loss, CompositeImplicitAutograd, m) {
    m.impl("_aten_cross_entropy", ls_loss::from_arguments<ls_loss::aten_cross_entropy>);
}

// In inference mode there are no autograd keys, and this one is the first.
TORCH_LIBRARY_IMPL(ls_loss, Python, m) { m.impl("_aten_cross_entropy", ls_loss::from_arguments<ls_loss::aten_cross_entropy>); }
