"""What this machine can do at most: operations and bytes a second, measured through the library that runs a model.

A product of matrices and a sum of two arrays run as nodes of a model do, step by step on the same provider, at sizes
from what a cache holds to what only memory does. The fastest call counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite import dtypes
from ortlite.errors import OrtError
from ortlite.graph import Graph, Model, Node, TensorType
from ortlite.progress import say
from ortlite.tools.recorder import record

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession

__all__ = ["Roof", "roof", "roofs"]

SIDES = (128, 256, 512, 1024, 2048, 4096, 8192)  # of square matrices
ELEMENTS = (2**10, 2**14, 2**18, 2**22, 2**24)
SHORT, LONG = 3e6, 30e6  # ns of a call after which no larger one follows: if that is no faster, and anyhow
CALLS = 5


@dataclass(frozen=True, slots=True)
class Roof:
    """The most that a provider's library does here in float32: `flops` operations a second, and bytes a second.

    `bandwidths` are pairs of the bytes that one call reads and writes, and the bytes a second at that size.
    """

    provider: str
    flops: float
    bandwidths: tuple[tuple[int, float], ...]

    @property
    def memory(self) -> float:
        """Bytes a second where no cache helps: those of the largest arrays."""
        return self.bandwidths[-1][1]

    @property
    def cached(self) -> float:
        """The most bytes a second at any size."""
        return max(speed for _, speed in self.bandwidths)

    def bandwidth(self, nbytes: float) -> float:
        """Bytes a second of a call that moves `nbytes`: between two sizes a straight line over the logarithm.

        Small calls are bounded by the best speed of all larger ones, or the cost of a call would count as a roof.

        Example:
            >>> Roof("CPU", 1e9, ((1000, 1e9), (100_000, 4e9), (10_000_000, 2e9))).bandwidth(10)
            4000000000.0

        """
        sizes = [size for size, _ in self.bandwidths]
        best = [max(speed for _, speed in self.bandwidths[i:]) for i in range(len(sizes))]
        return float(np.interp(np.log(max(nbytes, 1)), np.log(sizes), best))

    def least_seconds(self, nbytes: float, flops: float | None, calls: float = 1) -> float:
        """The time that the roofs allow for `calls` that move `nbytes` and compute `flops` in all."""
        return max((flops or 0) / self.flops, nbytes / self.bandwidth(nbytes / calls) if nbytes else 0.0)


def roofs(session: InferenceSession) -> dict[str, Roof]:
    """The roofs of a session's providers, by name; without those that run neither of the two nodes."""
    options = session.get_provider_options()
    threads = session.get_session_options().intra_op_num_threads
    found = {
        name: roof(name, tuple(sorted(options.get(name, {}).items())), threads) for name in session.get_providers()
    }
    return {name: each for name, each in found.items() if each is not None}


@cache
def roof(provider: str, options: tuple[tuple[str, str], ...] = (), threads: int = 0) -> Roof | None:
    """Measure a provider, once in a process; None where it runs neither a product nor a sum."""
    say(f"measuring {provider}")
    flops, bandwidths = 0.0, []
    try:
        product = _session("MatMul", 2, provider, dict(options), threads)
        for side in SIDES:
            took = _fastest(product, (side, side), provider)
            before, flops = flops, max(flops, 2e9 * side**3 / took)
            if took > LONG or (took > SHORT and flops < 1.1 * before):
                break
        total = _session("Add", 1, provider, dict(options), threads)
        for count in ELEMENTS:
            took = _fastest(total, (count,), provider)
            bandwidths.append((12 * count, 12e9 * count / took))
            if took > LONG:
                break
    except (OrtError, LookupError):
        return None
    return Roof(provider, flops, tuple(bandwidths))


def _session(op_type: str, rank: int, provider: str, options: Mapping[str, str], threads: int) -> Any:
    from ortlite.api.options import SessionOptions
    from ortlite.api.session import InferenceSession
    from ortlite.save import to_proto

    type_ = TensorType(dtypes.by_name("float32"), (None,) * rank)
    node = Node(op_type, ("a", "b"), ("y",), opset=14)
    graph = Graph(op_type, ("a", "b"), ("y",), (node,), {}, dict.fromkeys("aby", type_))
    made = SessionOptions()
    made.intra_op_num_threads = threads
    model = to_proto(Model(graph, {"": 14}, ir_version=8)).SerializeToString()
    return InferenceSession(model, made, providers=[(provider, dict(options))])


def _fastest(session: Any, shape: tuple[int, ...], provider: str) -> int:
    """The ns of the fastest of a few calls. Raises LookupError where another provider runs the node."""
    feed = {name: np.ones(shape, np.float32) for name in "ab"}
    recorded = record(session, feed, CALLS)
    (node,) = (n for n in recorded.nodes if getattr(n.bound.node, "op_type", "") in {"MatMul", "Add"})
    if node.bound.step.provider.name != provider:  # type: ignore[union-attr]  # it is a call
        raise LookupError(provider)
    return max(1, min(event.end - event.begin for event in recorded.events if event.node == node.index))
