"""What `ortlite info` and `ortlite.info` say of a model."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main
from ortlite.cli.digits import model_bytes

TEXT = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float16[1] h = {0}>
{ m = MatMul(x, w)  c = CastLike(h, m)  y = Add(m, c) }"""


@pytest.fixture
def path(tmp_path):
    onnx.save(parser.parse_model(TEXT), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_what_a_model_consists_of(path):
    found = ortlite.info(path, dims={"N": 5})
    assert (found.name, found.ir_version, found.opsets) == ("model.onnx", 8, {"": 18})
    assert [(v.name, v.type) for v in found.inputs + found.outputs] == [("x", "float32[N, 3]"), ("y", "float32[N, 2]")]
    assert (found.parameters, found.parameter_bytes, found.dtypes) == (7, 26, {"float32": 24, "float16": 2})
    operators = {each.op_type: (each.count, each.flops) for each in found.operators}
    assert operators["MatMul"] == (1, 2 * 5 * 3 * 2)
    assert operators["Add"] == (1, 10)
    assert found.flops == 70
    assert found.operators[0].nbytes == 4 * (15 + 6 + 10)
    assert {row.provider for row in found.placement} == {"CPUExecutionProvider"}


def test_how_it_shows_itself(path):
    found = ortlite.info(path)
    text = str(found)
    assert "FLOPs and bytes for N=1" in text
    assert "7 parameters, 26 bytes" in text
    html = found._repr_html_()
    assert html.count("<table>") == 4
    assert "<td>MatMul</td>" in html
    assert json.loads(json.dumps(found.to_dict()))["operators"][0]["op_type"] == "MatMul"


def test_names_are_escaped_in_html():
    model = parser.parse_model(TEXT)
    model.graph.name = "<script>"
    assert "<script>" not in ortlite.info(model.SerializeToString())._repr_html_()


def test_bytes_and_a_loaded_model_are_the_same():
    from ortlite.load import load

    assert ortlite.info(model_bytes()) == ortlite.info(load(model_bytes()))


def test_the_command(path):
    done = CliRunner().invoke(main, ["info", str(path), "--dim", "N=5"])
    assert done.exit_code == 0, done.output
    assert "MatMul" in done.output
    assert "FLOPs and bytes for N=5" in done.output
    done = CliRunner().invoke(main, ["info", str(path), "--json", "--provider", "CPU"])
    assert json.loads(done.output)["dims"] == {"N": 1}


def test_the_command_refuses_what_makes_no_sense(path, tmp_path):
    assert CliRunner().invoke(main, ["info", str(path), "--dim", "N=many"]).exit_code == 2
    done = CliRunner().invoke(main, ["info", str(path), "--dim", "M=2"])
    assert done.exit_code == 1
    assert "open are N" in done.output
    assert CliRunner().invoke(main, ["info", str(tmp_path / "none.onnx")]).exit_code == 1


def test_nothing_runs(monkeypatch):
    def refuse(*args):
        raise AssertionError("a model ran")

    monkeypatch.setattr("ortlite.api.session.InferenceSession.run", refuse)
    monkeypatch.setattr(np, "matmul", refuse)
    assert ortlite.info(TEXT_BYTES).flops == 14


TEXT_BYTES = parser.parse_model(TEXT).SerializeToString()
