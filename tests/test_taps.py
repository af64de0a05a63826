"""Looking inside a session: values asked for, tapped and fed by name, and what is said of names that mean nothing."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper, parser

import ortlite
from ortlite.errors import InvalidArgument
from ortlite.provider import create, usable

TEXT = """<ir_version: 8, opset_import: ["": 18, "my": 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> {
  [mul] layer1_out = Mul(x, w)
  [same] layer1_copy = Identity(layer1_out)
  k = Constant<value_float = 2.0>()
  folded = Mul(w, k)
  [call] layer2_out = my.scaled(layer1_copy)
  [iff] z = If (c) <then_branch = t () => (float[N, 4] a) { inner = Abs(layer2_out)  a = Exp(inner) },
                    else_branch = e () => (float[N, 4] b) { b = Neg(layer2_out) }>
  unread = Neg(z)
  [final] y = Add(z, folded) }
<domain: "my", opset_import: ["": 18]> scaled (v) => (o) { half = Mul(v, v)  o = Tanh(half) }"""
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
FEED = {"x": X, "c": np.array(True)}
NAMES = ["layer1_out", "layer1_copy", "folded", "layer2_out", "z", "unread", "y"]
PROVIDERS = [None, "StrictExecutionProvider", "TorchExecutionProvider", "JAXExecutionProvider"]


def session(provider=None, **options):
    if provider is not None and provider not in usable():
        pytest.skip(f"{provider} is not available")
    data = parser.parse_model(TEXT).SerializeToString()
    return ortlite.InferenceSession(data, providers=[provider] if provider else None, **options)


@pytest.fixture(scope="module")
def truth():
    """What onnxruntime gives for every value, as graph outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = parser.parse_model(TEXT)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in NAMES if name != "y")
    made = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in made.get_outputs()], made.run(None, FEED), strict=True))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_value_is_onnxruntimes(provider, truth):
    """Those, too, that optimisation folds away, renames or drops; one at a time and all at once, as NumPy arrays."""
    s = session(provider)
    for _ in range(3):
        outputs, values = s.run(None, FEED, taps=".*")
        assert {"x", "c", *NAMES} <= values.keys()
        for name in NAMES:
            (alone,) = s.run([name], FEED)
            for value in (alone, values[name]):
                assert type(value) is np.ndarray
                assert value.flags.writeable
                np.testing.assert_allclose(value, truth[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(outputs[0], values["y"])


def test_values_inside_functions_have_the_path_of_their_call():
    values = session().run(None, FEED, taps="call/.*")[1]
    (name,) = values
    assert name.endswith("/half")
    np.testing.assert_allclose(values[name], (X * [1, 2, 3, 4]) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("taps", "names"),
    [
        ("z", ["z"]),
        (r"layer\d_out", ["layer1_out", "layer2_out"]),
        (re.compile(r"LAYER\d_OUT", re.IGNORECASE), ["layer1_out", "layer2_out"]),
        (["z", re.compile("layer1_.*"), "layer1_out"], ["layer1_out", "layer1_copy", "z"]),
        ({"z", "w"}, ["w", "z"]),
        ("k", ["k"]),
        ("w|z", ["z"]),  # weights are meant by name only
        ([], []),
    ],
)
def test_taps_by_name_list_and_expression(taps, names):
    outputs, values = session().run(None, FEED, taps=taps)
    assert list(values) == names
    np.testing.assert_array_equal(outputs[0], session().run(None, FEED)[0])


def test_a_name_is_not_an_expression_first():
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Abs(x) }')
    names = ["/a.0/out[0]", "/a_0/out0", "a(b"]  # the first, as an expression, means the second; the last is none
    model.graph.node.extend(helper.make_node("Neg", ["x"], [name]) for name in names)
    s = ortlite.InferenceSession(model.SerializeToString())
    for name in names:
        assert list(s.run(None, {"x": np.ones(2, np.float32)}, taps=name)[1]) == [name]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("layer1_ou", "'layer1_ou'; near it: 'layer1_out'"),
        ("inner", r"'inner' is a value inside the then_branch of node 'iff' \(If\).*only values of the main graph"),
        ("half", "'half'; near it: 'call/layer2_out/half'"),
        ("qqq", "'qqq'$|'qqq'\\)$"),
    ],
)
def test_what_is_said_of_names_that_mean_nothing(name, answer):
    s = session()
    with pytest.raises(InvalidArgument, match=f"Invalid output name:{name} .*{answer}"):
        s.run([name], FEED)
    with pytest.raises(InvalidArgument, match=f"Invalid input name: {name} .*{answer}"):
        s.run(None, {**FEED, name: X})
    with pytest.raises(InvalidArgument, match=f"taps: .*{answer}"):
        s.run(None, FEED, taps=[name])


def test_what_is_said_of_taps_that_are_none():
    with pytest.raises(InvalidArgument, match=r"no value is called 'lay\(er'.*as a regular expression: missing \)"):
        session().run(None, FEED, taps="lay(er")
    with pytest.raises(InvalidArgument, match=r"no value is called or matches 'z\+z'"):
        session().run(None, FEED, taps=re.compile("z+z"))
    with pytest.raises(TypeError, match="taps are names and regular expressions, not <class 'int'>"):
        session().run(None, FEED, taps=[3])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_fed_is_not_computed(provider, truth):
    s = session(provider)
    for name in ("layer1_out", "layer1_copy", "layer2_out"):
        np.testing.assert_allclose(s.run(None, {name: truth[name], "c": FEED["c"]})[0], truth["y"], rtol=1e-5)
    assert s.run(["y"], {"y": X})[0].tolist() == X.tolist()
    (z,) = s.run(["z"], {"layer2_out": X, "c": np.array(False)})
    np.testing.assert_array_equal(z, -X)
    with pytest.raises(ValueError, match=r"Required inputs \(\['c'\]\) are missing"):
        s.run(["z"], {"layer2_out": X})
    with pytest.raises(InvalidArgument, match="Unexpected input data type"):
        s.run(["z"], {"layer2_out": X.astype(np.float64), "c": FEED["c"]})
    assert s.run(["layer1_out"], {"x": X, "w": np.zeros(4, np.float32)})[0].tolist() == np.zeros((2, 4)).tolist()


def test_parts_and_branches_share_the_weights_on_a_device(monkeypatch):
    taken = []
    strict = type(create("StrictExecutionProvider"))
    known = strict.from_numpy
    monkeypatch.setattr(strict, "from_numpy", lambda self, array: taken.append(array.shape) or known(self, array))
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N, 3] x, bool c) => (float[N, 3] y)
    <float[3] w = {1, 2, 3}> {
      a = Mul(x, w)
      y = If (c) <then_branch = t () => (float[N, 3] p) { p = Add(a, w) },
                  else_branch = e () => (float[N, 3] q) { b = Neg(a)  q = Sub(b, w) }> }"""
    s = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=["StrictExecutionProvider"])
    assert taken.count((3,)) == 1
    x = np.ones((2, 3), np.float32)
    for names in (["a"], ["y", "a"]):
        s.run(names, {"x": x, "c": np.array(True)})
    (y,) = s.run(["y"], {"a": x, "c": np.array(False)})
    assert y.tolist() == [[-2, -3, -4]] * 2
    assert taken.count((3,)) == 1
    s.set_providers(["StrictExecutionProvider"])
    assert taken.count((3,)) == 2
