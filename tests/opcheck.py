"""Run one operator through a whole session: what the operator tests share."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

import ortlite
from ortlite import dtypes
from ortlite.errors import OrtError
from ortlite.ops.registry import lookup
from ortlite.provider import create

__all__ = ["PROVIDERS", "check", "make_model", "onnxruntime_op", "run_model", "run_op"]

# Every operator test runs on each of these; nox has a session per library that names its provider here.
PROVIDERS = tuple(os.environ.get("ORTLITE_TEST_PROVIDERS", "CPUExecutionProvider,StrictExecutionProvider").split(","))


# A test that names no opset means the newest: of this onnx, and of what onnxruntime knows where it is asked, too.
NEWEST = min(28, onnx.defs.onnx_opset_version())
SHARED = min(26, NEWEST)


def _type(value: Any) -> onnx.TypeProto:
    if isinstance(value, list):
        element = _type(value[0]) if value else helper.make_tensor_type_proto(1, None)
        return helper.make_sequence_type_proto(element)
    if isinstance(value, dict):
        key, item = next(iter(value.items()))
        key_type = onnx.TensorProto.STRING if isinstance(key, str) else onnx.TensorProto.INT64
        kinds = {str: onnx.TensorProto.STRING, int: onnx.TensorProto.INT64, float: onnx.TensorProto.FLOAT}
        element = helper.make_tensor_type_proto(kinds[type(item)], None)
        return helper.make_map_type_proto(key_type, element)
    return helper.make_tensor_type_proto(dtypes.of_numpy(np.asarray(value).dtype).code, None)


def make_model(
    op_type: str, *inputs: Any, opset: int = NEWEST, domain: str = "", outputs: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """A model of one node. None leaves an input out; attributes that are None are not set."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    given = {name: value for name, value in attributes.items() if value is not None}
    node = helper.make_node(op_type, names, results, name="the_node", domain=domain, **given)
    feeds = [helper.make_value_info(n, _type(v)) for n, v in zip(names, inputs, strict=True) if n]
    graph = helper.make_graph([node], "one node", feeds, [onnx.ValueInfoProto(name=n) for n in results])
    imports = [helper.make_opsetid("", opset if not domain else 21)]
    if domain:
        imports.append(helper.make_opsetid(domain, opset if opset != NEWEST else _newest(domain)))
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@cache
def _newest(domain: str) -> int:
    versions = [s.since_version for s in onnx.defs.get_all_schemas() if s.domain == domain]
    return max(versions, default=1)


def run_model(model: onnx.ModelProto, feeds: dict[str, Any], provider: str = PROVIDERS[0]) -> list[Any]:
    """Run interpreted, dtypes checked against the schemas; then specialised, which must give the same.

    Nobody may write to the inputs. The specialised program also runs on other values of the same signature, after the
    arrays it was made from have been overwritten, and says what shapes its outputs have.

    A library's compiler fuses and reorders: where there is one, the same is up to the last few bits. It also takes
    half a second for each program: the same kernels are then specialised in their first test alone, unless
    ORTLITE_TEST_THOROUGH is set.
    """
    options = ortlite.SessionOptions()
    options.add_session_config_entry("ortlite.check_types", "1")
    checked = ortlite.InferenceSession(model.SerializeToString(), options, [provider])
    expected = checked.run(None, _each(_read_only, feeds))
    if not any(n.op_type.startswith(("Random", "Bernoulli", "Multinomial", "Dropout")) for n in model.graph.node):
        _check_specialised(model, feeds, checked, expected, provider)
    return expected


_specialised: set[tuple[Any, ...]] = set()  # the kernels of models that were specialised in this process


def _check_specialised(model: onnx.ModelProto, feeds: Any, checked: Any, expected: list[Any], provider: str) -> None:
    compiled = create(provider).compiler is not None
    kernels = tuple(lookup(node.domain, node.op_type, node.opset) for node in checked.model.graph.nodes)
    if compiled and kernels in _specialised and not os.environ.get("ORTLITE_TEST_THOROUGH"):
        return
    _specialised.add(kernels)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    arrays = [
        i for i, value in enumerate(expected) if isinstance(value, np.ndarray) and "float6" not in value.dtype.name
    ]
    for i in arrays:
        name = model.graph.output[i].name
        probed.graph.node.append(helper.make_node("Shape", [name], [f"{name}, its shape"]))
        probed.graph.output.append(helper.make_tensor_value_info(f"{name}, its shape", onnx.TensorProto.INT64, None))
    session = ortlite.InferenceSession(probed.SerializeToString(), providers=[provider])

    def check(feed: Any, wanted: list[Any]) -> None:
        results = session.run(None, feed)
        _assert_same(results[: len(wanted)], wanted, compiled=compiled)
        shapes = [results[i].shape for i in arrays]
        assert [tuple(shape.tolist()) for shape in results[len(wanted) :]] == shapes

    buffers = _each(np.array, feeds)
    dense = checked.run(None, _each(_read_only, buffers))  # BLAS may round otherwise where memory has gaps
    for _ in range(3):  # the second run specialises, the third is the specialised program
        check(_each(_read_only, buffers), dense)
    others = _each(lambda array: np.array(np.flip(array), order="C"), feeds)
    try:
        wanted = checked.run(None, _each(_read_only, others))
    except OrtError:  # these values mean nothing to the operator
        wanted = None
    for buffer, other in zip(_arrays(buffers), _arrays(others), strict=True):
        buffer[...] = other
    for _ in range(3):
        if wanted is None:
            with pytest.raises(OrtError):
                session.run(None, buffers)
        elif all(isinstance(a, np.ndarray) == isinstance(b, np.ndarray) for a, b in zip(wanted, expected, strict=True)):
            check(buffers, wanted)
    check(_each(_read_only, feeds), expected)


def _each(fn: Any, value: Any) -> Any:
    """A feed, or a part of it, with `fn` applied to every array in it."""
    if isinstance(value, dict):
        return {key: _each(fn, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_each(fn, item) for item in value]
    return fn(value) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    _each(found.append, value)
    return found


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _assert_same(actual: Any, expected: Any, *, compiled: bool) -> None:
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            _assert_same(a, b, compiled=compiled)
    elif compiled and isinstance(expected, np.ndarray):
        compare(actual, expected, 1e-5, 4e-6, "specialised")
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        same = actual == expected if expected.dtype == object else actual.tobytes() == expected.tobytes()
        assert np.all(same) or np.array_equal(actual, expected, equal_nan=expected.dtype.kind == "f")
    else:
        assert actual == expected


def run_op(
    op_type: str,
    *inputs: Any,
    opset: int = NEWEST,
    domain: str = "",
    outputs: int = 1,
    provider: str = PROVIDERS[0],
    **attributes: Any,
) -> list[Any]:
    """Run one operator in a session of its own, on `provider` then NumPy; see make_model and run_model."""
    inputs = tuple(np.asarray(v) if isinstance(v, np.generic) else v for v in inputs)
    model = make_model(op_type, *inputs, opset=opset, domain=domain, outputs=outputs, **attributes)
    feeds = {f"x{i}": v for i, v in enumerate(inputs) if v is not None}
    return run_model(model, feeds, provider)


def onnxruntime_op(op_type: str, *inputs: Any, opset: int = SHARED, **options: Any) -> list[Any]:
    """The same operator by onnxruntime's CPU provider (which knows opsets up to 26)."""
    import onnxruntime

    inputs = tuple(np.asarray(v) if isinstance(v, np.generic) else v for v in inputs)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = make_model(op_type, *inputs, opset=opset, **options).SerializeToString()
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": v for i, v in enumerate(inputs) if v is not None})


def check(
    op_type: str,
    *inputs: Any,
    expected: Any = None,
    opset: int = SHARED,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    **options: Any,
) -> None:
    """Assert that every provider gives `expected` (the outputs; one output may stand alone), else onnxruntime's."""
    if expected is None:
        expected = onnxruntime_op(op_type, *inputs, opset=opset, **options)
    elif not isinstance(expected, list):
        expected = [expected]
    for provider in PROVIDERS:
        actual = run_op(op_type, *inputs, opset=opset, provider=provider, **options)
        assert len(actual) == len(expected)
        for got, wanted in zip(actual, expected, strict=True):
            compare(got, wanted, rtol, atol, f"{op_type} on {provider}")


def compare(got: Any, wanted: Any, rtol: float, atol: float, what: str) -> None:
    """Same dtype, same shape, same values up to the tolerances; narrow floats within two of their steps."""
    if isinstance(wanted, list):
        assert len(got) == len(wanted), what
        for a, b in zip(got, wanted, strict=True):
            compare(a, b, rtol, atol, what)
        return
    if isinstance(wanted, dict):
        assert got == wanted, what
        return
    wanted = np.asarray(wanted)
    assert got.dtype == wanted.dtype, f"{what}: {got.dtype}, not {wanted.dtype}"
    assert got.shape == wanted.shape, f"{what}: {got.shape}, not {wanted.shape}"
    logical = dtypes.of_numpy(got.dtype)
    if logical.kind not in "fc":
        np.testing.assert_array_equal(got, wanted, err_msg=what)
        return
    if logical.bits < 32:
        step = 2.0 * float(ml_dtypes.finfo(got.dtype).eps)
        rtol, atol = max(rtol, step), max(atol, step * 1e-2)
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=what)
