"""Rows through a model in batches: `ortlite.batches.Job`, on which Dask, Ray, Spark and `ortlite run` stand."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import ortlite
from ortlite import batches
from ortlite.batches import Job
from ortlite.cli.digits import model_bytes, scans
from ortlite.errors import Fail, InvalidArgument, NoSuchFile

TWO = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] a, int64[N] b, float scale) => (float[N, 3] y, int64[N] twice)
{ c = Cast<to=1>(b)  d = Unsqueeze(c, one)  e = Mul(a, scale)  y = Add(e, d)  twice = Add(b, b) }
"""
FIXED = """<ir_version: 8, opset_import: ["": 18]>
g (float[4, 3] x) => (float[4] y)
<int64[1] one = {1}> { y = ReduceSum<keepdims=0>(x, one) }"""
WHOLE = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] x) => (float[N, 3] y, float[3] total)
<int64[1] zero = {0}> { y = Relu(x)  total = ReduceSum<keepdims=0>(x, zero) }"""


def built(text):
    model = parser.parse_model(text)
    if "d = Unsqueeze" in text:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    return model.SerializeToString()


def rows(n, *row):
    return np.random.default_rng(n).standard_normal((n, *row)).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 4, 5, 11])
def test_rows_come_out_as_from_one_run(n):
    job = Job.of(built(TWO), constants={"scale": 2}, batch_size=4)
    a, b = rows(n, 3), np.arange(n)
    made = job.run({"a": a, "b": b, "besides": b})
    np.testing.assert_array_equal(made["y"], 2 * a + b[:, None].astype(np.float32))
    np.testing.assert_array_equal(made["twice"], 2 * b)
    assert made["y"].shape == (n, 3)
    assert made["twice"].dtype == np.int64


@pytest.mark.parametrize("n", [0, 1, 4, 5, 11])
def test_a_fixed_batch_is_filled_up(n):
    x = rows(n, 3)
    job = Job.of(built(FIXED))
    assert (job.size, job.fixed) == (4, True)
    np.testing.assert_allclose(job.run({"x": x})["y"], x.sum(1), rtol=1e-5)
    with pytest.raises(InvalidArgument, match=r"made for 4 rows a run.*not 8"):
        Job.of(built(FIXED), batch_size=8)


def test_a_process_makes_one_session_of_a_job(monkeypatch):
    monkeypatch.setattr(batches, "_here", batches._Here())
    job = Job.of(model_bytes())
    again = pickle.loads(pickle.dumps(job))
    assert again.session(2) is job.session(2)
    assert job.session(2).get_session_options().intra_op_num_threads == 2
    assert job.session(1) is not job.session(2)
    for size in range(1, 7):
        Job.of(model_bytes(), batch_size=size).session()
    assert len(batches._here.sessions) == batches.SESSIONS


def test_options_and_providers_travel():
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", 2)
    session = ortlite.InferenceSession(model_bytes(), options)
    for job in (Job.of(session), Job.of(model_bytes(), sess_options=options, providers=["CPUExecutionProvider"])):
        job = pickle.loads(pickle.dumps(job))
        assert job.fixed
        made = job.session(7)
        assert made.get_session_options().intra_op_num_threads == 1
        assert made.get_providers() == ["CPUExecutionProvider"]
        assert job.run({"scan": scans()[0][:3]})["probabilities"].shape == (3, 10)


def test_limits_travel():
    with ortlite.limits.applied(ortlite.Limits(total_bytes=10_000)):
        job = pickle.loads(pickle.dumps(Job.of(model_bytes(), batch_size=16)))
    with pytest.raises(ortlite.LimitExceeded, match="the model, rows 0 to 15"):
        job.run({"scan": scans()[0]})


def test_other_values_may_be_outputs():
    made = Job.of(model_bytes(), outputs=["h"]).run({"scan": scans()[0][:2]})
    assert made["h"].shape == (2, 48)


def test_a_model_that_changed_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes())
    job = Job.of(path)
    path.write_bytes(built(WHOLE))
    with pytest.raises(Fail, match="another model than when"):
        job.session()
    path.unlink()
    with pytest.raises(NoSuchFile, match=re.escape(f"{path} is not on this machine")):
        job.session()


def test_external_data_that_changes_makes_another_job(tmp_path):
    model = parser.parse_model(
        FIXED.replace("<int64[1] one = {1}>", "").replace("(x, one)", "(z, one)").replace("{", "{ z = Add(x, w) ", 1)
    )
    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    model.graph.initializer.extend([weights, numpy_helper.from_array(np.array([1]), "one")])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=8)
    first = Job.of(path)
    assert Job.of(path).token == first.token
    (tmp_path / "w.bin").write_bytes(bytes((tmp_path / "w.bin").stat().st_size))
    os.utime(tmp_path / "w.bin", ns=(0, 0))
    assert Job.of(path).token != first.token


def test_embedded_weights_are_put_where_processes_share_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(batches, "EMBEDDED", 1000)
    path = tmp_path / "digits.onnx"
    path.write_bytes(model_bytes())
    job = Job.of(path)
    assert {p.name for p in (tmp_path / "cache/ortlite/models").glob("*.mapped/*")} == {"model.onnx", "model.onnx.data"}
    assert job.session()._model_path == job.shared
    np.testing.assert_array_equal(
        job.run({"scan": scans()[0]})["probabilities"], Job.of(model_bytes()).run({"scan": scans()[0]})["probabilities"]
    )
    assert Job.of(path).shared == job.shared
    with ortlite.limits.applied(ortlite.Limits(own_files=True)):
        assert not Job.of(path).shared


def test_columns_are_fitted():
    job = Job.of(model_bytes())
    x = scans()[0]
    expected = job.run({"scan": x})["probabilities"]
    for column in (
        x.astype(np.float64),
        x.reshape(len(x), 64).astype(np.int32),
        list(x),
        [row.ravel().tolist() for row in x],
        np.fromiter((row for row in x), object),
        np.fromiter((np.fromiter((r for r in row[0]), object)[None] for row in x), object),
    ):
        np.testing.assert_array_equal(job.run({"scan": column})["probabilities"], expected)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"b": [1]}, r"has the inputs 'a' \(float32\[N, 3\]\), 'b' .* no column for a among b"),
        ({"a": rows(2, 3), "b": [1]}, "different numbers of rows: {'a': 2, 'b': 1}"),
        ({"a": rows(2, 4), "b": [1, 2]}, r"rows of shape \[4\] do not fit input 'a'"),
        ({"a": rows(2, 3), "b": [1.5, 2]}, r"input 'b' \(int64\[N\]\) is given float64"),
        ({"a": [[1, 2, 3], [1, 2]], "b": [1, 2]}, r"rows of shapes \[2\], \[3\]"),
        ({"a": [[1, 2, None]], "b": [1]}, "with nothing in them"),
        ({"a": rows(1, 3), "b": np.array([2**63], np.uint64)}, "numbers beyond int64"),
        ({"a": "text", "b": [1]}, "input 'a'"),
    ],
)
def test_columns_that_do_not_fit(columns, problem):
    with pytest.raises(InvalidArgument, match=problem):
        Job.of(built(TWO), constants={"scale": 1.0}).run(columns)


def test_what_has_no_rows():
    with pytest.raises(InvalidArgument, match=r"input 'scale' is a single value without rows: give it in constants"):
        Job.of(built(TWO))
    with pytest.raises(InvalidArgument, match="has no input other; it has x"):
        Job.of(built(FIXED), constants={"other": 1})
    with pytest.raises(InvalidArgument, match="has no output z; it has y"):
        Job.of(built(FIXED), outputs=["z"])
    with pytest.raises(
        Fail, match=r"rows 0 to 1 of a block: output 'total' .* is float32\[3\] for 2 rows.*outputs=\[y\]"
    ):
        Job.of(built(WHOLE)).run({"x": rows(2, 3)})
    assert list(Job.of(built(WHOLE), outputs=["y"]).run({"x": rows(2, 3)})) == ["y"]


def test_an_error_says_which_rows():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="squared")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([8, -1, 2]), "shape")],
    )
    job = Job.of(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString(), batch_size=8
    )
    with pytest.raises(Fail, match=r"the model, rows 108 to 110: .*squared"):
        job.run({"x": rows(11, 4)}, first=100)


def test_a_zipmap_says_what_to_take():
    sklearn = pytest.importorskip("sklearn.linear_model")
    skl2onnx = pytest.importorskip("skl2onnx")
    x = rows(30, 4)
    fitted = sklearn.LogisticRegression().fit(x, np.arange(30) % 3)
    data = skl2onnx.to_onnx(fitted, x[:1]).SerializeToString()
    with pytest.raises(InvalidArgument, match=r"output 'output_probability'.*ZipMap") as caught:
        Job.of(data)
    name = re.search(r"maps of '(\w+)'", str(caught.value))[1]
    made = Job.of(data, outputs=["output_label", name]).run({"X": x})
    np.testing.assert_allclose(made[name], fitted.predict_proba(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        (TWO, {"a": (7, 3), "b": (7,)}, {"y": (7, 3), "twice": (7,)}),
        (FIXED, {"x": (7, 3)}, {"y": (7,)}),
    ],
)
def test_shapes_are_known_before(text, given, expected):
    constants = {"scale": 1} if "scale" in text else None
    assert Job.of(built(text), constants=constants).shapes([given]) == [expected]
