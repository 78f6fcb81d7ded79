// See kernel_terms.h.
#include "kernel_terms.h"

#include <c10/util/Exception.h>

namespace ls_loss {

ls_dtype kernel_dtype(at::ScalarType dtype) {
    switch (dtype) {
    case at::kFloat:
        return LS_F32;
    case at::kDouble:
        return LS_F64;
    case at::kBFloat16:
        return LS_BF16;
    case at::kHalf:
        return LS_F16;
    default:
        TORCH_CHECK(false, "the kernels do not serve ", dtype);
    }
}

ls_target_kind kernel_target_kind(at::ScalarType dtype) {
    switch (dtype) {
    case at::kChar:
        return LS_INT8;
    case at::kShort:
        return LS_INT16;
    case at::kInt:
        return LS_INT32;
    case at::kLong:
        return LS_INT64;
    case at::kByte:
        return LS_UINT8;
    case at::kUInt16:
        return LS_UINT16;
    case at::kUInt32:
        return LS_UINT32;
    case at::kUInt64:
        return LS_UINT64;
    default:
        TORCH_CHECK(false, "the kernels do not serve targets of ", dtype);
    }
}

const void *data_of(const at::Tensor &tensor) {
    const void *data = tensor.const_data_ptr();
    TORCH_CHECK(data || tensor.numel() == 0,
                "The tensor has a non-zero number of elements, but its data is not allocated yet.");
    return data;
}

void raise_for(ls_status status, const ls_error &error, ls_target_kind target_kind) {
    if (status == LS_OK) return;
    if (status == LS_TARGET_OUT_OF_RANGE) {
        TORCH_CHECK_INDEX(target_kind != LS_UINT64, "Target ", static_cast<uint64_t>(error.target), " is out of bounds.");
        TORCH_CHECK_INDEX(false, "Target ", error.target, " is out of bounds.");
    }
    TORCH_CHECK_VALUE(status != LS_PRIOR_ENTRY, "prior must be finite and not negative, got ", error.value, " for class ",
                      error.position);
    TORCH_CHECK_VALUE(false, "prior must have a sum of 1 (to 0.01), got ", error.value);
}

} // namespace ls_loss
