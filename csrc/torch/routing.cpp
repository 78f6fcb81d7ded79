// See routing.h.
#include "routing.h"
#include "transforms.h"

#include <ATen/FuncTorchTLS.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/movedim.h>
#include <c10/core/GradMode.h>

#include <limits>
#include <sstream>

namespace ls_loss {
namespace {

bool is_index_dtype(at::ScalarType dtype) { return at::isIntegralType(dtype, /*includeBool=*/false); }

bool has_classes(const OptionalTensor &vector, const c10::SymInt &num_classes) {
    return !defined(vector) || (vector->dim() == 1 && vector->sym_size(0) == num_classes);
}

void check_prior(const OptionalTensor &prior, const c10::SymInt &num_classes) {
    TORCH_CHECK_VALUE(has_classes(prior, num_classes), "prior must hold one probability for each of the ", num_classes,
                      " classes, got a tensor of shape ", prior->sym_sizes());
    TORCH_CHECK_VALUE(!defined(prior) || prior->is_floating_point(), "prior must be a floating point tensor, got ",
                      prior->scalar_type());
}

void describe(std::ostream &text, const char *name, const at::Tensor &tensor) {
    text << name << " " << tensor.scalar_type();
    if (!tensor.is_nested()) text << " " << tensor.sym_sizes();
    text << " on " << tensor.device();
    if (tensor.layout() != at::kStrided) text << " (" << tensor.layout() << ")";
}

// The test that torch::autograd::Function makes, so that the two cannot drift apart.
bool in_functorch_transform() {
    const auto &state = at::functorch::functorchTLSAccessor();
    if (!state) return false;
    try {
        state->checkSupportsCppAutogradFunction();
    } catch (const c10::Error &) {
        return true;
    }
    return false;
}

bool has_tangent(const at::Tensor &tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

bool has_tangent(const OptionalTensor &vector) { return defined(vector) && has_tangent(*vector); }

bool requires_grad(const OptionalTensor &vector) { return defined(vector) && vector->requires_grad(); }

bool same_kind(const at::Tensor &tensor, const at::Tensor &input) {
    return tensor.device() == input.device() && tensor.layout() == at::kStrided && !tensor.is_nested();
}

// ls_supports() names the limit of classes that are not adjacent. A size that is a symbol must not be tied to it by a guard.
bool counts_classes(const Call &call) {
    const auto last = call.input.dim() - 1;
    if (last < 1) return true;
    const auto dim = class_dim(call.input, call.options.dim);
    return dim == last || call.input.sym_size(dim).maybe_as_int().value_or(0) <= std::numeric_limits<int32_t>::max();
}

// Results of the level that these are batched at must not carry derivatives of levels around it.
bool is_batched(const Call &call) {
    const auto batched = [](const at::Tensor &tensor) { return tensor.key_set().has(c10::DispatchKey::FuncTorchBatched); };
    return batched(call.input) || batched(call.target) || (defined(call.weight) && batched(*call.weight)) ||
           (defined(call.prior) && batched(*call.prior));
}

// True if nothing but the logits is differentiated, and they forward only: a gradient would need the tangent in its graph.
bool has_only_logit_tangent(const Call &call) {
    return has_tangent(call.input) && !call.input.requires_grad() && !has_tangent(call.target) &&
           !call.target.requires_grad() && !has_tangent(call.weight) && !requires_grad(call.weight) && !has_tangent(call.prior);
}

} // namespace

bool has_tangent(const Call &call) {
    return has_tangent(call.input) || has_tangent(call.target) || has_tangent(call.weight) || has_tangent(call.prior);
}

std::string described(const Call &call) {
    std::ostringstream text;
    describe(text, "input", call.input);
    describe(text, ", target", call.target);
    if (defined(call.weight)) describe(text, ", weight", *call.weight);
    if (defined(call.prior)) describe(text, ", prior", *call.prior);
    text << ", class dimension " << call.options.dim;
    return text.str();
}

bool is_kernel_dtype(at::ScalarType dtype) {
    return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
}

void check_options(const Call &call) {
    const auto &options = call.options;
    TORCH_CHECK_VALUE(options.reduction >= at::Reduction::None && options.reduction < at::Reduction::END, options.reduction,
                      " is not a valid value for reduction");
    const auto &convention = call.convention(); // raises for a number that is none's
    // NaN compares false and is refused.
    TORCH_CHECK((options.label_smoothing >= 0.0 && options.label_smoothing <= 1.0) || !convention.bounds_smoothing,
                "label_smoothing must be between 0.0 and 1.0. Got: ", options.label_smoothing);
    if (!defined(call.prior)) return;
    const auto num_classes = call.input.sym_size(class_dim(call.input, options.dim));
    check_prior(call.prior, num_classes);
    TORCH_CHECK(!c10::GradMode::is_enabled() || !call.prior->requires_grad(),
                "The function 'cross_entropy' is not differentiable with respect to argument 'prior'. "
                "This input cannot have requires_grad True.");
}

int64_t class_dim(const at::Tensor &input, int64_t dim) {
    const auto rank = input.dim();
    if (rank == 1 && dim == 1) return 0;
    // Native speaks of its class dimension, 1, where the logits have none.
    return at::maybe_wrap_dim(rank == 0 ? 1 : dim, rank);
}

bool has_probabilities(const Call &call) {
    return call.convention().takes_probabilities && call.target.dim() == call.input.dim() &&
           call.target.sym_sizes() == call.input.sym_sizes();
}

bool well_formed(const Call &call) {
    const auto &[input, target] = std::tie(call.input, call.target);
    const auto rank = input.dim();
    if (rank == 0) return false;
    const auto dim = class_dim(input, call.options.dim);
    const auto sizes = input.sym_sizes();
    if (!has_classes(call.weight, sizes[dim])) return false;
    if (TORCH_GUARD_OR_FALSE(sizes[dim].sym_eq(0))) return false; // no classes, no distribution
    if (has_probabilities(call)) return target.is_floating_point() && call.options.ignore_index < 0;

    const auto weight_dtype = call.loss_dtype.value_or(input.scalar_type());
    if (defined(call.weight) && call.weight->scalar_type() != weight_dtype) return false;
    if (!is_index_dtype(target.scalar_type())) return false;
    if (rank == 1) return target.dim() == 0 || (target.dim() == 1 && target.sym_size(0) == 1);
    if (target.dim() != rank - 1) return false;
    const auto target_sizes = target.sym_sizes();
    for (int64_t i = 0; i < rank - 1; ++i) {
        // Sizes that only running the program can tell, as of logits selected by a mask, are left to the kernel.
        if (!TORCH_GUARD_OR_TRUE(target_sizes[i].sym_eq(sizes[i < dim ? i : i + 1]))) return false;
    }
    return true;
}

bool served_by_kernel(const Call &call) {
    const auto &input = call.input;
    const auto dtype = input.scalar_type();
    if (!is_kernel_dtype(dtype)) return false;
    const auto device = input.device().type();
    if ((device != at::kCPU && device != at::kMeta) || !same_kind(input, input)) return false;
    if (!same_kind(call.target, input)) return false;
    if (!counts_classes(call)) return false;
    const auto vector_dtype = call.loss_dtype.value_or(dtype);
    for (const auto *vector : {&call.weight, &call.prior}) {
        if (defined(*vector) && ((*vector)->scalar_type() != vector_dtype || !same_kind(**vector, input))) return false;
    }
    return well_formed(call) && (!has_probabilities(call) || call.target.scalar_type() == dtype);
}

void require_served_by_kernel(const Call &call) {
    TORCH_CHECK(served_by_kernel(call),
                "the kernels take dense logits of float32, float64, bfloat16 or float16 on the CPU, as target an integer for "
                "each row or probabilities of the logits' shape and dtype, weight and prior of the loss's dtype; got ",
                described(call));
}

Route route_without_kernel(const Call &call) {
    return call.convention().is_native && !defined(call.prior) ? Route::native : Route::composite;
}

Route route(const Call &call) {
    if (!served_by_kernel(call)) return route_without_kernel(call);
    if (has_tangent(call)) return has_only_logit_tangent(call) && !is_batched(call) ? Route::tangent : Route::composite;
    if (in_functorch_transform()) return transforms::serves(call) ? Route::transform : Route::composite;
    // The kernel's gradient is that of the logits.
    if (c10::GradMode::is_enabled() && (call.target.requires_grad() || requires_grad(call.weight)))
        return route_without_kernel(call);
    return Route::kernel;
}

void check_smooth_labels(const at::Tensor &target, const c10::SymInt &num_classes, double epsilon, const OptionalTensor &prior,
                         std::optional<at::ScalarType> dtype) {
    TORCH_CHECK_TYPE(is_index_dtype(target.scalar_type()), "target must be a tensor of integers, got ", target.scalar_type());
    TORCH_CHECK_VALUE(num_classes >= 1, "num_classes must be at least 1, got ", num_classes);
    TORCH_CHECK_VALUE(epsilon >= 0.0 && epsilon <= 1.0, "epsilon must be between 0 and 1, got ", epsilon);
    TORCH_CHECK_VALUE(!dtype || is_kernel_dtype(*dtype), "dtype must be float32, float64, bfloat16 or float16, got ", *dtype);
    check_prior(prior, num_classes);
}

at::Tensor hand_over(const Call &call) {
    auto input = call.input;
    auto target = call.target;
    const auto &options = call.options;
    const bool probabilities = !input.is_nested() && !target.is_nested() && has_probabilities(call);
    if (input.dim() > 1 && options.dim != 1) {
        const auto dim = class_dim(input, options.dim);
        input = input.movedim(dim, 1);
        if (probabilities) target = target.movedim(dim, 1);
    }
    // Native knows int64 and, without further dimensions, uint8.
    if (!probabilities && is_index_dtype(target.scalar_type()) && target.scalar_type() != at::kLong)
        target = target.to(at::kLong);
    return at::cross_entropy_loss_symint(input, target, call.weight, options.reduction, options.ignore_index,
                                         options.label_smoothing);
}

} // namespace ls_loss
