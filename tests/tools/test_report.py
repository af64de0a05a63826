"""The page that a profile writes: what it is made of. What it does in a browser: test_report_browser.py."""

import json
import re
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main
from ortlite.compare import compare
from ortlite.tools.report import layout
from ortlite.tools.report.layout import flames, layers, places

TEXT = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}>
{ [product] m = MatMul(x, w)  [rounded] y = Round(m) }"""


def model():
    return parser.parse_model(TEXT).SerializeToString()


@pytest.fixture
def report():
    """The modules that need the extra [report]."""
    pytest.importorskip("bokeh", reason="needs ortlite[report]")
    pytest.importorskip("itables", reason="needs ortlite[report]")
    from ortlite.tools import report

    return report


def embedded(html, name):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def test_nodes_stand_after_what_they_read_and_no_two_in_one_place():
    rng = np.random.default_rng(0)
    reads = [sorted({int(i) for i in rng.integers(0, node, min(node, 2))}) for node in range(300)]
    layer = layers(reads)
    assert all(layer[node] > layer[other] for node, others in enumerate(reads) for other in others)
    found = places(reads)
    assert len({(place.x, place.y) for place in found}) == 300
    for node, others in enumerate(reads):
        assert all((found[other].line, found[other].x) < (found[node].line, found[node].x) for other in others)


def test_a_long_chain_is_broken_into_lines_and_a_wide_layer_into_columns():
    chain = places([[node - 1] if node else [] for node in range(1000)])
    width, height = (max(c) - min(c) + 1 for c in zip(*((p.x, p.y) for p in chain), strict=True))
    assert 1 < layout.CELL * width / height < 6
    wide = places([[]] * 100)
    assert max(p.y for p in wide) - min(p.y for p in wide) < 40
    assert places([]) == []
    assert len(places([[1], [0]])) == 2  # a circle, which no graph has, ends too


def test_bars_of_groups_are_as_wide_as_what_is_in_them():
    paths = [["m", "a", "x"], ["m", "b", "y"], ["m", "a", "z"], ["w"]]
    bars = flames(paths, [1.0, 2.0, 3.0, 4.0])
    by_name = {bar.label: bar for bar in bars}
    assert (by_name["m"].left, by_name["m"].right) == (0, 6)
    assert (by_name["a"].left, by_name["a"].right, by_name["a"].depth, by_name["a"].node) == (0, 4, 1, None)
    assert by_name["z"].node == 2
    assert max(bar.right for bar in bars) == 10
    joined = flames([["m", "n", "x"], ["m", "n", "y"]], [1.0, 1.0])
    assert [bar.label for bar in joined] == ["m.n", "x", "y"]


def test_a_page_has_all_it_needs(report):
    html = ortlite.profile(model(), runs=2, measure_roofs=False).to_html()
    assert html.startswith("<!doctype html>")
    assert "<!--{" not in html
    head, _, body = html.partition("</style>")
    assert not re.search(r'(src|href)="(?!data:,|#)', head + body[:3000])
    data = embedded(html, "data")
    assert set(data["name"]) == {"product", "rounded"}
    product, rounded = data["name"].index("product"), data["name"].index("rounded")
    assert data["reads"][rounded] == [product]
    assert data["memory"][product] == 8
    assert "differences" not in data
    assert embedded(html, "items").keys() == {"graph", "flame", "memory", "roofline"}


def test_a_page_shows_the_differences_of_a_comparison(report):
    feed = {"x": np.ones((2, 3), np.float32)}
    found = ortlite.profile(model(), feed, runs=1)
    comparison = compare(model(), feed, ["CPUExecutionProvider", "StrictExecutionProvider"])
    html = found.to_html(comparison)
    data = embedded(html, "data")
    assert data["error"] == [0, 0]
    assert {row[0] for row in data["differences"]["rows"]} == {"m", "y"}
    assert len(data["differences"]["head"]) == len(data["differences"]["rows"][0])
    assert "CPU against Strict" in html
    assert "differences" in embedded(html, "items")


def test_names_of_a_model_are_no_markup(report):
    text = TEXT.replace("g (", "g1 (")
    proto = parser.parse_model(text)
    proto.graph.name = "<script>alert(1)</script>"
    proto.graph.node[0].name = "</script><script>alert(2)</script>"
    html = ortlite.profile(proto.SerializeToString(), runs=1, measure_roofs=False).to_html()
    assert "alert(1)</script>" not in html
    assert "<script>alert" not in html
    assert "</script><script>alert(2)</script>" in embedded(html, "data")["name"]


def test_bodies_and_empty_graphs(report):
    loop = """<ir_version: 8, opset_import: ["": 18]>
    g (float[4] x) => (float[4] y) <int64 trips = {5}, bool go = {1}>
    { [loop] y = Loop(trips, go, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] w)
        { d = Identity(c)  [inner] w = Add(v, v) }> }"""
    data = embedded(ortlite.profile(parser.parse_model(loop).SerializeToString(), runs=1).to_html(), "data")
    inner, outer = data["name"].index("inner"), data["name"].index("loop")
    assert data["parent"][inner] == outer
    nothing = """<ir_version: 8, opset_import: ["": 18]> g (float[4] x) => (float[4] y) { y = Identity(x) }"""
    html = ortlite.profile(parser.parse_model(nothing).SerializeToString(), runs=1, measure_roofs=False).to_html()
    assert len(embedded(html, "data")["name"]) <= 1


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    found = ortlite.profile(model(), runs=1, measure_roofs=False)
    monkeypatch.setattr("ortlite.tools.report.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"ortlite\[report\]"):
        found.to_html()


def test_without_the_extra_the_command_says_so_before_it_runs_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr("ortlite.tools.report.find_spec", lambda _: None)
    done = CliRunner().invoke(main, ["profile", str(tmp_path / "missing.onnx"), "--html", str(tmp_path / "page.html")])
    assert (done.exit_code, "ortlite[report]" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", ["profile MODEL --trace FILE", "run MODEL --save FILE"])
def test_that_there_is_no_folder_is_said_before_the_model_runs(tmp_path, words):
    given = {"MODEL": str(tmp_path / "missing.onnx"), "FILE": str(tmp_path / "nowhere" / "file")}
    done = CliRunner().invoke(main, [given.get(word, word) for word in words.split()])
    assert (done.exit_code, "nowhere is no folder to write file to" in done.stderr) == (1, True)


def test_the_command(report, tmp_path):
    onnx.save(parser.parse_model(TEXT), tmp_path / "model.onnx")
    args = ["profile", str(tmp_path / "model.onnx"), "--runs", "1", "--no-roofs", "--against", "Strict"]
    args += ["--html", str(tmp_path / "r.html"), "--model-explorer", str(tmp_path / "data")]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert "CPU against Strict" in done.output
    assert "<title>Profile of model.onnx</title>" in (tmp_path / "r.html").read_text()
    written = {path.name for path in (tmp_path / "data").iterdir()}
    assert written == {"time.json", "of-roof.json", "bytes.json", "difference.json"}
    assert json.loads((tmp_path / "data" / "difference.json").read_text())["g"]["results"].keys() == {
        "product",
        "rounded",
    }


def test_importing_the_tools_imports_no_charts():
    code = "import sys, ortlite.tools.profile; print(any(m.split('.')[0] == 'bokeh' for m in sys.modules))"
    import subprocess

    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
