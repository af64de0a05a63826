"""How sphinx builds the pages: `nox -s docs`.

The source folder is the whole repository, of which the Markdown files named below become pages: so a link from one of
them to another is the same path here and wherever the repository is read.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import ortlite  # noqa: E402

project, author, copyright = "ortlite", "The ortlite developers", "The ortlite developers, Apache-2.0"  # noqa: A001
release = version = ortlite.__version__

include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/reference/*.md", "backends/README.md"]
include_patterns += ["ortlite/**/README.md", "benchmarks/*.md", "conformance/*.md", "conformance/results/*.md"]
exclude_patterns = [".*", "**/.*", "out", "build", "dist", "tests"]
root_doc = "docs/index"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"ortlite {release}"
html_baseurl = ""
html_show_sourcelink = html_copy_source = False
html_additional_pages = {"index": "start.html"}
templates_path = ["templates"]

OPTIONAL = ("torch", "dask", "ray", "pyspark", "pandas", "pyarrow", "mlx")  # what public modules need to be imported
autodoc_mock_imports = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
add_module_names = False
default_role = "literal"
highlight_language = "text"  # of blocks without a language: they are output

suppress_warnings = ["ref.python"]  # the `type` of an annotation is Python's, whatever attributes have that name

linkcheck_anchors = False
linkcheck_timeout = 20


def _code_is_literal(app, what, name, obj, options, lines):  # noqa: ANN001, ANN202
    """In docstrings code stands between single backticks, as in Markdown; sphinx reads reStructuredText."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", "\n".join(lines))
    lines[:] = text.replace("\\ \n", "\n").split("\n")


def setup(app):  # noqa: ANN001, ANN201
    """Called by sphinx."""
    app.connect("autodoc-process-docstring", _code_is_literal)
