"""Builds ls_loss: the C kernels as a static library, the C++ glue as the extension `ls_loss._C` that takes them in.

Metadata is in pyproject.toml. The kernels are compiled with OpenMP but the extension is linked without it, so that they
run in the OpenMP runtime that torch has loaded; where the compiler is not gcc, in torch's own parallel loop instead.
"""

import os
import shlex
import shutil
import subprocess
from glob import glob
from multiprocessing.pool import ThreadPool

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
if tuple(map(int, TORCH.split("."))) < (2, 13):
    raise SystemExit(f"ls_loss needs torch >= 2.13 and found {torch.__version__}.")

KERNELS, HEADERS = sorted(glob("csrc/kernels/*.c")), sorted(glob("csrc/*/*.h"))
OBJECTS, ARCHIVE = "build/objects", "build/archive"  # kept: every way to install compiles only what changed
FLAGS = ["-O0", "-g", "-UNDEBUG"] if os.environ.get("DEBUG", "0") != "0" else ["-O3", "-g0"]
FLAGS += ["-fvisibility=hidden", "-fstack-protector-strong", "-Wall"]
# No path of this machine in what is compiled: the same bytes wherever it is built.
FLAGS += [f"-ffile-prefix-map={os.getcwd()}=.", f"-ffile-prefix-map={torch.__path__[0]}=torch"]
KERNEL_FLAGS = [*FLAGS, "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wextra"]
# Not for the kernels: it changes their loops and finds no call to check there. It needs optimisation.
GLUE_FLAGS = [*FLAGS, "-fstack-clash-protection", "-U_FORTIFY_SOURCE", f"-D_FORTIFY_SOURCE={3 * ('-O3' in FLAGS)}"]
CC, CXX = (os.environ.setdefault(name, usual) for name, usual in (("CC", "gcc"), ("CXX", "g++")))


def compiler_is_gcc():
    """Whether CC is gcc, whose OpenMP runtime is the one that torch brings."""
    for command in (CC, CXX):
        if not shutil.which(shlex.split(command)[0]):
            raise SystemExit(f"ls_loss is compiled with gcc and g++, or with CC and CXX: there is no {command} here.")
    macros = subprocess.run([*shlex.split(CC), "-dM", "-E", "-"], input="", capture_output=True, text=True, check=True)
    return "__GNUC__" in macros.stdout and "__clang__" not in macros.stdout


class BuildKernels(build_clib):
    """The static library, with OpenMP where the compiler's runtime is torch's; compiles its files side by side."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp, self.build_clib = OBJECTS, ARCHIVE

    def build_libraries(self, libraries):
        openmp = ["-fopenmp"] if compiler_is_gcc() else []
        compile_files = self.compiler.compile

        def compile_side_by_side(sources, *, extra_postargs, **options):
            with ThreadPool(int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
                pool.map(lambda file: compile_files([file], extra_postargs=extra_postargs + openmp, **options), sources)

        self.compiler.compile = compile_side_by_side
        shutil.rmtree(ARCHIVE, ignore_errors=True)  # ar would keep the objects of removed sources
        super().build_libraries(libraries)


class BuildGlue(BuildExtension):
    """The extension, told its version and whether the kernels come with threads of their own."""

    def build_extensions(self):
        self.build_temp = OBJECTS
        (extension,) = self.extensions
        extension.define_macros.append(("LS_LOSS_VERSION", f'"{self.distribution.get_version()}"'))
        if not compiler_is_gcc():
            extension.define_macros.append(("LS_USE_TORCH_PARALLEL_FOR", None))
        super().build_extensions()


setup(
    install_requires=[f"torch=={TORCH}.*"],
    libraries=[("ls_kernels", {"sources": KERNELS, "cflags": KERNEL_FLAGS, "obj_deps": {"": [*HEADERS, "setup.py"]}})],
    ext_modules=[
        CppExtension(
            "ls_loss._C",
            sorted(glob("csrc/torch/*.cpp")),
            include_dirs=[os.path.abspath("csrc/kernels")],
            depends=[*KERNELS, *HEADERS],
            extra_compile_args={"cxx": GLUE_FLAGS},
            extra_link_args=["-Wl,-z,relro,-z,now,-z,noexecstack"],
        )
    ],
    cmdclass={"build_clib": BuildKernels, "build_ext": BuildGlue},
)
