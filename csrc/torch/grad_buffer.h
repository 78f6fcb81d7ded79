// Memory for gradients. Touching fresh memory costs more than computing the gradient: from 256 KiB on it is advised to huge pages,
// and freed blocks are kept for the next gradients: one of 4 MiB or more, up to four smaller ones. The same for working memory of
// 4 MiB and more, which malloc would fault in again at each call, as for half a million pixels. Knows nothing of losses.
#pragma once

#include <ATen/core/Tensor.h>

namespace ls_loss::grad_buffer {

// Contiguous and uninitialised: an ordinary CPU tensor, resizable, seen by the memory profiler. Thread-safe.
at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype);

// Working memory for one call, aligned to 64 bytes; no tensor's.
c10::DataPtr scratch(size_t bytes);

// Gives the kept blocks back to the system.
void empty_cache();

// False if LS_LOSS_CACHE=0 was set when this was loaded: freed blocks go back at once.
bool keeps_blocks();

// The size of all kept blocks.
size_t kept_bytes();

} // namespace ls_loss::grad_buffer
