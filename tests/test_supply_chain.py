"""What is built can be trusted as far as a build can help: hardened by compiler and linker, the same bytes anywhere.

Reads the extension that is installed and files of the source tree. Builds nothing, and asks no registry.
"""

import re
import subprocess
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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
