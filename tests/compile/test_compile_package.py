"""Exported programs and AOTInductor packages: saved, loaded, run from Python and from C++ without Python.

What the packages need beside them is in examples/run_package.cpp, which the test of C++ compiles and runs.
"""

import subprocess
import sys
from pathlib import Path

import cases
import pytest
import torch
from paths import route
from torch import nn
from torch.utils import cpp_extension

import ls_loss

ROOT = Path(__file__).parents[2]
FEATURES, CLASSES = 6, 10


class Evaluate(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.model = nn.Linear(FEATURES, CLASSES)
        self.loss = loss

    def forward(self, inputs, target):
        return self.loss(self.model(inputs), target)


LOSSES = {
    "CrossEntropyLoss": ls_loss.CrossEntropyLoss(
        cases.weights(CLASSES), label_smoothing=0.1, prior=cases.prior(CLASSES)
    ),
    "LabelSmoothingCrossEntropy": ls_loss.LabelSmoothingCrossEntropy(),
    "LabelSmoothingLoss": ls_loss.LabelSmoothingLoss(reduction="none"),
}


def batch(rows):
    """As examples/run_package.cpp makes it."""
    return torch.linspace(-1, 1, rows * FEATURES).view(rows, FEATURES), torch.arange(rows) % CLASSES


def exported(loss, dynamic):
    torch.manual_seed(0)
    model = Evaluate(loss).eval()
    rows = torch.export.Dim("rows", min=2, max=4096)
    return model, torch.export.export(model, batch(8), dynamic_shapes=({0: rows}, {0: rows}) if dynamic else None)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", LOSSES)
def test_export_round_trip(name, dynamic, tmp_path):
    model, program = exported(LOSSES[name], dynamic)
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    for rows in (8, 2, 130) if dynamic else (8,):
        torch.testing.assert_close(loaded(*batch(rows)), model(*batch(rows)))
        assert route(loaded, *batch(rows)) == "kernel"


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", LOSSES)
def test_package_in_python(name, dynamic, tmp_path):
    model, program = exported(LOSSES[name], dynamic)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    loaded = torch._inductor.aoti_load_package(path)
    for rows in (8, 2, 130) if dynamic else (8,):
        torch.testing.assert_close(loaded(*batch(rows)), model(*batch(rows)))
        assert route(loaded, *batch(rows)) == "kernel"


def test_package_refuses_targets_out_of_range(tmp_path):
    """The runner gives every error of a package as a RuntimeError."""
    _, program = exported(LOSSES["CrossEntropyLoss"], True)
    loaded = torch._inductor.aoti_load_package(
        torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    )
    inputs, target = batch(8)
    with pytest.raises((IndexError, RuntimeError)):
        loaded(inputs, target + CLASSES)


def test_package_in_cpp(tmp_path):
    library = ROOT / "build" / "libls_loss_ops.so"
    assert library.exists(), "`make ops-library` builds it"
    model, program = exported(LOSSES["CrossEntropyLoss"], True)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))

    (folder,) = cpp_extension.library_paths()
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    host = tmp_path / "run_package"
    command = ["g++", "-std=c++20", "-O0", str(ROOT / "examples" / "run_package.cpp"), *includes, f"-L{folder}"]
    command += [f"-Wl,-rpath,{folder}", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl", "-o", str(host)]
    subprocess.run(command, check=True, capture_output=True, text=True)

    for rows in (8, 130):
        sizes = map(str, (rows, FEATURES, CLASSES))
        result = subprocess.run([host, library, package, *sizes], capture_output=True, text=True, check=True)
        loss, refused = result.stdout.splitlines()
        assert float(loss.removeprefix("loss ")) == pytest.approx(model(*batch(rows)).item(), rel=1e-6)
        assert refused == f"refused: Target {CLASSES} is out of bounds."
    linked = subprocess.run(["ldd", host], capture_output=True, text=True, check=True).stdout
    assert "libpython" not in linked

    without = subprocess.run([host, "/no/such/library.so", package, "8", "6", "10"], capture_output=True, text=True)
    assert without.returncode == 1 and "no/such/library" in without.stderr


def test_programs_need_the_import(tmp_path):
    """Loaded where the operators are not registered, the error names the one that is missing."""
    _, program = exported(LOSSES["CrossEntropyLoss"], False)
    torch.export.save(program, tmp_path / "program.pt2")
    code = f"import torch; torch.export.load({str(tmp_path / 'program.pt2')!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0 and "ls_loss" in result.stderr
    result = subprocess.run([sys.executable, "-c", f"import ls_loss; {code}"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_by_tracing():
    """For free; scripting is not offered, for the Python front ends take keyword-only arguments."""
    inputs, target = cases.batch((4, 5))
    module = ls_loss.CrossEntropyLoss(label_smoothing=0.1)
    traced = torch.jit.trace(module, (inputs, target))
    others = cases.batch((7, 5), seed=5)
    assert torch.equal(traced(*others), module(*others)) and route(traced, *others) == "kernel"
    with pytest.raises(torch.jit.frontend.NotSupportedError, match="keyword-only arguments"):
        torch.jit.script(module)
