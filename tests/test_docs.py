"""The pages of docs/ and the examples of docstrings: what they show is what happens.

Examples that need torch, jax or another library (`pages.OPTIONAL`) are skipped, visibly, where it is not installed.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from markdown_it import MarkdownIt

import ortlite
from ortlite.ops import registry

ROOT = Path(__file__).parent.parent
FOLDERS = "docs backends benchmarks conformance ortlite".split()
ELSEWHERE = {"scaling.md"}  # tests/scale/ has clusters for its examples
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ELSEWHERE]
PAGES += [ROOT / "backends" / "README.md"]
PAGES += [ROOT / "ortlite" / "ops" / "README.md", ROOT / "ortlite" / "demo" / "README.md"]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
MODULES = [path for folder in ("ortlite", "backends") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md")))]
EXAMPLES = [path for path in MODULES if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)]


def cases():
    """Each page with what always runs, and once more with each library that some of its blocks need."""
    for page in PAGES:
        found = pages.blocks(page.read_text(encoding="utf-8"))
        for library in ("", *sorted(set().union(*(block.needs() for block in found)))):
            if found:
                marks = [] if library else [pytest.mark.once]
                yield pytest.param(page, library, id=f"{page.relative_to(ROOT)}-{library or 'plain'}", marks=marks)


@pytest.mark.parametrize(("page", "library"), list(cases()))
def test_the_examples_of_a_page_run_and_print_what_it_says(page, library):
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"no {library}")
    command = [sys.executable, "-W", "error::UserWarning:__main__", str(pages.__file__), str(page), library]
    env = {**os.environ, "ORTLITE_COMPILED": "0"}  # a page starts up to ten processes, each of which would load kernels
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", ["```python\nprint(1)\n```\n\n```\n2\n```\n", "```python\nprint(1 / 0)\n```\n"])
def test_a_false_example_fails(tmp_path, text):
    (tmp_path / "page.md").write_text(text)
    command = [sys.executable, str(pages.__file__), str(tmp_path / "page.md")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_of_docstrings_are_true(path, monkeypatch):
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[1:] if parts[0] == "backends" else parts).removesuffix(".__init__")
    if parts[0] == "backends":
        pytest.importorskip(parts[1].removeprefix("ortlite_"))
    list(registry.kernels())  # fills the table, once in a process
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))  # what examples register is theirs
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path):
    inline = [token for token in MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8")) if token.children]
    links = [child.attrs for token in inline for child in token.children if child.type in {"link_open", "image"}]
    targets = [str(link.get("href") or link.get("src")).partition("#")[0] for link in links]
    assert [target for target in targets if ":" not in target and not (path.parent / target).exists()] == []


def test_the_reference_has_every_public_name():
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    named = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", text, re.MULTILINE))
    listed = {name.rpartition(".")[2] for name in named}
    assert sorted(set(ortlite.__all__) - {"__version__"} - listed) == []
