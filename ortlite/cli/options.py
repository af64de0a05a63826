"""Options of the command line that name what they are for: NAME=VALUE."""

from __future__ import annotations

import click

__all__ = ["pairs", "sizes"]


def sizes(options: tuple[str, ...]) -> dict[str, int]:
    """NAME=NUMBER options as a dict. Raises click.UsageError for what is no positive number."""
    found = pairs("--dim", options)
    for name, value in found.items():
        if not value.isdecimal():
            raise click.UsageError(f"--dim {name}: {value!r} is not a number")
    return {name: int(value) for name, value in found.items()}


def pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    """What was `given` to an option as NAME=VALUE, as a dict.

    Raises click.UsageError, which names the option, for what has no "=" and for a name given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"{option}: {text!r} is not NAME=VALUE")
        if name in found:
            raise click.UsageError(f"{option}: {name!r} is given twice")
        found[name] = value
    return found
