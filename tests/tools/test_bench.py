"""`ortlite bench` and `ortlite.bench`: what they say, never how fast it is."""

import json
import os

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main
from ortlite.cli.options import duration
from ortlite.tools import bench as module
from ortlite.tools.worker import measure

OPEN = """<ir_version: 8, opset_import: ["": 18]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"""
FIXED = OPEN.replace("N", "2")


@pytest.fixture
def path(tmp_path):
    onnx.save(parser.parse_model(OPEN), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_engines_batches_and_threads(path):
    pytest.importorskip("onnxruntime")
    found = ortlite.bench(
        path, ["CPU", "Strict"], against="onnxruntime", batches=[1, 4], seconds=0.01, rounds=1, threads=[1]
    )
    rows = [(t.engine, t.batch, t.threads) for t in found.timings]
    engines = ["onnxruntime", "CPUExecutionProvider", "StrictExecutionProvider"]
    assert rows == [(engine, batch, 1) for batch in (1, 4) for engine in engines]
    for timing in found.timings:
        assert not timing.problem
        assert timing.runs >= 10
        assert 0 < timing.least <= timing.median <= timing.p90 <= timing.p99
        assert timing.throughput > 0
        if timing.engine == "onnxruntime":
            assert timing.ratio is None
        else:
            assert timing.low <= timing.high
            assert timing.difference == 0
    assert "÷ onnxruntime" in str(found)
    assert "1 process an engine" in str(found)
    assert "<td>StrictExecutionProvider</td>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["timings"][0]["engine"] == "onnxruntime"


def test_what_goes_wrong_in_a_process_stands_in_its_row(tmp_path):
    onnx.save(parser.parse_model(FIXED), tmp_path / "fixed.onnx")
    started = []
    found = ortlite.bench(tmp_path / "fixed.onnx", batches=[None, 8], seconds=0.01, rounds=2, on_start=started.append)
    assert [bool(t.problem) for t in found.timings] == [False, True]
    assert "open first dimension" in found.timings[1].problem
    assert any("open first dimension" in line for line in found.remarks())
    assert len(started) == 4


def test_a_worker_feeds_the_batch_that_is_asked_for(path, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, -2, 3]], np.float32))
    files = {"x": str(tmp_path / "x.npy")}
    out = str(tmp_path / "out.npz")
    found = measure(str(path), "ortlite", "CPUExecutionProvider", 3, 1, 0.001, files, {}, out)
    assert found.keys() == {"load", "first", "times"}
    with np.load(out) as saved:
        assert saved["0"].tolist() == [[1, 0, 3]] * 3
    measure(str(path), "ortlite", "CPUExecutionProvider", None, 1, 0.001, {}, {"x": "5,3"}, out)
    with np.load(out) as saved:
        assert saved["0"].shape == (5, 3)


def test_a_batch_goes_to_all_dimensions_of_its_name(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[N, 2] x, float["N + M", N] y, float[M, 1] z) => (float[a, b] o) { o = Neg(y) }"""
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    out = str(tmp_path / "out.npz")
    measure(str(tmp_path / "m.onnx"), "ortlite", "CPUExecutionProvider", 3, 1, 0.001, {}, {}, out)
    with np.load(out) as saved:
        assert saved["0"].shape == (6, 3)


def test_differences_are_parts_of_the_largest_element(tmp_path):
    np.savez(tmp_path / "a.npz", **{"0": np.array([100.0, 1.0]), "1": np.array([0.5, np.nan])})
    np.savez(tmp_path / "b.npz", **{"0": np.array([101.0, 1.0]), "1": np.array([0.5, np.nan])})
    np.savez(tmp_path / "c.npz", **{"0": np.array([np.nan, 1.0])})
    assert module._difference(tmp_path / "a.npz", tmp_path / "b.npz") == pytest.approx(1 / 101)
    assert module._difference(tmp_path / "a.npz", tmp_path / "c.npz") == float("inf")


def test_the_interval_tells_engines_apart_and_knows_when_it_cannot():
    rng = np.random.default_rng(3)
    slow = [rng.normal(2, 0.1, 200) for _ in range(3)]
    fast = [rng.normal(1, 0.05, 200) for _ in range(3)]
    low, high = module.ratio_interval(slow, fast)
    assert 1.9 < low < high < 2.1
    scattered = [np.full(50, level) for level in (1.0, 1.5, 2.0)]  # processes that differ: no certainty
    low, high = module.ratio_interval(scattered, scattered)
    assert low < 0.8
    assert high > 1.25


def test_what_makes_no_sense_is_refused(path):
    with pytest.raises(ValueError, match="against onnxruntime, not 'tvm'"):
        ortlite.bench(path, against="tvm")
    with pytest.raises(ValueError, match="no provider 'Nowhere'"):
        ortlite.bench(path, ["Nowhere"])
    with pytest.raises(ValueError, match="rounds"):
        ortlite.bench(path, rounds=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shapes": {"x": "2,5"}}, "--shape x: 2,5 given"),
        ({"shapes": {"x": "2"}}, "--shape x: 2 given"),
        ({"shapes": {"z": "2"}}, "--shape z: the model has no input"),
        ({"files": {"z": __file__}}, "the model has no input z"),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_no_engines_fault(path, given, said):
    with pytest.raises(ValueError, match=said):
        ortlite.bench(path, rounds=1, on_start=pytest.fail, **given)


def test_a_row_says_all_of_an_error_in_one_line(path, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 5), np.float32))
    found = ortlite.bench(path, seconds=0.01, rounds=1, files={"x": str(tmp_path / "x.npy")})
    assert "input: x for the following indices index: 1 Got: 5 Expected: 3" in found.timings[0].problem


def test_the_command(path):
    args = ["bench", str(path), "--providers", "CPU", "Strict", "--batch", "1,2", "--duration", "10ms", "--rounds", "1"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert done.output.count("StrictExecutionProvider") == 2
    before = ["bench", "--providers", "CPU", "Strict", str(path), "--duration=1ms", "--rounds=1"]
    assert CliRunner().invoke(main, before).output.count("StrictExecutionProvider") == 1
    assert CliRunner().invoke(main, ["bench", str(path), "--batch", "many"]).exit_code == 2
    assert CliRunner().invoke(main, ["bench", str(path), "--duration", "long"]).exit_code == 2


def test_options_of_a_provider_make_an_engine_of_their_own(path):
    found = ortlite.bench(path, ["CPU", "CPU:compiled=0"], seconds=0.01, rounds=1)
    assert [t.engine for t in found.timings] == ["CPUExecutionProvider", "CPUExecutionProvider:compiled=0"]
    assert not any(t.problem for t in found.timings)


def test_a_model_that_does_not_load_fails(tmp_path):
    done = CliRunner().invoke(main, ["bench", os.fspath(tmp_path / "none.onnx"), "--duration", "10ms"])
    assert done.exit_code == 1
    assert "none.onnx" in done.output


def test_durations():
    assert [duration(text) for text in ("3", "3s", "1.5s", "250ms", "2min")] == [3, 3, 1.5, 0.25, 120]
