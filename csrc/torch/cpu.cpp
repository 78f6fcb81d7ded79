// The ops below autograd on the CPU: checks, memory and layout, an ls_problem for the kernels, their status as an exception.
// Does no arithmetic on data.
#include "environment.h"
#include "grad_buffer.h"
#include "kernel_terms.h"
#include "routing.h"

#include "ls_kernels.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Reduction.h>
#include <torch/library.h>

#include <string_view>

namespace ls_loss {
namespace {

static_assert(int{LS_NONE} == int{at::Reduction::None} && int{LS_MEAN} == int{at::Reduction::Mean} &&
              int{LS_SUM} == int{at::Reduction::Sum});
static_assert(std::string_view(conventions[LS_TORCH].name) == "torch" &&
              std::string_view(conventions[LS_FASTAI].name) == "fastai" && std::size(conventions) == LS_FASTAI + 1);

// Adjacent dimensions as one; absent if their strides do not allow it.
struct Folded {
    int64_t size = 1, stride = 1;
};

std::optional<Folded> fold(const at::Tensor &tensor, int64_t begin, int64_t end) {
    Folded folded;
    if (tensor.numel() == 0) return folded; // whatever its strides are; a copy would have them too
    for (int64_t i = end - 1; i >= begin; --i) {
        const auto size = tensor.size(i), stride = tensor.stride(i);
        if (size == 1) continue;
        if (folded.size == 1)
            folded.stride = stride;
        else if (folded.size != 0 && size != 0 && stride != folded.size * folded.stride)
            return std::nullopt;
        folded.size *= size;
    }
    return folded;
}

// The strides of a tensor as [outer, classes, inner].
bool fold_around(const at::Tensor &tensor, int64_t dim, int64_t (&strides)[3]) {
    const auto outer = fold(tensor, 0, dim), inner = fold(tensor, dim + 1, tensor.dim());
    if (!outer || !inner) return false;
    strides[0] = outer->stride;
    strides[1] = tensor.size(dim) == 1 ? inner->size : tensor.stride(dim); // one class: as if contiguous
    strides[2] = inner->stride;
    return true;
}

// A value for each row, as [outer, inner]; copied if its strides do not allow that.
at::Tensor fold_rows(const at::Tensor &values, int64_t dim, int64_t &outer_stride, int64_t &inner_stride) {
    const auto split = std::min(dim, values.dim()); // 1-d logits: one row, of shape () or (1)
    const auto outer = fold(values, 0, split), inner = fold(values, split, values.dim());
    if (!outer || !inner) return fold_rows(values.contiguous(), dim, outer_stride, inner_stride);
    outer_stride = outer->stride;
    inner_stride = inner->stride;
    return values;
}

std::tuple<int64_t, int64_t, int64_t> extents(const at::Tensor &logits, int64_t dim) {
    const auto sizes = logits.sizes();
    return {c10::multiply_integers(sizes.slice(0, dim)), sizes[dim], c10::multiply_integers(sizes.slice(dim + 1))};
}

// Points the problem to logits and target, or to copies of them in a layout that the kernels serve, which are returned.
std::pair<at::Tensor, at::Tensor> place(ls_problem &problem, const Call &call, int64_t dim) {
    auto logits = call.input, target = call.target;
    const bool probabilities = has_probabilities(call);
    problem.target_kind = probabilities ? LS_PROBABILITIES : kernel_target_kind(target.scalar_type());
    if (!probabilities) target = fold_rows(target, dim, problem.target_stride[0], problem.target_stride[2]);
    const auto folds = [&] {
        return fold_around(logits, dim, problem.logits_stride) &&
               (!probabilities || fold_around(target, dim, problem.target_stride)) && ls_supports(&problem);
    };
    if (!folds()) {
        logits = logits.contiguous();
        if (probabilities) target = target.contiguous();
        TORCH_INTERNAL_ASSERT(folds());
    }
    problem.logits = data_of(logits);
    problem.target = data_of(target);
    return {logits, target};
}

LossAndGradient compute(const Call &call, bool with_gradient) {
    apply_environment();
    check_options(call);
    TORCH_CHECK(call.input.is_cpu(), "input must be on the CPU, got ", call.input.device());
    require_served_by_kernel(call);
    const auto &options = call.options;
    const auto dtype = call.input.scalar_type();
    const auto dim = class_dim(call.input, options.dim);

    ls_problem problem{};
    std::tie(problem.outer, problem.num_classes, problem.inner) = extents(call.input, dim);
    problem.dtype = kernel_dtype(dtype);
    const auto vector = [](const OptionalTensor &tensor, const void *&data, ls_dtype &vector_dtype) {
        if (!defined(tensor)) return at::Tensor();
        const auto contiguous = tensor->contiguous();
        data = data_of(contiguous);
        vector_dtype = kernel_dtype(contiguous.scalar_type());
        return contiguous;
    };
    const auto weight = vector(call.weight, problem.weight, problem.weight_dtype);
    const auto prior = vector(call.prior, problem.prior, problem.prior_dtype);
    problem.ignore_index = options.ignore_index.expect_int();
    problem.label_smoothing = options.label_smoothing;
    problem.reduction = static_cast<ls_reduction>(options.reduction);
    problem.convention = static_cast<ls_convention>(options.convention);
    problem.threads = at::get_num_threads();

    const auto loss_dtype = call.loss_dtype.value_or(dtype);
    problem.loss_dtype = kernel_dtype(loss_dtype);
    at::DimVector loss_sizes;
    if (options.reduction == at::Reduction::None) {
        loss_sizes = at::DimVector(call.target.sizes());
        if (has_probabilities(call)) loss_sizes.erase(loss_sizes.begin() + dim);
    }
    at::Tensor loss = at::detail::empty_cpu(loss_sizes, loss_dtype);
    problem.loss = loss.mutable_data_ptr();
    at::Tensor grad, factor;
    if (with_gradient) {
        grad = grad_buffer::empty(call.input.sizes(), dtype);
        factor = at::detail::empty_cpu({}, at::kFloat);
        problem.grad_logits = grad.mutable_data_ptr();
        problem.grad_factor = factor.mutable_data_ptr<float>();
    }
    const auto placed = place(problem, call, dim);

    alignas(64) char stack[16384];
    c10::DataPtr heap;
    void *scratch = stack;
    if (const auto bytes = ls_scratch_bytes(&problem); bytes > sizeof stack) {
        heap = grad_buffer::scratch(bytes);
        scratch = heap.get();
    }
    ls_error error{};
    raise_for(ls_cross_entropy(&problem, scratch, &error), error, problem.target_kind);
    return {std::move(loss), std::move(grad), std::move(factor)};
}

at::Tensor loss(const Call &call) { return std::get<0>(compute(call, false)); }

LossAndGradient loss_grad(const Call &call) { return compute(call, true); }

bool is_value_per_row(const at::Tensor &values, const at::Tensor &logits, int64_t dim) {
    if (logits.dim() == 1) return values.numel() == 1;
    at::DimVector sizes(logits.sizes());
    sizes.erase(sizes.begin() + dim);
    return values.sizes() == sizes;
}

void scale_(at::Tensor grad, const at::Tensor &grad_output, const at::Tensor &factor, const OptionalTensor &target,
            c10::SymInt ignore_index, int64_t dim) {
    dim = class_dim(grad, dim);
    TORCH_CHECK(grad_output.dim() == 0 || is_value_per_row(grad_output, grad, dim),
                "grad_output must have one value, or one for each row, got shape ", grad_output.sizes());
    TORCH_CHECK(grad.is_contiguous(), "grad must be contiguous, got shape ", grad.sizes(), " with strides ", grad.strides());
    ls_scaling scaling{};
    std::tie(scaling.outer, scaling.num_classes, scaling.inner) = extents(grad, dim);
    scaling.dtype = kernel_dtype(grad.scalar_type());
    scaling.grad = grad.mutable_data_ptr();
    scaling.grad_output_dtype = kernel_dtype(grad_output.scalar_type());
    at::Tensor values = grad_output;
    if (grad_output.dim() != 0)
        values = fold_rows(grad_output, dim, scaling.grad_output_stride[0], scaling.grad_output_stride[1]);
    scaling.grad_output = data_of(values);
    scaling.factor = *factor.const_data_ptr<float>();
    at::Tensor targets;
    if (defined(target)) {
        TORCH_CHECK(is_value_per_row(*target, grad, dim), "there must be one target for each row, got shape ", target->sizes());
        scaling.target_kind = kernel_target_kind(target->scalar_type());
        targets = fold_rows(*target, dim, scaling.target_stride[0], scaling.target_stride[1]);
        scaling.target = data_of(targets);
        scaling.ignore_index = ignore_index.expect_int();
    }
    scaling.threads = at::get_num_threads();
    // Who takes the gradient for the unscaled one again, as after a hook that raised, is told by its version.
    if (ls_scale(&scaling)) grad.unsafeGetTensorImpl()->bump_version();
}

} // namespace
} // namespace ls_loss

TORCH_LIBRARY_IMPL(ls_loss, CPU, m) {
    using namespace ls_loss;
    m.impl("_loss", from_inner_arguments<ls_loss::loss>);
    m.impl("_loss_grad", from_inner_arguments<ls_loss::loss_grad>);
    m.impl("_scale_", ls_loss::scale_);
}
