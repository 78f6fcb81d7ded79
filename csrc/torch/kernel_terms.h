// Torch's dtypes and tensors' memory in the kernels' terms, and the kernels' status as torch's exceptions.
// For the files that call kernels.
#pragma once

#include "ls_kernels.h"

#include <ATen/core/Tensor.h>

namespace ls_loss {

// Both raise for dtypes that the kernels do not serve.
ls_dtype kernel_dtype(at::ScalarType dtype);
ls_target_kind kernel_target_kind(at::ScalarType dtype);

// Raises where elements are to be read whose memory was freed, as by FSDP. Never NULL for a tensor of elements: that is how the
// kernels are told of an argument that is not there.
const void *data_of(const at::Tensor &tensor);

// IndexError for a target, ValueError for a prior; returns if the status is LS_OK.
void raise_for(ls_status status, const ls_error &error, ls_target_kind target_kind);

} // namespace ls_loss
