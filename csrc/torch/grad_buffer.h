// Memory for gradients. Touching fresh memory costs more than computing the gradient: large blocks are advised to huge pages
// and one freed block is kept for the next gradient. Knows nothing of losses.
#pragma once

#include <ATen/core/Tensor.h>

namespace ls_loss::grad_buffer {

// Contiguous and uninitialised: an ordinary CPU tensor, resizable, seen by the memory profiler. Thread-safe.
at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype);

// Gives the kept block back to the system.
void empty_cache();

// False if LS_LOSS_CACHE=0 was set when this was loaded: freed blocks go back at once.
bool keeps_blocks();

// The size of the kept block, 0 if there is none.
size_t kept_bytes();

} // namespace ls_loss::grad_buffer
