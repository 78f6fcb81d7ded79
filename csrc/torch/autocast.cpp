// Autocast: a float32 loss from 16-bit logits, as native's, but without a float32 copy of them. Class weights and prior, which
// are short, are cast; probabilities only if they are not of the logits' dtype. Knows dtypes, no formula.
#include "autograd.h"
#include "routing.h"
#include "transforms.h"

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace ls_loss {
namespace {

bool is_half(at::ScalarType dtype) { return dtype == at::kHalf || dtype == at::kBFloat16; }

template <auto function, auto route>
at::Tensor under_autocast(const Call &call) {
    const auto device = call.input.device().type();
    const auto cast = [&](const auto &tensor) { return at::autocast::cached_cast(at::kFloat, tensor, device); };
    const auto dtype = call.input.scalar_type();
    const bool widened = is_half(dtype);
    const bool mixed = call.target.is_floating_point() && call.target.scalar_type() != dtype;
    const auto input = mixed ? cast(call.input) : call.input, target = mixed ? cast(call.target) : call.target;
    const auto weight = cast(call.weight), prior = cast(call.prior);
    const Call widened_call{input, target, weight, prior, call.options, widened ? std::optional(at::kFloat) : std::nullopt};
    // Native has its own autocast.
    if (route(widened_call) == Route::native) return function(call);
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(at::autocast::get_autocast_dispatch_key_from_device_type(device));
    return function(widened_call);
}

bool is_autocast(const Call &call) {
    const auto device = call.input.device().type();
    return at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
}

// vmap gets here before autocast does.
template <auto function, auto route>
at::Tensor under_vmap(const Call &call) {
    return is_autocast(call) ? under_autocast<function, route>(call) : function(call);
}

at::Tensor rows_under_vmap(const Call &call) {
    check_options(call);
    const bool autocast = is_autocast(call), halved = is_half(call.input.scalar_type());
    {
        // The level below restores autocast, and gets to it; before that it would take samples for one call.
        std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
        if (autocast) no_autocast.emplace(at::autocast::get_autocast_dispatch_key_from_device_type(call.input.device().type()));
        if (auto loss = transforms::batched_cross_entropy(call, halved && !autocast)) return *loss;
    }
    return under_vmap<cross_entropy, route>(call);
}

void implement(torch::Library &m) {
    m.impl("cross_entropy", from_arguments<under_autocast<cross_entropy, route>>);
    m.impl("_aten_cross_entropy", from_arguments<under_autocast<aten_cross_entropy, route_without_kernel>>);
}

} // namespace
} // namespace ls_loss

TORCH_LIBRARY_IMPL(ls_loss, AutocastCPU, m) { ls_loss::implement(m); }
TORCH_LIBRARY_IMPL(ls_loss, AutocastCUDA, m) { ls_loss::implement(m); }
TORCH_LIBRARY_IMPL(ls_loss, AutocastXPU, m) { ls_loss::implement(m); }
TORCH_LIBRARY_IMPL(ls_loss, AutocastMPS, m) { ls_loss::implement(m); }
TORCH_LIBRARY_IMPL(ls_loss, AutocastPrivateUse1, m) { ls_loss::implement(m); }

TORCH_LIBRARY_IMPL(ls_loss, FuncTorchBatchedDecomposition, m) {
    using namespace ls_loss;
    m.impl("cross_entropy", from_arguments<rows_under_vmap>);
    m.impl("_aten_cross_entropy", from_arguments<under_vmap<aten_cross_entropy, route_without_kernel>>);
}
