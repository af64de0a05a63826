"""Whether `ortlite check` and `ortlite.check` tell what would not run, and why."""

import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main

GOOD = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }"""
TEXTS = """<ir_version: 8, opset_import: ["": 20]> g (string[N] x, float[N] v) => (string[N] y, float[N] w)
{ [join] y = StringConcat(x, x)  w = Relu(v) }"""
UNKNOWN = """<ir_version: 8, opset_import: ["": 18, "my.own": 1]> g (float[N] x) => (float[N] y)
{ [mine] y = my.own.Mystery(x) }"""


def model(text):
    return parser.parse_model(text).SerializeToString()


@pytest.mark.parametrize("name", ["CPU", "Strict", "StrictExecutionProvider"])
def test_a_model_that_runs(name):
    found = ortlite.check(model(GOOD), name)
    assert found
    assert not found.findings
    assert str(found).startswith("model runs on")


def test_the_heading_counts_in_english():
    two = TEXTS.replace("w = Relu(v)", "w = StringConcat(y, x)").replace("float[N] w", "string[N] w")
    assert "1 finding for" in ortlite.check(model(TEXTS), "Strict").heading()
    assert "2 findings for" in ortlite.check(model(two), "Strict").heading()


def test_nodes_that_fall_back_are_told_with_the_reason():
    found = ortlite.check(model(TEXTS), ["CPU", "Strict"])
    assert not found
    assert [(f.kind, f.provider, f.op_type) for f in found.findings] == [
        ("fallback", "StrictExecutionProvider", "StringConcat")
    ]
    assert found.findings[0].node == "join"
    assert found.findings[0].reason
    assert "StringConcat" in str(found)
    assert "<td>StringConcat</td>" in found._repr_html_()


def test_operators_that_nobody_has_are_findings():
    (finding,) = ortlite.check(model(UNKNOWN)).findings
    assert finding.op_type == "Mystery" or "Mystery" in finding.reason


def test_a_provider_that_is_not_here_is_a_finding():
    found = ortlite.check(model(GOOD), ["CPU", "Nowhere"])
    assert [(f.kind, f.provider) for f in found.findings] == [("provider", "Nowhere")]
    assert found.providers == ("CPUExecutionProvider", "Nowhere")


def test_the_command(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(TEXTS), path)
    done = CliRunner().invoke(main, ["check", str(path), "--provider", "CPU"])
    assert (done.exit_code, done.output) == (0, "model.onnx runs on CPUExecutionProvider\n")
    done = CliRunner().invoke(main, ["check", str(path), "--provider", "CPU", "--provider", "Strict"])
    assert done.exit_code == 1
    assert "StringConcat" in done.output
    path.write_bytes(b"damaged")
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 1
    assert "does not load" in done.output
    done = CliRunner().invoke(main, ["check", str(tmp_path / "none.onnx"), "--json"])
    assert done.exit_code == 1
    assert '"kind": "load"' in done.output
