"""What can be known of a build: how the extension is hardened, the hashes of the tools, the bill of materials, the workflows.

Reads the extension that is installed and files of the source tree. Builds nothing, and asks no registry.
"""

import json
import re
import runpy
import subprocess
import zlib
from fnmatch import fnmatch
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = Path(find_spec("ls_loss._C").origin)
OPS_LIBRARY = ROOT / "build" / "libls_loss_ops.so"


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(params=[EXTENSION, OPS_LIBRARY], ids=["extension", "ops library"])
def library(request):
    if not request.param.exists():
        pytest.skip("`make ops-library` builds it")
    return request.param


def test_loads_hardened(library):
    """Relocations are done at once and read-only then; no memory is both writable and executable, not even the stack."""
    segments = output("readelf", "-lW", str(library))
    assert "GNU_RELRO" in segments
    flags = dict(re.findall(r"^ +(LOAD|GNU_STACK) .* ([R ][W ][E ]) +0x", segments, re.MULTILINE))
    assert set(flags) == {"LOAD", "GNU_STACK"}
    assert not re.search(r" [R ]WE +0x", segments)
    assert flags["GNU_STACK"] == "RW "
    dynamic = output("readelf", "-dW", str(library))
    assert re.search(r"BIND_NOW|Flags:.* NOW", dynamic)
    assert "TEXTREL" not in dynamic
    assert not re.search(r"R(UN)?PATH", dynamic)


def test_stack_is_protected(library):
    assert "__stack_chk_fail" in output("nm", "-D", "--undefined-only", str(library))


def test_names_no_folder_of_this_machine(library):
    """Messages of failed checks name the source by its path in the project or in torch."""
    content = library.read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent):
        assert bytes(folder) not in content
    assert b"csrc/torch/" in content


def test_is_small():
    """A wheel of it stays under 2 MB. It is compressed as the wheel is, without the little that Python adds."""
    if ".debug_info" in output("readelf", "-SW", str(EXTENSION)):
        pytest.skip("built with DEBUG=1")
    assert len(zlib.compress(EXTENSION.read_bytes())) < 1.9e6


# The tools of the development environment.


def pins(*names):
    """Name, version and the condition of every pin in requirement files."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in names).replace("\\\n", "")
    lines = [re.sub(r"--hash=\S+|#.*", "", line).strip() for line in text.splitlines()]
    return {
        (one.name.lower(), str(one.specifier), str(one.marker or "").replace("python_full_version", "python_version"))
        for one in map(Requirement, filter(None, lines))
    }


@pytest.mark.parametrize(
    "lock, sources",
    [
        ("requirements-dev.lock", ["requirements-dev.txt", "requirements-peers.txt"]),
        ("requirements-docs.lock", ["requirements-docs.txt"]),
        ("requirements-trainers.lock", ["requirements-trainers.txt"]),
    ],
)
def test_every_pin_but_torch_has_hashes(lock, sources):
    """`make lock` writes them."""
    assert pins(lock) == {pin for pin in pins(*sources) if pin[0] != "torch"}
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text(encoding="utf-8"))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries if not entry.startswith("#"))


def test_bill_of_materials():
    """Of what is installed, torch and what torch needs are required, and nothing else is."""
    bill = runpy.run_path(str(ROOT / "tools" / "sbom.py"))["bill"]()
    assert json.loads(json.dumps(bill))["bomFormat"] == "CycloneDX"
    listed = {one["bom-ref"]: one for one in bill["components"]}
    assert listed["torch"]["version"] == metadata.version("torch")
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert needs["ls-loss"] == ["torch"]
    required = {name for name, one in listed.items() if one["scope"] == "required"}
    assert {"torch", *needs["torch"]} <= required
    assert "pytest" in listed.keys() - required
    assert set(needs["pytest"]) <= listed.keys()


# Release and continuous integration.


def test_repair_of_wheels_leaves_out_what_torch_brings(library):
    command = re.search(r'repair-wheel-command = """(.*?)"""', (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL)
    excluded = re.findall(r"--exclude '(\S+)'", command[1])
    folder = Path(torch.__file__).parent / "lib"
    needed = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-dW", str(library)))
    of_torch = [name for name in (*needed, "libtorch_python.so") if (folder / name).exists()]
    assert {"libc10.so", "libtorch_cpu.so"} <= set(of_torch)
    for name in (*of_torch, "libgomp.so.1"):
        assert any(fnmatch(name, pattern) for pattern in excluded), name


@pytest.mark.parametrize("name", ["ci", "release"])
def test_workflows_can_be_read(name):
    """Both architectures, no more rights than reading, and every action by its commit: a tag can be moved."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    runners = {
        runner
        for job in workflow["jobs"].values()
        for runner in job.get("strategy", {}).get("matrix", {}).get("runner", [])
    }
    assert runners == {"ubuntu-24.04", "ubuntu-24.04-arm"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
