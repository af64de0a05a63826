"""Operators by the loops that `pip install 'ortlite[fast]'` compiles for NumPy, on the threads of torch's OpenMP.

oneDNN sets up every call anew, 30 to 40 microseconds of a small convolution or network, and does what it does to
channels one by one in a tenth of their speed; torch's GRU and RNN are a call a product. The loops read the tensors'
memory. Their threads are those that torch's own operators wait on: two teams would take the cores from each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ortlite.derived import Derived, at_once, lasting
from ortlite.namespace import Namespace
from ortlite.provider import CPU, create
from ortlite_torch.onednn import inferring
from ortlite_torch.record import opaque
from ortlite_torch.threads import get

__all__ = ["before"]

Key = tuple[str, str, int]

# The inputs that must be constants: what is made of them is kept.
TAKEN: dict[Key, tuple[int, ...]] = {
    ("", "Conv", 1): (1, 2),
    ("com.microsoft", "FusedConv", 1): (1, 2),
    ("", "RNN", 1): (1, 2, 3),
    ("", "GRU", 1): (1, 2, 3),
    ("", "LSTM", 1): (1, 2, 3, 7),
}
SIGNATURES = 64  # of an operator that are kept


class Asked(NamedTuple):
    """What the loops ask the namespace of a provider: on how many threads they run, and of which team."""

    threads: int
    team: int


@cache
def _team() -> int:
    """The team of torch's threads, as `ortlite_numpy.threads` describes one; 0 where torch has no OpenMP like GNU's."""
    from ortlite_numpy import threads

    try:
        together = ctypes.PyDLL(torch._C.__file__).GOMP_parallel  # noqa: SLF001  (what torch is linked with)
    except (AttributeError, OSError):
        return 0
    return threads.another_team(ctypes.cast(together, ctypes.c_void_p).value or 0)


def before(others: Mapping[Key, Callable[..., Any]]) -> Mapping[Key, Callable[..., Any]]:
    """Torch's operators, and before them the loops, where there are any."""
    if not create(CPU).compiles_ahead or not _team():
        return others
    from ortlite_numpy.compiled import table

    ours = {key: _by_loops(key, table.OVERRIDES[key]) for key in TAKEN}
    return {**others, **{key: table.both(fn, others[key]) if key in others else fn for key, fn in ours.items()}}


def _by_loops(key: Key, fn: Callable[..., Any]) -> Callable[..., Any]:
    """What runs the loops of an operator, for float32 and constant weights; NotImplemented elsewhere."""
    places = TAKEN[key]

    def override(xp: Namespace, *inputs: Any, derived: Any = at_once, **attributes: Any) -> Any:
        if not inferring(*inputs):
            return NotImplemented
        constants = [inputs[i] if i < len(inputs) else None for i in places]
        if not all(x is None or lasting(derived, x) for x in constants):
            return NotImplemented
        operator = derived(Operator, fn, places, tuple(attributes.items()), *constants)
        return _run(operator, *(x for i, x in enumerate(inputs) if i not in places))

    override.__name__ = override.__qualname__ = fn.__name__
    override.warm = fn.warm  # type: ignore[attr-defined]
    return override


@opaque
def _run(operator: Operator, *inputs: Any) -> Any:
    return operator(*inputs)


class Operator:
    """An operator and its constants, as a function of its other inputs. At a signature that comes up again it is what
    is recorded of it: the kernels' calls.
    """

    __slots__ = ("constants", "fn", "keywords", "made", "places")

    def __init__(self, fn: Callable[..., Any], places: tuple[int, ...], keywords: Any, *constants: Any):
        self.places, self.keywords = places, dict(keywords)
        self.constants = [None if x is None else x.numpy() for x in constants]
        self.fn = partial(fn, derived=Derived([x for x in self.constants if x is not None]))
        self.made: dict[Any, Callable[..., Any] | None] = {}

    def __call__(self, *inputs: Any) -> Any:
        threads = get()
        signature = (threads, *(None if x is None else (x.shape, x.stride()) for x in inputs))
        arrays = [None if x is None else x.detach().numpy() if x.requires_grad else x.numpy() for x in inputs]
        run = self.made.get(signature)
        if run is None:
            run = self._new(signature, Asked(threads, _team()), arrays)
        found = run(*arrays)
        if type(found) is np.ndarray:
            return torch.from_numpy(found)
        return found if found is NotImplemented else tuple(map(torch.from_numpy, found))

    def _new(self, signature: Any, asked: Asked, arrays: list[Any]) -> Callable[..., Any]:
        """What to run at a signature: the first time the operator itself, which costs less than to record it."""

        def plain(*arrays: Any) -> Any:
            with create(CPU).context():
                return self.fn(asked, *self._all(arrays), **self.keywords)

        again = signature in self.made
        made = (self._recorded(asked, arrays) or plain) if again else None
        self.made[signature] = made
        while len(self.made) > SIGNATURES:
            self.made.pop(next(iter(self.made)), None)  # other threads may do so, too
        return made or plain

    def _all(self, arrays: Any) -> list[Any]:
        """All inputs in their order."""
        others, constants = iter(arrays), iter(self.constants)
        count = max(len(arrays) + len(self.places), self.places[-1] + 1)
        return [next(constants if i in self.places else others, None) for i in range(count)]

    def _recorded(self, asked: Asked, arrays: list[Any]) -> Callable[..., Any] | None:
        """The calls that are left at a signature, as a function of the arrays."""
        from ortlite_numpy.record import recorded

        given = self._all(arrays)
        varying = [i for i in range(len(given)) if i not in self.places][: len(arrays)]
        names = {i: f"x{i}" for i in varying if given[i] is not None}
        with create(CPU).context():
            found = recorded(self.fn, asked, given, self.keywords, names, "c")
        if found is None:
            return None
        if found.results is None:
            return lambda *arrays: NotImplemented
        lines = [f"def run({', '.join(f'x{i}' for i in varying)}):"]
        lines += [f" {target} = {text}" if target else f" {text}" for target, text in found.lines]
        results = ", ".join(found.results)
        scope = dict(found.scope)
        exec(compile("\n".join([*lines, f" return {results}"]), "<recorded loops>", "exec"), scope)  # noqa: S102
        run: Callable[..., Any] = scope["run"]
        return run
