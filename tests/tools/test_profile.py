"""What `ortlite profile` and `ortlite.profile` note of a run; no test depends on how long anything takes."""

import json
import threading

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import ortlite
from ortlite.cli import main
from ortlite.errors import OrtError
from ortlite.plan import Call
from ortlite.tools import recorder, roofs

TEXT = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}>
{ [product] m = MatMul(x, w)  [rounded] y = Round(m) }"""
LOOP = """<ir_version: 8, opset_import: ["": 18]>
g (float[4] x) => (float[4] y) <int64 trips = {5}, bool go = {1}>
{ [loop] y = Loop(trips, go, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] w)
    { d = Identity(c)  [inner] w = Add(v, v) }> }"""


def measured(*args, **kwargs):
    return ortlite.profile(*args, **{"measure_roofs": False, **kwargs})


def session(text, *providers):
    return ortlite.InferenceSession(
        parser.parse_model(text).SerializeToString(), providers=list(providers) or ["CPUExecutionProvider"]
    )


def test_what_is_noted_of_each_node():
    found = measured(session(TEXT), {"x": np.ones((8, 3), np.float32)}, runs=3)
    nodes = {each.name: each for each in found.nodes}
    product, rounded = nodes["product"], nodes["rounded"]
    assert (product.op_type, product.provider, product.calls) == ("MatMul", "CPUExecutionProvider", 3)
    assert (product.flops, product.nbytes) == (2 * 8 * 3 * 2, 4 * (24 + 6 + 16))
    assert (rounded.flops, rounded.nbytes) == (16, 2 * 64)
    assert sum(each.share for each in found.nodes) == pytest.approx(1)
    assert [each.ms for each in found.nodes] == sorted((each.ms for each in found.nodes), reverse=True)
    assert product.gflops_per_s == pytest.approx(product.flops / product.ms / 1e6)
    assert product.gbytes_per_s == pytest.approx(product.nbytes / product.ms / 1e6)
    assert found.peak_bytes == 128  # m and y at once
    assert len(found.events) == 6


def test_bodies_have_rows_of_their_own_and_their_time_is_not_counted_twice():
    found = measured(session(LOOP), runs=2)
    nodes = {each.name: each for each in found.nodes}
    assert (nodes["loop"].calls, nodes["inner"].calls) == (2, 10)
    assert (nodes["loop"].flops, nodes["inner"].flops) == (0, 20)
    whole = sum(e.end - e.begin for e in found.events if found.nodes[e.node].name == "loop") / 2e6
    assert sum(each.ms for each in found.nodes) == pytest.approx(whole)


def test_copies_between_providers_and_kernels_are_named():
    found = measured(session(TEXT, "StrictExecutionProvider"), runs=1)
    providers = {each.op_type: each.provider for each in found.nodes}
    assert providers["MatMul"] == "StrictExecutionProvider"
    kernels = {each.op_type: each.kernel for each in measured(session(TEXT), runs=1).nodes}
    explained = {n.op_type: n.kernel or "ortlite.ops" for n in session(TEXT).explain().nodes}
    assert kernels == explained


def test_the_session_computes_the_same_after_it():
    made = session(TEXT)
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    before = made.run(None, feed)
    measured(made, feed, runs=2)
    np.testing.assert_array_equal(made.run(None, feed)[0], before[0])


def test_the_trace_has_a_track_for_each_provider_and_a_counter():
    found = measured(session(TEXT, "StrictExecutionProvider"), runs=2)
    trace = json.loads(json.dumps(found.chrome_trace()))["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in trace if e["ph"] == "M"}
    calls = [e for e in trace if e["ph"] == "X"]
    assert len(calls) == len(found.events)
    assert {tracks[e["tid"]] for e in calls if e["cat"] == "MatMul"} == {
        f"StrictExecutionProvider, thread {threading.get_native_id()}"
    }
    assert all(e["ts"] >= 0 and e["dur"] > 0 for e in calls)
    counters = [e["args"]["bytes"] for e in trace if e["ph"] == "C"]
    assert max(counters) == found.peak_bytes


def test_steps_wait_for_results_that_are_still_being_computed():
    waited = []
    steps = session(TEXT, "StrictExecutionProvider")._whole.stages.program.steps
    call = next(bound for bound in steps if isinstance(bound.step, Call))
    there = call.step.provider.from_numpy(np.ones((), np.float32))

    class Promise:
        shape = (2,)
        device = "cpu"

        def block_until_ready(self):
            waited.append("ready")

    class Far:
        shape = (2, 3)
        device = "cuda:0"

        def __getitem__(self, index):
            waited.append(index)
            return there

    recorder._settle(call, [None, Promise(), Far()])
    assert waited == ["ready", (0, 0)]


def test_how_it_shows_itself():
    found = measured(session(TEXT), runs=1)
    assert "product" in str(found)
    assert "<td>product</td>" in found._repr_html_()
    plain = json.loads(json.dumps(found.to_dict()))
    assert {row["name"] for row in plain["nodes"]} == {"product", "rounded"}
    assert "events" not in plain
    top = found.top(1)
    assert len(top.nodes) == 1
    assert "1 nodes that take less are not shown" in str(top)


def test_an_error_in_a_node_comes_out_as_from_a_session():
    made = session("""<ir_version: 8, opset_import: ["": 18]> g (float[6] x, int64[2] s) => (float[a, b] y)
    { [shaped] y = Reshape(x, s) }""")
    with pytest.raises(OrtError, match="shaped"):
        measured(made, {"x": np.ones(6, np.float32), "s": np.array([4, 4])})
    with pytest.raises(ValueError, match="runs"):
        measured(made, runs=0)


def test_the_command(tmp_path):
    onnx.save(parser.parse_model(TEXT), tmp_path / "model.onnx")
    args = ["profile", str(tmp_path / "model.onnx"), "--shape", "N=4", "--runs", "2", "--no-roofs"]
    done = CliRunner().invoke(main, [*args, "--trace", str(tmp_path / "t.json"), "--top", "1"])
    assert done.exit_code == 0, done.output
    assert "1 nodes that take less are not shown" in done.output
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    done = CliRunner().invoke(main, [*args, "--json"])
    assert {row["flops"] for row in json.loads(done.output)["nodes"]} == {48, 8}


def with_metadata(text, **props):
    """The model, its nodes of the given names (or all) with metadata_props."""
    model = parser.parse_model(text)
    for node in model.graph.node:
        for key, value in props.get(node.name, {}).items():
            node.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def test_a_node_says_which_lines_of_the_exporter_it_comes_from_and_a_fused_one_names_all():
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[1, 2, 8, 8] x) => (float[1, 2, 8, 8] z) <float[2, 2, 1, 1] w = {1, 2, 3, 4}>
    { [conv] y = Conv(x, w)  [relu] z = Relu(y) }"""

    def props(line, code):
        trace = f'File "/a/net.py", line {line}, in f\n    {code}\n  File "/x/torch/nn/conv.py", line 1, in f\n    g()'
        return {"pkg.torch.onnx.stack_trace": trace, "pkg.torch.onnx.name_scopes": "['', 'net', 'net.stem', 'op']"}

    source = with_metadata(text, conv=props(3, "y = conv(x)"), relu=props(4, "z = relu(y)"))
    (node,) = measured(source, runs=1).nodes
    assert node.op_type == "FusedConv"
    assert set(node.origin) == {"conv", "relu"}
    assert node.sources == ("/a/net.py:4: z = relu(y)", "/a/net.py:3: y = conv(x)")
    assert node.scope == ("net", "stem")
    assert "net.py:4 +1" in str(measured(source, runs=1))


def test_edges_values_and_when_they_are_there():
    found = measured(session(TEXT), {"x": np.ones((8, 3), np.float32)}, runs=2)
    places = {each.name: place for place, each in enumerate(found.nodes)}
    assert found.nodes[places["rounded"]].reads == (places["product"],)
    assert found.nodes[places["product"]].reads == ()
    assert [found.nodes[places[name]].order for name in ("product", "rounded")] == [0, 1]
    values = {each.name: each for each in found.values}
    assert values["m"].shape == (8, 2)
    assert (values["m"].dtype, values["m"].nbytes, values["m"].node) == ("float32", 64, places["product"])
    assert 0 < values["m"].first < values["m"].last <= values["y"].last


def test_nodes_of_bodies_have_parents_and_their_values_count_how_often():
    found = measured(session(LOOP), runs=1)
    inner = next(each for each in found.nodes if each.name == "inner")
    assert found.nodes[inner.parent].name == "loop"
    assert next(value for value in found.values if value.name == "w").times == 5


def test_views_lie_in_the_memory_of_what_they_are_views_of():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[100] x) => (float[10, 10] z) <int64[2] s = {10, 10}>
    { y = Exp(x)  z = Reshape(y, s) }"""
    assert measured(session(text), runs=2).peak_bytes == 400


def test_the_share_of_the_roof(monkeypatch):
    monkeypatch.setattr(roofs, "SIDES", (8,))
    monkeypatch.setattr(roofs, "ELEMENTS", (64, 256))
    roofs.roof.cache_clear()
    found = measured(session(TEXT), {"x": np.ones((8, 3), np.float32)}, runs=2, measure_roofs=True)
    roof = found.roofs["CPUExecutionProvider"]
    node = next(each for each in found.nodes if each.name == "product")
    assert node.of_roof == pytest.approx(roof.least_seconds(node.nbytes, node.flops) * 1e3 / node.ms)
    assert "roofs of CPUExecutionProvider" in str(found)
    assert all(each.of_roof is None for each in measured(session(TEXT), runs=1).nodes)
    roofs.roof.cache_clear()


def test_node_data_for_model_explorer():
    found = measured(session(TEXT), runs=1)
    data = json.loads(json.dumps(found.model_explorer()))
    assert data.keys() == {"time", "of roof", "bytes"}
    assert data["time"]["g"]["results"].keys() == {"product", "rounded"}
    assert data["bytes"]["g"]["results"]["product"]["value"] == 4 * (3 + 6 + 2)
    assert [stop["stop"] for stop in data["time"]["g"]["gradient"]] == [0, 1]


def test_writing(tmp_path):
    found = measured(session(TEXT), runs=1)
    found.write(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text()) == found.chrome_trace()
    with pytest.raises(ValueError, match="html"):
        found.write(tmp_path / "profile.txt")
