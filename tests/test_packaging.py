"""What is handed out: the source distribution, the wheel made from it, the library of operators; errors of build and import.

Builds in directories of its own from the source tree around it. Knows file names and metadata, nothing of the losses.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import ls_loss

ROOT = Path(__file__).resolve().parents[1]
OPS_LIBRARY = ROOT / "build" / "libls_loss_ops.so"
EPOCH = 1_700_000_000


def run(*command, cwd, **environment):
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(sdist):
    folder = sdist.parent / "wheel"
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    run(
        *pip, "--wheel-dir", str(folder), str(sdist), cwd=sdist.parent, SOURCE_DATE_EPOCH=str(EPOCH), DEBUG="1"
    )  # compiles in half the time
    (file,) = folder.iterdir()
    return file


def test_sdist_holds_every_source(sdist):
    """setuptools adds the .c files by itself and forgets the headers; of what lies beside the folders it knows a few names."""
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    sources = [path for folder in ("csrc", "ls_loss", "tests") for path in (ROOT / folder).rglob("*")]
    kept = {
        str(path.relative_to(ROOT)) for path in sources if path.suffix in {".c", ".h", ".cpp", ".py", ".pyi", ".typed"}
    }
    assert len(kept) > 50
    beside = {
        path.name for kind in ("[A-Z]*", "*.txt", "*.lock", "*.toml") for path in ROOT.glob(kind) if path.is_file()
    }
    beside |= {".clang-format", ".editorconfig", ".pre-commit-config.yaml"}
    assert {"LICENSE", "Makefile", "README.md", "SECURITY.md"} <= beside
    assert kept | beside <= inside
    assert not [name for name in inside if name.endswith((".so", ".o", ".a", ".pyc"))]


def test_wheel_holds_the_package_and_no_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    package = {
        f"ls_loss/{path.name}" for path in (ROOT / "ls_loss").iterdir() if path.suffix in {".py", ".pyi", ".typed"}
    }
    assert "ls_loss/py.typed" in package
    (extension,) = inside - package
    assert re.fullmatch(r"ls_loss/_C\..*\.so", extension)
    assert package <= inside


def test_wheel_records_version_torch_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        recorded = message_from_bytes(archive.read(name))
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert recorded["Version"] == version == ls_loss.config()["version"]
    assert recorded.get_all("Requires-Dist") == [f"torch=={'.'.join(torch.__version__.split('.')[:2])}.*"]
    assert recorded["License-Expression"] == "BSD-3-Clause"
    assert recorded["Requires-Python"] == ">=3.10"


def test_wheel_holds_neither_the_time_nor_the_folder_of_its_build(wheel):
    """Two builds give the same bytes: `make reproducible` compares them."""
    with zipfile.ZipFile(wheel) as archive:
        assert {file.date_time for file in archive.infolist()} == {time.gmtime(EPOCH)[:6]}
        (extension,) = (archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    assert f"{tempfile.gettempdir()}/".encode() not in extension


def test_wheel_works_where_there_is_no_source(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import torch, ls_loss
logits = torch.zeros(3, 10, requires_grad=True)
ls_loss.cross_entropy(logits, torch.tensor([0, 1, 2]), label_smoothing=0.1, reduction="sum").backward()
print(ls_loss.__file__, round(logits.grad[0, 0].item(), 4))
"""
    file, gradient = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(file).parent == tmp_path / "ls_loss"
    assert gradient == "-0.81"


def test_version_is_that_of_the_installation():
    assert ls_loss.config()["version"] == metadata.version("ls_loss")


def test_import_costs_little_beside_torch():
    """Time on the processor, which other programs disturb little, not on the clock. tools/import_time.py prints both."""
    code = """
import time
import torch
start = time.process_time()
import ls_loss
print(time.process_time() - start)
"""
    run(sys.executable, "-c", code, cwd=ROOT)  # writes the bytecode, which an installation has
    seconds = [float(run(sys.executable, "-c", code, cwd=ROOT)) for _ in range(3)]
    assert statistics.median(seconds) < 0.030


# One sentence at import, with both versions, beside a torch that it was not built for.


@pytest.fixture
def installation(tmp_path):
    """Makes a copy of the package in a folder, with an extension of its own and the requirement it was built with."""
    package = tmp_path / "ls_loss"
    package.mkdir()
    for file in (ROOT / "ls_loss").glob("*.py"):
        shutil.copy(file, package)
    (tmp_path / "missing.c").write_text("void *at_missing(void);\nvoid *PyInit__C(void) { return at_missing(); }\n")
    extension = package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    run("gcc", "-shared", "-fPIC", "-Wl,-z,now", "missing.c", "-o", str(extension), cwd=tmp_path)

    def fails(torch_minor, code="import ls_loss"):
        facts = tmp_path / "ls_loss-0.1.0.dist-info"
        facts.mkdir()
        requirement = f"Requires-Dist: torch=={torch_minor}.*"
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ls_loss\nVersion: 0.1.0\n{requirement}\n")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    return fails


def test_another_torch_is_one_sentence(installation):
    """Before the extension is touched: no symbol error stands above it."""
    error = installation("2.13", "import torch; torch.__version__ = '2.14.1+cpu'; import ls_loss")
    sentence = (
        "ls_loss was built against torch 2.13 and cannot be loaded beside torch 2.14.1+cpu: install it again with"
    )
    assert error.strip().splitlines()[-1].startswith(f"ImportError: {sentence}")
    assert "at_missing" not in error
    assert error.count("Traceback") == 1


def test_symbols_that_torch_lacks_are_the_same_sentence(installation):
    """What the versions do not tell, for instance another build of the same version, the loader does."""
    minor = ".".join(torch.__version__.split(".")[:2])
    last = installation(minor).strip().splitlines()[-1]
    sentence = f"ls_loss was built against torch {minor} and cannot be loaded beside torch {torch.__version__}"
    assert last.startswith(f"ImportError: {sentence}: install it again with")
    assert "undefined symbol: at_missing" in last


# One sentence, and no traceback, from the build.


def last_line_of_failed_build(tmp_path, **environment):
    command = (sys.executable, "setup.py", "--quiet", "build_clib", "build_ext")
    done = subprocess.run(
        (*command, "--build-lib", str(tmp_path)),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_missing_torch_is_one_sentence(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    line = last_line_of_failed_build(tmp_path, PYTHONPATH=str(tmp_path))
    assert "install torch >= 2.13" in line


def test_old_torch_is_one_sentence(tmp_path):
    (tmp_path / "torch" / "utils").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("__version__ = '2.12.1'\n")
    (tmp_path / "torch" / "utils" / "cpp_extension.py").write_text("BuildExtension = object\nCppExtension = None\n")
    line = last_line_of_failed_build(tmp_path, PYTHONPATH=str(tmp_path))
    assert line == "ls_loss needs torch >= 2.13 and found 2.12.1."


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_missing_compiler_is_one_sentence(tmp_path, variable):
    line = last_line_of_failed_build(tmp_path, **{variable: "no-such-compiler"})
    assert line.endswith("there is no no-such-compiler here.")


# The operators for C++ programs: `make ops-library`.


@pytest.fixture
def ops_library():
    if not OPS_LIBRARY.exists():
        pytest.skip("`make ops-library` builds it")
    return OPS_LIBRARY


def test_ops_library_needs_no_python(ops_library):
    symbols = run("nm", "-D", "--undefined-only", str(ops_library), cwd=ROOT).split()
    assert not [symbol for symbol in symbols if symbol.startswith(("Py", "_Py"))]
    dynamic = run("readelf", "-d", str(ops_library), cwd=ROOT)
    assert not re.search(r"NEEDED.*(python|gomp|libomp|iomp)", dynamic)


def test_ops_library_loads_into_a_c_program(ops_library, tmp_path):
    """Every symbol is resolved at once, by what libtorch brings."""
    (tmp_path / "host.c").write_text("""
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **names) {
    void *library = count == 2 ? dlopen(names[1], RTLD_NOW) : 0;
    puts(library ? "loaded" : dlerror());
    return !library;
}
""")
    run("gcc", "host.c", "-o", "host", "-ldl", cwd=tmp_path)
    libraries = ":".join(cpp_extension.library_paths())
    assert run("./host", str(ops_library), cwd=tmp_path, LD_LIBRARY_PATH=libraries) == "loaded\n"


def test_ops_library_registers_the_operators(ops_library):
    code = f"""
import torch
torch.ops.load_library({str(ops_library)!r})
args = torch.zeros(3, 10), torch.tensor([0, 1, 2]), None, 1, -100, 0.1, None, 1, 0
print(round(torch.ops.ls_loss.cross_entropy(*args).item(), 4))
"""
    assert run(sys.executable, "-c", code, cwd=ROOT).split() == ["2.3026"]
