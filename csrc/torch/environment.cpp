// See environment.h.
#include "environment.h"

#include "ls_kernels.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>

#ifdef LS_USE_TORCH_PARALLEL_FOR
#include <torch/csrc/stable/c/shim.h>
#endif

namespace ls_loss {
namespace {

void select_isa() {
    const char *name = std::getenv("LS_LOSS_ISA");
    if (!name || !*name || ls_isa_select(name)) return;
    std::string available;
    for (int i = 0; const char *isa = ls_isa_name(i); ++i) {
        if (ls_isa_available(isa)) available += (available.empty() ? "" : ", ") + std::string(isa);
    }
    TORCH_CHECK_VALUE(false, "LS_LOSS_ISA=", name, " names no instruction set of this build and machine; there is ", available);
}

#ifdef LS_USE_TORCH_PARALLEL_FOR
// The route to torch's threads where the compiler's OpenMP would bring another runtime: exported C since torch 2.10.
void torch_loop(int64_t begin, int64_t end, int64_t grain, ls_loop_body body, void *context) {
    torch_parallel_for(begin, end, grain, body, context);
}
#endif

} // namespace

void apply_environment() {
    static const bool applied = [] {
        select_isa();
#ifdef LS_USE_TORCH_PARALLEL_FOR
        ls_use_parallel_for(torch_loop);
#endif
        return true;
    }();
    (void)applied;
}

} // namespace ls_loss
