"""Tree ensembles as flat tables, and a walk over all rows and trees at once.

All trees are walked together: one step moves every (tree, row) pair one level down with a few gathers. Leaves are
their own children, and trees are sorted by depth so that those that are done drop out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array
from ortlite.ops.memo import constant

__all__ = ["Forest", "Split", "build", "members", "scores"]

BLOCK = 1 << 15  # (tree, row) pairs walked at a time: what stays in the cache
AT_ONCE = 1000  # tests of nodes for each step down, up to which making all of them costs less than the steps
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")
OPPOSITE = {"GT": "LEQ", "GTE": "LT", "NEQ": "EQ"}  # these are the others with their branches swapped
SILENT = 1 << 16  # targets that no leaf votes for, at most: zeros, of which a few bytes could ask for any number
SPARE = 1 << 18  # nodes that trees may have in common with others, at most
DENSE = 1 << 27  # weights in the tables, at most, where the votes are far fewer


class Split(NamedTuple):
    """An inner node. A branch is the number of another split, or ~number of a leaf; `nan` says where NaN goes."""

    feature: int
    threshold: float
    mode: str
    true: int
    false: int
    nan: bool


class _Group(NamedTuple):
    """Targets with about equally many slots, filled up to `width`, so that one sum adds them all.

    A *slot* is the part of one tree's leaves in one target: the leaf's number plus `shift` is a place in the weights.
    `tree` says of which tree each slot is (None: the first of tree 0, and so on).
    """

    tree: array[int] | None
    shift: array[int]
    targets: int
    width: int


class Forest(NamedTuple):
    """Tables of an ensemble. Nodes are numbered through: first the leaves, tree by tree, then the splits.

    `child` has two entries per node: where it goes when its test is false, and true. The test is `value <= threshold`;
    or `<` alone or `==` alone, as `less` and `equal` say per node (None: always as `mode` says). `nan` marks nodes that
    NaN leaves by the true branch. `active[d]` trees are deeper than d. `features` is how many features are looked at.
    `groups` hold the targets, in the order in which `order` names them (None: their own).
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
    features: int
    groups: tuple[_Group, ...]
    order: array[int] | None
    weights: array[float]
    targets: int
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
    depth: dict[int, int] = {}  # 0 while what is below a split is being looked at
    leaves: dict[int, None] = {}
    ahead = [root]
    while ahead:
        place = ahead[-1]
        if place < 0:
            leaves[~ahead.pop()] = None
        elif depth.get(place):
            ahead.pop()
        else:
            branches = (splits[place].true, splits[place].false)
            if place in depth:
                depth[ahead.pop()] = 1 + max(depth.get(branch, 0) for branch in branches)
                continue
            depth[place] = 0
            if any(depth.get(branch) == 0 for branch in branches):
                raise ValueError("the nodes of a tree form a cycle")
            ahead.extend(branches)
    return _Tree(list(depth), list(leaves), depth.get(root, 0))


def build(
    splits: Sequence[Split],
    roots: Iterable[int],
    votes: Mapping[int, Sequence[tuple[int, float]]],
    targets: int,
    aggregate: str,
    dtype: str,
) -> Forest:
    """Make the tables. `votes` are the (target, weight) pairs of each leaf; thresholds are compared in `dtype`.

    Raises ValueError for an unknown aggregate or mode, targets or features out of range, and for tables that would be
    out of all proportion to the nodes and votes that they are made from.
    """
    _check_targets(votes, targets)
    if aggregate not in {"SUM", "AVERAGE", "MIN", "MAX"}:
        raise ValueError(f"aggregate_function {aggregate!r} is none of SUM, AVERAGE, MIN, MAX")
    if wrong := {s.mode for s in splits} - set(MODES):
        raise ValueError(f"unknown node modes {sorted(wrong)}")
    trees = []
    size = 0
    for root in roots:
        trees.append(_collect(splits, root))
        size += len(trees[-1].splits)
        if size > len(splits) + SPARE:
            raise ValueError(f"{len(trees)} trees or more share {len(splits)} nodes: their copies would be too many")
    trees.sort(key=lambda tree: -tree.depth)
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
    if min(feature, default=0) < 0:
        raise ValueError(f"a node looks at feature {min(feature)}")
    mixed = len(set(modes)) > 1
    groups, order, weights = _slots(trees, first_leaf, votes, targets, aggregate)
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
        max(feature, default=-1) + 1,
        groups,
        order,
        weights,
        targets,
        aggregate,
        dtype,
    )


def _check_targets(votes: Mapping[int, Sequence[tuple[int, float]]], targets: int) -> None:
    """Raises ValueError for votes for a target that is none, and for absurdly many targets without a vote."""
    voted = {target for pairs in votes.values() for target, _ in pairs}
    if voted and not 0 <= min(voted) <= max(voted) < targets:
        wrong = min(voted) if min(voted) < 0 else max(voted)
        raise ValueError(f"a leaf votes for target (or class) {wrong} of {targets}")
    if targets < 1 or targets - len(voted) > SILENT:
        raise ValueError(f"there are {targets} targets (or classes), and leaves vote for {len(voted)} of them")


def _slots(
    trees: Sequence[_Tree],
    first_leaf: Sequence[int],
    votes: Mapping[int, Sequence[tuple[int, float]]],
    targets: int,
    aggregate: str,
) -> tuple[tuple[_Group, ...], array[int] | None, array[float]]:
    """The slots of all targets in groups, the place of each target among them (None: its own), and the weights."""
    combine: Any = {"MIN": min, "MAX": max}.get(aggregate, lambda a, b: a + b)
    neutral = {"MIN": math.inf, "MAX": -math.inf}.get(aggregate, 0.0)
    weights = array("d", [neutral]) * max((len(tree.leaves) for tree in trees[:1]), default=0)
    filler = (0, 0)  # any leaf of tree 0 finds the neutral element there
    most = max(DENSE, 8 * sum(map(len, votes.values())))
    by_target: list[list[tuple[int, int]]] = [[] for _ in range(targets)]
    for number, (tree, leaf) in enumerate(zip(trees, first_leaf, strict=True)):
        voted = dict.fromkeys(target for key in tree.leaves for target, _ in votes.get(key, ()))
        if len(weights) + len(voted) * len(tree.leaves) > most:
            raise ValueError(
                f"too sparse: the {len(tree.leaves)} leaves of a tree vote for {len(voted)} targets (or classes), and "
                f"the table of their weights would be too large"
            )
        columns = {target: [neutral] * len(tree.leaves) for target in voted}
        for row, key in enumerate(tree.leaves):
            for target, weight in votes.get(key, ()):
                columns[target][row] = combine(columns[target][row], weight)
        for target, column in columns.items():
            by_target[target].append((number, len(weights) - leaf))
            weights.extend(column)
    widths = [len(slots) for slots in by_target]
    if len(set(widths)) > 1:  # up to the next power of two: no group is more than twice what is in it
        widths = [1 << (width - 1).bit_length() if width else 0 for width in widths]
    groups, order = [], []
    for width in sorted(set(widths)):
        members = [target for target in range(targets) if widths[target] == width]
        slots = [slot for t in members for slot in (*by_target[t], *[filler] * (width - len(by_target[t])))]
        regular = [tree for tree, _ in slots] == list(range(len(trees)))
        of = None if regular else array("q", [tree for tree, _ in slots])
        groups.append(_Group(of, array("q", [shift for _, shift in slots]), len(members), width))
        order.extend(members)
    place = sorted(range(targets), key=order.__getitem__)
    return tuple(groups), None if len(groups) == 1 else array("q", place), weights


def scores(xp: Namespace, x: Array, forest: Forest) -> Array:
    """What the ensemble gives each row of `(rows, features)`: float64 `(rows, targets)`, not yet transformed.
    Raises ValueError when the trees look at a feature that `x` does not have.
    """
    if x.ndim != 2:
        raise ValueError(f"X must be (rows, features), not {tuple(x.shape)}")
    rows, features = x.shape
    if forest.features > features:
        raise ValueError(f"a node looks at feature {forest.features - 1}, X has {features}")
    if not forest.roots:
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
    if rows * len(forest.feature) <= AT_ONCE * len(forest.active):
        return _leaves_at_once(xp, x, forest)
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
        place = xp.take(feature, at)
        value = xp.take(columns, place * rows + row if rows > 1 else place)
        test = _test(xp, value, xp.take(threshold, at), forest, partial(_of_nodes, xp, at))
        at = xp.take(child, at * 2 + xp.astype(test, xp.int64))
    return xp.reshape(xp.concat([at, *done[::-1]]) if done else at, (trees, rows))


def _of_nodes(xp: Namespace, at: Array, table: Array) -> Array:
    return xp.take(table, at)


def _leaves_at_once(xp: Namespace, x: Array, forest: Forest) -> Array:
    """`_leaves` by all tests of all nodes, after which one gather is a step down: of few rows and nodes cheaper."""
    rows, nodes = x.shape[0], len(forest.feature)
    value = xp.take(x, constant(xp, forest.feature, "int64"), axis=1)
    test = _test(xp, value, constant(xp, forest.threshold, forest.dtype), forest, lambda table: table)
    child = xp.reshape(constant(xp, forest.child, "int64"), (nodes, 2))
    ahead = xp.where(test, child[:, 1], child[:, 0])
    at = constant(xp, forest.roots, "int64")
    if rows != 1:  # each row has a copy of the nodes
        first = xp.expand_dims(xp.arange(rows, dtype=xp.int64) * nodes, axis=1)
        ahead, at = ahead + first, xp.reshape(at + first, (-1,))
    ahead = xp.reshape(ahead, (-1,))
    for _ in forest.active:
        at = xp.take(ahead, at)
    at = xp.reshape(at, (rows, len(forest.roots)))
    return xp.permute_dims(at if rows == 1 else at - first, (1, 0))


def _test(xp: Namespace, value: Array, threshold: Array, forest: Forest, of_each: Callable[[Array], Array]) -> Array:
    """Whether values pass the tests of their nodes; `of_each` makes of a table of all nodes one of theirs."""

    def marked(table: array[int]) -> Array:
        return of_each(xp.asarray(table, dtype=xp.int8)) != 0

    if forest.less is not None and forest.equal is not None:
        test = ((value < threshold) & marked(forest.less)) | ((value == threshold) & marked(forest.equal))
    else:
        test = {"LEQ": xp.less_equal, "LT": xp.less, "EQ": xp.equal}[forest.mode](value, threshold)
    return test if forest.nan is None else test | (xp.isnan(value) & marked(forest.nan))


def _sum(xp: Namespace, leaves: Array, forest: Forest) -> Array:
    """Combine the votes of the leaves: `(trees, rows)` leaves to `(rows, targets)`."""
    weights = constant(xp, forest.weights, "float64")
    parts = [_of_group(xp, leaves, weights, group, forest) for group in forest.groups]
    result = parts[0] if len(parts) == 1 else xp.concat(parts)
    if forest.order is not None:
        result = xp.take(result, constant(xp, forest.order, "int64"), axis=0)
    return xp.permute_dims(result, (1, 0))


def _of_group(xp: Namespace, leaves: Array, weights: Array, group: _Group, forest: Forest) -> Array:
    """What the leaves give the targets of a group: `(targets, rows)`."""
    rows = leaves.shape[1]
    if not group.width:
        return xp.zeros((group.targets, rows), dtype=xp.float64)
    if group.tree is not None:
        leaves = xp.take(leaves, constant(xp, group.tree, "int64"), axis=0)
    indices = leaves + xp.expand_dims(constant(xp, group.shift, "int64"), axis=1)
    votes = xp.reshape(xp.take(weights, xp.reshape(indices, (-1,))), (group.targets, group.width, rows))
    if forest.aggregate in {"MIN", "MAX"}:
        result = (xp.min if forest.aggregate == "MIN" else xp.max)(votes, axis=1)
        return xp.where(xp.isinf(result), xp.zeros_like(result), result)  # no leaf voted
    result = xp.sum(votes, axis=1)
    return result / len(forest.roots) if forest.aggregate == "AVERAGE" else result
