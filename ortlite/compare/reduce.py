"""The smallest model and inputs that still show a difference between two libraries.

`_Search.nodes` finds the nodes: the one that computes the differing value, fed with what the first side gave it; if
that agrees, more and more of its ancestors. `_Search.slices` and `_Search.plainer` then shrink the arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ortlite import dtypes
from ortlite.compare.comparison import model_of, side_of
from ortlite.compare.difference import Difference, Tolerance, difference
from ortlite.compare.sides import Side, drawing, made, unfolded
from ortlite.graph import Graph, Model, Node, TensorType, ancestors
from ortlite.ops import registry
from ortlite.progress import say

__all__ = ["Reduced", "reduce"]

TRIALS = 1000
CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"}  # the kernel's shape is that of W
PIECES = 16  # an axis is not cut into more pieces than this at once
Item = TypeVar("Item")
Arrays: TypeAlias = Mapping[str, np.ndarray]
Places: TypeAlias = tuple[tuple[str, int], ...]  # axes: of which array, which one


@dataclass(frozen=True, slots=True)
class Reduced:
    """A model that computes nothing but the differing value, and inputs for it. `trials` is how many were tried."""

    model: Model
    inputs: Mapping[str, np.ndarray]
    difference: Difference
    trials: int

    @property
    def nodes(self) -> int:
        """How many nodes are left."""
        return len(self.model.graph.nodes)

    @property
    def elements(self) -> int:
        """How many numbers are left: inputs and constants."""
        return sum(array.size for array in (*self.inputs.values(), *self.model.graph.constants.values()))

    def __str__(self) -> str:
        d = self.difference
        what = d.problem or f"absolute {d.absolute:.3g}, relative {d.relative:.3g}"
        return f"{self.size} after {self.trials} trials ({what})\n{self.model.graph}"

    @property
    def size(self) -> str:
        """How much is left, in words."""
        return f"{self.nodes} node{'s' * (self.nodes != 1)}, {self.elements} element{'s' * (self.elements != 1)}"


def reduce(
    model: Any,
    inputs: Mapping[str, Any],
    providers: Sequence[Any],
    name: str,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    trials: int = TRIALS,
) -> Reduced:
    """Cut out what shows the difference of the value `name`; the arguments are those of `compare`.

    Nodes keep getting what the first side computed for them, so that one is enough where one is at fault. At most
    about `trials` models are run. Raises ValueError where the difference does not show again, or hangs on an input that
    is no tensor.

    Example:
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> from ortlite.compare import ProviderSide
        >>> class Wrong(ProviderSide):
        ...     def run(self, model, feed, names):
        ...         found = super().run(model, feed, names)
        ...         return {name: value + 1 if name == "h" else value for name, value in found.items()}
        >>> cpu = "CPUExecutionProvider"
        >>> reduced = reduce(model_bytes(), {"scan": scans()[0][:1]}, [cpu, Wrong(cpu)], "h")
        >>> [node.op_type for node in reduced.model.graph.nodes], reduced.difference.exceeds
        (['Gemm'], True)

    """
    one, other = map(side_of, providers)
    whole = unfolded(model_of(model), one, inputs)
    names = [n for n in made(whole.graph) if n not in inputs]
    values = {**one.run(whole, inputs, names), **inputs}
    given = {*inputs, *(n for node in drawing(whole.graph) for n in node.outputs if n)}
    search = _Search(whole, (one, other), name, Tolerance(rtol, atol), values, trials)
    nodes, _ = ancestors(whole.graph.nodes, [name], given - {name})
    if not nodes:
        raise ValueError(f"no node computes {name!r} from anything but random numbers: nothing can be reduced")
    graph, feed = search.nodes(nodes)
    graph, feed = search.slices(graph, feed)
    graph, feed = search.plainer(graph, feed)
    found = search.differ(graph, feed)
    known = {**feed, name: search.last}.items()
    shapes = {n: TensorType(dtypes.of_numpy(a.dtype), a.shape) for n, a in known if isinstance(a, np.ndarray)}
    graph = replace(graph, types={**graph.types, **shapes})
    return Reduced(replace(whole, graph=graph), feed, found, search.spent)


class _Search:
    """What every trial needs, and how many there were."""

    def __init__(
        self,
        model: Model,
        sides: tuple[Side, Side],
        name: str,
        tolerance: Tolerance,
        values: Mapping[str, Any],
        limit: int,
    ):
        self.model, self.sides, self.name, self.tolerance = model, sides, name, tolerance
        self.values, self.limit, self.spent = values, limit, 0
        self.kind: tuple[bool, bool] | None = None
        self.last: Any = None

    def differ(self, graph: Graph, feed: Arrays) -> Difference:
        """The difference of the value between the two sides. Raises what they raise."""
        self.spent += 1
        say("reducing", self.spent, self.limit)
        model = replace(self.model, graph=graph)
        self.last, other = (side.run(model, feed, [self.name])[self.name] for side in self.sides)
        return difference(self.last, other, self.tolerance)

    def shows(self, graph: Graph, feed: Arrays) -> bool:
        """Whether the difference is there, and of the kind it first was: numbers do not turn into NaN on the way."""
        if self.spent >= self.limit:
            return False
        try:
            found = self.differ(graph, feed)
        except Exception:  # noqa: BLE001  (what is cut blindly may fail in any way, and then shows nothing)
            return False
        kind = bool(found.problem), found.odd > 0
        if not found.exceeds or self.kind not in {None, kind}:
            return False
        self.kind = kind
        return True

    def nodes(self, nodes: Sequence[Node]) -> tuple[Graph, Arrays]:
        """The fewest of `nodes`, the ancestors of the value and last the node that computes it, that show it."""

        def attempt(chosen: Sequence[Node]) -> bool:
            return self.shows(*self.cut(chosen))

        low, high = 0, 1
        while not attempt(nodes[-high:]):
            if high >= len(nodes):
                raise ValueError(f"the difference of {self.name!r} does not show again in the model cut down to it")
            low, high = high, min(2 * high, len(nodes))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if attempt(nodes[-middle:]) else (middle, high)
        kept = list(ancestors(nodes[-high:], [self.name])[0])
        size = max(len(kept) // 2, 1)
        while len(kept) > 1:
            start = 0
            while start < len(kept) - 1:  # the last one stays
                rest = [*kept[:start], *kept[min(start + size, len(kept) - 1) :]]
                if attempt(rest):
                    kept = list(ancestors(rest, [self.name])[0])
                else:
                    start += size
            if size == 1:
                break
            size //= 2
        return self.cut(kept)

    def cut(self, nodes: Sequence[Node]) -> tuple[Graph, Arrays]:
        """The graph of some nodes alone, and what the first side computed for the values they read.

        Where such a value is no tensor, the node that computes it comes along.
        """
        whole = self.model.graph
        chosen = set(map(id, nodes))
        while True:
            kept, read = ancestors([node for node in whole.nodes if id(node) in chosen], [self.name])
            inputs = [n for n in self.values if n in read and (n not in whole.constants or n in whole.overridable)]
            odd = next((n for n in inputs if not isinstance(self.values[n], np.ndarray)), None)
            if odd is None:
                break
            producer = next((node for node in whole.nodes if odd in node.outputs), None)
            if producer is None:
                raise ValueError(f"the model needs its input {odd!r}, which is no tensor: a file cannot hold it")
            chosen.add(id(producer))
        bare: dict[str, Any] = {n: TensorType(dtypes.of_numpy(self.values[n].dtype)) for n in inputs}
        graph = Graph(
            name=f"{whole.name}, {self.name}",
            inputs=tuple(inputs),
            outputs=(self.name,),
            nodes=tuple(map(_open, kept)),
            constants={n: c for n, c in whole.constants.items() if n in read and n not in inputs},
            types={**whole.types, **bare},
        )
        return graph, {n: self.values[n] for n in inputs}

    def slices(self, graph: Graph, feed: Arrays) -> tuple[Graph, Arrays]:
        """Cut pieces out of the axes of inputs and constants for as long as the difference stays."""
        arrays = {n: a for n, a in {**feed, **graph.constants}.items() if n not in _parameters(graph)}
        again = True
        while again and self.spent < self.limit:
            again = False
            for places in list(_places(arrays)):
                size = arrays[places[0][0]].shape[places[0][1]]
                if size < 2 or any(arrays[n].shape[axis] != size for n, axis in places):
                    continue  # another group has cut these already

                left = self.fewer(graph, feed, arrays, places)
                if len(left) < size:
                    arrays, again = _taken(arrays, places, left), True
        return _with(graph, feed, arrays)

    def fewer(self, graph: Graph, feed: Arrays, arrays: Arrays, places: Places) -> Sequence[int]:
        """The indices along some axes that must stay."""
        (name, axis), *_ = places

        def attempt(left: Sequence[int]) -> bool:
            return self.shows(*_with(graph, feed, _taken(arrays, places, left)))

        return _fewer(range(arrays[name].shape[axis]), attempt)

    def plainer(self, graph: Graph, feed: Arrays) -> tuple[Graph, Arrays]:
        """Replace floats by zeros, ones or rounder numbers where the difference stays."""
        arrays = {**feed, **graph.constants}
        for name, array in arrays.items():
            if name in _parameters(graph) or dtypes.of_numpy(array.dtype).kind != "f":
                continue
            for simple in _plainer(array):
                trial = arrays | {name: simple}
                if self.shows(*_with(graph, feed, trial)):
                    arrays = trial
                    break
        return _with(graph, feed, arrays)


def _open(node: Node) -> Node:
    """The node without what says again how large its arrays are: shapes in its bodies, that of a kernel."""
    attributes: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, Graph):
            types = {n: TensorType(t.dtype) if type(t) is TensorType else t for n, t in value.types.items()}
            attributes[name] = value.with_nodes(tuple(map(_open, value.nodes)), types=types)
        elif not (name == "kernel_shape" and node.op_type in CONVOLUTIONS):
            attributes[name] = value
    return replace(node, attributes=attributes)


def _taken(arrays: Arrays, places: Places, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays with only some indices left along some axes."""
    cut = dict(arrays)
    for name, axis in places:
        cut[name] = np.take(cut[name], indices, axis=axis)
    return cut


def _with(graph: Graph, feed: Arrays, arrays: Arrays) -> tuple[Graph, Arrays]:
    """Graph and feed with other arrays of the same names."""
    return (
        replace(graph, constants={n: arrays.get(n, c) for n, c in graph.constants.items()}),
        {n: arrays.get(n, a) for n, a in feed.items()},
    )


def _parameters(graph: Graph) -> set[str]:
    """Inputs and constants that say how to compute, such as shapes and axes: not data."""
    found = set()
    for node in graph.nodes:
        kernel = registry.lookup(node.domain, node.op_type, node.opset)
        for position, name in enumerate(node.inputs):
            param = kernel.param(position) if kernel else None
            if param is not None and param.host:
                found.add(name)
    return found


def _places(arrays: Arrays) -> Iterator[Places]:
    """Which axes to cut together: all of one size, the largest first; then each alone; then every two of one size."""
    sizes: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape):
            if size > 1:
                sizes[size].append((name, axis))
    for _, places in sorted(sizes.items(), reverse=True):
        yield tuple(places)
        if len(places) > 1:
            yield from ((place,) for place in places)
        if 2 < len(places) <= 6:
            yield from combinations(places, 2)


def _fewer(items: Sequence[Item], works: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """Leave out halves, then quarters and so on, for as long as the rest works; at least one item is left."""
    pieces = 2
    while len(items) > 1:
        size = -(-len(items) // pieces)
        for start in range(0, len(items), size):
            rest = [*items[:start], *items[start + size :]]
            if rest and works(rest):
                items, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if pieces >= min(len(items), PIECES):
                break
            pieces *= 2
    return items


def _plainer(array: np.ndarray) -> Iterator[np.ndarray]:
    yield np.zeros_like(array)
    yield np.ones_like(array)
    if np.isfinite(array.astype(np.float64)).all():
        for digits in (0, 1, 2):
            simple = np.round(array.astype(np.float64), digits).astype(array.dtype)
            if not np.array_equal(simple, array):
                yield simple
