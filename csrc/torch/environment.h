// What the environment and the build decide before the first call of a kernel: the instruction set, and whose threads.
#pragma once

namespace ls_loss {

// Reads LS_LOSS_ISA, once; ValueError that lists what there is if it names an instruction set that this build or machine does
// not have. The Python module calls it at import, hosts without Python with their first op.
void apply_environment();

} // namespace ls_loss
