"""Kernels written out as lines of a specialised program: the calls of a library that are left of one at a signature.

A provider records what a kernel does (`ExecutionProvider.recorder`) while the run that comes before specialising goes
on. A recording counts only where it gives what the kernel gave, bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ortlite.plan import Call
from ortlite.provider import ExecutionProvider, Recording
from ortlite.steps import Bound, ReadConst, ReadHost, ReadSlot

__all__ = ["Inlined", "inlined", "lines"]

TOKEN = re.compile(r"\bq\d+_[vt]\d+\b")  # a variable of a recording
BAKED = 1 << 12  # bytes of a static value that may stand in the code as it is

Inlined = tuple[Recording, Mapping[int, int]]  # with the slots of the arguments that are variables, by position


def inlined(
    bound: Bound, values: Sequence[Any], constants: Collection[int], static: Collection[int], shapes: Collection[int]
) -> Inlined | None:
    """What a step that has just run on `values` does, as code; None where the kernel must be called.

    `constants` are the plan's, `static` other slots whose values follow from the signature, `shapes` those whose shapes
    do.
    """
    step = bound.step
    if not isinstance(step, Call) or step.provider.recorder is None or not bound.pure or not shapes:
        return None
    kernel = step.kernel
    if kernel.host_result or kernel.python_objects or kernel.data_dependent_shape:
        return None
    slots: dict[int, int] = {}
    arguments: list[Any] = []
    for position, reader in enumerate(bound.arguments):
        if isinstance(reader, ReadConst):
            arguments.append(reader.value)
            continue
        if not isinstance(reader, ReadSlot | ReadHost):
            return None
        value = values[reader.index]
        if isinstance(reader, ReadHost):
            if reader.index not in static:
                return None
            arguments.append(reader.convert(value))
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            if reader.index not in shapes or value.dtype == object:
                return None
            if reader.index not in constants and not (reader.index in static and value.nbytes <= BAKED):
                if prod(value.shape) > step.provider.recorded_elements:
                    return None
                slots[position] = reader.index
            arguments.append(value)
        elif value is None and reader.index in static:
            arguments.append(None)
        else:
            return None
    if not slots:
        return None
    keywords = {name: reader.value for name, reader in bound.keywords if isinstance(reader, ReadConst)}
    if len(keywords) < len(bound.keywords):
        return None
    return _recorded(bound, step, arguments, keywords, slots, values)


def _recorded(
    bound: Bound,
    step: Call,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
    slots: Mapping[int, int],
    values: Sequence[Any],
) -> Inlined | None:
    record = step.provider.recorder
    assert record is not None
    prefix = f"q{next(slot for slot in bound.outputs if slot is not None)}_"
    names = {position: f"{prefix}v{slot}" for position, slot in slots.items()}
    kernel = step.kernel
    for fn in (kernel.override, kernel.fn):
        if fn is None:
            continue
        memo = {"memo": dict(keywords["memo"])} if isinstance(keywords.get("memo"), dict) else {}  # one of its own
        found = record(fn, step.provider.xp, arguments, {**keywords, **memo}, names, prefix)
        if found is None or found.results is not None:
            break
    if found is None or found.results is None or len(found.results) < len(bound.outputs):
        return None
    for slot, value in zip(bound.outputs, found.values, strict=False):
        if slot is not None and not _same(value, values[slot], step.provider):
            return None
    return found._replace(values=()), slots


def _same(a: Any, b: Any, provider: ExecutionProvider) -> bool:
    """Whether two arrays have the same bits in the same layout."""
    if type(a) is not type(b) or not hasattr(a, "shape") or a is b:
        return a is b
    if not isinstance(a, np.ndarray | np.generic):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        a, b = provider.to_numpy(a), provider.to_numpy(b)
    if (a.dtype, a.shape) != (b.dtype, b.shape) or a.tobytes() != b.tobytes():
        return False
    return all(x == y or n == 1 for x, y, n in zip(a.strides, b.strides, a.shape, strict=True))


def _leading(lines: Sequence[tuple[str, str]], read: set[str]) -> list[tuple[str, str]]:
    """The lines of a recording that lead to the results that somebody reads."""
    kept: list[tuple[str, str]] = []
    for target, text in reversed(lines):
        if not target or target in read:
            kept.append((target, text))
            read |= set(TOKEN.findall(text))
    return kept[::-1]


def lines(
    found: Inlined, bound: Bound, variable: Callable[[int], str], scope: dict[str, Any]
) -> tuple[str | None, list[str]]:
    """A condition (None: always) and the lines that put the results of a step into `v0`, `v1` … where it holds.

    `variable` names a slot. What the lines name goes into `scope`. A variable is used again when nothing reads it
    any more, which frees what was in it.
    """
    recording, slots = found
    assert recording.results is not None
    prefix = f"q{next(slot for slot in bound.outputs if slot is not None)}_"
    wanted = [(slot, name) for slot, name in zip(bound.outputs, recording.results, strict=False) if slot is not None]
    steps = _leading(recording.lines, {name for _, name in wanted})
    names = {f"{prefix}v{slot}": variable(slot) for slot in slots.values()}
    for slot, name in wanted:
        if name.startswith(f"{prefix}t") and name not in names:
            names[name] = f"v{slot}"
    last: dict[str, int] = {}
    for number, (target, text) in enumerate(steps):
        for name in (target, *TOKEN.findall(text)):
            last[name] = number
    for _, name in wanted:
        last[name] = len(steps)
    spare: list[str] = []
    count = 0
    result: list[str] = []
    for number, (target, text) in enumerate(steps):
        used = {name for name in TOKEN.findall(text) if name.startswith(f"{prefix}t")}
        line = TOKEN.sub(lambda match: names[match[0]], text)
        spare += [names[name] for name in used if last[name] == number and names[name].startswith("r")]
        if target and target not in names:
            if not spare:
                spare.append(f"r{count}")
                count += 1
            names[target] = spare.pop()
        result.append(f"{names[target]} = {line}" if target else line)
        if target and last[target] == number and names[target].startswith("r"):
            spare.append(names[target])
    for slot, name in wanted:
        text = TOKEN.sub(lambda match: names[match[0]], name)
        if text != f"v{slot}":
            result.append(f"v{slot} = {text}")
    if count:
        result.append(" = ".join(f"r{i}" for i in range(count)) + " = None")
    scope.update(recording.scope)
    holds = [
        part
        for position, strides in recording.layouts
        for part in _lies(f"{variable(slots[position])}.{recording.strides}", strides)
    ]
    return " and ".join(holds) or None, result


def _lies(found: str, strides: Sequence[int | None]) -> list[str]:
    """Conditions for the strides of an array to be those that are known."""
    known = [axis for axis, stride in enumerate(strides) if stride is not None]
    if len(known) == len(strides):
        return [f"{found} == {tuple(strides)}"] if known else []
    if known and known[-1] - known[0] == len(known) - 1:  # side by side
        part = slice(known[0], known[-1] + 1)
        return [f"{found}[{part.start}:{part.stop}] == {tuple(strides[part])}"]
    return [f"{found}[{axis}] == {strides[axis]}" for axis in known]
