"""The `ortlite` command: `demo`, run a model (`run`), `compare` libraries, `optimize` a file, compile ahead (`warm`).

And to see: `info`, `check`, `bench` and `profile`, whose Python twins are in `ortlite.tools`.

Exit status: 0 when all went well, 1 when a model or its input is at fault (one line on stderr says why) or when
`compare` finds a difference beyond tolerance, 2 for a command line that makes no sense.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import click

import ortlite
from ortlite.cli import running, seeing

__all__ = ["main"]


class _Failures(click.Group):
    """Errors of models and inputs as one line and exit status 1, warnings as one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        from ortlite.errors import OrtError

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")  # files need not be called in what it can write
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warned
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # they are RuntimeErrors, but not failures
            raise
        except BrokenPipeError:  # who reads has seen enough: click ends without a word
            raise
        except (OrtError, OSError, ValueError, RuntimeError, ImportError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise click.ClickException(message) from error


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning without the line of Python that gave it."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_Failures, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ortlite.__version__, prog_name="ortlite")
def main() -> None:
    """One ONNX runtime for every array library."""


for command in (
    running.demo, running.run, running.optimize_file, running.compare_libraries, running.warm,
    seeing.model_info, seeing.check_model, seeing.bench_model, seeing.profile_model,
):  # fmt: skip
    main.add_command(command)
