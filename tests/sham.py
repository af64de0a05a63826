"""A device for PyTorch that is none: its tensors lie in the CPU's memory, but pass for those of a GPU.

    python tests/sham.py [PATTERN] [--dtypes | --graphs] [--lacking NAME]

Runs the cases of the ONNX backend suite on it, as TorchExecutionProvider, every session twice: interpreted, then
specialised; with `--dtypes` every operator in every dtype instead, with `--graphs` four times, the third captured as
a CUDA graph and the fourth replayed (tests/sham_graphs.py). What fails on CUDA because a tensor is on the wrong
device, integers are multiplied, or unsigned ones not just moved, fails here, on any machine. What CUDA computes, and
which other dtypes its kernels lack, this cannot tell. A process that imports this has a device more for good.
`--lacking arange` makes `xp.arange` forget the device, to see it noticed.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from conformance.__main__ import LUCK, expected_failures
from conformance.cases import load_cases, run_case
from conformance.dtypes import results
from ortlite import provider as providers
from ortlite.namespace import Namespace
from ortlite_torch import TorchExecutionProvider, graphs
from ortlite_torch.cuda import asarray
from ortlite_torch.graphs import Graphs
from tests.sham_graphs import Cuda, CUDAGraph

_setup_privateuseone_for_python_backend("sham")
NAME = "TorchExecutionProvider"
DEVICE = torch.device("sham", 0)
CROSSING = {"aten._to_copy.default", "aten.copy_.default"}
PRODUCTS = {"addbmm", "addmm", "addmv", "baddbmm", "bmm", "convolution", "dot", "mm", "mv"}  # on CUDA of floats alone
UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}
# Of the unsigned integers but uint8, torch's CUDA kernels are sure to have these alone: they look at no value.
MOVING = set(
    "_to_copy _unsafe_view alias as_strided cat clone constant_pad_nd copy_ detach diagonal empty_like expand fill_ "
    "permute repeat select slice split split_with_sizes squeeze stack t transpose unbind unsqueeze view".split()
)


class Sham(torch.Tensor):
    """A tensor on the device; `held` is the one in the CPU's memory."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Self:
        self: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        self.held = held
        return self

    def __init__(self, held: torch.Tensor): ...

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(op, args, kwargs or {})


class Watch(TorchDispatchMode):
    """Sees the calls that make tensors: they have none among their arguments."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(op, args, kwargs or {})


def dispatch(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU. Raises RuntimeError for tensors on two devices, and for dtypes that CUDA lacks."""
    there: list[torch.Tensor] = []
    here: list[torch.Tensor] = []

    def held(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            (there if isinstance(x, Sham) else here).append(x)
        return x.held if isinstance(x, Sham) else x

    given, words = tree_map(held, args), tree_map(held, kwargs)
    if there and here and str(op) not in CROSSING:
        raise RuntimeError(f"{op}: {[tuple(x.shape) for x in here]} are on the CPU, the others on the device")
    name = op._schema.name.partition("::")[2]
    if name in PRODUCTS and not all(x.is_floating_point() or x.is_complex() for x in there):
        raise RuntimeError(f"{op} of {', '.join(str(x.dtype) for x in there)} is not implemented on CUDA")
    if name not in MOVING and any(x.dtype in UNSIGNED for x in there):
        raise RuntimeError(f"{op} of {', '.join(str(x.dtype) for x in there)} may not be implemented on CUDA")
    target = words.get("device")
    if target is not None:
        words["device"] = torch.device("cpu")
    results = (FUSED.get(name) or op)(*given, **words)
    if op._schema.is_mutable:
        return args[0] if op._schema.returns else None
    onto = bool(there) if target is None else torch.device(target) == DEVICE
    return tree_map(lambda x: Sham(x) if onto and isinstance(x, torch.Tensor) else x, results)


def _lstm_cell(x: Any, h: Any, c: Any, b: Any = None, d: Any = None) -> Any:
    """What only devices have, of products given."""
    gates = x + h if b is None else x + h + b + d
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c, gates


def _gru_cell(x: Any, h: Any, state: Any, b: Any = None, d: Any = None) -> Any:
    x, h = (x, h) if b is None else (x + b, h + d)
    (r, z, n), (s, y, m) = x.chunk(3, 1), h.chunk(3, 1)
    new = (n + (r + s).sigmoid() * m).tanh()
    return new + (z + y).sigmoid() * (state - new), x


FUSED: dict[str, Callable[..., Any]] = {"_thnn_fused_lstm_cell": _lstm_cell, "_thnn_fused_gru_cell": _gru_cell}


def _asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """torch.asarray makes its tensors where no mode sees it."""
    if isinstance(obj, bool | int | float | complex):
        return asarray(obj, dtype=dtype, device=DEVICE)
    made = torch.asarray(obj, dtype=dtype, copy=copy)
    return made if isinstance(obj, torch.Tensor) else made.to(DEVICE)


class OnSham(TorchExecutionProvider):
    """TorchExecutionProvider, where CUDA is the sham device."""

    tracer = None
    lacking = ""
    graphs = False

    @cached_property
    def device(self) -> Any:
        return DEVICE

    @cached_property
    def xp(self) -> Namespace:
        import array_api_compat.torch as library

        xp = super().xp
        xp.__dict__["asarray"] = _asarray
        if self.lacking:
            xp.__dict__[self.lacking] = getattr(library, self.lacking)
        return xp

    @cached_property
    def compiler(self) -> Any:
        return Graphs(DEVICE) if self.graphs else None

    def from_numpy(self, array: Any) -> Any:
        with Watch():
            return super().from_numpy(array)

    def pointer(self, array: Any) -> int:
        return id(array)  # there is no memory of its own

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(Watch())
        if not gradients:
            stack.enter_context(torch.no_grad())
        return stack


class GivenUp(logging.Handler):
    """What is said of regions that cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.said += [text] if "enable_cuda_graph" in text else []


GIVEN_UP = GivenUp()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--dtypes", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--lacking", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    OnSham.lacking, OnSham.graphs = args.lacking, args.graphs
    if args.graphs:
        graphs.cuda = Cuda()
        logging.getLogger("ortlite").addHandler(GIVEN_UP)
    known = providers._provider_class
    providers._provider_class = lambda name: OnSham if name == NAME else known(name)
    count, wrong, kept = 0, {}, []
    for name, problem in (every_dtype if args.dtypes else suite)(args.pattern):
        count += 1
        kept += [f"{name}: {text.partition('captured: ')[2]}" for text in GIVEN_UP.said]
        GIVEN_UP.said.clear()
        if problem:
            wrong[name] = problem
            print(f"{name}: {' '.join(problem.split())}")
    if args.graphs:
        replayed = sum(graph.replays > 1 for graph in CUDAGraph.made)
        print(*kept, f"{replayed} graphs replayed, {len(kept)} regions not captured", sep="\n")
    print(f"{count} cases, {len(wrong)} wrong")
    return int(bool(wrong))


def suite(pattern: str) -> Iterator[tuple[str, str]]:
    """Every case of the suite, and what is wrong with it."""
    expected = expected_failures("CUDAExecutionProvider")
    lucky = {name for name, why in expected.items() if why.startswith(LUCK)}
    for name in sorted(name for name in load_cases() if re.search(pattern, name)):
        error = run_case(name, NAME, steps=False, runs=4 if OnSham.graphs else 2).error
        if name in expected:
            error = "" if error or name in lucky else "passes, though expected to fail"
        yield name, error


def every_dtype(pattern: str) -> Iterator[tuple[str, str]]:
    """Every operator in every dtype, and what this device has to say; what they compute is another test's."""
    warnings.simplefilter("ignore")
    for (_, op), found in results(pattern, NAME).items():
        for dtype, problem in found.items():
            yield f"{op} of {dtype}", problem if "on the CPU, the others" in problem or "on CUDA" in problem else ""


if __name__ == "__main__":
    sys.exit(main())
