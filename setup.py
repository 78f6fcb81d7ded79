"""Builds ls_loss: the C kernels as a static library, the C++ glue as the extension `ls_loss._C` that takes them in.

Metadata is in pyproject.toml. The kernels are compiled with OpenMP but the extension is linked without it, so that they
run in the OpenMP runtime that torch has loaded; where the compiler is not gcc, in torch's own parallel loop instead.
"""

import os
import shlex
import shutil
import subprocess
from glob import glob

from setuptools import setup
from setuptools.command.build_clib import build_clib

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise SystemExit(
        "ls_loss is compiled against the torch it will run with, and there is none here: "
        "install torch >= 2.13, then use `pip install --no-build-isolation`."
    ) from None

TORCH = ".".join(torch.__version__.split(".")[:2])
KERNELS, HEADERS = sorted(glob("csrc/kernels/*.c")), sorted(glob("csrc/*/*.h"))
OBJECTS, ARCHIVE = "build/objects", "build/archive"  # kept: every way to install compiles only what changed
DEBUG = os.environ.get("DEBUG", "0") != "0"
FLAGS = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
FLAGS += ["-fvisibility=hidden", "-fstack-protector-strong", "-Wall"]
KERNEL_FLAGS = [*FLAGS, "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wextra"]


def compiler_is_gcc():
    """Whether CC is gcc, whose OpenMP runtime is the one that torch brings."""
    for variable in ("CC", "CXX"):
        command = os.environ[variable]
        if not shutil.which(shlex.split(command)[0]):
            raise SystemExit(
                "ls_loss is compiled from C and C++ and needs gcc and g++, or what the variables CC and CXX name: "
                f"there is no {command} here."
            )
    dump = [*shlex.split(os.environ["CC"]), "-dM", "-E", "-"]
    macros = subprocess.run(dump, input="", capture_output=True, text=True, check=True).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


class BuildKernels(build_clib):
    """The static library, with OpenMP where the compiler's runtime is torch's."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp, self.build_clib = OBJECTS, ARCHIVE

    def build_libraries(self, libraries):
        shutil.rmtree(ARCHIVE, ignore_errors=True)  # ar would keep the objects of removed sources
        if compiler_is_gcc():
            for _, library in libraries:
                library["cflags"].append("-fopenmp")
        super().build_libraries(libraries)


class BuildGlue(BuildExtension):
    """The extension, told its version and whether the kernels come with threads of their own."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = OBJECTS

    def build_extensions(self):
        (extension,) = self.extensions
        extension.define_macros.append(("LS_LOSS_VERSION", f'"{self.distribution.get_version()}"'))
        if not compiler_is_gcc():
            extension.define_macros.append(("LS_USE_TORCH_PARALLEL_FOR", None))
        super().build_extensions()


if tuple(map(int, TORCH.split("."))) < (2, 13):
    raise SystemExit(f"ls_loss needs torch >= 2.13 and found {torch.__version__}.")
os.environ.setdefault("CC", "gcc")
os.environ.setdefault("CXX", "g++")

setup(
    install_requires=[f"torch=={TORCH}.*"],
    libraries=[("ls_kernels", {"sources": KERNELS, "cflags": KERNEL_FLAGS, "obj_deps": {"": [*HEADERS, "setup.py"]}})],
    ext_modules=[
        CppExtension(
            "ls_loss._C",
            sorted(glob("csrc/torch/*.cpp")),
            include_dirs=[os.path.abspath("csrc/kernels")],
            depends=[*KERNELS, *HEADERS],
            extra_compile_args={"cxx": FLAGS},
            extra_link_args=["-Wl,-z,relro,-z,now"],
        )
    ],
    cmdclass={"build_clib": BuildKernels, "build_ext": BuildGlue},
)
