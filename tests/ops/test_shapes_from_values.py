"""Whether the shape of a result depends on the values of an array is what specialised programs believe of a kernel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from conformance import dtypes as matrix
from conformance import gradients
from conformance.dtypes import Example
from ortlite import dtypes
from ortlite.ops import registry
from ortlite.provider import CPU, create
from ortlite.schema import plain

# Examples of operators that work on text or bytes, which other tables have none of.
MORE = [
    matrix._example("Tokenizer", np.array(["a b", "c"], object), domain="com.microsoft", mark=0, mincharnum=1,
                    pad_value="", separators=[" "]),
    matrix._example("StringNormalizer", np.array(["a", "b"], object), stopwords=["a"]),
    matrix._example("MurmurHash3", np.array(["a", "b"], object), domain="com.microsoft"),
]  # fmt: skip


def examples():
    known = {key: list(found) for key, found in matrix.examples().items()}
    for example in [*gradients.EXAMPLES, *MORE]:
        known.setdefault((example.node.domain, example.node.op_type), []).append(example)
    return known


def runs(example: Example):
    """The kernel that an example calls, and what gives the shapes of its results for other arrays."""
    node = example.node
    kernel = registry.lookup(node.domain, node.op_type, 99)
    if kernel is None or any(a.type == a.GRAPH for a in node.attribute):
        return None
    attributes = {}
    for attribute in node.attribute:
        value = plain(onnx.helper.get_attribute_value(attribute))
        param = kernel.accepts(attribute.name)
        if param is not None and param.kind == "DType":
            value = dtypes.by_code(value) if value else None
        attributes[attribute.name] = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    provider = create(CPU)

    def shapes(values):
        with np.errstate(all="ignore"):
            return shape_of(
                registry.call(kernel, provider.xp, values, attributes, n_outputs=len(node.output), rng=1, memo={})
            )

    return kernel, shapes


def shape_of(value):
    if isinstance(value, tuple | list):
        return tuple(map(shape_of, value))
    return getattr(value, "shape", None)


def others(kernel: registry.Kernel, values, seed: int):
    """Values of the same shapes and dtypes, in the places where a kernel reads arrays."""
    rng = np.random.default_rng(seed)
    found = []
    for position, value in enumerate(values):
        param = kernel.param(position)
        if isinstance(value, np.ndarray) and param is not None and not param.host and param.kind == "Array":
            value = other(value, rng, seed)
        found.append(value)
    return found


def other(value: np.ndarray, rng: np.random.Generator, seed: int) -> np.ndarray:
    if value.dtype == object:
        words = ["a", "b c", "", "a, b  c d"]
        return np.array([words[i] for i in rng.integers(0, 4, value.size)], object).reshape(value.shape)
    if seed == 0 and value.size:
        return np.full(value.shape, value.reshape(-1)[0], value.dtype)
    if seed == 1:
        return np.zeros_like(value)
    if value.dtype == bool:
        return rng.random(value.shape) < 0.5
    if value.dtype.kind in "iu":
        return rng.permuted(value.reshape(-1)).reshape(value.shape)
    return (rng.standard_normal(value.shape) * 2).astype(value.dtype)


def depends(example: Example) -> str:
    """What shows that the shapes of an example's results follow from values; empty where nothing does."""
    found = runs(example)
    if found is None:
        return ""
    kernel, shapes = found
    try:
        first = shapes(example.values)
    except (ValueError, TypeError):  # an example of an older version
        return ""
    for seed in range(8):
        try:
            then = shapes(others(kernel, example.values, seed))
        except (ValueError, IndexError, OverflowError, TypeError, np.linalg.LinAlgError):
            continue
        if then != first:
            return f"{kernel}: {first} and {then}"
    return ""


KNOWN = examples()


@pytest.mark.parametrize("key", sorted(KNOWN))
def test_shapes(key):
    kernel = registry.lookup(*key, 99)
    why = next(filter(None, map(depends, KNOWN[key])), "")
    assert not why or kernel.data_dependent_shape, why


def test_the_search_finds_those_that_are_marked():
    found = {key[1] for key, given in KNOWN.items() if any(map(depends, given))}
    assert found >= set("Compress NonZero Unique NonMaxSuppression StringSplit StringNormalizer Tokenizer".split())
