"""What `optimized_model_filepath` and `ortlite optimize` write, onnxruntime loads and agrees with."""

from __future__ import annotations

import mmap

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, parser

import ortlite
from ortlite import load, save
from ortlite.cli import main
from ortlite.load.peek import all_graphs
from tests.optimize.models import CPU, model, node, outputs
from tests.optimize.test_activations import Writer, gelu_of, tanh_pow, values
from tests.optimize.test_attention import attended, feed_of, turned
from tests.optimize.test_norms import divide, layer_norm, mean, scaled, square
from tests.optimize.test_weights import convolved, normalised

onnxruntime = pytest.importorskip("onnxruntime")


def write(proto, path, **entries):
    options = ortlite.SessionOptions()
    options.optimized_model_filepath = str(path)
    for key, value in entries.items():
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    ortlite.InferenceSession(proto.SerializeToString(), options, providers=[CPU])
    return onnx.load(path)


def peer(source, feed):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=[CPU]).run(None, feed)


def small_transformer(w):
    """A block of a transformer as exporters write it."""
    w.constants |= {"split": np.array([0, 0, 3, 4]), "merge": np.array([0, 0, 12]), "b1": values(24, seed=8)}
    n = scaled(w, layer_norm(w, "x", [-1], 20), (12,))
    parts = []
    for i, name in enumerate("qkv"):
        w.constants[name] = values((12, 12), seed=i)
        parts.append(w("Transpose", w("Reshape", w("MatMul", n, name), "split"), perm=[0, 2, 1, 3]))
    q, k, v = parts
    y = attended(w, q, w("Transpose", k, perm=[0, 1, 3, 2]), v)
    y = w("Reshape", w("Transpose", y, perm=[0, 2, 1, 3]), "merge")
    w.constants |= {"w1": values((12, 24), seed=4) / 4, "w2": values((24, 12), seed=5) / 4}
    total = w("Add", "x", y)
    n = scaled(w, layer_norm(w, total, [-1], 20), (12,))
    return w("Add", total, w("MatMul", tanh_pow(w, w("Add", w("MatMul", n, "w1"), "b1")), "w2"))


def swished(w, y):
    return w("Mul", y, w("Sigmoid", y))


def cnn(w):
    y = w("Relu", normalised(w, convolved(w), 4))
    return w("Mul", y, w("Sigmoid", w("Clip", y, -1.0, 1.0)))


def llama_norm(w):
    return scaled(w, divide(w, "x", mean(w, square(w, "x", "Pow"), [-1], 20), "Reciprocal"), (12,), shift=False)


CASES = {
    "transformer": (small_transformer, (2, 5, 12), "Attention"),
    "cnn": (cnn, (2, 4, 5, 5), "FusedConv"),
    "llama": (llama_norm, (2, 5, 12), "SimplifiedLayerNormalization"),
    "swish": (lambda w: swished(w, convolved(w)), (2, 4, 5, 5), "QuickGelu"),  # which no FusedConv knows elsewhere
    "pool": (lambda w: w("Relu", mean(w, convolved(w), [2, 3], 20)), (2, 4, 5, 5), "GlobalAveragePool"),
    "gelu": (lambda w: gelu_of(w, "x"), (3, 4), "Gelu"),
    "mish": (lambda w: w("Mul", "x", w("Tanh", w("Softplus", "x"))), (3, 4), "Mish"),
}


@pytest.mark.parametrize("opset", [18, 20, 21, 23])
@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_agrees(name, opset, tmp_path):
    build, shape, expected = CASES[name]
    w = Writer()
    x = values(shape)
    y = build(w)
    proto = w.model({"x": x}, y, opset=opset, dims={"x": ["batch", *shape[1:]]})
    written = write(proto, tmp_path / "o.onnx")
    operators = {n.op_type for n in written.graph.node}
    if name == "llama" and opset == 23:
        expected = "RMSNormalization"
    assert expected in operators
    before, after = outputs(proto, {"x": x}), peer(str(tmp_path / "o.onnx"), {"x": x})
    assert before[0].shape == after[0].shape
    np.testing.assert_allclose(before[0], after[0], 1e-4, 1e-4)
    np.testing.assert_allclose(peer(proto.SerializeToString(), {"x": x})[0], after[0], 1e-4, 1e-4)


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_old_models_keep_to_operators_of_their_time_where_they_must(opset, tmp_path):
    """Softmax of opset 11 and 1 and of 13 are different operators: Attention cannot stand beside it."""
    w = Writer()
    feed = feed_of()
    y = w("Softmax", attended(w, "q", turned(w, "k", "swap", None), "v", last=3), axis=1)
    proto = w.model(feed, y, opset=opset)
    written = write(proto, tmp_path / "o.onnx")
    assert ("Attention" in {n.op_type for n in written.graph.node}) == (opset >= 13)
    np.testing.assert_allclose(peer(str(tmp_path / "o.onnx"), feed)[0], outputs(proto, feed)[0], 1e-4, 1e-5)


def test_attributes_that_became_inputs(tmp_path):
    """Written in the opset of Attention, ReduceSum and Unsqueeze of opset 11 take their axes as inputs."""
    w = Writer()
    feed = feed_of()
    y = attended(w, "q", turned(w, "k", "swap", None), "v", last=3)
    y = w("Unsqueeze", w("ReduceMean", y, axes=[1], keepdims=0), axes=[0])
    proto = w.model(feed, w("ReduceSum", w("Squeeze", y, axes=[0]), axes=[2]), opset=11)
    written = write(proto, tmp_path / "o.onnx")
    assert {n.op_type for n in written.graph.node} >= {"Attention", "ReduceMean", "ReduceSum"}
    assert all(not n.attribute or n.attribute[0].name != "axes" for n in written.graph.node)
    np.testing.assert_allclose(peer(str(tmp_path / "o.onnx"), feed)[0], outputs(proto, feed)[0], 1e-4, 1e-5)


def test_subgraphs_are_written_in_the_same_opset(tmp_path):
    w = Writer()
    w.constants["zero"] = np.float32(0)
    branch = helper.make_graph(
        [node("ReduceSum", ["x"], ["s"], axes=[0]), node("Softplus", ["x"], ["p"]), node("Tanh", ["p"], ["t"]),
         node("Mul", ["x", "t"], ["m"]), node("Add", ["m", "s"], ["y"])],
        "then", [], [helper.make_tensor_value_info("y", 1, None)],
    )  # fmt: skip
    other = helper.make_graph([node("Abs", ["x"], ["z"])], "else", [], [helper.make_tensor_value_info("z", 1, None)])
    w.nodes.append(node("If", ["c"], ["o"], then_branch=branch, else_branch=other))
    feed = {"x": values((2, 3)), "c": np.array(True)}
    proto = w.model(feed, "o", opset=12)
    write(proto, tmp_path / "o.onnx")
    np.testing.assert_allclose(peer(str(tmp_path / "o.onnx"), feed)[0], outputs(proto, feed)[0], 1e-5, 1e-5)


def test_large_constants_beside_the_file(tmp_path):
    w = Writer()
    w.constants["W"] = values((32, 32), seed=1)
    x = values((3, 32))
    proto = w.model({"x": x}, w("MatMul", "x", "W"))
    for _ in range(2):  # the second does not append to what the first wrote
        write(proto, tmp_path / "o.onnx", file_name="weights.bin", min_size_in_bytes="100")
    assert (tmp_path / "weights.bin").stat().st_size == 32 * 32 * 4
    np.testing.assert_allclose(peer(str(tmp_path / "o.onnx"), {"x": x})[0], x @ w.constants["W"], 1e-4, 1e-5)


@pytest.mark.parametrize(("least", "outside"), [("100", {"W", "B"}), ("600", {"W"}), ("5000", set())])
def test_constants_of_all_graphs_and_types_go_beside_the_file(least, outside, tmp_path):
    """Transposed, of four bits, text, and those of a branch."""
    proto = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (bool c, float[32] x) => (float[32] y, float[3] q, string[1] s) <string[1] t = {"text"}> {
            s = Identity(t)  q = Cast<to = 1>(F)
            y = If(c) <then_branch = yes () => (float[32] a) { a = MatMul(x, W) },
                else_branch = no () => (float[32] b) { b = Add(x, B) }>
        }""")
    w, b = values((32, 32), seed=1), values(32 * 8, seed=2)[:32]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "W"))
    proto.graph.initializer.append(helper.make_tensor("F", onnx.TensorProto.INT4, [3], [1, -2, 3]))
    no = next(a.g for n in proto.graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch")
    no.initializer.append(onnx.numpy_helper.from_array(b, "B"))
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    for key, value in {"file_name": "w.bin", "min_size_in_bytes": least}.items():
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    ortlite.InferenceSession(proto.SerializeToString(), options, providers=[CPU])
    written = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    found = {t.name for g in all_graphs(written.graph) for t in g.initializer if t.data_location == t.EXTERNAL}
    assert found == outside
    path, x = str(tmp_path / "o.onnx"), values(32)
    for chosen, expected in ((True, x @ w), (False, x + b)):
        feed = {"c": np.array(chosen), "x": x}
        for made in (peer(path, feed), ortlite.InferenceSession(path).run(None, feed)):
            np.testing.assert_allclose(made[0], expected, 1e-4, 1e-5)
            np.testing.assert_array_equal(made[1], [1, -2, 3])
            assert list(made[2]) == ["text"]


def test_more_than_protobuf_holds_goes_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "LARGE", 2000)
    w = Writer()
    w.constants["W"] = values((32, 32), seed=1)
    x = values((3, 32))
    onnx.save(w.model({"x": x}, w("MatMul", "x", "W")), tmp_path / "m.onnx")
    done = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--verify")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o.onnx.data").stat().st_size == 32 * 32 * 4
    base = ortlite.InferenceSession(tmp_path / "o.onnx").model.graph.constants["W"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base.base.obj, mmap.mmap)  # mapped, not read
    (tmp_path / "o.onnx").rename(tmp_path / "p.onnx")
    wrong = command(tmp_path / "p.onnx", "-o", tmp_path / "o.onnx")
    assert wrong.exit_code == 1
    assert "o.onnx.data has weights of" in wrong.output


@pytest.mark.parametrize("name", ["o.onnx", "../w.bin", "/w.bin"])
def test_where_weights_cannot_go(name, tmp_path):
    w = Writer()
    with pytest.raises(Exception, match="no file for weights"):
        write(w.model({"x": values(3)}, w("Neg", "x")), tmp_path / "o.onnx", file_name=name)
    assert not list(tmp_path.iterdir())


def test_weights_in_a_folder_below(tmp_path):
    w = Writer()
    w.constants["W"] = values((32, 32), seed=1)
    x = values((3, 32))
    proto = w.model({"x": x}, w("MatMul", "x", "W"))
    with pytest.raises(Exception, match=r"No such file or directory: .*below/w.bin"):
        write(proto, tmp_path / "o.onnx", file_name="below/w.bin")
    (tmp_path / "below").mkdir()
    write(proto, tmp_path / "o.onnx", file_name="below/w.bin")
    np.testing.assert_allclose(peer(str(tmp_path / "o.onnx"), {"x": x})[0], x @ w.constants["W"], 1e-4, 1e-5)


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    w = Writer()
    with pytest.raises(Exception, match=r"optimized model|No such file"):
        write(w.model({"x": values(3)}, w("Neg", "x")), tmp_path / "nowhere" / "o.onnx")


def test_levels_and_names_count(tmp_path):
    w = Writer()
    proto = w.model({"x": values((3, 4))}, gelu_of(w, "x"))
    options = ortlite.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ortlite.InferenceSession(proto.SerializeToString(), options, providers=[CPU])
    assert "Erf" in {n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node}
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_ENABLE_ALL
    ortlite.InferenceSession(proto.SerializeToString(), options, providers=[CPU], disabled_optimizers=["GeluFusionL2"])
    assert "Erf" in {n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node}


def test_taps_and_placement_see_the_model_as_it_is():
    w = Writer()
    x = values((3, 4))
    y = gelu_of(w, "x")
    erf = next(n.output[0] for n in w.nodes if n.op_type == "Erf")
    proto = w.model({"x": x}, y)
    session = ortlite.InferenceSession(proto.SerializeToString(), providers=[CPU])
    assert session.run(None, {"x": x}, taps=erf)[1][erf].shape == (3, 4)
    assert session.run([erf], {"x": x})[0].shape == (3, 4)
    placed = ortlite.InferenceSession(
        proto.SerializeToString(), providers=["StrictExecutionProvider"], placement={erf: "StrictExecutionProvider"}
    )
    assert [n.op_type for n in placed.explain().nodes].count("Erf") == 1


def command(*args):
    return CliRunner().invoke(main, ["optimize", *map(str, args)])


def test_the_command_counts_operators_and_verifies(tmp_path):
    w = Writer()
    proto = w.model({"x": values((2, 5, 12))}, small_transformer(w), dims={"x": ["batch", 5, 12]})
    onnx.save(proto, tmp_path / "m.onnx")
    done = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--verify", "--shape", "batch=3")
    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.output.splitlines() if "Softmax" in line] == [["Softmax", "1", "0"]]
    assert "com.microsoft::SkipLayerNormalization" in done.output
    rows = [line.split() for line in done.output.splitlines() if line.endswith("within")]
    assert [row[0] for row in rows] == ["ortlite", "onnxruntime"]
    assert "[3, 5, 12]" in done.output
    load.load(tmp_path / "o.onnx")
    basic = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--level", "basic")
    assert "Attention" not in basic.output
    without = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--disable", "AttentionFusion")
    assert "Attention" not in without.output


def test_the_command_says_when_the_outputs_differ(tmp_path, monkeypatch):
    w = Writer()
    proto = w.model({"x": values((3, 4))}, gelu_of(w, "x"))
    onnx.save(proto, tmp_path / "m.onnx")
    real = save.write

    def wrong(model, path, *rest):
        real(model, path, *rest)
        written = onnx.load(path)
        written.graph.node[0].op_type, written.graph.node[0].domain = "Neg", ""
        onnx.save(written, path)

    monkeypatch.setattr(save, "write", wrong)
    done = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--verify")
    assert done.exit_code == 1
    assert "beyond" in done.output


def test_random_numbers_and_what_onnxruntime_does_not_hand_out_are_not_compared(tmp_path):
    proto = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (float[2] x) => (float[2] r, bfloat16[2] b, float[2] y)
        { u = RandomUniformLike(x)  r = Add(x, u)  b = Cast<to = 16>(x)  y = Neg(x) }""")
    onnx.save(proto, tmp_path / "m.onnx")
    done = command(tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--verify")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.partition("before and after")[2].splitlines()]
    left_out = {(row[0], row[1]) for row in rows if row[-2:] == ["not", "compared"]}
    assert left_out == {("ortlite", "r"), ("onnxruntime", "r"), ("onnxruntime", "b")}
    assert sum(row[-1:] == ["within"] for row in rows) == 3


def test_the_model_is_not_overwritten(tmp_path):
    w = Writer()
    onnx.save(w.model({"x": values((3, 4))}, gelu_of(w, "x")), tmp_path / "m.onnx")
    done = command(tmp_path / "m.onnx", "-o", tmp_path / "m.onnx")
    assert done.exit_code == 1
    assert "is the model itself" in done.output


def test_a_gradient_cannot_be_written(tmp_path):
    proto = model(
        [node("Exp", ["x"], ["y"]), node("Gradient", ["x"], ["g"], domain="ai.onnx.preview.training", xs=["x"], y="y")],
        {"x": values(3)},
        ["g"],
    )
    proto.opset_import.add(domain="ai.onnx.preview.training", version=1)
    with pytest.raises(Exception, match="Gradient"):
        write(proto, tmp_path / "o.onnx")
