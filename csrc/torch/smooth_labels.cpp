// The op smooth_labels, the targets as distributions: by the kernels, by ATen's operators, and without data; and the check of a
// prior, which is that op for no labels. Carries no gradient; knows no loss.
#include "environment.h"
#include "kernel_terms.h"
#include "prior.h"
#include "routing.h"

#include "ls_kernels.h"

#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <c10/core/DefaultDtype.h>
#include <torch/library.h>

#include <utility>

namespace ls_loss {
namespace {

at::Tensor by_kernel(const at::Tensor &target, c10::SymInt num_classes, double epsilon, const OptionalTensor &prior,
                     std::optional<at::ScalarType> dtype) {
    check_smooth_labels(target, num_classes, epsilon, prior, dtype);
    apply_environment();
    const auto labels = target.contiguous();
    const auto kind = kernel_target_kind(labels.scalar_type());
    const auto contiguous_prior = defined(prior) ? prior->contiguous() : at::Tensor();
    at::DimVector sizes(target.sizes());
    sizes.push_back(num_classes.expect_int());
    const auto result_dtype = dtype.value_or(c10::get_default_dtype_as_scalartype());
    at::Tensor distribution = at::detail::empty_cpu(sizes, result_dtype);
    ls_error error{};
    const auto status = ls_smooth_labels(data_of(labels), kind, labels.numel(), sizes.back(), epsilon,
                                         defined(prior) ? data_of(contiguous_prior) : nullptr,
                                         defined(prior) ? kernel_dtype(contiguous_prior.scalar_type()) : LS_F32,
                                         distribution.mutable_data_ptr(), kernel_dtype(result_dtype), &error);
    raise_for(status, error, kind);
    return distribution;
}

at::Tensor without_data(const at::Tensor &target, c10::SymInt num_classes, double epsilon, const OptionalTensor &prior,
                        std::optional<at::ScalarType> dtype) {
    check_smooth_labels(target, num_classes, epsilon, prior, dtype);
    c10::SymDimVector sizes(target.sym_sizes());
    sizes.push_back(std::move(num_classes));
    return at::empty_symint(sizes, target.options().dtype(dtype.value_or(c10::get_default_dtype_as_scalartype())));
}

at::Tensor by_operators(const at::Tensor &target, c10::SymInt num_classes, double epsilon, const OptionalTensor &prior,
                        std::optional<at::ScalarType> dtype) {
    check_smooth_labels(target, num_classes, epsilon, prior, dtype);
    require_distribution(prior);
    const auto result_dtype = dtype.value_or(c10::get_default_dtype_as_scalartype());
    const at::TensorOptions options = at::kDouble; // rounded once, as by the kernel; of the target's device
    const auto s = defined(prior)
                       ? prior->detach().to(at::kDouble) * epsilon
                       : target.new_full_symint({num_classes}, c10::SymFloat(epsilon) / c10::SymFloat(num_classes), options);
    c10::SymDimVector sizes(target.sym_sizes());
    sizes.push_back(num_classes);
    const auto index = target.to(at::kLong).unsqueeze(-1);
    return s.expand_symint(sizes).scatter_add(-1, index, at::full_like(index, 1.0 - epsilon, options)).to(result_dtype);
}

} // namespace

void require_distribution(const OptionalTensor &prior) {
    if (!defined(prior)) return;
    const auto keys = prior->key_set() - c10::autograd_dispatch_keyset_with_ADInplaceOrView - c10::autocast_dispatch_keyset;
    // Smoothing no labels checks the prior alone.
    if (keys == c10::DispatchKeySet(c10::DispatchKey::CPU) && is_kernel_dtype(prior->scalar_type()))
        by_kernel(at::detail::empty_cpu({0}, at::kLong), prior->size(0), 0.0, prior, at::kFloat);
}

} // namespace ls_loss

TORCH_LIBRARY_IMPL(ls_loss, CPU, m) { m.impl("smooth_labels", ls_loss::by_kernel); }

TORCH_LIBRARY_IMPL(ls_loss, Meta, m) { m.impl("smooth_labels", ls_loss::without_data); }

TORCH_LIBRARY_IMPL(ls_loss, Autograd, m) { m.impl("smooth_labels", torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(ls_loss, CompositeExplicitAutograd, m) { m.impl("smooth_labels", ls_loss::by_operators); }

TORCH_LIBRARY_IMPL(ls_loss, CompositeImplicitAutograd, m) { m.impl("_aten_smooth_labels", ls_loss::by_operators); }

TORCH_LIBRARY_IMPL(ls_loss, Python, m) { m.impl("_aten_smooth_labels", ls_loss::by_operators); }

TORCH_LIBRARY_IMPL(ls_loss, FuncTorchBatchedDecomposition, m) {
    m.impl("smooth_labels", ls_loss::by_operators);
    m.impl("_aten_smooth_labels", ls_loss::by_operators);
}
