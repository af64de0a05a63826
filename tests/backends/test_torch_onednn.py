"""Convolutions of TorchExecutionProvider by oneDNN's own operators."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import ortlite
from ortlite.derived import Derived

torch = pytest.importorskip("torch")
onednn = pytest.importorskip("ortlite_torch.onednn")
OWN = "TorchExecutionProvider", {"loops": "0"}
R = np.random.default_rng(0)
GEOMETRIES = [
    {"pads": [1, 1, 1, 1]},
    {"strides": [2, 1], "pads": [0, 1, 2, 1]},
    {"dilations": [2, 2], "auto_pad": "SAME_LOWER"},
    {"group": 2, "strides": [2, 2]},
    {"group": 4, "pads": [2, 2, 2, 2]},
]


def model(weights, activation, more=False, **attributes):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("X", *"Z" * more)]
    kind, domain = ("FusedConv", "com.microsoft") if activation or more else ("Conv", "")
    named = {"activation": activation[0], "activation_params": activation[1:]} if activation else {}
    if len(named.get("activation_params", ())) == 0:
        named.pop("activation_params", None)
    node = helper.make_node(kind, ["X", "W", "B", *"Z" * more], ["Y"], domain=domain, **named, **attributes)
    given = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([node], "g", inputs, outputs, given)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def sessions(source):
    return [ortlite.InferenceSession(source, providers=[name]) for name in (OWN, "CPUExecutionProvider")]


def weights(group=1):
    return {
        "W": R.standard_normal((8, 4 // group, 3, 3)).astype(np.float32),
        "B": R.standard_normal(8).astype(np.float32),
    }


@pytest.mark.parametrize("attributes", GEOMETRIES)
@pytest.mark.parametrize(
    "activation", [(), ("Relu",), ("LeakyRelu", 0.2), ("Clip", -0.5, 1.0), ("Tanh",), ("Sigmoid",)]
)
def test_it_convolves_as_the_kernel_does(attributes, activation):
    both = sessions(model(weights(attributes.get("group", 1)), activation, **attributes))
    # more sizes than are kept, and back: each twice, so that the specialised programs run
    for size in [(9, 7), (8, 8), (11, 6), (5, 13), (10, 10), (12, 12), (9, 7)] * 2:
        x = R.standard_normal((2, 4, *size)).astype(np.float32)
        ours, theirs = (session.run(None, {"X": x})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"strides": [2, 2]}, {"pads": [0, 0, 0, 0]}])
def test_images_of_one_place_are_rows_of_a_product(more, monkeypatch):
    given = weights()
    for size in (3, 1):
        given["W"] = given["W"][..., :size, :size].copy()
        both = sessions(model(given, ("Relu",), **more))
        x = R.standard_normal((2, 4, size, size)).astype(np.float32)
        for _ in range(3):
            ours, theirs = (session.run(None, {"X": x})[0] for session in both)
            assert ours.shape == (2, 8, 1, 1)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            x[0, 0, 0, 0] = np.nan
    monkeypatch.setattr(onednn, "convolution", None)
    image, kernel = torch.ones(1, 4, 3, 3), torch.ones(8, 4, 3, 3)
    with torch.no_grad():
        y = onednn.packed_convolution(image, kernel, None, (1, None, None, None, None, "NOTSET"), onednn.at_once)
    assert torch.equal(y, torch.full((1, 8, 1, 1), 36.0))


def test_what_is_added_and_nan():
    both = sessions(model(weights(), ("Relu",), more=True, pads=[1, 1, 1, 1]))
    x, z = R.standard_normal((1, 4, 6, 6)).astype(np.float32), R.standard_normal((1, 8, 6, 6)).astype(np.float32)
    x[0, 0, 3, 3] = np.nan
    for _ in range(3):
        ours, theirs = (session.run(None, {"X": x, "Z": z})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert np.isnan(ours).any()


def test_derivatives_flow_through_the_kernel():
    fn = ortlite.function(model(weights(), ("Relu",), pads=[1, 1, 1, 1]))
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    fn(x).sum().backward()
    assert x.grad is not None
    assert torch.func.vmap(fn)(torch.randn(3, 1, 4, 5, 5)).shape == (3, 1, 8, 5, 5)
    with torch.no_grad():
        assert torch.func.vmap(fn)(torch.randn(3, 1, 4, 5, 5)).shape == (3, 1, 8, 5, 5)


def test_few_layouts_are_kept(monkeypatch):
    monkeypatch.setattr(onednn, "layout", None)
    kept = onednn.packings(torch.randn(8, 4, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    for size in range(3, 20):
        assert kept.of((1, size, size)) is kept.of((1, size, size))
    assert len(kept.made) == onednn.Kept.KEPT


def test_weights_lie_as_so_many_images_want_them(monkeypatch):
    """Else oneDNN turns them at every call. Sizes of one layout share them."""
    sizes, pack = [], onednn.onednn._reorder_convolution_weight
    monkeypatch.setattr(
        onednn.onednn, "_reorder_convolution_weight", lambda *given: sizes.append(given[-1]) or pack(*given)
    )
    monkeypatch.setattr(onednn, "layout", lambda weights: torch.tensor([min(sizes[-1][0], 3)]))
    kept = onednn.packings(torch.randn(8, 4, 1, 1), None, (0, 0), (1, 1), (1, 1), 1)
    one, two, few, many = (kept.of((count, 5, 6)) for count in (1, 2, 3, 8))
    assert sizes == [[count, 4, 5, 6] for count in (1, 2, 3, 8)]
    assert few is many
    assert len({id(one), id(two), id(few)}) == 3
    for size in range(1, 2 * kept.SIZES):
        assert kept.of((3, 1, size)) is few
    assert len(kept.made) == kept.SIZES


def test_so_many_images_are_counted_by_powers_of_two():
    assert [onednn._images(torch.empty(count, 1)) for count in (0, 1, 2, 3, 4, 7, 8, 31)] == [1, 1, 2, 2, 4, 4, 8, 16]


@pytest.mark.parametrize("light", [0, 1 << 40], ids=["oneDNN", "product"])
@pytest.mark.parametrize("more", [False, True])
def test_convolutions_of_single_elements(light, more, monkeypatch):
    monkeypatch.setattr(onednn, "LIGHT", light)
    W = R.standard_normal((6, 4, 1, 1)).astype(np.float32)
    B = R.standard_normal(6).astype(np.float32)
    both = sessions(model({"W": W, "B": B}, ("Relu",), more))
    for size in [(5, 3), (1, 4), (5, 3), (5, 3), (2, 2)]:
        x = R.standard_normal((2, 4, *size)).astype(np.float32)
        x[0, 1, 0, 0], x[1, 0, 0, 1] = np.nan, np.inf
        feed = {"X": x, **({"Z": R.standard_normal((2, 6, *size)).astype(np.float32)} if more else {})}
        ours, theirs = (session.run(None, feed)[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 0, 0, 2], [2, 1, 0, 0], [0, 3, 0, 1]])
@pytest.mark.parametrize("spot", [0, 1 << 40])
def test_frames_of_zeros(pads, spot, monkeypatch):
    monkeypatch.setattr(onednn, "SPOT", spot)
    both = sessions(model(weights(), (), strides=[2, 2], pads=pads))
    for size in [(9, 7), (8, 8), (9, 7), (9, 7), (6, 6)]:
        x = R.standard_normal((2, 4, *size)).astype(np.float32)
        x[0, 1, 0, 0] = np.nan
        ours, theirs = (session.run(None, {"X": x})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [("HardSwish",), ("Relu",), ("Clip", 0.0, 6.0), ("Sigmoid",), ("Tanh",)])
@pytest.mark.parametrize("more", [False, True])
def test_activations_of_what_is_large_or_no_number(activation, more):
    """Of the largest numbers, infinity, NaN and -0.0 that come by the image or by what is added."""
    given = {"W": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1), "B": np.zeros(8, np.float32)}
    both = sessions(model(given, activation, more))
    x = np.zeros((1, 8, 6, 2), np.float32)
    x[0, :, 0], x[0, 0, 1, 0], x[0, 0, 2, 0], x[0, 0, 3, 0], x[0, 0, 4, 0] = 3e38, np.nan, np.inf, -3e38, -0.0
    z = np.zeros_like(x)
    z[0, 3, 5] = np.nan, np.inf
    for _ in range(3):
        ours, theirs = (session.run(None, {"X": x, **({"Z": z} if more else {})})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_hard_swish_of_the_largest_numbers():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] X) => (float[N] Y) {Y = HardSwish(X)}'
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[OWN])
    x = np.array([3e38, 1e38, -3e38, np.inf, -0.0, 1, np.nan], np.float32)
    wanted = np.array([3e38, 1e38, 0, np.inf, 0, 2 / 3, np.nan], np.float32)
    for _ in range(3):
        np.testing.assert_allclose(session.run(None, {"X": x})[0], wanted, rtol=1e-6)


def chain(activation, **attributes):
    """Convolutions of single elements and of windows, plain ones and a residual among them."""
    names = {"activation": activation[0]} | ({"activation_params": activation[1:]} if activation[1:] else {})
    nodes = [
        helper.make_node("FusedConv", ["X", "A", "B"], ["a"], domain="com.microsoft", pads=[1, 1, 1, 1], **names),
        helper.make_node("FusedConv", ["a", "D", "B"], ["b"], domain="com.microsoft", group=8, **attributes, **names),
        helper.make_node("Conv", ["b", "P", "B"], ["c"]),
        helper.make_node("FusedConv", ["c", "E", "B", "b"], ["d"], domain="com.microsoft", pads=[1, 1, 1, 1], **names),
        helper.make_node("FusedConv", ["d", "P", "", "c"], ["Y"], domain="com.microsoft", **names),
    ]
    shapes = {"A": (8, 4, 3, 3), "B": (8,), "D": (8, 1, 3, 3), "E": (8, 8, 3, 3), "P": (8, 8, 1, 1)}
    given = [numpy_helper.from_array(R.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "XY")
    graph = helper.make_graph(nodes, "g", [x], [y], given)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("activation", [("Relu",), ("Clip", 0.0, 6.0), ("QuickGelu", 1.0), ("HardSwish",)])
@pytest.mark.parametrize("attributes", [{"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "pads": [0, 0, 1, 1]}])
@pytest.mark.parametrize("most", [1e37, 100.0, 0.0], ids=["far", "near", "never"])
def test_a_chain_of_any_numbers(activation, attributes, most, monkeypatch):
    """The sums of ordinary numbers are bounded from one convolution to the next; of others nothing may get lost."""
    monkeypatch.setattr(onednn.reach, "MOST", most)
    monkeypatch.setattr(onednn, "WIDE", 0)
    both = sessions(chain(activation, **attributes))
    plain = R.standard_normal((1, 4, 8, 8)).astype(np.float32)
    for odd in (0.0, 0.0, np.nan, np.inf, -np.inf, 1e17, 1e25, 0.0, -0.0):
        x = plain.copy()
        x[0, 1, 0, 0] = x[0, 2, 5, 7] = odd
        ours, theirs = (session.run(None, {"X": x})[0] for session in both)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-3, atol=1e-3 if abs(odd) < 1e17 else 1e-4 * np.nanmax(np.abs(theirs))
        )


def test_what_is_done_on_the_way(monkeypatch):
    """The Relu of oneDNN makes 0 of NaN: it is asked for it only where there can be none."""
    asked, framed = [], []
    for name in ("convolution", "convolution_and_sum", "linear"):
        call = getattr(onednn, name)

        def noted(*args, call=call):
            asked.extend(arg for arg in args if isinstance(arg, str) and arg in {"relu", "hardtanh"})
            return call(*args)

        monkeypatch.setattr(onednn, name, noted)
    padded = onednn._padded
    monkeypatch.setattr(onednn, "_padded", lambda *args: framed.append(args) or padded(*args))
    monkeypatch.setattr(onednn, "WIDE", 0)
    ours = sessions(chain(("Relu",), strides=[2, 2], pads=[0, 0, 1, 1]))[0]
    x = R.standard_normal((1, 4, 8, 8)).astype(np.float32)
    for _ in range(4):
        asked.clear()
        ours.run(None, {"X": x})
        assert not framed
    assert asked == ["relu"] * 3  # the last is a product, whose residual is added afterwards
    x[0, 0, 0, 0] = np.nan
    asked.clear()
    ours.run(None, {"X": x})
    assert not asked
    assert framed


def test_it_is_the_same_on_the_way():
    W, B = torch.eye(4).reshape(4, 4, 1, 1), torch.tensor([0.0, -0.0, 1.0, -1.0])
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45]).expand(1, 4, 2, 6).contiguous()
    z = torch.tensor([[0.0], [-0.0]]).expand(1, 4, 2, 6).contiguous()
    derived = Derived([W, B])
    with torch.no_grad():
        for activation, params in (("Relu", ()), ("Clip", (0.0, 6.0)), ("Clip", (-0.0, 1.0)), ("", ())):
            for more in (None, z):
                after = onednn.After(more is not None, activation, params)
                place = (1, None, None, None, None, "NOTSET")
                results = []
                for light in (0, 1 << 40):
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(onednn, "LIGHT", light)
                        patch.setattr(onednn, "WIDE", 0)
                        for keep in (onednn.at_once, derived):
                            results.append(onednn.packed_convolution(x, W, B, place, keep, after=after, Z=more))
                for result in results[1:]:
                    assert torch.equal(result, results[0])
                    if not activation:  # which of two zeros is the larger one is a matter of the processor
                        assert torch.equal(result.signbit(), results[0].signbit())


def test_bounds_are_known_for_one_run():
    reach = onednn.reach
    x = torch.ones(1, 2, 2, 2)
    reach.begin()
    assert reach.known(x) is None
    assert reach.measured(x, 7) is None
    assert reach.measured(x, 8) == pytest.approx(8**0.5)
    assert reach.known(x) is not None
    x[0, 0, 0, 0] = torch.nan
    assert reach.known(x) is None
    assert np.isnan(reach.norm(x))
    reach.begin()
    assert reach.known(x) is None
    assert reach.norm(torch.full((1, 1, 1, 1), 1e30)) == np.inf


def test_weights_that_come_with_every_run():
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[1,4,6,6] X, float[8,4,3,3] W, float[8] B) => (float[1,8,4,4] Y) {
        Y = com.microsoft.FusedConv<activation = "Relu">(X, W, B)
    }"""
    both = sessions(parser.parse_model(text).SerializeToString())
    for _ in range(4):
        feed = {
            n: R.standard_normal(s).astype(np.float32) for n, s in (("X", (1, 4, 6, 6)), ("W", (8, 4, 3, 3)), ("B", 8))
        }
        ours, theirs = (session.run(None, feed)[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 1, 0]])
def test_pools_of_what_has_its_channels_last(pads):
    """Convolutions leave images that way."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[1,4,H,W] X) => (float[1,4,h,w] Y) {{
        C = Conv<group = 4>(X, W)
        Y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = {pads}>(C)
    }}"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 1, 1, 1), np.float32), "W"))
    both = sessions(model.SerializeToString())
    x = R.standard_normal((1, 4, 8, 9)).astype(np.float32)
    for odd in (0.0, np.nan, np.inf, -np.inf, -3e38):
        x[0, 0, 3, 3], x[0, 1], x[0, 2, -1] = odd, odd, odd
        ours, theirs = (session.run(None, {"X": x})[0] for session in both)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["strided", "repeated"])
@pytest.mark.parametrize(
    ("op_type", "x", "w"),
    [("Conv", (2, 2, 5, 6), (4, 2, 3, 3)), ("Conv", (1, 4, 8, 8), (4, 4, 1, 1)), ("Gemm", (64, 512), (512, 512)),
     ("Gemm", (12, 512), (512, 512))],
)  # fmt: skip
def test_a_bias_that_a_caller_gives_in_any_layout(op_type, x, w, kind):
    draw = np.random.default_rng(0)
    weights = draw.normal(size=w).astype(np.float32)
    n = w[0] if op_type == "Conv" else w[1]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", "w", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, x), helper.make_tensor_value_info("b", 1, [n])],
        [helper.make_tensor_value_info("y", 1, None)], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = ortlite.InferenceSession(data, providers=[OWN])
    judge = ortlite.InferenceSession(data, providers=[("CPUExecutionProvider", {"compiled": "0"})])
    for seed in range(4):
        given = np.random.default_rng(seed).normal(size=2 * n).astype(np.float32)
        b = given[::2] if kind == "strided" else np.broadcast_to(given[:1], (n,))
        feed = {"x": draw.normal(size=x).astype(np.float32), "b": b}
        (y,), (wanted,) = found.run(None, feed), judge.run(None, {**feed, "b": b.copy()})
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-3)
