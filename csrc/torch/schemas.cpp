// The schema of every op, and typed calls of those below autograd. Kernels are attached at the end of the files that hold them.
#include "call.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>

namespace {

const std::string call_arguments = "Tensor input, Tensor target, Tensor? weight, int reduction, SymInt ignore_index, "
                                   "float label_smoothing, Tensor? prior, int dim, int convention";
const std::string labels_arguments = "Tensor target, SymInt num_classes, float epsilon, Tensor? prior, ScalarType? dtype";

} // namespace

// reduction: 0 none, 1 mean, 2 sum. convention: the place in the table of convention.h. A schema that changes, or goes, stays
// registered beside the new one from the first release on: Inductor's cache on disk keeps calls of it that a later version must
// still serve.
TORCH_LIBRARY(ls_loss, m) {
    const auto define = [&](const std::string &schema) { m.def(schema.c_str(), {at::Tag::pt2_compliant_tag}); };
    define("cross_entropy(" + call_arguments + ") -> Tensor");
    define("_aten_cross_entropy(" + call_arguments + ") -> Tensor");
    define("_loss(" + call_arguments + ", ScalarType? loss_dtype) -> Tensor");
    define("_loss_grad(" + call_arguments + ", ScalarType? loss_dtype) -> (Tensor loss, Tensor grad_input, Tensor factor)");
    define("_transform_loss_grad(" + call_arguments +
           ", ScalarType? loss_dtype) -> (Tensor loss, Tensor grad_input, Tensor factor)");
    define("_scale_(Tensor(a!) grad, Tensor grad_output, Tensor factor, Tensor? target, SymInt ignore_index, int dim) -> ()");
    define("smooth_labels(" + labels_arguments + ") -> Tensor");
    define("_aten_smooth_labels(" + labels_arguments + ") -> Tensor");
}

namespace ls_loss {
namespace {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char *name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

template <typename Result>
using InnerSignature = Result(const at::Tensor &, const at::Tensor &, const OptionalTensor &, int64_t, c10::SymInt, double,
                              const OptionalTensor &, int64_t, int64_t, std::optional<at::ScalarType>);

template <typename Result>
Result dispatch(const c10::TypedOperatorHandle<InnerSignature<Result>> &op, const Call &call) {
    const auto &options = call.options;
    return op.call(call.input, call.target, call.weight, options.reduction, options.ignore_index, options.label_smoothing,
                   call.prior, options.dim, options.convention, call.loss_dtype);
}

} // namespace

at::Tensor call_loss(const Call &call) {
    static const auto op = find<InnerSignature<at::Tensor>>("ls_loss::_loss");
    return dispatch(op, call);
}

LossAndGradient call_loss_grad(const Call &call) {
    static const auto op = find<InnerSignature<LossAndGradient>>("ls_loss::_loss_grad");
    return dispatch(op, call);
}

LossAndGradient call_transform_loss_grad(const Call &call) {
    static const auto op = find<InnerSignature<LossAndGradient>>("ls_loss::_transform_loss_grad");
    return dispatch(op, call);
}

at::Tensor call_cross_entropy(const Call &call) {
    static const auto op = find<at::Tensor(const at::Tensor &, const at::Tensor &, const OptionalTensor &, int64_t, c10::SymInt,
                                           double, const OptionalTensor &, int64_t, int64_t)>("ls_loss::cross_entropy");
    const auto &options = call.options;
    return op.call(call.input, call.target, call.weight, options.reduction, options.ignore_index, options.label_smoothing,
                   call.prior, options.dim, options.convention);
}

void call_scale_(const at::Tensor &grad, const at::Tensor &grad_output, const at::Tensor &factor, const OptionalTensor &target,
                 c10::SymInt ignore_index, int64_t dim) {
    static const auto op =
        find<void(at::Tensor, const at::Tensor &, const at::Tensor &, const OptionalTensor &, c10::SymInt, int64_t)>(
            "ls_loss::_scale_");
    op.call(grad, grad_output, factor, target, std::move(ignore_index), dim);
}

} // namespace ls_loss
