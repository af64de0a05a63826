"""Maps of ai.onnx.ml: to tensors and, a row of scores each, from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite.graph import MapType, Node, SequenceType, TensorType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Arrays, Int, Ints, Map, Text, Texts
from ortlite.ops.registry import op
from ortlite.ops.types import FLOAT, INT64, STRING, Inferred, Types

ML = "ai.onnx.ml"
SPARSE = 1 << 24  # places, at most, of a map that CastMap lays out


def _six_digits(value: Any) -> str:
    """A number as onnxruntime prints it: ONNX does not say how."""
    return str(value) if isinstance(value, str) else f"{float(value):f}"


def _cast_type(node: Node, inputs: Types) -> Inferred:
    names = {"TO_FLOAT": FLOAT, "TO_INT64": INT64, "TO_STRING": STRING}
    return [TensorType(names[node.attributes.get("cast_to", "TO_FLOAT")])]


@op("CastMap", domain=ML, python_objects=True, types=_cast_type)
def cast_map(xp: Namespace, X: Map, *, cast_to: Text = "TO_FLOAT", map_form: Text = "DENSE", max_map: Int = 1) -> Array:
    """The values of a map from integers, in the order of its keys, as a matrix of one row.

    With `map_form` SPARSE each value stands at the place that its key says, among `max_map` places of zeros.
    """
    convert: Any = {"TO_FLOAT": float, "TO_INT64": lambda v: int(float(v)), "TO_STRING": _six_digits}.get(cast_to)
    if convert is None or map_form not in {"DENSE", "SPARSE"}:
        raise ValueError(f"cast_to {cast_to!r} or map_form {map_form!r} is unknown")
    if map_form == "SPARSE":
        if not 1 <= max_map <= SPARSE:
            raise ValueError(f"max_map is {max_map}, not 1 to {SPARSE}")
        if wrong := [key for key in X if not 0 <= key < max_map]:
            raise ValueError(f"the keys {sorted(wrong)} are not below max_map, {max_map}")
    row = [convert("0")] * max_map if map_form == "SPARSE" else [convert(X[key]) for key in sorted(X)]
    for key in X if map_form == "SPARSE" else ():
        row[key] = convert(X[key])
    names = {"TO_FLOAT": "float32", "TO_INT64": "int64", "TO_STRING": "string"}
    return xp.reshape(xp.asarray(row, dtype=xp.dtype(names[cast_to])), (1, len(row)))


@op(
    "DictVectorizer",
    domain=ML,
    python_objects=True,
    types=lambda node, inputs: [inputs[0].value] if isinstance(inputs[0], MapType) else [],
)
def dict_vectorizer(
    xp: Namespace, X: Map, *, int64_vocabulary: Ints | None = None, string_vocabulary: Texts | None = None
) -> Array:
    """The values of a map in the order of the vocabulary, 0 (or no text) where it has none: a matrix of one row."""
    words: Sequence[Any] = string_vocabulary or int64_vocabulary or ()
    if bool(string_vocabulary) == bool(int64_vocabulary):
        counts = f"{len(int64_vocabulary or ())} numbers and {len(string_vocabulary or ())} texts"
        raise ValueError(f"int64_vocabulary or string_vocabulary must be given, one of them, not {counts}")
    if any(isinstance(key, str) != bool(string_vocabulary) for key in X):
        raise ValueError(f"the vocabulary is {'text' if string_vocabulary else 'numbers'}, the keys of X are not")
    some = next(iter(X.values()), 0.0)
    dtype = xp.dtype("string") if isinstance(some, str) else xp.asarray(some).dtype
    row = [X.get(word, "" if isinstance(some, str) else 0) for word in words]
    return xp.reshape(xp.asarray(row, dtype=dtype), (1, len(row)))


def _maps(node: Node, inputs: Types) -> Inferred:
    key = STRING if node.attributes.get("classlabels_strings") else INT64
    return [SequenceType(MapType(key, TensorType(FLOAT)))]


@op("ZipMap", domain=ML, python_objects=True, types=_maps)
def zip_map(
    xp: Namespace, X: Array, *, classlabels_int64s: Ints | None = None, classlabels_strings: Texts | None = None
) -> Arrays:
    """For each row a map from the class labels to its scores. Raises ValueError for a wrong number of labels."""
    labels: Sequence[Any] = classlabels_strings or classlabels_int64s or ()
    rows = xp.reshape(X, (1, -1)) if X.ndim < 2 else X
    if rows.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels for scores of shape {tuple(X.shape)}")
    return tuple([dict(zip(labels, row)) for row in rows.tolist()])  # noqa: B905  (as long as one another: checked)
