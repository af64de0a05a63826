"""The page that a profile writes: what it is made of. What it does in a browser: test_report_browser.py."""

import html
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, parser

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


NASTY = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "]]>-->",
    "\"><img src=x onerror='alert(3)'>",
    "{{x}} @name{safe} ${alert(4)} `\\",
    "two\nlines\r\u2028\u2029",
    "über 木 😀 \u202e",
    "\0\x0b\x7f",
    "__proto__",
]


class Tags(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


def named(names, folder):
    """A page, a table and a drawing of a model whose graph, nodes, values, modules and file are called so."""
    node, value, path = (lambda i: names[i % len(names)] + str(i)), (lambda i: f"v{names[i % len(names)]}{i}"), folder
    nodes = []
    for i in range(len(names)):
        made = helper.make_node(("Exp", "Tanh")[i % 2], [value(i)], [value(i + 1)], name=f"/{names[i]}/{node(i)}")
        made.metadata_props.add(
            key="pkg.torch.onnx.stack_trace", value=f'File "{names[i]}.py", line 7, in f\n  {names[i]}'
        )
        nodes.append(made)
    ends = [helper.make_tensor_value_info(value(i), 1, [2]) for i in (0, len(nodes))]
    graph = helper.make_graph(nodes, names[0], ends[:1], ends[1:])
    path.mkdir()
    path /= names[4].replace("/", "") + ".onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ortlite.InferenceSession(path, options)
    feed = {value(0): np.ones(2, np.float32)}
    comparison = compare(path, feed, ["CPUExecutionProvider", "StrictExecutionProvider"], rtol=0, atol=0)
    found = ortlite.profile(session, feed, runs=1, measure_roofs=False)
    session.run(None, feed)
    return found.to_html(comparison), found._repr_html_(), session.memory_plan().svg()


def test_names_are_no_markup(report, tmp_path):
    """Nothing that a model or its file is called makes an element, ends one, or is lost on the way."""
    page, table, drawing = named(NASTY, tmp_path / "nasty")
    plain = named([f"n{i}" for i in range(len(NASTY))], tmp_path / "plain")
    assert [tag for tag, _ in Tags(page).found] == [tag for tag, _ in Tags(plain[0]).found]
    assert [tag for tag, _ in Tags(table).found] == [tag for tag, _ in Tags(plain[1]).found]
    shapes = {"svg", "rect", "title", "text", "polyline", "line"}
    assert {e.tag.rpartition("}")[2] for e in ET.fromstring(drawing).iter()} <= shapes
    assert not any(name.startswith("on") for _, attrs in Tags(page).found for name, _ in attrs)
    data = embedded(page, "data")
    assert set(data["name"]) == {f"/{name}/{name}{i}" for i, name in enumerate(NASTY)}
    assert {f"v{name}{i}" for i, name in enumerate(NASTY) if i} <= {row[0] for row in data["differences"]["rows"]}
    assert embedded(page, "items").keys() == embedded(plain[0], "items").keys()
    assert html.escape(NASTY[4].replace("/", "")) in page.partition("</title>")[0]


def test_a_file_whose_name_is_no_text(report, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff<b>.onnx"
    Path(os.fsdecode(path)).write_bytes(model())
    page = tmp_path / "r.html"
    ortlite.profile(os.fsdecode(path), runs=1, measure_roofs=False).write(page)
    assert "<title>Profile of \\udcff&lt;b&gt;.onnx</title>" in page.read_text(encoding="utf-8")


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
