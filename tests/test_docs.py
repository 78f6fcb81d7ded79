"""The pages in docs/ are true: their Python runs, what they say is printed is printed, links and figures lead somewhere.

Blocks of a page run in order in one namespace, as a reader would run them. Must not need Sphinx, but for the test of the site.
"""

import importlib.util
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONAL = {
    "accelerate",
    "fastai",
    "pytorch_lightning",
    "transformers",
}  # a section that needs one is skipped without it

sys.path += [str(ROOT), str(ROOT / "examples")]
import pictures  # noqa: E402

from benchmarks import pictures as figures  # noqa: E402
from benchmarks import plot  # noqa: E402


def relative(path):
    return str(path.relative_to(DOCS))


def sections():
    """Every page with Python; that of trainers by section, for each needs another library."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        parts = re.split(r"^(?=## )", text, flags=re.MULTILINE) if page.name == "trainers.md" else [text]
        for part in parts:
            if BLOCK.search(part):
                title = relative(page) if len(parts) == 1 else f"{relative(page)} {part.splitlines()[0]}"
                yield pytest.param(part, id=title)


def dedented(indent, code):
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))


@pytest.mark.parametrize("text", list(sections()))
def test_python_runs(text, capsys, monkeypatch, tmp_path):
    """Where a comment or a block of text says what is printed, that is printed."""
    monkeypatch.chdir(tmp_path)
    blocks = [dedented(*block) for block in BLOCK.findall(text)]
    needed = {
        name for block in blocks for name in re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)
    } & OPTIONAL
    if "transformers" in needed:
        needed.add("accelerate")
    missing = [name for name in sorted(needed) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    namespace = {"__name__": "page"}
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        for block in blocks:
            exec(compile(block, "<page>", "exec"), namespace)
    printed = capsys.readouterr().out
    for promised in re.findall(r"# (tensor\(.*\))$", "".join(blocks), re.MULTILINE) + OUTPUT.findall(text):
        assert promised in printed


def test_every_fence_is_known():
    """A block in a language that this file does not run would go untested."""
    for page in PAGES:
        opened = re.findall(r"^ *```(\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(opened) <= {"python", "text", "{toctree}", "{eval-rst}", "{include}"}, relative(page)


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{relative(page)}: {target}"


def test_files_named_exist():
    """Paths in code marks, in the pages and in CONTRIBUTING.md."""
    names = re.compile(r"`((?:csrc|ls_loss|tests|benchmarks|examples|tools|docs)/[\w./-]+\.\w+)`")
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for name in names.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_make_targets_exist():
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / ".github/workflows").glob("*.yml")):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"(?:`|run: |^    )make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= known, page.name


def test_the_whole_interface_is_in_the_reference():
    import ls_loss

    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    schemas = (ROOT / "csrc" / "torch" / "schemas.cpp").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", reference, re.MULTILINE)
    assert sorted(documented) == sorted(ls_loss.__all__)
    operators = re.findall(r'define\("(\w+)\(', schemas)
    assert len(operators) == 8
    assert set(operators) <= set(re.findall(r"`(?:ls_loss::)?(\w+)", reference))


def test_support_page_has_every_probe():
    """If not: make support, or tools/support_table.py --only of what is new."""
    sys.path.append(str(ROOT / "tools"))
    import support_table

    page = (DOCS / "support.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split(" | ") for line in page.splitlines() if line.count(" | ") == 3 and line[2] != "|"]
    shown = [(feature.strip(), sentence.strip()) for feature, _, _, sentence in lines]
    features = [(name, said) for each in support_table.FEATURES.values() for name, (_, said) in each.items()]
    assert shown == features


def png_texts(data):
    """The text chunks of a PNG."""
    position, found = 8, {}
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert (
            zlib.crc32(kind + content) == struct.unpack(">I", data[position + 8 + length : position + 12 + length])[0]
        )
        if kind == b"tEXt":
            key, _, value = content.partition(b"\0")
            found[key.decode()] = value.decode()
        position += 12 + length
    return found


@pytest.mark.parametrize("name", plot.DRAWINGS)
def test_figures_are_drawn_from_the_csvs(name):
    """If not: python -m benchmarks.plot."""
    csv, _ = plot.DRAWINGS[name]
    assert source(name) == figures.digest([csv])


@pytest.mark.parametrize("name", pictures.DRAWN_BY)
def test_pictures_are_drawn_by_the_examples(name):
    """If not: python examples/<script>.py docs/figures, for the first script that pictures.DRAWN_BY names."""
    assert source(name) == figures.digest(pictures.sources(name))


def source(name):
    """The digest of what a picture was drawn from, as its file has it."""
    return png_texts((DOCS / f"figures/{name}.png").read_bytes())["Source"]


def test_every_picture_is_shown_and_small():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = list((DOCS / "figures").iterdir())
    assert {file.stem for file in files} == {*plot.DRAWINGS, *pictures.DRAWN_BY}
    for file in files:
        assert f"figures/{file.name})" in text, file.name
        assert file.stat().st_size < 100_000, file.name


class Links(HTMLParser):
    """What a page loads or leads to, and the places in it that can be led to."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.loaded, self.places, self.formulas = [], [], {""}, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.add(values.get("id", ""))
        self.formulas += "math" in values.get("class", "").split()
        if tag == "a" and values.get("href"):
            self.targets.append(values["href"])
        if tag in ("img", "script", "iframe") and values.get("src"):
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values["href"])


def test_site(tmp_path):
    """Builds without a warning; every link and figure leads to a file and a place in it; nothing is loaded from elsewhere."""
    pytest.importorskip("sphinx", reason="make docs installs it")
    for module in ("myst_parser", "furo"):
        pytest.importorskip(module, reason="make docs installs it")
    if not (ROOT / "build/mathjax/tex-svg.js").exists():
        pytest.skip("make docs fetches MathJax")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        tmp_path / "doctrees",
        DOCS,
        tmp_path / "site",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for page in PAGES:
        assert site / relative(page).replace(".md", ".html") in pages
    for path, page in pages.items():
        for target in page.targets + page.loaded:
            if re.match(r"(https?|mailto):", target):
                assert target in page.targets, f"{path.name} loads {target}"
                continue
            name, _, place = target.partition("#")
            file = (path.parent / name.partition("?")[0]).resolve() if name else path
            assert file.exists(), f"{path.name}: {target}"
            if file.suffix == ".html":
                assert place in pages[file].places, f"{path.name}: {target}"
    assert pages[site / "design.html"].formulas > 5 and pages[site / "reference.html"].formulas > 20
