"""How Sphinx builds the site: make docs. Formulas become MathML, which browsers draw: nothing is loaded from elsewhere.

Must not hold text; that is in the pages.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ls_loss"
author = copyright = "the ls_loss authors"
release = version = version_of("ls_loss")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["toc.not_readable"]
nitpicky = False

html_theme = "furo"
html_title = f"ls_loss {version}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_static_path: list[str] = []


def mathml(translator: HTML5Translator, node: nodes.Element, block: bool) -> None:
    """Writes a formula; says so where the converter does not know a command."""
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer(
        "mathml",
        (lambda translator, node: mathml(translator, node, False), None),
        (lambda translator, node: mathml(translator, node, True), None),
    )
