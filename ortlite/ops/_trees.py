"""Tree ensembles as flat tables, and a walk over all rows and trees at once.

All trees are walked together: one step moves every (tree, row) pair one level down with a few gathers. Leaves are
their own children, and trees are sorted by depth so that those that are done drop out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ortlite.namespace import Namespace
from ortlite.ops._remember import constant
from ortlite.ops.annotations import Array

__all__ = ["Forest", "Split", "build", "members", "scores"]

BLOCK = 1 << 15  # (tree, row) pairs walked at a time: what stays in the cache
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")
OPPOSITE = {"GT": "LEQ", "GTE": "LT", "NEQ": "EQ"}  # these are the others with their branches swapped


class Split(NamedTuple):
    """An inner node. A branch is the number of another split, or ~number of a leaf; `nan` says where NaN goes."""

    feature: int
    threshold: float
    mode: str
    true: int
    false: int
    nan: bool


@dataclass(frozen=True, slots=True)
class Forest:
    """Tables of an ensemble. Nodes are numbered through: first the leaves, tree by tree, then the splits.

    `child` has two entries per node: where it goes when its test is false, and true. The test is `value <= threshold`;
    or `<` alone or `==` alone, as `less` and `equal` say per node (None: always as `mode` says). `nan` marks nodes that
    NaN leaves by the true branch. `active[d]` trees are deeper than d. A *slot* is the part of one tree's leaves in one
    target: the leaf's number plus `shift` is a place in `weights`; every target has the same number of slots.
    """

    feature: array[int]
    threshold: array[float]
    child: array[int]
    mode: str
    less: array[int] | None
    equal: array[int] | None
    nan: array[int] | None
    roots: array[int]
    active: tuple[int, ...]
    slot_tree: array[int] | None
    shift: array[int]
    weights: array[float]
    targets: int
    width: int
    aggregate: str
    dtype: str


def members(split: Split, values: Sequence[float], first: int) -> list[Split]:
    """A search for the sorted `values` instead of `split`: splits numbered from `first` on, the root last."""
    if len(values) < 2:
        return [split._replace(threshold=values[0] if values else math.nan, mode="EQ")]
    middle = len(values) // 2
    below = members(split, values[:middle], first)
    above = members(split, values[middle:], first + len(below))
    last = first + len(below) + len(above) - 1
    root = Split(split.feature, values[middle], "LT", first + len(below) - 1, last, False)
    return [*below, *above, root]


class _Tree(NamedTuple):
    splits: list[int]
    leaves: list[int]
    depth: int


def _collect(splits: Sequence[Split], root: int) -> _Tree:
    """The splits and leaves under a root, and the longest way down. Raises ValueError for a cycle.

    Several paths may lead to a node: those of a search in a set all end at the same two.
    """
    found: dict[int, None] = {}
    leaves: dict[int, None] = {}
    level, depth = {root: None}, 0
    while level:
        inner = [place for place in level if place >= 0]
        leaves.update((~place, None) for place in level if place < 0)
        found.update(dict.fromkeys(inner))
        depth += bool(inner)
        if depth > len(splits):
            raise ValueError("the nodes of a tree form a cycle")
        level = dict.fromkeys(branch for place in inner for branch in (splits[place].true, splits[place].false))
    return _Tree(list(found), list(leaves), depth)


def build(
    splits: Sequence[Split],
    roots: Iterable[int],
    votes: Mapping[int, Sequence[tuple[int, float]]],
    targets: int,
    aggregate: str,
    dtype: str,
) -> Forest:
    """Make the tables. `votes` are the (target, weight) pairs of each leaf; thresholds are compared in `dtype`.

    Raises ValueError for an unknown aggregate or mode, or a target out of range.
    """
    if aggregate not in {"SUM", "AVERAGE", "MIN", "MAX"}:
        raise ValueError(f"aggregate_function {aggregate!r} is none of SUM, AVERAGE, MIN, MAX")
    if wrong := {s.mode for s in splits} - set(MODES):
        raise ValueError(f"unknown node modes {sorted(wrong)}")
    trees = sorted((_collect(splits, root) for root in roots), key=lambda tree: -tree.depth)
    first_leaf: list[int] = []
    count = 0
    for tree in trees:
        first_leaf.append(count)
        count += len(tree.leaves)
    feature, threshold, child = [0] * count, [0.0] * count, [n for n in range(count) for _ in range(2)]
    modes, nan, starts = ["LEQ"] * 0, [0] * count, []
    for tree, leaf in zip(trees, first_leaf, strict=True):
        start = len(feature)
        place = {~key: leaf + i for i, key in enumerate(tree.leaves)}
        place |= {key: start + i for i, key in enumerate(tree.splits)}
        starts.append(start if tree.splits else leaf)
        for key in tree.splits:
            split = splits[key]
            swapped = split.mode in OPPOSITE
            feature.append(split.feature)
            threshold.append(split.threshold)
            modes.append(OPPOSITE.get(split.mode, split.mode))
            branches = (place[split.false], place[split.true])
            child.extend(branches[::-1] if swapped else branches)
            # NaN fails every test but NEQ; where the branches are swapped, "fails" means "goes the other way"
            nan.append(int(split.nan != swapped and split.mode != "NEQ"))
    mixed = len(set(modes)) > 1
    slots = _slots(trees, first_leaf, votes, targets, aggregate)
    depth = trees[0].depth if trees else 0
    return Forest(
        array("q", feature),
        array("f" if dtype == "float32" else "d", threshold),
        array("q", child),
        modes[0] if modes else "LEQ",
        array("b", [0] * count + [mode != "EQ" for mode in modes]) if mixed else None,
        array("b", [0] * count + [mode != "LT" for mode in modes]) if mixed else None,
        array("b", nan) if any(nan) else None,
        array("q", starts),
        tuple(sum(tree.depth > d for tree in trees) for d in range(depth)),
        *slots,
        aggregate,
        dtype,
    )


def _slots(
    trees: Sequence[_Tree],
    first_leaf: Sequence[int],
    votes: Mapping[int, Sequence[tuple[int, float]]],
    targets: int,
    aggregate: str,
) -> tuple[array[int] | None, array[int], array[float], int, int]:
    """Slots by target: their trees (None: the first slot's is tree 0, and so on), shifts, weights, targets, width."""
    combine: Any = {"MIN": min, "MAX": max}.get(aggregate, lambda a, b: a + b)
    neutral = {"MIN": math.inf, "MAX": -math.inf}.get(aggregate, 0.0)
    weights = array("d")
    by_target: list[list[tuple[int, int]]] = [[] for _ in range(targets)]
    for number, (tree, leaf) in enumerate(zip(trees, first_leaf, strict=True)):
        columns: dict[int, list[float]] = {}
        for row, key in enumerate(tree.leaves):
            for target, weight in votes.get(key, ()):
                if not 0 <= target < targets:
                    raise ValueError(f"a leaf votes for target {target} of {targets}")
                column = columns.setdefault(target, [neutral] * len(tree.leaves))
                column[row] = combine(column[row], weight)
        for target, column in columns.items():
            by_target[target].append((number, len(weights) - leaf))
            weights.extend(column)
    width = max(map(len, by_target), default=0)
    if any(len(slots) < width for slots in by_target):
        filler = (0, len(weights))  # any leaf of tree 0 finds the neutral element there
        weights.extend([neutral] * len(trees[0].leaves))
        by_target = [[*slots, *[filler] * (width - len(slots))] for slots in by_target]
    places = [number for slots in by_target for number, _ in slots]
    regular = places == list(range(len(trees)))
    shifts = array("q", [shift for slots in by_target for _, shift in slots])
    return None if regular else array("q", places), shifts, weights, targets, width


def scores(xp: Namespace, x: Array, forest: Forest) -> Array:
    """What the ensemble gives each row of `(rows, features)`: float64 `(rows, targets)`, not yet transformed.

    Raises ValueError when the trees look at a feature that `x` does not have.
    """
    if x.ndim != 2:
        raise ValueError(f"X must be (rows, features), not {tuple(x.shape)}")
    rows, features = x.shape
    if len(forest.feature) and max(forest.feature) >= features:
        raise ValueError(f"a node looks at feature {max(forest.feature)}, X has {features}")
    if not forest.width:
        return xp.zeros((rows, forest.targets), dtype=xp.float64)
    x = xp.astype(x, xp.dtype(forest.dtype))
    block = max(1, BLOCK // len(forest.roots))
    parts = [
        _sum(xp, _leaves(xp, x[i : min(i + block, rows), :], forest), forest) for i in range(0, max(rows, 1), block)
    ]
    return parts[0] if len(parts) == 1 else xp.concat(parts)


def _leaves(xp: Namespace, x: Array, forest: Forest) -> Array:
    """The leaf that each row reaches in each tree: int64 `(trees, rows)`."""
    rows, trees = x.shape[0], len(forest.roots)
    columns = xp.reshape(xp.permute_dims(x, (1, 0)), (-1,))
    row = xp.tile(xp.arange(rows, dtype=xp.int64), (trees,))
    at = xp.repeat(constant(xp, forest.roots, "int64"), rows)
    feature, child = constant(xp, forest.feature, "int64"), constant(xp, forest.child, "int64")
    threshold = constant(xp, forest.threshold, forest.dtype)
    done = []
    for trees_left in forest.active:
        if at.shape[0] > trees_left * rows:
            done.append(at[trees_left * rows :])
            at = at[: trees_left * rows]
            row = row[: trees_left * rows]
        value = xp.take(columns, xp.take(feature, at) * rows + row)
        test = _test(xp, value, xp.take(threshold, at), at, forest)
        at = xp.take(child, at * 2 + xp.astype(test, xp.int64))
    return xp.reshape(xp.concat([at, *done[::-1]]) if done else at, (trees, rows))


def _test(xp: Namespace, value: Array, threshold: Array, at: Array, forest: Forest) -> Array:
    """Whether each pair leaves its node by the true branch."""

    def marked(table: array[int]) -> Array:
        return xp.take(xp.asarray(table, dtype=xp.int8), at) != 0

    if forest.less is not None and forest.equal is not None:
        test = ((value < threshold) & marked(forest.less)) | ((value == threshold) & marked(forest.equal))
    else:
        test = {"LEQ": xp.less_equal, "LT": xp.less, "EQ": xp.equal}[forest.mode](value, threshold)
    return test if forest.nan is None else test | (xp.isnan(value) & marked(forest.nan))


def _sum(xp: Namespace, leaves: Array, forest: Forest) -> Array:
    """Combine the votes of the leaves: `(trees, rows)` leaves to `(rows, targets)`."""
    if forest.slot_tree is not None:
        leaves = xp.take(leaves, constant(xp, forest.slot_tree, "int64"), axis=0)
    places = leaves + xp.expand_dims(constant(xp, forest.shift, "int64"), axis=1)
    votes = xp.take(constant(xp, forest.weights, "float64"), xp.reshape(places, (-1,)))
    votes = xp.reshape(votes, (forest.targets, forest.width, leaves.shape[1]))
    if forest.aggregate in {"MIN", "MAX"}:
        result = (xp.min if forest.aggregate == "MIN" else xp.max)(votes, axis=1)
        result = xp.where(xp.isinf(result), xp.zeros_like(result), result)  # no leaf voted
    else:
        result = xp.sum(votes, axis=1)
        if forest.aggregate == "AVERAGE":
            result = result / len(forest.roots)
    return xp.permute_dims(result, (1, 0))
