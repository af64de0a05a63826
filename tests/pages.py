"""Runs the examples of a Markdown page, as a reader would: `python tests/pages.py docs/quickstart.md [torch jax ...]`.

The Python blocks of a page run from top to bottom in one namespace, its shell blocks in between, all in one folder,
which begins empty. A block without a language right below is what the block prints (`...`: whatever). In a `console`
block `$` stands before commands, and their output follows. Of shell commands those of ortlite and Python are run; what
installs packages, or runs the tests, is not. A Python block that begins with `# name.py` is the file of that name; one
that begins with `@op(` is an excerpt of ortlite/ops. Tests in a block run, too.

A block that needs a library of OPTIONAL, because it imports it or says so (```python torch), runs only where that
library is named behind the page.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

OPTIONAL = ("torch", "jax", "bokeh", "dask", "ray", "pyspark", "mlx")  # besides what the group `test` has
CHECKER = doctest.OutputChecker()
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: the words behind its fence, what it says, its first line in the file, and the output below."""

    words: list[str]
    text: str
    line: int
    output: str | None

    def needs(self) -> set[str]:
        """The libraries of OPTIONAL without which it does not run."""
        found = set(self.words[1:])
        for node in ast.walk(ast.parse(self.text if self.words[0] == "python" else "")):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0].removeprefix("ortlite_"))
        return found & set(OPTIONAL)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page that run."""
    fences = [token for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]
    lines = text.splitlines()
    found = []
    for index, fence in enumerate(fences):
        words = fence.info.split() or [""]
        if words[0] not in {"python", "sh", "console"}:
            continue
        output = None
        if index + 1 < len(fences) and not fences[index + 1].info and words[0] == "python":
            between = lines[fence.map[1] : fences[index + 1].map[0]]
            output = None if any(line.strip() for line in between) else fences[index + 1].content
        found.append(Block(words, fence.content, fence.map[0] + 1, output))
    return found


def commands(block: Block) -> list[tuple[str, str | None]]:
    """The commands of a shell block that run, each with its output where the page shows it."""
    if block.words[0] == "sh":
        joined = block.text.replace("\\\n", " ").splitlines()
        return [(line, None) for line in joined if line.split()[:1] in (["ortlite"], ["python"])]
    found = []
    for part in ("\n" + block.text).split("\n$ ")[1:]:
        command, _, output = part.partition("\n")
        found.append((command, output))
    return found


def run(page: Path, libraries: set[str]) -> None:
    """Run a page's blocks that need no library but these. Raises what an example raises, AssertionError for outputs."""
    scope = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page}:{block.line}"
        if block.needs() - libraries:
            continue
        if named := re.match(r"# (\w+\.py)\n", block.text):
            Path(named[1]).write_text(block.text, encoding="utf-8")
        elif block.text.startswith("@op("):
            sources = (Path(__file__).parents[1] / "ortlite" / "ops").glob("*.py")
            assert any(block.text in source.read_text(encoding="utf-8") for source in sources), (
                f"{where}: no such kernel"
            )
        elif block.words[0] == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, scope)
                for test in re.findall(r"^def (test_\w+)\(\)", block.text, re.MULTILINE):
                    scope[test]()
            expect(where, block.output, printed.getvalue())
        else:
            for command, output in commands(block):
                shell(f"{where}: {command}", command, output)


def shell(where: str, command: str, output: str | None) -> None:
    """Run a command of ortlite or Python. One whose output the page shows may fail."""
    words = shlex.split(command, comments=True)
    words[:1] = [sys.executable, "-m", "ortlite"] if words[0] == "ortlite" else [sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 or output, f"{where}: {done.stdout}{done.stderr}"
    expect(where, output, done.stdout + done.stderr)


def expect(where: str, wanted: str | None, got: str) -> None:
    """Raise AssertionError where an example prints something else than the page says."""
    if wanted is not None and not CHECKER.check_output(wanted, got, LOOSE):
        raise AssertionError(f"{where} says\n{wanted}\nand prints\n{got}")


if __name__ == "__main__":
    given = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(given, set(sys.argv[2:]))
