"""Regions as CUDA graphs: captured once, then launched as a whole, where each kernel took the host microseconds.

A graph reads and writes the memory that it was captured with. So a call copies its inputs there, and hands out copies
of the results: what a caller holds is its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import cuda

from ortlite.provider import Compiler
from ortlite_torch.borders import traced
from ortlite_torch.region import Region

__all__ = ["Captured", "Graphs"]

log = logging.getLogger("ortlite")
BEFORE = 2  # runs before a capture: libraries look for algorithms, take workspaces, and compile
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# cuBLAS has a workspace a stream, and streams come round again: a graph takes one of its own, and leaves it to nobody.
_drop_workspaces: Callable[[], None] = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)  # noqa: SLF001
_capturing = threading.Lock()  # a process captures one graph at a time


class Graphs(Compiler):
    """Captures regions, as they are or as `inner` compiles them."""

    freezes: ClassVar[bool] = True
    eager: ClassVar[bool] = True

    def __init__(self, device: Any, inner: Compiler | None = None):
        self.device = device
        self.inner = inner

    def frozen(self, fn: Callable[..., Any], constants: Mapping[int, Any]) -> Callable[..., Any]:
        return Captured(Region(fn, constants) if self.inner is None else self.inner.frozen(fn, constants), self.device)


class Captured:
    """A function of tensors, which returns a tuple of them, as a graph for the shapes of the first call.

    The function itself answers where a tensor has another shape, where gradients are recorded, where somebody is
    tracing, and for good where it cannot be captured, as when it asks for a value: that is logged.
    Calls from several threads, on streams of theirs, wait for each other on the device.
    """

    def __init__(self, fn: Callable[..., Any], device: Any):
        self.fn = fn
        self.device = device
        self.lock = threading.Lock()
        self.graph: Any = None  # None: not captured yet; False: cannot be
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.done = cuda.Event()

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """The results, of the caller's own."""
        if self.graph is not False and self._plain(arrays):
            with self.lock:
                if self.graph is None:
                    self._capture(arrays)
                if self.graph and all(map(_alike, self.inputs, arrays)):
                    return self._replay(arrays)
        found: tuple[Any, ...] = self.fn(*arrays)
        return found

    def _plain(self, arrays: tuple[Any, ...]) -> bool:
        """Whether these are tensors of the device, with values, of which nobody takes derivatives."""
        if not all(isinstance(x, torch.Tensor) and x.device.type == self.device.type for x in arrays):
            return False
        recorded = torch.is_grad_enabled() and any(x.requires_grad for x in arrays)
        return not recorded and not any(map(traced, arrays)) and not cuda.is_current_stream_capturing()

    def _replay(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        stream = cuda.current_stream(self.device)
        stream.wait_event(self.done)
        _copy(self.inputs, arrays)
        self.graph.replay()
        results = [torch.empty_like(x) for x in self.outputs]
        _copy(results, self.outputs)
        self.done.record(stream)
        return tuple(results)

    def _capture(self, arrays: tuple[Any, ...]) -> None:
        before, side, graph = cuda.current_stream(self.device), cuda.Stream(self.device), cuda.CUDAGraph()
        inputs = [torch.empty_like(x).copy_(x) for x in arrays]
        side.wait_stream(before)
        try:
            with cuda.stream(side):  # torch's own `graph` leaves its stream the current one where a capture fails
                for _ in range(BEFORE):
                    self.fn(*inputs)
                with _capturing:
                    _drop_workspaces()
                    with cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                        outputs = list(self.fn(*inputs))
                    _drop_workspaces()
            if not all(isinstance(x, torch.Tensor) for x in outputs):
                raise RuntimeError("a result is no tensor")
        except RuntimeError as error:
            self.graph = False
            log.warning("enable_cuda_graph: a region runs kernel by kernel, for it cannot be captured: %s", error)
        else:
            self.graph, self.inputs, self.outputs = graph, inputs, outputs
            self.done.record(side)
        finally:
            before.wait_stream(side)  # what it still reads is not given to others before


def _copy(there: Sequence[Any], tensors: Sequence[Any]) -> None:
    """Overwrite tensors with others: floats, of which a cache has many, in one launch."""
    floats = [(x, y) for x, y in zip(there, tensors, strict=True) if y.dtype in FLOATS]
    if floats:
        torch._foreach_copy_(*map(list, zip(*floats, strict=True)))
    for x, y in zip(there, tensors, strict=True):
        if y.dtype not in FLOATS:
            x.copy_(y)


def _alike(there: Any, x: Any) -> bool:
    """Whether a tensor fits into the memory of another one."""
    return bool(there.shape == x.shape and there.dtype == x.dtype)
