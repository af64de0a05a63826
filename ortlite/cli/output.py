"""What commands print, and the folders of the files that they write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ortlite.tools.shown import Shown

__all__ = ["check_folders", "console", "show"]


def check_folders(*paths: Path | None) -> None:
    """Say before a model has run, not after, that there is no folder for a file. Raises FileNotFoundError."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is no folder to write {path.name} to")


def show(found: Shown, as_json: bool) -> None:
    """Print what a tool found: tables on a terminal, aligned plain text when piped, or JSON."""
    import json

    from ortlite.cli.grid import show_table

    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, default=str))
        return
    out = console()
    out.print(found.heading(), markup=False, highlight=False, soft_wrap=True)
    for each in found.tables():
        show_table(out, each)
    for remark in found.remarks():
        out.print(remark, markup=False, highlight=False, soft_wrap=True)


def console(stderr: bool = False) -> Console:
    """Rich on a terminal; plain text, never wrapped, when piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr) if stream.isatty() else Console(stderr=stderr, width=10_000, color_system=None)
