"""How Sphinx builds the site: make docs. MathJax is part of the site: nothing is loaded from elsewhere.

Must not hold text; that is in the pages.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ls_loss"
author = copyright = "the ls_loss authors"
release = version = version_of("ls_loss")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["toc.not_readable"]  # pages that the index names and a release may lack

html_theme = "furo"
html_title = f"ls_loss {version}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["../build/mathjax", "site.css"]  # the former is fetched by make docs
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"
