"""Where the nodes of a graph, and the bars of a flame graph, are drawn: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Place", "flames", "layers", "places"]

TALL = 10  # nodes of a layer that stand below one another; more begin a further column
ASPECT = 2.6  # of the drawing: width divided by height
CELL = 1.9  # the same, of the space that a node has


@dataclass(frozen=True, slots=True)
class Place:
    """The middle of a node. `line`: which line of the drawing it stands in, as words stand in lines of text."""

    x: float
    y: float
    line: int


def layers(reads: Sequence[Sequence[int]]) -> list[int]:
    """The layer of each node: one more than that of the last node it reads; what reads nothing stands by its reader.

    Nodes may read only what comes before them in a topological order; what does not is left out of account.

    Example:
        >>> layers([[], [0], [1], [], [2, 3]])
        [0, 1, 2, 2, 3]

    """
    found = [0] * len(reads)
    for node in _sorted(reads):
        found[node] = max((found[other] + 1 for other in reads[node]), default=0)
    readers: list[list[int]] = [[] for _ in reads]
    for node, others in enumerate(reads):
        for other in others:
            readers[other].append(node)
    for node, others in enumerate(reads):
        if not others and readers[node]:
            found[node] = max(0, min(found[reader] for reader in readers[node]) - 1)
    return found


def _sorted(reads: Sequence[Sequence[int]]) -> list[int]:
    """Nodes, each after those that it reads. In a circle, where there should be none, the first comes first."""
    order: list[int] = []
    state = [0] * len(reads)  # 1: begun, 2: done
    for start in range(len(reads)):
        waiting = [start]
        while waiting:
            node = waiting[-1]
            if state[node] == 0:
                state[node] = 1
                waiting += [other for other in reads[node] if state[other] == 0]
            else:
                waiting.pop()
                if state[node] == 1:
                    state[node] = 2
                    order.append(node)
    return order


def places(reads: Sequence[Sequence[int]]) -> list[Place]:
    """Layers from left to right, broken into lines as text is, so that all of it has the shape of a screen."""
    if not reads:
        return []
    columns: list[list[int]] = []
    layer = layers(reads)
    members: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for node in _sorted(reads):
        members[layer[node]].append(node)
    height = [0.0] * len(reads)  # within a column, the middle at 0
    for group in members:
        means = {n: sum(height[o] for o in reads[n]) / len(reads[n]) if reads[n] else TALL / 2 for n in group}
        group.sort(key=means.__getitem__)
        for begin in range(0, len(group), TALL):
            column = group[begin : begin + TALL]
            columns.append(column)
            for index, node in enumerate(column):
                height[node] = index - (len(column) - 1) / 2
    across = _across([len(column) for column in columns])
    found: list[Place] = [Place(0, 0, 0)] * len(reads)
    y = 0.0
    for line, begin in enumerate(range(0, len(columns), across)):
        row = columns[begin : begin + across]
        tallest = max(map(len, row))
        for x, column in enumerate(row):
            for node in column:
                found[node] = Place(x, -(y + (tallest - 1) / 2 + height[node]), line)
        y += tallest + 0.6
    return found


def _across(heights: Sequence[int]) -> int:
    """How many columns a line has for the whole to come closest to the shape of a screen."""

    def off(across: int) -> float:
        lines = [max(heights[begin : begin + across]) + 0.6 for begin in range(0, len(heights), across)]
        shape = CELL * across / sum(lines)
        return max(shape / ASPECT, ASPECT / shape)

    tried, across = [], 8
    while across < len(heights):
        tried.append(across)
        across += max(1, across // 8)
    return min([*tried, max(len(heights), 1)], key=off)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a flame graph, from `left` to `right`; `node` is None for what stands for several."""

    label: str
    depth: int
    left: float
    right: float
    node: int | None


def flames(paths: Sequence[Sequence[str]], sizes: Sequence[float]) -> list[Bar]:
    """Bars for nodes by their paths, outermost first; what has the same path in common lies on one bar.

    Groups stand in the order of their first node. A group inside of which nothing but one further group lies is one
    bar with it.

    Example:
        >>> [(bar.label, bar.depth, bar.left, bar.right) for bar in flames([["a", "x"], ["b"], ["a", "y"]], [1, 2, 3])]
        [('a', 0, 0.0, 4.0), ('x', 1, 0.0, 1.0), ('y', 1, 1.0, 4.0), ('b', 0, 4.0, 6.0)]

    """
    bars: list[Bar] = []

    def lay(members: Sequence[int], depth: int, shared: int, left: float) -> float:
        groups: dict[tuple[str, bool], list[int]] = {}
        for node in members:
            path = paths[node]
            groups.setdefault((path[shared], len(path) == shared + 1), []).append(node)
        for (label, leaf), group in groups.items():
            if leaf:
                for node in group:
                    bars.append(Bar(label, depth, left, left + sizes[node], node))
                    left += sizes[node]
                continue
            names, end = [label], shared + 1
            while True:  # a.b.c, where nothing else is in a and in b
                further = {(paths[node][end], len(paths[node]) == end + 1) for node in group}
                if len(further) > 1 or next(iter(further))[1]:
                    break
                names.append(next(iter(further))[0])
                end += 1
            place = len(bars)
            right = lay(group, depth + 1, end, left)
            bars.insert(place, Bar(".".join(names), depth, left, right, None))
            left = right
        return left

    lay([node for node, path in enumerate(paths) if path], 0, 0, 0.0)
    return bars
