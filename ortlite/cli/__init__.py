"""The `ortlite` command: see what it does (`demo`), run any model (`run`).

Exit status: 0 when all went well, 1 when a model or its input is at fault (one line on stderr says why), 2 for a
command line that makes no sense.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

import ortlite

__all__ = ["main"]


class _Failures(click.Group):
    """Errors of models and inputs as one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from ortlite.api.errors import OrtError

        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # they are RuntimeErrors, but not failures
            raise
        except (OrtError, OSError, ValueError, RuntimeError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise click.ClickException(message) from error


@click.group(cls=_Failures, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ortlite.__version__, prog_name="ortlite")
def main() -> None:
    """One ONNX runtime for every array library."""


@main.command()
def demo() -> None:
    """Read handwritten digits with a small model, on every provider there is."""
    from ortlite.cli import digits

    out = console()
    digits.show_scans(out)
    out.print()
    digits.compare_providers(out)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "files", multiple=True, metavar="NAME=FILE", help="A .npy, .npz or .png file for an input.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Shape of an input that is made up, or NAME=4 for an open dimension.",
)
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", help="Execution provider, in order; repeatable."
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Timed runs after the first.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the outputs to this .npz file.")
def run(
    model: Path,
    files: tuple[str, ...],
    shapes: tuple[str, ...],
    providers: tuple[str, ...],
    runs: int,
    save: Path | None,
) -> None:
    """Run MODEL on the given inputs; inputs that are not given are made up."""
    from ortlite.cli import report

    out = console()
    waiting = console(stderr=True)
    with waiting.status("running") if waiting.is_terminal else nullcontext():
        result = report.run_model(model, pairs(files), pairs(shapes), providers, runs)
    report.show(out, result)
    if save is not None:
        report.save(save, result.outputs)
        out.print(f"saved {save}", markup=False, highlight=False, soft_wrap=True)


def pairs(options: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE options as a dict. Raises click.UsageError for one without "=" or a name given twice."""
    found: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"{option!r} is not NAME=VALUE")
        if name in found:
            raise click.UsageError(f"{name!r} is given twice")
        found[name] = value
    return found


def console(stderr: bool = False) -> Console:
    """Rich on a terminal; plain text, never wrapped, when piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr) if stream.isatty() else Console(stderr=stderr, width=10_000, color_system=None)
