// The Python module ls_loss._C: importing it loads the ops; its functions report and control what is not an op.
#include "environment.h"
#include "grad_buffer.h"

#include "ls_kernels.h"

#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <torch/version.h>

namespace py = pybind11;

namespace {

py::dict config() {
    py::list available;
    for (int i = 0; const char *isa = ls_isa_name(i); ++i) {
        if (ls_isa_available(isa)) available.append(isa);
    }
    py::dict facts;
    facts["version"] = LS_LOSS_VERSION;
    facts["torch_built"] = TORCH_VERSION;
    facts["compiler"] = __VERSION__;
    facts["isa"] = ls_isa();
    facts["isa_available"] = available;
    facts["threading"] = ls_threading();
    facts["cache"] = ls_loss::grad_buffer::keeps_blocks();
    facts["cache_bytes"] = ls_loss::grad_buffer::kept_bytes();
    return facts;
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    try {
        ls_loss::apply_environment();
    } catch (const c10::Error &error) {
        throw py::import_error(error.what_without_backtrace());
    }
    m.def("config", &config);
    m.def("empty_cache", &ls_loss::grad_buffer::empty_cache, py::call_guard<py::gil_scoped_release>());
}
