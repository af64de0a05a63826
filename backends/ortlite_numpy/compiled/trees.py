"""Tree ensembles: every row walks down every tree, a block of rows at a time so that a tree stays in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ortlite.ops.memo import listed, once
from ortlite.ops.ml import trees as kernels
from ortlite_numpy.compiled.jit import loops, own, share, with_names
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.record import numpy as np

ML = "ai.onnx.ml"
TRANSFORMS = {"NONE": 0, "LOGISTIC": 1, "SOFTMAX": 2}
AGGREGATES = {"SUM": 0, "AVERAGE": 1, "MIN": 2, "MAX": 3}
MANY, BINARY, SINGLE = range(3)  # what a classifier's scores are: one a class, of one class of two, of the only class
BLOCK = 64  # rows that go down a tree before the next tree
TOGETHER = 8  # rows that walk down a tree at the same time
EVEN = 3  # levels that all go down; of deeper trees, many leaves are above the last level
LEVEL = 1.5e-9  # seconds for one level of one tree


class Tables(NamedTuple):
    """A forest as the kernel takes it.

    Leaves come first and are their own children. `tests` says of a split for which values it is true: those below (1)
    and at (2) its threshold, and NaN (4); it is empty where that is "below or at" for all. Tree t adds to the targets
    `target[first[t]:first[t + 1]]` the weights at its leaf's number plus `shift`. `sizes` are the number of leaves, the
    aggregate, the transform, and for a classifier what its scores are, the class of two that is voted for, and whether
    no vote is negative.
    """

    feature: Any
    threshold: Any
    child: Any
    tests: Any
    roots: Any
    active: Any
    first: Any
    target: Any
    shift: Any
    weights: Any
    base: Any
    labels: Any
    sizes: Any


class Ready(NamedTuple):
    """Tables, how many features a row must have, in which dtype, how many scores it gets, and what it costs."""

    tables: Tables
    features: int
    dtype: Any
    targets: int
    seconds: float


def ready(forest: Any, base: list[float], post_transform: str, rest: tuple[int, ...] = (), labels: Any = ()) -> Ready:
    """A forest of `ortlite.ops.ml`, ready to walk in."""
    tables = tables_of(forest, base, post_transform, rest, labels)
    levels = sum(forest.active)
    return Ready(tables, forest.features, tables.threshold.dtype, forest.targets, (levels + 5) * LEVEL)


def tables_of(forest: Any, base: list[float], post_transform: str, rest: tuple[int, ...], labels: Any) -> Tables:
    """The tables of a forest."""
    slots: list[list[tuple[int, int]]] = [[] for _ in forest.roots]
    target_at = list(range(forest.targets))
    for target, position in enumerate(forest.order or ()):
        target_at[position] = target
    position = 0
    for group in forest.groups:
        for index, shift in enumerate(group.shift):
            tree = index if group.tree is None else group.tree[index]
            if shift or tree:  # tree 0 has no shift of 0 but for the filler
                slots[tree].append((target_at[position + index // group.width], shift))
        position += group.targets
    flat = [slot for of_tree in slots for slot in of_tree]
    sums = [0]
    for of_tree in slots:
        sums.append(sums[-1] + len(of_tree))
    child = np.array(forest.child, np.int32)
    leaves = int(np.count_nonzero(child[::2] == np.arange(child.size // 2)))
    return Tables(
        np.array(forest.feature, np.int32),
        np.array(forest.threshold, forest.dtype),
        child,
        _tests(forest),
        np.array(forest.roots, np.int32),
        np.array(forest.active, np.int64),
        np.array(sums, np.int64),
        np.array([target for target, _ in flat], np.int64),
        np.array([shift for _, shift in flat], np.int64),
        np.array(forest.weights, np.float64),
        np.array([*base, *[0.0] * (forest.targets - len(base))], np.float64),
        np.array(labels, np.int64),
        np.array([leaves, AGGREGATES[forest.aggregate], TRANSFORMS[post_transform], *rest], np.int64),
    )


def _tests(forest: Any) -> Any:
    if forest.mode == "LEQ" and forest.less is None and forest.nan is None:
        return np.zeros(0, np.int8)
    count = len(forest.feature)
    if forest.less is None:
        tests = np.full(count, {"LEQ": 3, "LT": 1, "EQ": 2}[forest.mode], np.int8)
    else:
        tests = np.array(forest.less, np.int8) + 2 * np.array(forest.equal, np.int8)
    return tests if forest.nan is None else tests + 4 * np.array(forest.nan, np.int8)


@loops()
def below(value, node, threshold, child, tests):
    """The child of a node to which a value goes; leaves are their own children. No branch hangs on the value."""
    limit = threshold[node]
    if tests.size == 0:
        return child[2 * node + (1 if value <= limit else 0)]
    kind = (1 if value < limit else 0) | (2 if value == limit else 0) | (4 if value != value else 0)
    return child[2 * node + (1 if tests[node] & kind else 0)]


@loops()
def further(flat, row, node, feature, threshold, child, tests):
    """The child of a node to which the row that begins at `row` goes; as `below`, of tests that are all alike."""
    right = np.uintp(flat[row + np.uintp(feature[node])] <= threshold[node])
    return np.uintp(child[node + node + right])


@loops()
def further_by_tests(flat, row, node, feature, threshold, child, tests):
    """The same where every node has a test of its own."""
    value, limit = flat[row + np.uintp(feature[node])], threshold[node]
    kind = np.uintp(value < limit) | np.uintp(value == limit) << np.uintp(1) | np.uintp(value != value) << np.uintp(2)
    right = np.uintp((np.uintp(tests[node]) & kind) != np.uintp(0))
    return np.uintp(child[node + node + right])


@loops()
def walk(flat, place, width, root, feature, threshold, child, tests, leaves, leaf, r):
    """The leaves that eight rows reach, of which the first begins at `place`, into `leaf` from `r` on.

    In each level a row waits for its node, its value, the comparison and the child, eight of them at the same time. The
    numbers have no sign: numba would look at each index whether it is negative.
    """
    step, end = np.uintp(width), np.uintp(leaves)
    i0 = np.uintp(place)
    i1, i2, i3, i4 = i0 + step, i0 + step * np.uintp(2), i0 + step * np.uintp(3), i0 + step * np.uintp(4)
    i5, i6, i7 = i4 + step, i4 + step * np.uintp(2), i4 + step * np.uintp(3)
    n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = np.uintp(root)
    # three comparisons one after the other instead of seven
    while max(max(max(n0, n1), max(n2, n3)), max(max(n4, n5), max(n6, n7))) >= end:  # noqa: PLW3301
        n0 = further(flat, i0, n0, feature, threshold, child, tests)
        n1 = further(flat, i1, n1, feature, threshold, child, tests)
        n2 = further(flat, i2, n2, feature, threshold, child, tests)
        n3 = further(flat, i3, n3, feature, threshold, child, tests)
        n4 = further(flat, i4, n4, feature, threshold, child, tests)
        n5 = further(flat, i5, n5, feature, threshold, child, tests)
        n6 = further(flat, i6, n6, feature, threshold, child, tests)
        n7 = further(flat, i7, n7, feature, threshold, child, tests)
    leaf[r], leaf[r + 1], leaf[r + 2], leaf[r + 3] = n0, n1, n2, n3
    leaf[r + 4], leaf[r + 5], leaf[r + 6], leaf[r + 7] = n4, n5, n6, n7


walk_by_tests = with_names(walk, "walk_by_tests", further=further_by_tests)


@loops()
def descend(x, start, rows, feature, threshold, child, tests, roots, active, leaves, at):
    """The leaves that rows [start, start + rows) reach: `at` (trees, BLOCK).

    Some rows walk down a tree together or, where they are few, all trees with a row: the processor then looks at
    several nodes at once. The trees are sorted by depth, and `active[d]` are deeper than d. Of few rows, below EVEN
    levels, trees in which a leaf is reached are left out.
    """
    trees = roots.size
    if rows < TOGETHER:
        ahead = np.empty(trees, np.int32)
        for r in range(rows):
            row = x[start + r]
            for tree in range(trees):
                at[tree, r] = roots[tree]
            even = min(active.size, EVEN)
            for level in range(even):
                for tree in range(active[level]):
                    node = at[tree, r]
                    at[tree, r] = below(row[feature[node]], node, threshold, child, tests)
            count = 0
            for tree in range(active[even] if active.size > even else 0):
                ahead[count] = tree
                count += 1 if at[tree, r] >= leaves else 0
            while count > 0:
                left = 0
                for i in range(count):
                    tree = ahead[i]
                    node = at[tree, r]
                    node = below(row[feature[node]], node, threshold, child, tests)
                    at[tree, r] = node
                    ahead[left] = tree
                    left += 1 if node >= leaves else 0
                count = left
        return
    flat, width = x.reshape(x.size), x.shape[1]
    for tree in range(trees):
        for r in range(0, rows, TOGETHER):
            r = min(r, rows - TOGETHER)
            place, root = (start + r) * width, roots[tree]
            if tests.size == 0:
                walk(flat, place, width, root, feature, threshold, child, tests, leaves, at[tree], r)
            else:
                walk_by_tests(flat, place, width, root, feature, threshold, child, tests, leaves, at[tree], r)


@loops()
def transform(row, count, kind):
    """Logistic function or softmax of a row in place."""
    if kind == 1:
        for c in range(count):
            row[c] = 1.0 / (1.0 + math.exp(-row[c]))
    elif kind == 2:
        top = row[0]
        for c in range(1, count):
            if row[c] > top:
                top = row[c]
        total = 0.0
        for c in range(count):
            row[c] = math.exp(row[c] - top)
            total += row[c]
        for c in range(count):
            row[c] /= total


@loops()
def regress(x, feature, threshold, child, tests, roots, active, first, target, shift, weights, base, labels, sizes,
            scores, start, stop):  # fmt: skip
    """What the trees give rows [start, stop), aggregated and transformed, into `scores`."""
    leaves, aggregate, post = sizes[0], sizes[1], sizes[2]
    targets = base.size
    sums = np.empty((BLOCK, targets), np.float64)
    at = np.empty((roots.size, BLOCK), np.int32)
    for block in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - block)
        for r in range(rows):
            for c in range(targets):
                sums[r, c] = np.inf if aggregate == 2 else -np.inf if aggregate == 3 else 0.0
        descend(x, block, rows, feature, threshold, child, tests, roots, active, leaves, at)
        for tree in range(roots.size):
            low, high = first[tree], first[tree + 1]
            for r in range(rows):
                leaf = at[tree, r]
                for slot in range(low, high):
                    weight = weights[leaf + shift[slot]]
                    c = target[slot]
                    if aggregate < 2:
                        sums[r, c] += weight
                    elif aggregate == 2:
                        sums[r, c] = min(sums[r, c], weight)
                    else:
                        sums[r, c] = max(sums[r, c], weight)
        for r in range(rows):
            for c in range(targets):
                value = sums[r, c]
                if aggregate == 1:
                    value /= max(roots.size, 1)
                elif aggregate > 1 and np.isinf(value):
                    value = 0.0
                sums[r, c] = value + base[c]
            transform(sums[r], targets, post)
            for c in range(targets):
                scores[block + r, c] = sums[r, c]


@loops()
def classify(x, feature, threshold, child, tests, roots, active, first, target, shift, weights, base, labels, sizes,
             scores, classes, start, stop):  # fmt: skip
    """The scores of rows [start, stop) and their classes: indices where there are no `labels`."""
    leaves, post, kind, voted, positive = sizes[0], sizes[2], sizes[3], sizes[4], sizes[5]
    count = base.size
    sums = np.empty((BLOCK, count), np.float64)
    at = np.empty((roots.size, BLOCK), np.int32)
    for block in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - block)
        for r in range(rows):
            for c in range(count):
                sums[r, c] = 0.0
        descend(x, block, rows, feature, threshold, child, tests, roots, active, leaves, at)
        for tree in range(roots.size):
            low, high = first[tree], first[tree + 1]
            for r in range(rows):
                leaf = at[tree, r]
                for slot in range(low, high):
                    sums[r, target[slot]] += weights[leaf + shift[slot]]
        for r in range(rows):
            row = sums[r]
            for c in range(count):
                row[c] += base[c]
            best = 0
            if kind == MANY:
                for c in range(1, count):
                    if row[c] > row[best] or (row[c] != row[c] and row[best] == row[best]):
                        best = c
                transform(row, count, post)
            elif kind == SINGLE:
                best = 1 if row[0] > 0 else 0
            else:
                score = row[voted]
                best = 1 if score > (0.5 if positive else 0.0) else 0
                row[1] = score
                if voted == 1:
                    row[0] = 0.0
                    transform(row, 2, post)
                elif post == 1:
                    row[0] = -score
                    transform(row, 2, post)
                else:
                    row[0] = 1 - score if positive else -score
            for c in range(count):
                scores[block + r, c] = row[c]
            classes[block + r] = labels[best] if labels.size > 0 else best


def _rows(X: Any, forest: Ready) -> Any:
    """X in the dtype that it meets thresholds in; None where it is no table of enough features."""
    if X.ndim != 2 or X.dtype.kind not in "iuf" or X.shape[1] < forest.features:
        return None
    return own(X if X.dtype == forest.dtype else X.astype(forest.dtype))


def _regressed(xp: Any, X: Any, forest: Ready, dtype: Any) -> Any:
    x = _rows(X, forest)
    if x is None:
        return NotImplemented
    rows = x.shape[0]
    scores = np.empty((rows, forest.targets), dtype)
    share(xp, regress, (x, *forest.tables, scores), rows, rows * forest.seconds)
    return scores


_NODES = {"nodes_treeids": (0, 0, 0), "nodes_nodeids": (0, 1, 2), "nodes_featureids": (0, 0, 0)}
_NODES |= {"nodes_truenodeids": (1, 0, 0), "nodes_falsenodeids": (2, 0, 0)}
_STUMP: dict[str, Any] = {**_NODES, "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF"), "nodes_values": (0.0, 0.0, 0.0)}


def _leaves_of(kind: str) -> dict[str, Any]:
    return {f"{kind}_treeids": (0, 0), f"{kind}_nodeids": (1, 2), f"{kind}_ids": (0, 0), f"{kind}_weights": (1.0, 2.0)}


def _regression(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 1), dtype),), {**_STUMP, **_leaves_of("target"), "n_targets": 1}
    if "nodes_values_as_tensor" in attributes or not attributes:
        node = {**_STUMP, "nodes_values": None, "nodes_values_as_tensor": np.zeros(3)}
        yield (np.zeros((1, 1), dtype),), {**node, **_leaves_of("target"), "n_targets": 1}


def _classification(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    labels = {"classlabels_int64s": (0, 1)}
    yield (np.zeros((1, 1), dtype),), {**_STUMP, **_leaves_of("class"), **labels}
    if "nodes_values_as_tensor" in attributes or not attributes:
        node = {**_STUMP, "nodes_values": None, "nodes_values_as_tensor": np.zeros(3)}
        yield (np.zeros((1, 1), dtype),), {**node, **_leaves_of("class"), **labels}


def _by_position(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    node = {"nodes_featureids": (0,), "nodes_splits": np.zeros(1, dtype), "nodes_modes": np.zeros(1, np.uint8)}
    node |= {"nodes_truenodeids": (0,), "nodes_trueleafs": (1,), "nodes_falsenodeids": (1,), "nodes_falseleafs": (1,)}
    leaves = {"leaf_targetids": (0, 0), "leaf_weights": np.ones(2, dtype), "tree_roots": (0,), "n_targets": 1}
    yield (np.zeros((1, 1), dtype),), {**node, **leaves}


DTYPES = ("float32", "float64", "int64", "int32")


@override((ML, "TreeEnsembleRegressor", 1), examples=_regression, dtypes=DTYPES)
def tree_ensemble_regressor(
    xp: Any,
    X: Any,
    *,
    aggregate_function: str = "SUM",
    base_values: Any = None,
    base_values_as_tensor: Any = None,
    n_targets: int | None = None,
    nodes_falsenodeids: Any = None,
    nodes_featureids: Any = None,
    nodes_hitrates: Any = None,
    nodes_hitrates_as_tensor: Any = None,
    nodes_missing_value_tracks_true: Any = None,
    nodes_modes: Any = None,
    nodes_nodeids: Any = None,
    nodes_treeids: Any = None,
    nodes_truenodeids: Any = None,
    nodes_values: Any = None,
    nodes_values_as_tensor: Any = None,
    post_transform: str = "NONE",
    target_ids: Any = None,
    target_nodeids: Any = None,
    target_treeids: Any = None,
    target_weights: Any = None,
    target_weights_as_tensor: Any = None,
    memo: Any = None,
) -> Any:
    """One kernel from rows to scores."""
    key = ("compiled", X.dtype.char)
    found = None if memo is None else memo.get(key)
    if found is None:
        base = listed(kernels.given(base_values, base_values_as_tensor))
        targets = 1 if n_targets is None else n_targets
        if post_transform not in TRANSFORMS or len(base) > targets:
            return NotImplemented
        dtype = "float32" if X.dtype == np.float32 and nodes_values_as_tensor is None else "float64"
        forest = kernels.forest_of_names(
            nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
            kernels.given(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
            nodes_missing_value_tracks_true, "target", target_treeids, target_nodeids, target_ids,
            kernels.given(target_weights, target_weights_as_tensor), targets, aggregate_function, dtype,
        )  # fmt: skip
        found = once(memo, key, ready, forest, base, post_transform)
    return _regressed(xp, X, found, np.float32)


@override((ML, "TreeEnsembleClassifier", 1), examples=_classification, dtypes=DTYPES)
def tree_ensemble_classifier(
    xp: Any,
    X: Any,
    *,
    base_values: Any = None,
    base_values_as_tensor: Any = None,
    class_ids: Any = None,
    class_nodeids: Any = None,
    class_treeids: Any = None,
    class_weights: Any = None,
    class_weights_as_tensor: Any = None,
    classlabels_int64s: Any = None,
    classlabels_strings: Any = None,
    nodes_falsenodeids: Any = None,
    nodes_featureids: Any = None,
    nodes_hitrates: Any = None,
    nodes_hitrates_as_tensor: Any = None,
    nodes_missing_value_tracks_true: Any = None,
    nodes_modes: Any = None,
    nodes_nodeids: Any = None,
    nodes_treeids: Any = None,
    nodes_truenodeids: Any = None,
    nodes_values: Any = None,
    nodes_values_as_tensor: Any = None,
    post_transform: str = "NONE",
    memo: Any = None,
) -> Any:
    """One kernel from rows to labels and scores; labels that are text are looked up afterwards."""
    key = ("compiled", X.dtype.char)
    found = None if memo is None else memo.get(key)
    if found is None:
        weights = kernels.given(class_weights, class_weights_as_tensor)
        base = listed(kernels.given(base_values, base_values_as_tensor))
        classes = len(classlabels_strings or classlabels_int64s or ()) or 1
        if post_transform not in TRANSFORMS or len(base) > classes or (classes == 1 and classlabels_strings):
            return NotImplemented
        dtype = "float32" if X.dtype == np.float32 and nodes_values_as_tensor is None else "float64"
        forest = kernels.forest_of_names(
            nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
            kernels.given(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
            nodes_missing_value_tracks_true, "class", class_treeids, class_nodeids, class_ids, weights, classes, "SUM",
            dtype,
        )  # fmt: skip
        voted, positive = kernels.votes_of(class_ids or (), weights)
        binary = classes == 2 and voted is not None and len(base) < 2
        kind = SINGLE if classes == 1 else BINARY if binary else MANY
        labels = () if classes == 1 or classlabels_strings else classlabels_int64s
        rest = (kind, voted or 0, int(positive))
        found = once(memo, key, ready, forest, base, post_transform, rest, labels)
    x = _rows(X, found)
    if x is None:
        return NotImplemented
    rows = x.shape[0]
    scores, top = np.empty((rows, found.targets), np.float32), np.empty(rows, np.int64)
    share(xp, classify, (x, *found.tables, scores, top), rows, rows * found.seconds)
    if classlabels_strings:
        return xp.take(xp.asarray(classlabels_strings, dtype=xp.dtype("string")), top), scores
    return top, scores


@override((ML, "TreeEnsemble", 5), examples=_by_position, dtypes=("float32", "float64"))
def tree_ensemble(
    xp: Any,
    X: Any,
    *,
    aggregate_function: int = 1,
    leaf_targetids: Any,
    leaf_weights: Any,
    membership_values: Any = None,
    n_targets: int | None = None,
    nodes_falseleafs: Any,
    nodes_falsenodeids: Any,
    nodes_featureids: Any,
    nodes_hitrates: Any = None,
    nodes_missing_value_tracks_true: Any = None,
    nodes_modes: Any,
    nodes_splits: Any,
    nodes_trueleafs: Any,
    nodes_truenodeids: Any,
    post_transform: int = 0,
    tree_roots: Any,
    memo: Any = None,
) -> Any:
    """One kernel from rows to scores."""
    key = ("compiled", X.dtype.char)
    found = None if memo is None else memo.get(key)
    if found is None:
        if not 0 <= aggregate_function < len(kernels.AGGREGATES) or not 0 <= post_transform < len(TRANSFORMS):
            return NotImplemented
        forest = kernels.forest_of_positions(
            nodes_featureids, nodes_splits, nodes_modes, nodes_truenodeids, nodes_trueleafs, nodes_falsenodeids,
            nodes_falseleafs, nodes_missing_value_tracks_true, membership_values, tree_roots, leaf_targetids,
            leaf_weights, 1 if n_targets is None else n_targets, kernels.AGGREGATES[aggregate_function], str(X.dtype),
        )  # fmt: skip
        found = once(memo, key, ready, forest, [], kernels.TRANSFORMS[post_transform])
    return _regressed(xp, X, found, X.dtype)
