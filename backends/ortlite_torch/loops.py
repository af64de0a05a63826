"""Operators by the loops that `pip install 'ortlite[fast]'` compiles for NumPy, on the threads of torch's OpenMP.

oneDNN sets up every call anew, 30 to 40 microseconds of a small convolution or network, and is slow where channels are
convolved one by one; torch's GRU and RNN are a call a product, and for bytes it has no operators like ONNX's. The loops
read the tensors' memory. They run on the threads of torch's own operators: two teams would take the cores from each
other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ortlite.derived import Derived, at_once, lasting, takes_derived
from ortlite.namespace import Namespace
from ortlite.provider import CPU, create
from ortlite_torch.onednn import inferring
from ortlite_torch.record import opaque
from ortlite_torch.threads import get

__all__ = ["before"]

Key = tuple[str, str, int]

MS = "com.microsoft"
# The inputs that must be constants, where they are given: what is made of them is kept.
TAKEN: dict[Key, tuple[int, ...]] = {
    ("", "Conv", 1): (1, 2),
    (MS, "FusedConv", 1): (1, 2),
    ("", "RNN", 1): (1, 2, 3),
    ("", "GRU", 1): (1, 2, 3),
    ("", "LSTM", 1): (1, 2, 3, 7),
    ("", "QuantizeLinear", 10): (),
    ("", "DequantizeLinear", 10): (),
    ("", "DynamicQuantizeLinear", 11): (),
    ("", "MatMulInteger", 10): (1,),
    ("", "QLinearMatMul", 10): (3,),
    ("", "ConvInteger", 10): (1,),
    ("", "QLinearConv", 10): (3,),
    (MS, "QGemm", 1): (3,),
    (MS, "QLinearAdd", 1): (),
    (MS, "QLinearMul", 1): (),
    (MS, "QLinearGlobalAveragePool", 1): (),
    (MS, "MatMulIntegerToFloat", 1): (1,),
    (MS, "DynamicQuantizeMatMul", 1): (1,),
    (MS, "DynamicQuantizeLSTM", 1): (1, 2),
    (MS, "MatMulNBits", 1): (1,),
}
TENSORS = {torch.Tensor, torch.nn.Parameter}
DTYPES = {torch.float32, torch.uint8, torch.int8, torch.int32}
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
    """What runs the loops of an operator; NotImplemented where its weights are no constants, or torch is tracing."""
    needed = TAKEN[key]

    def override(xp: Namespace, *inputs: Any, derived: Any = at_once, **attributes: Any) -> Any:
        if not inferring() or not all(x is None or _in_memory(x) for x in inputs):
            return NotImplemented
        places = tuple(i for i, x in enumerate(inputs) if x is None or lasting(derived, x))
        if any(i < len(inputs) and i not in places for i in needed):
            return NotImplemented
        operator = derived(Operator, fn, places, tuple(attributes.items()), *(inputs[i] for i in places))
        return _run(operator, *(x for i, x in enumerate(inputs) if i not in places))

    override.__name__ = override.__qualname__ = fn.__name__
    override.warm = fn.warm  # type: ignore[attr-defined]
    return override


def _in_memory(x: Any) -> bool:
    return type(x) in TENSORS and x.is_cpu and x.dtype in DTYPES


@opaque
def _run(operator: Operator, *inputs: Any) -> Any:
    return operator(*inputs)


def _tensor(found: Any) -> Any:
    return torch.from_numpy(found if type(found) is np.ndarray else np.asarray(found))  # of no axes: NumPy's number


class Operator:
    """An operator and its constants, as a function of its other inputs. At a signature that comes up again it is what
    is recorded of it: the kernels' calls.
    """

    __slots__ = ("constants", "fn", "keywords", "made", "places")

    def __init__(self, fn: Callable[..., Any], places: tuple[int, ...], keywords: Any, *constants: Any):
        self.places, self.keywords = places, dict(keywords)
        self.constants = [None if x is None else x.numpy() for x in constants]
        kept = Derived([x for x in self.constants if x is not None])
        self.fn = partial(fn, derived=kept) if takes_derived(fn) else fn
        self.made: dict[Any, Callable[..., Any] | None] = {}

    def __call__(self, *inputs: Any) -> Any:
        threads = get()
        signature = (threads, *((x.shape, x.stride(), x.dtype) for x in inputs))
        arrays = [x.detach().numpy() if x.requires_grad else x.numpy() for x in inputs]
        run = self.made.get(signature)
        if run is None:
            run = self._new(signature, Asked(threads, _team()), arrays)
        found = run(*arrays)
        if found is NotImplemented:
            return found
        return tuple(map(_tensor, found)) if type(found) is tuple else _tensor(found)

    def _new(self, signature: Any, asked: Asked, arrays: list[Any]) -> Callable[..., Any]:
        """What to run at a signature: the first time the operator itself, which costs less than to record it."""

        def plain(*arrays: Any) -> Any:
            with create(CPU).context():
                return self.fn(asked, *self._all(arrays), **self.keywords)

        again = signature in self.made
        made = (self._recorded(asked, arrays) or plain) if again else None
        self.made[signature] = made
        while len(self.made) > SIGNATURES:
            self.made.pop(next(iter(tuple(self.made))), None)  # other threads may do so, too, and add some
        return made or plain

    def _all(self, arrays: Any) -> list[Any]:
        """All inputs in their order."""
        others, constants = iter(arrays), iter(self.constants)
        return [next(constants if i in self.places else others) for i in range(len(arrays) + len(self.places))]

    def _recorded(self, asked: Asked, arrays: list[Any]) -> Callable[..., Any] | None:
        """The calls that are left at a signature, as a function of the arrays."""
        from ortlite_numpy.record import recorded, written

        given = self._all(arrays)
        names = {i: f"x{i}" for i in range(len(given)) if i not in self.places}
        with create(CPU).context():
            found = recorded(self.fn, asked, given, self.keywords, names, "c")
        if found is None:
            return None
        if found.results is None:
            return lambda *arrays: NotImplemented
        made = {target for target, _ in found.lines}
        return written(found.lines, ", ".join(names.values()), ", ".join(found.results), made, found.scope)
