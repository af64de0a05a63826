"""Operators by the loops that `pip install 'ortlite[fast]'` compiles for NumPy, on the threads of torch's OpenMP.

oneDNN sets up every call anew, 30 to 40 microseconds of a small convolution or network, and is slow where channels are
convolved one by one; torch's GRU and RNN are a call a product, and for bytes it has no operators like ONNX's. The loops
read the tensors' memory. They run on the threads of torch's own operators: two teams would take the cores from each
other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ortlite.derived import WithConstants, at_once, lasting
from ortlite.namespace import Namespace
from ortlite.provider import CPU, create
from ortlite.schema import OWN
from ortlite_torch import products
from ortlite_torch.onednn import inferring
from ortlite_torch.record import opaque, recording, unseen
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
# Where MKL is slow: the loops take two thirds to nine tenths of the time of oneDNN's products (AVX2, 16 to 200 rows).
PRODUCTS: dict[Key, tuple[int, ...]] = {
    ("", "MatMul", 1): (1,),
    ("", "Gemm", 7): (1, 2),
    (OWN, "Linear", 1): (1, 2),
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

    taken = TAKEN if products.BY_MKL else {**TAKEN, **PRODUCTS}
    ours = {key: _by_loops(table.OVERRIDES[key], needed) for key, needed in taken.items()}
    return {**others, **{key: table.both(fn, others[key]) if key in others else fn for key, fn in ours.items()}}


def _by_loops(fn: Callable[..., Any], needed: tuple[int, ...]) -> Callable[..., Any]:
    """What runs the loops of an operator; NotImplemented where inputs that are `needed` as constants are none, or torch
    is tracing.
    """

    def override(xp: Namespace, *inputs: Any, derived: Any = at_once, **attributes: Any) -> Any:
        if not inferring() or not all(x is None or _in_memory(x) for x in inputs):
            return NotImplemented
        places = tuple(i for i, x in enumerate(inputs) if x is None or lasting(derived, x))
        if any(i < len(inputs) and i not in places for i in needed):
            return NotImplemented
        operator = derived(Operator, fn, places, tuple(attributes.items()), *(inputs[i] for i in places))
        others = [x for i, x in enumerate(inputs) if i not in places]
        if not recording():
            return operator(*others)
        with unseen():
            at_these = operator.at(others)
        return opaque(at_these)(*others)

    override.__name__ = override.__qualname__ = fn.__name__
    override.warm = fn.warm  # type: ignore[attr-defined]
    return override


def _in_memory(x: Any) -> bool:
    return type(x) in TENSORS and x.is_cpu and x.dtype in DTYPES


def _array(x: Any) -> Any:
    return (x.detach() if x.requires_grad else x).numpy()


def _tensor(found: Any) -> Any:
    return torch.from_numpy(found if type(found) is np.ndarray else np.asarray(found))  # of no axes: NumPy's number


class Operator(WithConstants):
    """An operator and its constants, as a function of its other inputs. At a signature that comes up again it is what
    is recorded of it: the kernels' calls.
    """

    __slots__ = ("made",)

    def __init__(self, fn: Callable[..., Any], places: tuple[int, ...], keywords: Any, *constants: Any):
        super().__init__(fn, places, keywords, [None if x is None else x.numpy() for x in constants])
        # at a signature that came once None, where nothing can be recorded False
        self.made: dict[Any, Callable[..., Any] | Literal[False] | None] = {}

    def __call__(self, *inputs: Any) -> Any:
        signature = (get(), *((x.shape, x.stride(), x.dtype) for x in inputs))
        run = self.made.get(signature)
        if run is None:  # the first time the operator itself, which costs less than to record it
            run = (self._recorded(inputs) or False) if signature in self.made else None
            self.made[signature] = run
            while len(self.made) > SIGNATURES:
                self.made.pop(next(iter(tuple(self.made))), None)  # other threads may do so, too, and add some
        return run(*inputs) if run else self._plain(*inputs)

    def at(self, inputs: Sequence[Any]) -> Callable[..., Any]:
        """What to call with tensors of these shapes and dtypes: it asks about nothing but their layouts."""
        return self._recorded(inputs, otherwise=self) or self

    def _plain(self, *inputs: Any) -> Any:
        with create(CPU).context():
            found = self.fn(Asked(get(), _team()), *self.inputs(map(_array, inputs)), **self.keywords)
        if found is NotImplemented:
            return found
        return tuple(map(_tensor, found)) if type(found) is tuple else _tensor(found)

    def _recorded(self, inputs: Sequence[Any], otherwise: Any = None) -> Callable[..., Any] | None:
        """The calls that are left at a signature, as a function of tensors; `otherwise` answers at other layouts."""
        from ortlite_numpy.record import recorded, written

        given = self.inputs(map(_array, inputs))
        places = [i for i in range(len(given)) if i not in self.places]
        names = {place: f"x{i}" for i, place in enumerate(places)}
        with create(CPU).context():
            found = recorded(self.fn, Asked(get(), _team()), given, self.keywords, names, "c")
        if found is None:
            return None
        if found.results is None:
            return lambda *inputs: NotImplemented
        tensors = ", ".join(f"y{i}" for i in range(len(inputs)))
        lines = [(f"x{i}", f"array(y{i})") for i in range(len(inputs))]
        if otherwise is not None:
            lies = [f"x{i}.strides != {given[place].strides}" for i, place in enumerate(places)]
            lines.append(("", f"if {' or '.join(lies)}: return otherwise({tensors})"))
        results = [f"tensor({name})" for name in found.results]
        made = {target for target, _ in found.lines}
        scope = {**found.scope, "array": _array, "tensor": _tensor, "otherwise": otherwise}
        return written([*lines, *found.lines], tensors, ", ".join(results), made, scope)
