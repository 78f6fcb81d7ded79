"""Plants the bugs of mutants.py one by one, and shows which of them the tests do not find.

    python tools/mutate.py [kernels] [glue] [number]...        numbers: those mutants only, as printed

A bug in the kernels meets the kernels' own test program (quick, scalar and AVX2, unoptimised); if that finds nothing, some
Python tests. A bug in the glue meets the Python tests named below. Works on copies under build/mutants; the glue's other
objects are those of the last `make build`, whose build.ninja says how to compile. Prints a line for each mutant, then the share
found; exit status 0 if that is 95 % or more. Knows the layout of the sources and of build/, and no arithmetic.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mutants import GLUE, KERNELS

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
SECONDS = 1200  # of one run; a longer one counts as a hang

C_FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-w", "-Icsrc/kernels"]
EXCLUDED = "isa_avx512"  # the templates are the same; its vocabulary is left to the whole test program
SUBSET = ["last_bits", "long_rows", "openmp"]  # of the Python tests, for what the test program does not find
GLUE_TESTS = {
    "autograd.cpp": ["grad_ownership", "autograd", "routing", "special_values", "compile_basic"],
    "composite.cpp": ["autograd", "routing", "transforms", "grad_ownership", "ignored_rows"],
    "routing.cpp": ["routing", "transforms", "errors"],
    "cpu.cpp": ["routing", "forward", "errors", "registration"],
    "grad_buffer.cpp": ["grad_buffer"],
    "meta.cpp": ["registration", "routing", "compile_basic"],
}


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.stdout


def killed_by(command, failure, **options):
    """What a run of tests finds: the first line that tells of a failure, or how the process ended. Empty: nothing."""
    options.update(
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    process = subprocess.Popen(command, **options)
    alarm = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    alarm.start()
    try:
        for line in process.stdout:
            if re.search(failure, line):
                os.killpg(process.pid, signal.SIGKILL)
                return line.strip()[:100]
        status = process.wait()
        return f"exit status {status}" if status else ""
    finally:
        alarm.cancel()
        process.wait()


def mutate(tree, folder, mutant):
    """Writes the mutated file into the copy, and returns what the file was."""
    name, text, instead = mutant
    path = tree / "csrc" / folder / name
    original = path.read_text()
    if text not in original:
        raise SystemExit(f"{name} does not hold {text!r} any more: adjust tools/mutants.py")
    path.write_text(original.replace(text, instead, 1))
    return path, original


class Kernels:
    """The kernels' objects and test program, of which a mutant rebuilds what includes its file."""

    folder, mutants = "kernels", KERNELS

    def __init__(self, tree):
        self.tree, self.objects = tree, WORK / "objects"
        self.objects.mkdir(exist_ok=True)
        self.sources = [s for s in sorted(tree.glob("csrc/kernels/*.c")) if s.stem != EXCLUDED]
        stub = tree / "excluded.c"
        stub.write_text('#include "csrc/kernels/isa.h"\nconst ls_isa_kernels *const ls_kernels_avx512 = 0;\n')
        others = ("exp_table.c", "exp_table_isa.c", "fuzz_kernels.c")
        self.tests = [s for s in sorted(tree.glob("tests/kernels/*.c")) if s.name not in others]
        self.fixed = [self.compile(source, "-O2") for source in (stub, *self.tests)]
        self.depends = {source: self.headers(source) for source in self.sources}
        self.kernels = {source: self.compile(source) for source in self.sources}

    def compile(self, source, *flags):
        to = self.objects / f"{source.parent.name}-{source.stem}.o"
        run(["gcc", *C_FLAGS, *flags, "-c", str(source), "-o", str(to)], cwd=self.tree)
        return to

    def headers(self, source):
        rule = run(["gcc", *C_FLAGS, "-MM", str(source)], cwd=self.tree)
        return {Path(name).name for name in rule.replace("\\\n", " ").split()[1:]}

    def compiles(self, name):
        return [source for source, headers in self.depends.items() if name in headers]

    def find(self, name):
        for source in self.compiles(name):
            self.compile(source)
        program = WORK / "test_kernels"
        run(["gcc", "-fopenmp", *map(str, [*self.kernels.values(), *self.fixed]), "-lm", "-o", str(program)])
        return killed_by([str(program), "quick"], r" FAILED$") or python_tests(
            SUBSET, glue_objects(), self.kernels.values(), self.fixed[:1]
        )

    def restore(self, name):
        for source in self.compiles(name):
            self.compile(source)


def ninja():
    """How the last build compiled the glue: {object: command}."""
    text = (ROOT / "build" / "objects" / "build.ninja").read_text()
    settings = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
    flags = settings["cflags"], settings["post_cflags"]
    return {
        Path(to): [settings["cxx"], *" ".join(flags).replace("'", "").replace("-O3", "-O0").split()]
        for to in re.findall(r"^build (\S+\.o): compile", text, re.MULTILINE)
    }


def glue_objects():
    return list(ninja())


def python_tests(names, glue, *kernels):
    """Runs test files against a package of these objects."""
    import torch
    from torch.utils import cpp_extension

    package = WORK / "python" / "ls_loss"
    shutil.rmtree(package.parent, ignore_errors=True)
    package.mkdir(parents=True)
    for file in (ROOT / "ls_loss").iterdir():
        if file.suffix in (".py", ".pyi", ".typed"):
            shutil.copy(file, package)
    (extension,) = (ROOT / "ls_loss").glob("_C.*.so")
    objects = [str(o) for group in (glue, *kernels) for o in group]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    run(
        [
            "g++",
            "-shared",
            *objects,
            *libraries,
            "-ltorch_python",
            "-ltorch",
            "-ltorch_cpu",
            "-lc10",
            "-o",
            str(package / extension.name),
        ]
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        f"--rootdir={ROOT}",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    assert torch.__version__
    return killed_by([*command, *files], r"^(FAILED|ERROR)|^E  |Fatal Python", cwd=package.parent, env=environment)


class Glue:
    """The glue's objects, of which a mutant rebuilds its own."""

    folder, mutants = "torch", GLUE

    def __init__(self, tree):
        self.tree, self.commands = tree, ninja()
        self.kernels = sorted((ROOT / "build" / "objects" / "csrc" / "kernels").glob("*.o"))

    def find(self, name):
        (usual,) = (path for path in self.commands if path.stem == Path(name).stem)
        to = WORK / "mutant.o"
        source = self.tree / "csrc" / "torch" / name
        run(
            [*self.commands[usual], "-w", f"-I{self.tree / 'csrc' / 'kernels'}", "-c", str(source), "-o", str(to)],
            cwd=self.tree,
        )
        return python_tests(GLUE_TESTS[name], [to, *(path for path in self.commands if path != usual)], self.kernels)

    def restore(self, name):
        pass


def main(arguments):
    chosen = {int(a) for a in arguments if a.isdigit()}
    kinds = [a for a in arguments if not a.isdigit()] or ["kernels", "glue"]
    tree = WORK / "tree"
    shutil.rmtree(WORK, ignore_errors=True)
    for folder in ("csrc/kernels", "csrc/torch", "tests/kernels"):
        shutil.copytree(ROOT / folder, tree / folder)
    total, survivors = 0, []
    for kind in kinds:
        side = {"kernels": Kernels, "glue": Glue}[kind](tree)
        for number, mutant in enumerate(side.mutants):
            if chosen and number not in chosen:
                continue
            begin = time.monotonic()
            path, original = mutate(tree, side.folder, mutant)
            found = side.find(mutant[0])
            path.write_text(original)
            side.restore(mutant[0])
            total += 1
            label = f"{kind} {number} {mutant[0]}: {mutant[1].strip()[:60]!r} -> {mutant[2].strip()[:60]!r}"
            if not found:
                survivors.append(label)
            print(
                f"{'killed  ' if found else 'SURVIVES'} {time.monotonic() - begin:5.0f} s  {label}  [{found}]",
                flush=True,
            )
    print(f"{total - len(survivors)} of {total} mutants killed, {100 * (total - len(survivors)) / total:.1f} %")
    for label in survivors:
        print(f"survives: {label}")
    return len(survivors) > 0.05 * total


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
