"""ortlite.backend in the ONNX backend test runner, and on its own."""

from __future__ import annotations

import unittest
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, parser

import ortlite
import ortlite.backend

ADD = parser.parse_model("""<ir_version: 8, opset_import: ["": 18]> g (float[2] x, float[2] b) => (float[2] y)
{ y = Add(x, b) }""")
X, B = np.array([1, 2], np.float32), np.array([10, 20], np.float32)


@pytest.fixture(scope="module")
def runner():
    import onnx.backend.test

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own data overflow and divide by zero
        return onnx.backend.test.BackendTest(ortlite.backend, __name__)


@pytest.mark.parametrize("pattern", ["test_add_", "test_loop", "test_if", "test_string_concat", "test_quantizelinear"])
def test_the_runner_runs(runner, pattern):
    chosen = unittest.TestSuite()
    for case in runner.test_cases.values():
        names = [n for n in dir(case) if n.startswith(pattern) and n.endswith("_cpu") and "seq" not in n]
        chosen.addTests(case(name) for name in names)
    assert chosen.countTestCases() >= 1
    result = unittest.TestResult()
    chosen.run(result)
    assert not result.failures
    assert not result.errors
    assert len(result.skipped) == 0


@pytest.mark.parametrize(
    "source", [ADD, ADD.SerializeToString(), "path", "session", "prepared"], ids=lambda s: type(s).__name__
)
def test_what_can_be_prepared(source, tmp_path):
    if source == "path":
        onnx.save(ADD, tmp_path / "m.onnx")
        source = str(tmp_path / "m.onnx")
    elif source == "session":
        source = ortlite.InferenceSession(ADD.SerializeToString())
    elif source == "prepared":
        source = ortlite.backend.prepare(ADD)
    prepared = ortlite.backend.prepare(source)
    np.testing.assert_array_equal(prepared.run([X, B])[0], X + B)


def test_run_model_and_run_node():
    np.testing.assert_array_equal(ortlite.backend.run_model(ADD, [X, B])[0], X + B)
    node = helper.make_node("Mul", ["a", "b"], ["c"])
    np.testing.assert_array_equal(ortlite.backend.run_node(node, [X, B])[0], X * B)
    old = helper.make_node("Add", ["a", "b"], ["c"], broadcast=1)
    np.testing.assert_array_equal(ortlite.backend.run_node(old, [X, B[:1]], opset_version=6)[0], X + 10)


def test_a_node_that_reads_a_value_twice_and_one_that_is_given_too_few():
    twice = helper.make_node("Mul", ["x", "x"], ["y"])
    np.testing.assert_array_equal(ortlite.backend.run_node(twice, [X])[0], X * X)
    with pytest.raises(ValueError, match="Mul has the inputs x, b, and 1 are given"):
        ortlite.backend.run_node(helper.make_node("Mul", ["x", "b"], ["y"]), [X])


def test_devices_and_options():
    assert ortlite.backend.prepare(ADD.SerializeToString(), None) is not None
    assert ortlite.backend.supports_device("CPU")
    assert not ortlite.backend.supports_device("TPU")
    with pytest.raises(RuntimeError, match="Incompatible device"):
        ortlite.backend.prepare(ADD, "TPU")
    prepared = ortlite.backend.prepare(ADD, providers=["StrictExecutionProvider"], logid="me")
    assert prepared.session.get_providers() == ["StrictExecutionProvider", "CPUExecutionProvider"]
    assert prepared.session.get_session_options().logid == "me"
    with pytest.raises(RuntimeError, match="expect 2 inputs"):
        prepared.run(X)
