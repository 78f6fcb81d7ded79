// The ops below autograd without data: shapes, dtypes and strides of the CPU kernels' results, for fake and meta tensors.
#include "routing.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace ls_loss {
namespace {

at::Tensor loss(const Call &call) {
    check_options(call);
    require_served_by_kernel(call);
    c10::SymDimVector sizes;
    if (call.options.reduction == at::Reduction::None) {
        sizes = c10::SymDimVector(call.target.sym_sizes());
        if (has_probabilities(call)) sizes.erase(sizes.begin() + class_dim(call.input, call.options.dim));
    }
    return at::empty_symint(sizes, call.input.options().dtype(call.loss_dtype.value_or(call.input.scalar_type())));
}

LossAndGradient loss_grad(const Call &call) {
    const auto options = call.input.options();
    return {loss(call), at::empty_symint(call.input.sym_sizes(), options), at::empty({}, options.dtype(at::kFloat))};
}

void scale_(at::Tensor, const at::Tensor &, const at::Tensor &, const OptionalTensor &, c10::SymInt, int64_t) {}

} // namespace
} // namespace ls_loss

TORCH_LIBRARY_IMPL(ls_loss, Meta, m) {
    using namespace ls_loss;
    m.impl("_loss", from_inner_arguments<ls_loss::loss>);
    m.impl("_loss_grad", from_inner_arguments<ls_loss::loss_grad>);
    m.impl("_scale_", ls_loss::scale_);
}
