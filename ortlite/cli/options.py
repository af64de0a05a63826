"""Options of the command line that several commands have, and how what is given to one is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

__all__ = ["duration", "given_inputs", "limited", "numbers", "pairs", "sizes"]


def given_inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model runs on, and a hint where it fails on what nobody gave."""

    @wraps(command)
    def hinting(*args: Any, model: Path, files: tuple[str, ...], shapes: tuple[str, ...], **keywords: Any) -> Any:
        from ortlite.errors import LimitExceeded, OrtError

        try:
            return command(*args, model=model, files=files, shapes=shapes, **keywords)
        except OrtError as error:
            if error.node is None or isinstance(error, LimitExceeded):
                raise
            names = _made_up(model, pairs("--input", files), pairs("--shape", shapes))
            if not names:
                raise
            hint = f"dimensions that nobody gave were made up as 1: --shape NAME=8 for one of {', '.join(names)}"
            raise ValueError(f"{error}; {hint}") from error

    shape = click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=1,3,224,224",
        help="Shape of an input that is made up, or NAME=4 for an open dimension.",
    )
    file = click.option(
        "--input", "files", multiple=True, metavar="NAME=FILE", help="A .npy, .npz or .png file for an input."
    )
    return file(shape(hinting))


def _made_up(model: Path, files: Mapping[str, str], shapes: Mapping[str, str]) -> list[str]:
    """The open dimensions of a model's inputs that nobody gave."""
    from ortlite.api.description import declared
    from ortlite.load import load
    from ortlite.tools.inputs import made_up_dimensions

    args, _ = declared(load(model).graph)
    return made_up_dimensions(args, files, shapes)


def limited(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model may take, for a command that loads one."""

    @wraps(command)
    def within(*args: Any, limits: str, bounds: tuple[str, ...], **keywords: Any) -> Any:
        from ortlite.limits import applied, parse

        try:
            found = parse(limits, pairs("--limit", bounds))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        with applied(found):
            return command(*args, **keywords)

    base = click.option(
        "--limits",
        type=click.Choice(["", "untrusted"]),
        default="",
        metavar="untrusted",
        help="Keep to what a stranger's model may take: ortlite.Limits.untrusted().",
    )
    one = click.option(
        "--limit", "bounds", multiple=True, metavar="NAME=1e8", help="One bound of ortlite.Limits; NAME=none lifts it."
    )
    return base(one(within))


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


def numbers(option: str, text: str) -> list[Any]:
    """The numbers in "1,8". Raises click.UsageError for what is none."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() for word in words):
        raise click.UsageError(f"{option}: {text!r} is no list of numbers such as 1,8")
    return list(map(int, words))


def duration(text: str) -> float:
    """Seconds of "3s", "250ms", "2min" or "3". Raises click.UsageError for what is no duration."""
    for unit, factor in (("ms", 1e-3), ("min", 60.0), ("s", 1.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                seconds = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 < seconds < math.inf:
                return seconds
    raise click.UsageError(f"--duration: {text!r} is no duration such as 3s or 250ms")
