"""Plants the bugs of mutants.py one by one, and shows which of them the tests do not find.

    python tools/mutate.py [kernels] [glue] [number]...        numbers: those mutants only, as printed
    python tools/mutate.py --check                             only whether the sources still hold every text: a second

A bug in the kernels meets the kernels' own test program (quick, scalar and AVX2, -O1), the likeliest tests first; if that finds
nothing, some Python tests. What the templates hold is mutated in AVX2 alone, which halves the time: the other instruction sets
are compiled from the same text, and all but portable C are left out. A bug in the glue meets the Python tests named below.
Works on copies under build/mutants; the glue's other objects are those of the last `make build`, whose build.ninja says how to
compile. First the sources as they are meet the same tests in the same way: what fails then would find every bug. Prints a line
for each mutant, then the share found, how many of these by a hang, and every survivor with its answer. Exit status 0 if the
unchanged sources pass, 95 % or more of all are found, none is broken and every survivor has an answer. Knows the layout of the
sources and of build/, and no arithmetic.
"""

import hashlib
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
WORK = ROOT / "build" / "mutants" / "-".join(sorted({"kernels", "glue"} & set(sys.argv)))  # each kind beside the other
SECONDS = 240  # of one run; a longer one counts as a hang. The whole C program takes 30, the Python tests a minute

HANGS = "hangs"

C_FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-w", "-Icsrc/kernels"]
ISAS = ("isa_avx2", "isa_scalar")  # the vocabularies of the others are left to the whole test program
FOLDERS = {"kernels": ("kernels", KERNELS), "glue": ("torch", GLUE)}
# The C tests that run first: cheap, and likely to find a bug in that file. The others follow if they find nothing.
USUAL = ["row_sizes", "row_options", "plane_sizes", "known_values", "smooth_labels", "empty"]
FIRST = {
    "targets.c": ["smooth_labels", "known_values", "row_options", "row_sizes", "bad_arguments"],
    "scale.c": ["scale"],
    "parallel.c": ["callers", "threads", "many_rows"],
    "planes_template.h": ["plane_sizes", "plane_logits"],
    "tile_template.h": ["plane_sizes", "plane_logits", "row_sizes"],
    "exp_log.h": ["known_values", "row_sizes", "row_logits"],
}
SUBSET = ["last_bits", "long_rows", "openmp"]  # of the Python tests, for what the test program does not find: a minute
GLUE_TESTS = {
    "autograd.cpp": [
        "grad_ownership",
        "grad_output",
        "ignored_rows",
        "autograd",
        "routing",
        "special_values",
        "compile_basic",
        "traced",
    ],
    "composite.cpp": [
        "autograd",
        "routing",
        "transforms",
        "grad_ownership",
        "ignored_rows",
        "transform_kernel",
        "vmap_kernel",
    ],
    "transforms.cpp": ["transform_kernel", "transform_levels", "vmap_kernel", "transforms"],
    "samples.cpp": ["vmap_kernel", "transform_kernel", "transforms"],
    "autocast.cpp": ["vmap_kernel", "transform_levels", "autocast"],
    "routing.cpp": ["routing", "transforms", "transform_levels", "errors", "dispatch"],
    "cpu.cpp": ["routing", "forward", "errors", "registration", "backward", "grad_output"],
    "kernel_terms.cpp": ["errors", "registration", "faults"],
    "smooth_labels.cpp": ["routing", "dispatch", "registration", "transforms", "errors"],
    "grad_buffer.cpp": ["grad_buffer", "faults"],
    "meta.cpp": ["registration", "routing", "compile_basic"],
}


class DoesNotBuild(Exception):
    pass


def run(command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise DoesNotBuild(f"{command[0]}: " + next((s for s in done.stderr.splitlines() if "error" in s), done.stderr))
    return done.stdout


def killed_by(command, failure, **options):
    """What a run of tests finds: the first line that tells of a failure, or how the process ended. Empty: nothing."""
    options.update(
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    process = subprocess.Popen(list(map(str, command)), **options)
    hung = []

    def stop():
        hung.append(True)
        os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(SECONDS, stop)
    alarm.start()
    try:
        for line in process.stdout:
            if re.search(failure, line):
                os.killpg(process.pid, signal.SIGKILL)
                return line.strip()[:100]
        status = process.wait()
        return f"{HANGS}: stopped after {SECONDS} s" if hung else f"exit status {status}" if status else ""
    finally:
        alarm.cancel()
        process.wait()


class Kernels:
    """The kernels' objects and test program, of which a mutant recompiles what includes its file, beside the unchanged ones."""

    def __init__(self, tree):
        self.tree = tree
        self.sources = sorted(tree.glob("csrc/kernels/*.c"))
        left_out = [s for s in self.sources if s.stem.startswith("isa_") and s.stem not in ISAS]
        self.sources = [s for s in self.sources if s not in left_out]
        names = (s.stem.removeprefix("isa_") for s in left_out)
        stub = tree / "left_out.c"
        stub.write_text(
            '#include "csrc/kernels/isa.h"\n'
            + "".join(f"const ls_isa_kernels *const ls_kernels_{name} = 0;\n" for name in names)
        )
        others = ("exp_table.c", "exp_table_isa.c", "fuzz_kernels.c", "replay.c")
        tests = [s for s in sorted(tree.glob("tests/kernels/*.c")) if s.name not in others]
        self.depends = {source: self.headers(source) for source in self.sources}
        self.stub = self.compile(stub, self.objects())
        self.tests = [self.compile(source, self.objects(), "-O2") for source in tests]
        self.kernels = {source: self.compile(source, self.objects()) for source in self.sources}

    def objects(self):
        """A folder for what the unchanged sources give: the next run finds it there."""
        digest = hashlib.sha256(" ".join(C_FLAGS).encode())
        for file in sorted(self.tree.glob("*/kernels/*.[ch]")):
            digest.update(file.read_bytes())
        return WORK / f"objects-{digest.hexdigest()[:12]}"

    def compile(self, source, folder, *flags):
        folder.mkdir(exist_ok=True)
        to = folder / f"{source.parent.name}-{source.stem}.o"
        if not to.exists():
            run(["gcc", *C_FLAGS, *flags, "-c", source, "-o", to], cwd=self.tree)
        return to

    def headers(self, source):
        rule = run(["gcc", *C_FLAGS, "-MM", source], cwd=self.tree)
        return {Path(name).name for name in rule.replace("\\\n", " ").split()[1:]}

    def compiles(self, name):
        found = [source for source, headers in self.depends.items() if name in headers]
        with_avx2 = any(source.stem == "isa_avx2" for source in found)
        return [source for source in found if not (with_avx2 and source.stem == "isa_scalar")]

    def find(self, name):
        folder = WORK / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        changed = {source: self.compile(source, folder) for source in self.compiles(name)}
        if all(path.read_bytes() == self.kernels[source].read_bytes() for source, path in changed.items()):
            return ""  # the same machine code: no test can tell
        return self.test({**self.kernels, **changed}.values(), FIRST.get(name, USUAL))

    def find_unchanged(self, names):
        return self.test(self.kernels.values(), USUAL) if names else ""

    def test(self, objects, first):
        program = WORK / "test_kernels"
        run(["gcc", "-fopenmp", *objects, self.stub, *self.tests, "-lm", "-o", program])
        rest = [
            n
            for n in re.findall(r'\{"(\w+)", test_', (self.tree / "tests/kernels/main.c").read_text())
            if n not in first
        ]
        for tests in (first, rest):
            found = killed_by([program, "quick", *tests], r" FAILED$")
            if found:
                return found
        return python_tests(SUBSET, ninja(), [*objects, self.stub])


def ninja():
    """How the last build compiled the glue: {object: command}."""
    text = (ROOT / "build" / "objects" / "build.ninja").read_text()
    settings = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
    flags = settings["cflags"], settings["post_cflags"]
    return {
        Path(to): [settings["cxx"], *" ".join(flags).replace("'", "").replace("-O3", "-O0").split()]
        for to in re.findall(r"^build (\S+\.o): compile", text, re.MULTILINE)
    }


def python_tests(names, glue, kernels):
    """Runs test files against a package of these objects."""
    from torch.utils import cpp_extension

    package = WORK / "python" / "ls_loss"
    shutil.rmtree(package.parent, ignore_errors=True)
    package.mkdir(parents=True)
    for file in (ROOT / "ls_loss").iterdir():
        if file.suffix in (".py", ".pyi", ".typed"):
            shutil.copy(file, package)
    (extension,) = (ROOT / "ls_loss").glob("_C.*.so")
    libraries = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_python", "-ltorch"]
    run(["g++", "-shared", *glue, *kernels, *libraries, "-ltorch_cpu", "-lc10", "-o", package / extension.name])
    settings = ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", ROOT / "pyproject.toml"]
    files = [ROOT / "tests" / f"test_{name}.py" for name in names]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", *settings, *files]
    return killed_by(command, r"^(FAILED|ERROR)|^E  |Fatal Python", cwd=package.parent, env=environment)


class Glue:
    """The glue's objects, of which a mutant recompiles its own."""

    def __init__(self, tree):
        self.tree, self.commands = tree, ninja()
        self.kernels = sorted((ROOT / "build" / "objects" / "csrc" / "kernels").glob("*.o"))

    def find_unchanged(self, names):
        """Each list of tests that the mutants will meet."""
        lists = {tuple(GLUE_TESTS[name]) for name in names}
        return next(filter(None, (python_tests(tests, self.commands, self.kernels) for tests in sorted(lists))), "")

    def find(self, name):
        (usual,) = (path for path in self.commands if path.stem == Path(name).stem)
        to, source = WORK / "mutant.o", self.tree / "csrc" / "torch" / name
        include = f"-I{self.tree / 'csrc' / 'kernels'}"
        run([*self.commands[usual], "-w", include, "-c", source, "-o", to], cwd=self.tree)
        return python_tests(GLUE_TESTS[name], [to, *(path for path in self.commands if path != usual)], self.kernels)


def label_of(kind, number, mutant):
    return f"{kind} {number} {mutant[0]}: {mutant[1].strip()[:60]!r} -> {mutant[2].strip()[:60]!r}"


def missing(chosen):
    """Of those chosen, the mutants whose text the sources do not hold."""
    for kind, (folder, mutants) in FOLDERS.items():
        for number, mutant in enumerate(mutants):
            path = ROOT / "csrc" / folder / mutant[0]
            if chosen and number not in chosen:
                continue
            if not path.exists() or mutant[1] not in path.read_text():
                yield f"not found: {label_of(kind, number, mutant)}"


def plant(side, tree, folder, mutant):
    """Returns what finds the mutant; empty: nothing."""
    path = tree / "csrc" / folder / mutant[0]
    original = path.read_text()
    path.write_text(original.replace(mutant[1], mutant[2], 1))
    try:
        return side.find(mutant[0])
    finally:
        path.write_text(original)


def try_all(kind, chosen, tree):
    """Tries the mutants of one kind; (how many, the killed, those by a hang, lines on the others, whether all is well)."""
    folder, mutants = FOLDERS[kind]
    side = {"kernels": Kernels, "glue": Glue}[kind](tree)
    numbers = [number for number in range(len(mutants)) if not chosen or number in chosen]
    found = side.find_unchanged({mutants[number][0] for number in numbers})
    print(
        f"the unchanged {kind}: " + (f"FAILED, no verdict means anything  [{found}]" if found else "nothing found"),
        flush=True,
    )
    killed, hung, others, well = 0, 0, [], not found
    for number in numbers:
        mutant, begin = mutants[number], time.monotonic()
        label = label_of(kind, number, mutant)
        try:
            found = plant(side, tree, folder, mutant)
        except DoesNotBuild as error:
            print(f"BROKEN   {label}  [{error}]", flush=True)
            others += [f"survives, for it does not build: {label}"]
            well = False
            continue
        verdict = "killed  " if found else "SURVIVES"
        print(f"{verdict} {time.monotonic() - begin:5.0f} s  {label}  [{found}]", flush=True)
        killed += bool(found)
        hung += found.startswith(HANGS)
        if not found:
            answer = mutant[3] if len(mutant) > 3 else "NONE"
            well &= len(mutant) > 3
            others += [f"survives: {label}", f"    answer: {answer}"]
    return len(numbers), killed, hung, others, well


def main(arguments):
    chosen = {int(a) for a in arguments if a.isdigit()}
    lost = list(missing(chosen))
    if lost or "--check" in arguments:
        print("\n".join([*lost, f"{len(lost)} of {len(KERNELS) + len(GLUE)} mutants not found in the sources"]))
        return bool(lost)
    kinds = [a for a in arguments if not a.isdigit()] or list(FOLDERS)
    WORK.mkdir(parents=True, exist_ok=True)
    tree = WORK / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("csrc/kernels", "csrc/torch", "tests/kernels"):
        shutil.copytree(ROOT / folder, tree / folder)
    begin, total, killed, others, well = time.monotonic(), 0, 0, [], True
    for kind in kinds:
        count, found, hung, lines, fine = try_all(kind, chosen, tree)
        print(
            f"{found} of {count} mutants of the {kind} killed, {100 * found / max(count, 1):.1f} %, {hung} of them by a hang"
        )
        total, killed, others, well = total + count, killed + found, others + lines, well and fine
    share = 100 * killed / max(total, 1)
    print(f"{killed} of {total} mutants in all killed, {share:.1f} %, in {(time.monotonic() - begin) / 60:.0f} minutes")
    print("\n".join(others))
    return not (share >= 95 and well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
