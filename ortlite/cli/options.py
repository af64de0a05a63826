"""Options of the command line that name what they are for: NAME=VALUE."""

from __future__ import annotations

import click

__all__ = ["pairs", "sizes"]


def sizes(options: tuple[str, ...]) -> dict[str, int]:
    """NAME=NUMBER options as a dict. Raises click.UsageError for what is no positive number."""
    found = pairs(options)
    for name, value in found.items():
        if not value.isdecimal():
            raise click.UsageError(f"--dim {name}: {value!r} is not a number")
    return {name: int(value) for name, value in found.items()}


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
