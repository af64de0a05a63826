"""Every kernel is a pure function of arrays: on array-api-strict, under jax.jit and on arrays that nobody may write to.

Each computes what it computes on NumPy. Under jax.jit its `Array` inputs have no values, so it cannot branch on them.
"""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, wraps
from itertools import islice
from typing import Any

import array_api_strict
import numpy as np
import onnx
import pytest
from onnx import helper, parser

from conformance.dtypes import MADE, Example, examples, instance, pairs
from ortlite import dtypes
from ortlite.graph import TensorType
from ortlite.load import load
from ortlite.namespace import build, or_default
from ortlite.ops import registry
from ortlite.partition import partition
from ortlite.provider import CPU, create
from ortlite.schema import plain
from ortlite_strict import StrictExecutionProvider

STRICT, JAX = "StrictExecutionProvider", "JAXExecutionProvider"
EACH = 3  # examples of an operator, the first in float64 where its schema allows that
X = np.array([[1.0, -2.0, 3.0], [0.5, 2.0, -1.0]], np.float32)
F = np.dtype("float32")
DOUBLE = dtypes.by_name("float64")

# Kernels whose results depend on values in a way that no tracer can follow, and why; `dynamic` ones say so themselves.
UNTRACEABLE = {("", "Range"): "how many elements there are depends on the value of `start`"}


@dataclass(frozen=True)
class Body:
    """A subgraph written in Python, as a kernel gets it."""

    fn: Callable[..., tuple[Any, ...]]
    outputs: int = 1
    xp: Any = None

    unread = frozenset()

    def repeated(self, states=None):
        return self

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.fn(self.xp, *inputs)

    def on(self, xp: Any) -> Body:
        return replace(self, xp=xp)

    input_types = (None, None)

    @property
    def types(self) -> tuple[TensorType, ...]:
        return (TensorType(dtypes.by_name("float32"), ()),) * self.outputs


def _doubled(xp: Any, i: Any, going: Any, state: Any) -> tuple[Any, ...]:
    return going, state + state, state * xp.astype(i, state.dtype)


def _summed(xp: Any, state: Any, row: Any) -> tuple[Any, ...]:
    return state + row, state * row


ROIS = np.array([[0.0, 0.0, 4.5, 3.0], [1.0, 1.0, 3.0, 5.5]], np.float32)
IMAGE = np.linspace(-1, 1, 2 * 2 * 6 * 6, dtype=np.float32).reshape(2, 2, 6, 6)
WIDENING = np.linspace(-1, 2, 4, dtype=np.float32).reshape(2, 2, 1, 1)
WHICH = np.array([1, 0])

# Calls that the suite has no case of, or none with a graph that could be built here: (name, since, inputs, attributes).
MORE: list[tuple[str, int, tuple[Any, ...], dict[str, Any]]] = [
    ("If", 25, (np.array([True]),), {"then_branch": Body(lambda xp: (xp.ones((2,)),)),
                                     "else_branch": Body(lambda xp: (xp.zeros((2,)),))}),
    ("Loop", 25, (np.array(3), None, X), {"body": Body(_doubled, 3)}),
    ("Loop", 25, (np.array(0), np.array(True), X), {"body": Body(_doubled, 3)}),
    ("Scan", 25, (X[0], X), {"body": Body(_summed, 2), "num_scan_inputs": 1}),
    ("Scan", 25, (X[0], X), {"body": Body(_summed, 2), "num_scan_inputs": 1, "scan_input_directions": (1,)}),
    ("Scan", 8, (np.array([1, 2]), X, np.stack([X, X])), {"body": Body(_summed, 2), "num_scan_inputs": 1}),
    ("SequenceMap", 17, ([X, X], X), {"body": Body(lambda xp, a, b: (a + b,))}),
    ("RoiAlign", 16, (IMAGE, ROIS, WHICH), {"output_height": 2, "output_width": 1}),
    ("RoiAlign", 16, (IMAGE, ROIS, WHICH), {"output_height": 1, "output_width": 2, "mode": "max"}),
    ("SimplifiedLayerNormalization", 1, (X, X[0]), {}),
    ("ortlite.Linear", 1, (np.stack([X, X]), X.T, X[:, 0]), {}),
    ("ortlite.PointwiseDepthwiseConv", 1, (IMAGE, WIDENING, IMAGE[:, :1, :3, :3]), {"pads": (1, 1, 1, 1)}),
    ("ai.onnx.ml.LabelEncoder", 4, (np.array([2, 7, 1]),), {"keys_int64s": (1, 2), "values_floats": (0.5, 1.5)}),
    ("ai.onnx.ml.OneHotEncoder", 1, (np.array([3, 1]),), {"cats_int64s": (1, 3), "zeros": 0}),
    ("ai.onnx.preview.training.Gradient", 1, (X, X), {"body": Body(lambda xp, a, b: (a * a * b,)), "xs": ("a", "b"),
                                                      "y": "y"}),
]  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A kernel with its inputs (NumPy arrays, lists of them, or None) and attributes."""

    kernel: registry.Kernel
    values: tuple[Any, ...]
    attributes: tuple[tuple[str, Any], ...]
    outputs: int = 1


def _attributes(kernel: registry.Kernel, node: onnx.NodeProto) -> tuple[tuple[str, Any], ...]:
    found = []
    for attribute in node.attribute:
        value = plain(helper.get_attribute_value(attribute))
        param = kernel.accepts(attribute.name)
        if param is not None and param.kind == "DType":
            value = dtypes.by_code(value) if value else None
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        found.append((attribute.name, value))
    return tuple(found)


def _leaves(value: Any) -> list[Any]:
    return [leaf for v in value for leaf in _leaves(v)] if isinstance(value, list | tuple) else [value]


def _usable(example: Example) -> bool:
    """Whether all arrays are of dtypes that every library computes in, and no graph is among the attributes."""
    leaves = [leaf for leaf in _leaves(example.values) if leaf is not None]
    if any(isinstance(leaf, dict) for leaf in leaves) or any(a.type == a.GRAPH for a in example.node.attribute):
        return False
    named = [dtypes.of_numpy(leaf.dtype) for leaf in leaves]
    named += [dtypes.by_code(a.i) for a in example.node.attribute if a.name in {"to", "dtype", "output_dtype"} and a.i]
    return create(STRICT).storage.issuperset(dtype.name for dtype in named)


@cache
def calls() -> dict[tuple[str, str], list[Call]]:
    """(domain, operator) -> a few calls of its newest kernel that give numbers."""
    found: dict[tuple[str, str], list[Call]] = {}
    for (domain, name), given in examples().items():
        schema = onnx.defs.get_schema(name, 99 if domain else onnx.defs.onnx_opset_version(), domain)
        kernel = registry.lookup(domain, name, schema.since_version - schema.deprecated)
        if kernel is None or kernel.python_objects:
            continue
        if schema.deprecated:
            schema = onnx.defs.get_schema(name, schema.since_version - 1, domain)
        usable = [e for e in given if _usable(e)]
        variables = [variable for variable, dtype in pairs(schema) if dtype is DOUBLE][:1] if usable else []
        doubles = [MADE[name](DOUBLE) if name in MADE else instance(schema, usable[0], v, DOUBLE) for v in variables]
        made = [
            Call(kernel, e.values, _attributes(kernel, e.node), len(e.node.output))
            for e in [*filter(_usable, doubles), *usable]
        ]
        numeric = (call for call in made if not any(getattr(y, "dtype", F).kind in "OT" for y in _leaves(run(call))))
        if chosen := list(islice(numeric, EACH)):
            found[domain, name] = chosen
    for name, since, values, attributes in MORE:
        domain, _, op_type = name.rpartition(".")
        kernel = registry.lookup(domain, op_type, since)
        assert kernel is not None
        found.setdefault((domain, op_type), []).append(Call(kernel, values, tuple(attributes.items())))
    return found


def moved(value: Any, move: Callable[[Any], Any]) -> Any:
    """A value with every array in it moved; a list becomes a tuple."""
    if value is None:
        return None
    return tuple(moved(item, move) for item in value) if isinstance(value, list | tuple) else move(value)


def run(call: Call, name: Any = CPU, move: Callable[[Any], Any] | None = None, jit: bool = False) -> Any:
    """The call's results on a provider (or that of a name), as NumPy arrays."""
    provider, kernel = create(name) if isinstance(name, str) else name, call.kernel
    override = provider.overrides.get((kernel.domain, kernel.op_type, kernel.since))
    if override is not None:
        kernel = replace(kernel, fn=wraps(kernel.fn)(or_default(override, kernel.fn)))
    move = move or provider.from_numpy
    attributes = {}
    for key, value in call.attributes:
        param = kernel.accepts(key)
        attributes[key] = value.on(provider.xp) if isinstance(value, Body) else value
        if param is not None and param.kind == "Array":
            attributes[key] = move(value)
    on_device = [kernel.param(i) is not None and not kernel.param(i).host for i in range(len(call.values))]

    def fn(*arrays: Any) -> Any:
        values = [a if there else v for a, v, there in zip(arrays, call.values, on_device, strict=True)]
        return registry.call(kernel, provider.xp, values, attributes, n_outputs=call.outputs, rng=1)

    with provider.context():
        arrays = [moved(v, move) if there else None for v, there in zip(call.values, on_device, strict=True)]
        if jit:
            import jax

            fn = jax.jit(fn)
        return numpy(fn(*arrays), provider)


def numpy(result: Any, provider: Any) -> Any:
    if isinstance(result, tuple | list):
        return tuple(numpy(item, provider) for item in result)
    return provider.to_numpy(result) if hasattr(result, "dtype") and hasattr(result, "shape") else result


def compare(call: Call, got: Any, wanted: Any) -> None:
    """The same shapes and dtypes; floats within a few steps of the coarsest that took part, everything else equal."""
    if isinstance(wanted, tuple):
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            compare(call, a, b)
    elif wanted is None or not hasattr(wanted, "dtype"):
        assert got is wanted or np.all(np.asarray(got) == wanted)
    else:
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        if wanted.dtype.kind not in "fc":
            np.testing.assert_array_equal(got, wanted)
            return
        floats = [
            leaf for leaf in (wanted, *_leaves(call.values)) if hasattr(leaf, "dtype") and leaf.dtype.kind in "fc"
        ]
        step = max(np.finfo(leaf.dtype).eps for leaf in floats)
        size = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        np.testing.assert_allclose(got, wanted, rtol=8 * step, atol=32 * step * size)


@cache
def expected(key: tuple[str, str]) -> list[Any]:
    return [run(call) for call in calls()[key]]


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


OPERATORS = [pytest.param(key, id=".".join(filter(None, key))) for key in sorted(calls())]


@pytest.mark.once
@pytest.mark.parametrize("key", OPERATORS)
def test_on_strict(key):
    if lacking := create(STRICT).supports(calls()[key][0].kernel, []):
        pytest.skip(lacking)
    for call, wanted in zip(calls()[key], expected(key), strict=True):
        compare(call, run(call, STRICT), wanted)


class Single(StrictExecutionProvider):
    """array-api-strict as a library without double precision."""

    storage = StrictExecutionProvider.storage - {"float64", "complex128"}

    @cached_property
    def xp(self):
        lacking = {"float64", "complex128"}
        library = types.SimpleNamespace(**{k: v for k, v in vars(array_api_strict).items() if k not in lacking})
        library.__name__ = "single"
        return build(library, {name: getattr(array_api_strict, name) for name in self.storage}, {})


def named(call: Call, wanted: Any) -> list[dtypes.DType]:
    """The dtypes that a node of this call would have: of its inputs and outputs, and those that attributes ask for."""
    arrays = [leaf for leaf in _leaves([*call.values, wanted]) if hasattr(leaf, "dtype")]
    asked = [value for _, value in call.attributes if isinstance(value, dtypes.DType)]
    return [*(dtypes.of_numpy(leaf.dtype) for leaf in arrays), *asked]


@pytest.mark.once
@pytest.mark.parametrize("key", OPERATORS)
def test_without_double_precision(key):
    """What a provider without float64 does not refuse computes without it."""
    single = Single()
    for call, wanted in zip(calls()[key], expected(key), strict=True):
        if not single.supports(call.kernel, named(call, wanted)):
            compare(call, run(call, single), wanted)


def test_what_needs_double_precision_is_refused_with_a_reason():
    single = Single()
    integers, floats = dtypes.by_name("int32"), dtypes.by_name("float32")
    for name, dtype in (("ReduceL2", integers), ("Erf", integers), ("Gemm", integers), ("Shrink", integers)):
        kernel = registry.lookup("", name, 18)
        assert single.supports(kernel, [dtype, dtype]) == "array_api_strict has no float64"
        assert single.supports(kernel, [floats, floats]) is None
    power = registry.lookup("", "Pow", 15)
    assert single.supports(power, [integers, floats, integers]) == "array_api_strict has no float64"
    assert single.supports(power, [integers, integers, integers]) is None
    trees = registry.lookup("ai.onnx.ml", "TreeEnsembleRegressor", 3)
    assert single.supports(trees, [floats, floats]) == "array_api_strict has no float64"


def test_a_dtype_that_an_attribute_asks_for_counts():
    """Here the dtype of no input and no output."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2, 3] x, float[3] s) => (float[2, 3] y)
        {{ y = LayerNormalization<stash_type = {DOUBLE.code}>(x, s) }}"""
    model = load(parser.parse_model(text).SerializeToString())
    placed = partition(model.graph, [Single(), create(CPU)]).placements
    assert [p.provider for p in placed] == [1]
    assert placed[0].reasons == ("StrictExecutionProvider: array_api_strict has no float64",)


@pytest.mark.once
@pytest.mark.parametrize("key", OPERATORS)
def test_on_read_only_arrays(key):
    for call, wanted in zip(calls()[key], expected(key), strict=True):
        compare(call, run(call, move=frozen), wanted)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("key", OPERATORS)
def test_under_jit(key):
    kernel = calls()[key][0].kernel
    eager = kernel.data_dependent_shape and kernel.op_type != "Loop"  # those here have a fixed number of trips
    for call, wanted in list(zip(calls()[key], expected(key), strict=True))[: 1 if eager else None]:
        if key in UNTRACEABLE:
            with pytest.raises(ValueError, match="no value under a trace"):
                run(call, JAX, jit=True)
        compare(call, run(call, JAX, jit=not eager and key not in UNTRACEABLE), wanted)


def test_every_operator_has_an_example():
    missing = {
        (k.domain, k.op_type)
        for k in registry.kernels()
        if not k.python_objects and k.domain != "com.microsoft" and (k.domain, k.op_type) not in calls()
    }
    assert missing == {("ai.onnx.ml", "CategoryMapper")}  # from text or to text
