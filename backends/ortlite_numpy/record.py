"""What a kernel does at one signature, written down: the calls of NumPy that are left when all else is decided.

A kernel branches on shapes, dtypes and layouts, never on values. So it is run once on arrays that note what is done
with them, and what they noted is code: one line for each call, without the Python that led to it. Whoever asks for a
value on the way (`float(x)`, a mask as an index, a function not known here) ends the recording, and the kernel is
called as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite import ordered
from ortlite.derived import lasting
from ortlite.provider import Recording
from ortlite.room import aligned
from ortlite_numpy.lowering import take
from ortlite_numpy.tape import (
    CURRENT,
    WORD,
    Ended,
    Tape,
    Traced,
    aside,
    called,
    current,
    holds_traced,
    opaque,
    real,
    recording,
    root,
)

__all__ = ["LARGE", "Ended", "Traced", "apart", "aside", "numpy", "opaque", "recorded", "recording", "written"]

LARGE = 1 << 16  # bytes of an array for which it pays to choose its place


def apart(run: Callable[..., None], fn: Callable[[int, int], object], edges: Sequence[int], seconds: float) -> None:
    """Note a call `run(parts, seconds, *arrays)`, in which each of `parts` does with the arrays what `fn` does now
    between two edges.
    """
    tape = current()
    texts = [tape.noted(partial(fn, start, stop)) for start, stop in pairwise(edges)]
    words = dict.fromkeys(word for lines in texts for _, text in lines for word in WORD.findall(text))
    given = ", ".join(word for word in words if tape.outside(word))
    parts = tuple(written(lines, given, "", tape.inside, tape.scope) for lines in texts)
    tape.add(f"{tape.constant(run)}({tape.text(parts)}, {tape.text(seconds)}, {given})", target=False)


def written(
    lines: Sequence[tuple[str, str]], given: str, results: str, inside: set[str], scope: Mapping[str, Any]
) -> Callable[..., Any]:
    """The lines as a function of variables `given` that returns `results`, texts both.

    Of those `inside`, what nobody reads any more is let go, so that the next array may lie there.
    """
    inside = inside - {*WORD.findall(results)}
    last = {name: number for number, line in enumerate(lines) for name in WORD.findall(" ".join(line))}
    source = [f"def run({given}):"]
    for number, (target, text) in enumerate(lines):
        source.append(f" {target} = {text}" if target else f" {text}")
        names = {target, *WORD.findall(text)} & inside
        if gone := [name for name in names if name and last[name] == number]:
            source.append(f" del {', '.join(gone)}")
    names_of = dict(scope)
    exec(compile("\n".join([*source, f" return {results}"]), "<recording>", "exec"), names_of)  # noqa: S102
    run: Callable[..., Any] = names_of.pop("run")  # where it stayed, it would hold itself
    return run


def _derived(keep: Any, tape: Tape) -> Callable[..., Any]:
    """What keeps results of constants, and leaves those of other arrays to the recording."""
    kept = aside(keep)

    def derived(make: Callable[..., Any], *args: Any) -> Any:
        return make(*args) if any(map(holds_traced, args)) else tape.last(kept(make, *args))

    derived.holds = lambda value: not holds_traced(value) and lasting(keep, value)  # type: ignore[attr-defined]
    return derived


def _steps(array: Any) -> tuple[int | None, ...]:
    """The strides that somebody walks along: where an axis has one element, it is a matter of who made the array."""
    return tuple(stride if n > 1 else None for stride, n in zip(array.strides, array.shape, strict=True))


def recorded(
    fn: Callable[..., Any],
    xp: Any,
    args: Sequence[Any],
    keywords: Mapping[str, Any],
    names: Mapping[int, str],
    prefix: str,
) -> Recording | None:
    """The calls that `fn(xp, *args, **keywords)` makes; None where they do not follow from the signature.

    `names` has the variables that hold the arguments, by position; arguments without one are constants. The names of
    the recording begin with `prefix`.
    """
    tape = Tape(prefix)
    given = [Traced(x, names[i], tape, given=True) if i in names else tape.last(x) for i, x in enumerate(args)]
    if recording():
        return None
    more = dict(keywords)
    if isinstance(fn, partial) and "derived" in fn.keywords:
        more["derived"] = _derived(fn.keywords["derived"], tape)
    CURRENT.tape = tape
    try:
        result = fn(xp, *given, **more)
        if result is NotImplemented:
            return Recording((), {}, None, (), ())
        values = result if isinstance(result, tuple) else (result,)
        texts = tuple(tape.text(value) for value in values)
        for name in texts:  # a result that is a constant is the next run's, too: whoever gets it may not write to it
            if isinstance(held := tape.scope.get(name), np.ndarray):
                held.flags.writeable = False
    except Exception:  # noqa: BLE001  (a real mistake of the arguments comes up again in the call that is made instead)
        return None
    finally:
        CURRENT.tape = None
    layouts = tuple((i, _steps(args[i])) for i in names) if tape.layouts else ()
    made = tuple(map(real, values))
    homes = tuple(tape.homes.get(id(root(x)), ("",))[0] if isinstance(x, np.ndarray) else "" for x in made)
    return Recording(tuple(tape.lines), tape.scope, texts, made, layouts, homes=homes)


def _made(name: str) -> Any:
    make = getattr(np, name)

    def call(*args: Any, **keywords: Any) -> Any:
        tape = CURRENT.tape
        value = make(*args, **keywords)
        if tape is None:
            return value
        if name != "empty":
            return tape.line(called(tape, make, args, keywords), value)
        large = value.nbytes >= LARGE
        given = (aligned, (value.shape, value.dtype, value.nbytes), {}) if large else (make, args, keywords)
        made = tape.line(called(tape, *given), value)
        tape.homes[id(value)] = made.name, value
        return made

    call.__name__ = name
    return call


def _contiguous(a: Any, dtype: Any = None) -> Any:
    if type(a) is not Traced:
        plain = dtype is not None or not isinstance(a, np.ndarray) or a.flags.c_contiguous
        return np.ascontiguousarray(a, dtype) if plain else ordered.in_order(a)
    if dtype is not None and np.dtype(dtype) != a.dtype:
        raise Ended
    a.tape.layouts = True
    if a.value.flags.c_contiguous and a.value.ndim:
        return a
    return opaque(ordered.in_order, a) if a.value.nbytes >= ordered.LARGE else a.copy("C")


def _asarray(a: Any, dtype: Any = None, **keywords: Any) -> Any:
    if type(a) is not Traced:
        return np.asarray(a, dtype, **keywords)
    if keywords:
        raise Ended
    if isinstance(a.value, np.generic):
        return opaque(np.asarray, a) if dtype is None else opaque(np.asarray, a, np.dtype(dtype))
    return a if dtype is None else a.astype(dtype, copy=False)


def _array(a: Any, *args: Any, **keywords: Any) -> Any:
    if type(a) is not Traced:
        if CURRENT.tape is None or not isinstance(a, np.ndarray):
            return np.array(a, *args, **keywords)
        return opaque(partial(np.array, **keywords), a, *args)  # a copy is made to be written to
    if args or keywords.keys() - {"order"} or isinstance(a.value, np.generic):
        raise Ended
    return a.copy(keywords.get("order", "K"))


if TYPE_CHECKING:
    import numpy  # noqa: ICN001
else:
    # NumPy as overrides see it: the functions that make arrays note it where a kernel is being recorded
    numpy = ModuleType("numpy")
    numpy.__dict__.update(np.__dict__, __getattr__=np.__getattr__)  # which imports numpy.random, among others
    numpy.__dict__.update({name: _made(name) for name in ("empty", "zeros", "ones", "full")})
    numpy.__dict__.update(ascontiguousarray=_contiguous, asarray=_asarray, array=_array, take=take)
