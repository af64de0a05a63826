"""CUDA graphs for the sham device: what is captured runs again, operation by operation, in the memory of the capture.

As on CUDA, a capture computes nothing, fails where the host would have to wait, and a replay reads and writes the
tensors that were there at the capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What copies a value to the host, which then decides: shapes of results, or what the program does.
WAITING = {"_local_scalar_dense", "_unique2", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim"}
CROSSING = {"_to_copy", "copy_"}


def held(x: Any) -> Any:
    """The tensor in the CPU's memory."""
    return getattr(x, "held", x)


class CUDAGraph:
    """What was captured."""

    made: list[CUDAGraph] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for op, args, words, results in self.calls:
            for old, new in zip(tree_leaves(results), tree_leaves(op(*args, **words)), strict=True):
                if isinstance(old, torch.Tensor) and old is not new and not _views(old, (args, words)):
                    held(old).copy_(held(new))


def _views(x: Any, given: Any) -> bool:
    """Whether a result lies in the memory of an argument."""
    there = held(x).untyped_storage().data_ptr()
    return any(
        isinstance(y, torch.Tensor) and held(y).untyped_storage().data_ptr() == there for y in tree_leaves(given)
    )


class _Capture(TorchDispatchMode):
    def __init__(self, graph: CUDAGraph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = kwargs or {}
        name = op._schema.name.partition("::")[2]
        given = [x for x in tree_leaves((args, words)) if isinstance(x, torch.Tensor)]
        crosses = name in CROSSING and (
            len({x.device.type for x in given}) > 1
            or torch.device(words.get("device") or given[0].device).type != given[0].device.type
        )
        masks = name in {"index", "index_put", "index_put_"} and any(
            isinstance(x, torch.Tensor) and x.dtype in {torch.bool, torch.uint8} for x in args[1]
        )
        if name in WAITING or crosses or masks:
            raise RuntimeError(f"{op}: operation not permitted when stream is capturing")
        results = op(*args, **words)
        self.graph.calls.append((op, args, words, results))
        return results


@contextmanager
def graph(captured: CUDAGraph, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """Capture; nothing of it is computed yet when this ends."""
    with _Capture(captured):
        yield
    CUDAGraph.made.append(captured)
    for _, args, words, results in captured.calls:
        for x in tree_leaves(results):
            if isinstance(x, torch.Tensor) and not _views(x, (args, words)):
                held(x).fill_(float("nan") if x.is_floating_point() else 1)


class Stream:
    """A stream that notes for whom it has waited."""

    def __init__(self, device: Any = None):
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)

    def wait_event(self, event: Any) -> None:
        self.waited.append(event.recorded)


class Event:
    """An event, recorded on a stream or not yet."""

    recorded: Any = None

    def record(self, stream: Any) -> None:
        self.recorded = stream


class Cuda(SimpleNamespace):
    """What `ortlite_torch.graphs` uses of torch.cuda."""

    CUDAGraph, Event, Stream, graph = CUDAGraph, Event, Stream, staticmethod(graph)

    def __init__(self) -> None:
        super().__init__(now=Stream(), capturing=False)

    def current_stream(self, device: Any = None) -> Stream:
        found: Stream = self.now
        return found

    def is_current_stream_capturing(self) -> bool:
        found: bool = self.capturing
        return found

    @contextmanager
    def stream(self, other: Stream) -> Iterator[None]:
        before, self.now = self.now, other
        try:
            yield
        finally:
            self.now = before
