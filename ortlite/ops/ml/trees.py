"""Tree ensembles of ai.onnx.ml: attributes to tables once, then a walk (see _forest.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Floats, Int, Ints, Text, Texts, Value
from ortlite.ops.memo import Memo, constant, listed, once
from ortlite.ops.ml import _forest as tables
from ortlite.ops.ml._forest import Forest, Split
from ortlite.ops.ml._scores import labels_of, transform
from ortlite.ops.registry import op
from ortlite.ops.types import class_labels

ML = "ai.onnx.ml"
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")


@op("TreeEnsembleRegressor", domain=ML, needs=("float64",))
def tree_ensemble_regressor(
    xp: Namespace,
    X: Array,
    *,
    aggregate_function: Text = "SUM",
    base_values: Floats | None = None,
    base_values_as_tensor: Value = None,
    n_targets: Int | None = None,
    nodes_falsenodeids: Ints | None = None,
    nodes_featureids: Ints | None = None,
    nodes_hitrates: Floats | None = None,
    nodes_hitrates_as_tensor: Value = None,
    nodes_missing_value_tracks_true: Ints | None = None,
    nodes_modes: Texts | None = None,
    nodes_nodeids: Ints | None = None,
    nodes_treeids: Ints | None = None,
    nodes_truenodeids: Ints | None = None,
    nodes_values: Floats | None = None,
    nodes_values_as_tensor: Value = None,
    post_transform: Text = "NONE",
    target_ids: Ints | None = None,
    target_nodeids: Ints | None = None,
    target_treeids: Ints | None = None,
    target_weights: Floats | None = None,
    target_weights_as_tensor: Value = None,
    memo: Memo = None,
) -> Array:
    """Sum (average, minimum, maximum) of the weights of the leaves that rows of `(rows, features)` reach.

    Returns float32 `(rows, n_targets)`. Raises ValueError for nodes that are not trees.
    """
    dtype = compared(xp, X, nodes_values_as_tensor)
    forest = once(
        memo, ("forest", dtype), forest_of_names,
        nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, given(nodes_values, nodes_values_as_tensor),
        nodes_truenodeids, nodes_falsenodeids, nodes_missing_value_tracks_true,
        "target", target_treeids, target_nodeids, target_ids, given(target_weights, target_weights_as_tensor),
        1 if n_targets is None else n_targets, aggregate_function, dtype,
    )  # fmt: skip
    scores = _based(xp, tables.scores(xp, X, forest), listed(given(base_values, base_values_as_tensor)))
    return xp.astype(transform(xp, scores, post_transform), xp.float32)


@op("TreeEnsembleClassifier", domain=ML, types=class_labels, needs=("float64",))
def tree_ensemble_classifier(
    xp: Namespace,
    X: Array,
    *,
    base_values: Floats | None = None,
    base_values_as_tensor: Value = None,
    class_ids: Ints | None = None,
    class_nodeids: Ints | None = None,
    class_treeids: Ints | None = None,
    class_weights: Floats | None = None,
    class_weights_as_tensor: Value = None,
    classlabels_int64s: Ints | None = None,
    classlabels_strings: Texts | None = None,
    nodes_falsenodeids: Ints | None = None,
    nodes_featureids: Ints | None = None,
    nodes_hitrates: Floats | None = None,
    nodes_hitrates_as_tensor: Value = None,
    nodes_missing_value_tracks_true: Ints | None = None,
    nodes_modes: Texts | None = None,
    nodes_nodeids: Ints | None = None,
    nodes_treeids: Ints | None = None,
    nodes_truenodeids: Ints | None = None,
    nodes_values: Floats | None = None,
    nodes_values_as_tensor: Value = None,
    post_transform: Text = "NONE",
    memo: Memo = None,
) -> tuple[Array, Array]:
    """Labels `(rows,)` and float32 scores `(rows, classes)` of rows of `(rows, features)`.

    Where all votes of a model with two classes are for one of them, this is a binary classifier, whose scores follow
    onnxruntime: ONNX says nothing about them. Raises ValueError for nodes that are not trees.
    """
    weights = given(class_weights, class_weights_as_tensor)
    base = listed(given(base_values, base_values_as_tensor))
    classes = len(classlabels_strings or classlabels_int64s or ()) or 1
    dtype = compared(xp, X, nodes_values_as_tensor)
    forest = once(
        memo, ("forest", dtype), forest_of_names,
        nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, given(nodes_values, nodes_values_as_tensor),
        nodes_truenodeids, nodes_falsenodeids, nodes_missing_value_tracks_true,
        "class", class_treeids, class_nodeids, class_ids, weights, classes, "SUM", dtype,
    )  # fmt: skip
    scores = _based(xp, tables.scores(xp, X, forest), base)
    voted, positive = once(memo, "votes", votes_of, class_ids or (), weights)
    if classes == 1:
        top = xp.astype(scores[:, 0] > 0, xp.int64)
        scores = transform(xp, scores, post_transform) if post_transform == "PROBIT" else scores
        label = labels_of(xp, xp.zeros_like(top), classlabels_strings, None) if classlabels_strings else top
        return label, xp.astype(scores, xp.float32)
    if classes == 2 and voted is not None and len(base) < 2:
        score = scores[:, voted]
        top = xp.astype(score > (0.5 if positive else 0), xp.int64)
        scores = _binary(xp, score, voted, positive, post_transform)
    else:
        top = xp.argmax(scores, axis=1)
        scores = transform(xp, scores, post_transform)
    return labels_of(xp, top, classlabels_strings, classlabels_int64s), xp.astype(scores, xp.float32)


def _binary(xp: Namespace, score: Array, voted: int, positive: bool, post_transform: str) -> Array:
    """Scores of both classes from the score of the one class with votes; see tree_ensemble_classifier."""
    if voted == 1:
        return transform(xp, xp.stack([xp.zeros_like(score), score], axis=1), post_transform)
    if post_transform == "LOGISTIC":
        return transform(xp, xp.stack([-score, score], axis=1), post_transform)
    pair = xp.stack([1 - score if positive else -score, score], axis=1)
    return transform(xp, pair, post_transform) if post_transform == "PROBIT" else pair


@op("TreeEnsemble", since=5, domain=ML, needs=("float64",))
def tree_ensemble(
    xp: Namespace,
    X: Array,
    *,
    aggregate_function: Int = 1,
    leaf_targetids: Ints,
    leaf_weights: Value,
    membership_values: Value = None,
    n_targets: Int | None = None,
    nodes_falseleafs: Ints,
    nodes_falsenodeids: Ints,
    nodes_featureids: Ints,
    nodes_hitrates: Value = None,
    nodes_missing_value_tracks_true: Ints | None = None,
    nodes_modes: Value,
    nodes_splits: Value,
    nodes_trueleafs: Ints,
    nodes_truenodeids: Ints,
    post_transform: Int = 0,
    tree_roots: Ints,
    memo: Memo = None,
) -> Array:
    """The leaves' weights that rows of `(rows, features)` reach, aggregated by target: `(rows, n_targets)`, as `X`.

    Raises ValueError for nodes that are not trees, and for an unknown mode, aggregate or transform.
    """
    if not 0 <= aggregate_function < len(AGGREGATES) or not 0 <= post_transform < len(TRANSFORMS):
        raise ValueError(f"aggregate_function {aggregate_function} or post_transform {post_transform} is unknown")
    dtype = xp.dtype_name(X.dtype)
    forest = once(
        memo, ("forest", dtype), forest_of_positions,
        nodes_featureids, nodes_splits, nodes_modes, nodes_truenodeids, nodes_trueleafs, nodes_falsenodeids,
        nodes_falseleafs, nodes_missing_value_tracks_true, membership_values, tree_roots, leaf_targetids, leaf_weights,
        1 if n_targets is None else n_targets, AGGREGATES[aggregate_function], dtype,
    )  # fmt: skip
    scores = tables.scores(xp, X, forest)
    return xp.astype(transform(xp, scores, TRANSFORMS[post_transform]), X.dtype)


def given(floats: Sequence[float] | None, tensor: Any) -> Any:
    """An attribute that is either floats or a tensor of doubles."""
    return (floats or ()) if tensor is None else tensor


def compared(xp: Namespace, x: Array, thresholds_as_tensor: Any) -> str:
    """The dtype in which features meet thresholds: float64 unless both are float32."""
    return "float32" if xp.dtype_name(x.dtype) == "float32" and thresholds_as_tensor is None else "float64"


def _based(xp: Namespace, scores: Array, base: list[float]) -> Array:
    """Add the base values, one for each of the first columns. Raises ValueError for more."""
    if not base:
        return scores
    columns = scores.shape[1]
    if len(base) > columns:
        raise ValueError(f"{len(base)} base values for {columns} scores")
    return scores + constant(xp, [*base, *[0.0] * (columns - len(base))], "float64")


def votes_of(class_ids: Sequence[int], weights: Any) -> tuple[int | None, bool]:
    """The only class that is voted for (None: there are several), and whether no vote is negative."""
    ids = set(class_ids)
    return (ids.pop() if len(ids) == 1 else None), all(w >= 0 for w in listed(weights))


def forest_of_names(
    nodes_treeids: Sequence[int] | None,
    nodes_nodeids: Sequence[int] | None,
    nodes_featureids: Sequence[int] | None,
    nodes_modes: Sequence[str] | None,
    nodes_values: Any,
    nodes_truenodeids: Sequence[int] | None,
    nodes_falsenodeids: Sequence[int] | None,
    nodes_missing_value_tracks_true: Sequence[int] | None,
    kind: str,
    leaf_treeids: Sequence[int] | None,
    leaf_nodeids: Sequence[int] | None,
    leaf_ids: Sequence[int] | None,
    leaf_weights: Any,
    targets: int,
    aggregate: str,
    dtype: str,
) -> Forest:
    """Tables from nodes that are named by tree and node numbers; the first node of a tree is its root.

    `kind` is what the attributes that say what leaves give begin with.
    """
    nodes_values, leaf_weights = listed(nodes_values), listed(leaf_weights)
    tree_ids, node_ids = nodes_treeids or (), nodes_nodeids or ()
    features, modes = nodes_featureids or (), nodes_modes or ()
    true_ids, false_ids = nodes_truenodeids or (), nodes_falsenodeids or ()
    tracks = nodes_missing_value_tracks_true or (0,) * len(tree_ids)
    _same_lengths(
        nodes_treeids=tree_ids, nodes_nodeids=node_ids, nodes_featureids=features, nodes_modes=modes,
        nodes_values=nodes_values, nodes_truenodeids=true_ids, nodes_falsenodeids=false_ids,
        nodes_missing_value_tracks_true=tracks,
    )  # fmt: skip
    leaf_keys = (leaf_treeids or (), leaf_nodeids or (), leaf_ids or (), leaf_weights)
    names = (f"{kind}_treeids", f"{kind}_nodeids", f"{kind}_ids", f"{kind}_weights")
    _same_lengths(**dict(zip(names, leaf_keys, strict=True)))
    place = {key: i for i, key in enumerate(zip(tree_ids, node_ids, strict=True))}
    if len(place) < len(tree_ids):
        raise ValueError(f"nodes_treeids and nodes_nodeids name {len(tree_ids)} nodes, {len(place)} different ones")
    roots: dict[int, int] = {}
    splits: list[Split] = []

    def branch(tree: int, node: int) -> int:
        if (tree, node) not in place:
            raise ValueError(f"tree {tree} has no node {node}")
        target = place[tree, node]
        return ~target if modes[target] == "LEAF" else target

    for i, tree in enumerate(tree_ids):
        roots.setdefault(tree, ~i if modes[i] == "LEAF" else i)
        if modes[i] == "LEAF":
            splits.append(Split(0, 0.0, "LEQ", ~i, ~i, False))
            continue
        mode = modes[i].removeprefix("BRANCH_")
        true, false = branch(tree, true_ids[i]), branch(tree, false_ids[i])
        splits.append(Split(features[i], nodes_values[i], mode, true, false, bool(tracks[i])))
    votes: dict[int, list[tuple[int, float]]] = {}
    for tree, node, target, weight in zip(*leaf_keys, strict=True):
        if (tree, node) not in place:
            raise ValueError(f"tree {tree} has no node {node}")
        votes.setdefault(place[tree, node], []).append((target, weight))
    return tables.build(splits, roots.values(), votes, targets, aggregate, dtype)


def forest_of_positions(
    featureids: Sequence[int],
    thresholds: Any,
    modes: Any,
    truenodeids: Sequence[int],
    trueleafs: Sequence[int],
    falsenodeids: Sequence[int],
    falseleafs: Sequence[int],
    missing_value_tracks_true: Sequence[int] | None,
    membership_values: Any,
    tree_roots: Sequence[int],
    leaf_targetids: Sequence[int],
    leaf_weights: Any,
    targets: int,
    aggregate: str,
    dtype: str,
) -> Forest:
    """Tables from TreeEnsemble-5's nodes and leaves, which are named by their positions."""
    numbers, values, weights = listed(modes), listed(thresholds), listed(leaf_weights)
    tracks = missing_value_tracks_true or (0,) * len(numbers)
    _same_lengths(
        nodes_featureids=featureids, nodes_splits=values, nodes_modes=numbers, nodes_truenodeids=truenodeids,
        nodes_trueleafs=trueleafs, nodes_falsenodeids=falsenodeids, nodes_falseleafs=falseleafs,
        nodes_missing_value_tracks_true=tracks,
    )  # fmt: skip
    _same_lengths(leaf_targetids=leaf_targetids, leaf_weights=weights)
    sets = _sets([] if membership_values is None else listed(membership_values))
    if len(sets) != (wanted := sum(number == MODES.index("MEMBER") for number in numbers)):
        raise ValueError(f"membership_values has {len(sets)} sets for {wanted} nodes that look for a member")
    if wrong := [root for root in tree_roots if not 0 <= root < len(numbers)]:
        raise ValueError(f"tree_roots has {wrong[0]}, and there are {len(numbers)} nodes")
    members = iter(sets)
    splits: list[Split] = []
    extra: list[Split] = []
    count = len(numbers)
    rows = zip(featureids, values, numbers, truenodeids, trueleafs, falsenodeids, falseleafs, tracks, strict=True)
    for feature, threshold, number, true_id, true_leaf, false_id, false_leaf, nan in rows:
        if not 0 <= number < len(MODES):
            raise ValueError(f"node mode {number} is not one of 0 to {len(MODES) - 1}")
        for branch, leaf in ((true_id, true_leaf), (false_id, false_leaf)):
            if not 0 <= branch < (len(weights) if leaf else count):
                raise ValueError(f"a node leads to {'leaf' if leaf else 'node'} {branch}, which does not exist")
        true = ~true_id if true_leaf else true_id
        false = ~false_id if false_leaf else false_id
        split = Split(feature, threshold, MODES[int(number)], true, false, bool(nan))
        if split.mode == "MEMBER":
            *inner, split = tables.members(split, next(members), count + len(extra))
            extra.extend(inner)
        splits.append(split)
    votes = {leaf: [vote] for leaf, vote in enumerate(zip(leaf_targetids, weights, strict=True))}
    return tables.build([*splits, *extra], tree_roots, votes, targets, aggregate, dtype)


def _same_lengths(**attributes: Sequence[Any]) -> None:
    """Raises ValueError when lists that belong together are not equally long."""
    if len({len(values) for values in attributes.values()}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in attributes.items())
        raise ValueError(f"these attributes must be equally long: {lengths}")


def _sets(values: Sequence[float]) -> list[tuple[float, ...]]:
    """The sets of membership values, which NaN separate, each sorted."""
    sets: list[tuple[float, ...]] = []
    current: set[float] = set()
    for value in values:
        if math.isnan(value):
            sets.append(tuple(sorted(current)))
            current = set()
        else:
            current.add(value)
    return [*sets, tuple(sorted(current))] if current else sets
