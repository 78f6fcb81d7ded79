"""Writes compile_commands.json, for clangd and other tools that read C and C++: python tools/compile_commands.py

Takes files and flags from setup.py, which is run with a setup() that builds nothing. Must not repeat a flag.
"""

import json
import os
import runpy
import sysconfig
from pathlib import Path

import setuptools

ROOT = Path(__file__).parents[1]
KERNEL_TEST_FLAGS = ["-fopenmp", "-Icsrc/kernels"]


def commands():
    """One entry for every source file of the kernels, of their tests and of the glue."""
    arguments = {}
    setuptools.setup = arguments.update
    build = runpy.run_path("setup.py")
    (extension,) = arguments["ext_modules"]
    kernels = [build["CC"], *build["KERNEL_FLAGS"], *KERNEL_TEST_FLAGS, "-c"]
    includes = [f"-I{folder}" for folder in (*extension.include_dirs, sysconfig.get_path("include"))]
    # What torch's BuildExtension adds, and setup.py at the end of the build.
    added = ["-std=c++20", '-DLS_LOSS_VERSION="0"', "-DTORCH_EXTENSION_NAME=_C"]
    glue = [build["CXX"], *extension.extra_compile_args["cxx"], *includes, *added, "-c"]
    kernel_files = [*build["KERNELS"], *map(str, Path("tests/kernels").glob("*.c"))]
    for command, files in ((kernels, kernel_files), (glue, extension.sources)):
        yield from ({"directory": str(ROOT), "file": file, "arguments": [*command, file]} for file in sorted(files))


if __name__ == "__main__":
    os.chdir(ROOT)
    entries = list(commands())
    Path("compile_commands.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    print(f"compile_commands.json: {len(entries)} files")
