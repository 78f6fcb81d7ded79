// Torch's dtypes in the kernels' terms, and their status as torch's exceptions. For the files that call kernels; knows no tensors.
#pragma once

#include "ls_kernels.h"

#include <c10/core/ScalarType.h>

namespace ls_loss {

// Both raise for dtypes that the kernels do not serve.
ls_dtype kernel_dtype(at::ScalarType dtype);
ls_target_kind kernel_target_kind(at::ScalarType dtype);

// IndexError for a target, ValueError for a prior; returns if the status is LS_OK.
void raise_for(ls_status status, const ls_error &error, ls_target_kind target_kind);

} // namespace ls_loss
