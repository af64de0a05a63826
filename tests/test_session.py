"""InferenceSession: onnxruntime's rules for feeds, outputs, providers and metadata."""

from __future__ import annotations

import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import helper, numpy_helper, parser

import ortlite
from ortlite.errors import Fail, InvalidArgument

ADD = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, 2] x, float[2] b) => (float[N, 2] y) { y = Add(x, b) }"""
X = np.array([[1, 2], [3, 4]], np.float32)
B = np.array([10, 20], np.float32)


def session(text=ADD, **options):
    return ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), **options)


def test_sources(tmp_path):
    data = parser.parse_model(ADD).SerializeToString()
    path = tmp_path / "add.onnx"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        np.testing.assert_array_equal(ortlite.InferenceSession(source).run(None, {"x": X, "b": B})[0], X + B)
    for source in (bytearray(data), memoryview(data), None, parser.parse_model(ADD)):
        with pytest.raises(TypeError, match="Unable to load from type"):
            ortlite.InferenceSession(source)


def test_outputs_are_chosen_by_name_and_may_repeat():
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (float[2] x) => (float[2] y, float[2] z) { y = Add(x, x)  z = Mul(y, x) }""")
    x = np.array([1, 3], np.float32)
    for all_of_them in (None, []):
        assert [o.tolist() for o in s.run(all_of_them, {"x": x})] == [[2, 6], [2, 18]]
    assert [o.tolist() for o in s.run(("z", "z", "y"), {"x": x})] == [[2, 18], [2, 18], [2, 6]]
    with pytest.raises(TypeError):
        s.run("y", {"x": x})
    with pytest.raises(InvalidArgument, match="Invalid output name:nope"):
        s.run(["nope"], {"x": x})


def test_outputs_are_fresh_writable_arrays():
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (float[2, 3] x) => (float[2, 3] same, float[3, 2] turned, float[2, 3] c, float[2, 3] c2)
        <float[2, 3] k = {1, 2, 3, 4, 5, 6}>
        { same = Identity(x)  turned = Transpose(x)  c = Identity(k)  c2 = Identity(k) }""")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(4):
        outputs = s.run(None, {"x": x})
        for i, output in enumerate(outputs):
            assert output.flags.writeable
            assert output.flags.c_contiguous
            assert not np.shares_memory(output, x)
            assert not any(np.shares_memory(output, other) for other in outputs[:i])
            output[:] = -1
        assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert s.run(["c"], {"x": x})[0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_feeds_that_are_converted():
    s = session()
    want = (X + B).tolist()
    assert s.run(None, {"x": X.tolist(), "b": B})[0].tolist() == want
    assert s.run(None, {"x": np.asfortranarray(X), "b": B[::-1][::-1]})[0].tolist() == want
    assert s.run(None, {"x": X.astype(">f4"), "b": B})[0].tolist() == want


@pytest.mark.parametrize("bad", [1.0, np.float32(1), (1.0, 2.0), "text", [[1.0], [2.0, 3.0]]])
def test_feeds_of_the_wrong_kind(bad):
    with pytest.raises(RuntimeError, match="b"):
        session().run(None, {"x": X, "b": bad})


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (X.astype(np.float64), r"Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)"),
        (X[0], "Invalid rank for input: x Got: 1 Expected: 2"),
        (np.zeros((2, 3), np.float32), r"invalid dimensions for input: x .*\n index: 1 Got: 3 Expected: 2"),
    ],
)
def test_wrong_dtype_rank_shape(feed, message):
    with pytest.raises(InvalidArgument, match=message):
        session().run(None, {"x": feed, "b": B})


def test_missing_and_extra_feeds():
    with pytest.raises(ValueError, match=r"Required inputs \(\['b'\]\) are missing from input feed \(\['x'\]\)"):
        session().run(None, {"x": X})
    with pytest.raises(InvalidArgument, match="Invalid input name: q"):
        session().run(None, {"x": X, "b": B, "q": B})


def test_a_kernels_error_names_node_operator_shapes_and_dtypes():
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (float[N, K] x, float[M] b) => (float[?, ?] y) { [first] t = Mul(x, x)  [second] y = Add(t, b) }""")
    ok = {"x": X, "b": B}
    for _ in range(3):
        s.run(None, ok)
    bad = {"x": X, "b": np.zeros(3, np.float32)}
    for _ in range(4):  # interpreted and, from the second time on, specialised or about to be
        with pytest.raises(Fail, match=r"while running Add node\. Name:'second'.*t: float32\[2, 2\], b: float32\[3\]"):
            s.run(None, bad)


def test_inputs_outputs_and_metadata():
    model = parser.parse_model(ADD)
    model.producer_name, model.doc_string, model.graph.doc_string, model.domain = "me", "about", "graph", "here"
    helper.set_model_props(model, {"k": "v"})
    s = ortlite.InferenceSession(model.SerializeToString())
    assert [(i.name, i.type, i.shape) for i in s.get_inputs()] == [
        ("x", "tensor(float)", ["N", 2]),
        ("b", "tensor(float)", [2]),
    ]
    assert str(s.get_outputs()[0]) == "NodeArg(name='y', type='tensor(float)', shape=['N', 2])"
    meta = s.get_modelmeta()
    assert (meta.producer_name, meta.description, meta.graph_description, meta.domain) == (
        "me",
        "about",
        "graph",
        "here",
    )
    assert (meta.version, meta.graph_name, meta.custom_metadata_map) == (2**63 - 1, "g", {"k": "v"})


def test_an_initializer_that_is_an_input_is_a_default():
    model = parser.parse_model(ADD)
    model.graph.initializer.append(numpy_helper.from_array(B, "b"))
    s = ortlite.InferenceSession(model.SerializeToString())
    assert [i.name for i in s.get_inputs()] == ["x"]
    assert [i.name for i in s.get_overridable_initializers()] == ["b"]
    np.testing.assert_array_equal(s.run(None, {"x": X})[0], X + B)
    np.testing.assert_array_equal(s.run(None, {"x": X, "b": B * 2})[0], X + B * 2)


def test_strings_and_sequences_and_optionals():
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (string[N] t) => (string[N] u) { u = Identity(t) }""")
    for feed in (np.array(["ä", "b\0c", ""]), np.array(["ä", "b\0c", ""], object)):
        assert s.run(None, {"t": feed})[0].tolist() == ["ä", "b\0c", ""]
    assert s.run(None, {"t": np.array([b"abcd", b"x"])})[0].tolist() == ["abcd", "x"]
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (seq(float[N]) a) => (seq(float[N]) b) { b = Identity(a) }""")
    out = s.run(None, {"a": [B, X[0]]})[0]
    assert isinstance(out, list)
    assert [o.tolist() for o in out] == [[10, 20], [1, 2]]
    assert s.run(None, {"a": []}) == [[]]
    with pytest.raises(RuntimeError, match="feed a list"):
        s.run(None, {"a": (B,)})
    s = session("""<ir_version: 8, opset_import: ["": 18]>
        g (optional(float[N]) o) => (optional(float[N]) p) { p = Identity(o) }""")
    assert s.run(None, {"o": None}) == [None]
    assert s.run(None, {})[0] is None
    assert s.run(None, {"o": B})[0].tolist() == [10, 20]


def test_bfloat16_is_widened_to_compute_and_narrowed_back():
    s = session("""<ir_version: 10, opset_import: ["": 18]>
        g (bfloat16[N] x) => (bfloat16[N] y) { t = Mul(x, x)  y = Sqrt(t) }""")
    x = np.array([1.5, 3.0, 300.0], ml_dtypes.bfloat16)
    (y,) = s.run(None, {"x": x})
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y, x)


def test_session_options():
    options = ortlite.SessionOptions()
    assert options.graph_optimization_level == ortlite.GraphOptimizationLevel.ORT_ENABLE_ALL == 99
    options.intra_op_num_threads = 1
    with pytest.raises(AttributeError):
        options.nope = 1
    with pytest.raises(TypeError):
        options.intra_op_num_threads = "1"
    with pytest.raises(TypeError):
        options.graph_optimization_level = 1
    options.add_session_config_entry("k", "v")
    assert options.get_session_config_entry("k") == "v"
    with pytest.raises(RuntimeError, match="SessionOptions does not have configuration with key: nope"):
        options.get_session_config_entry("nope")
    with pytest.raises(RuntimeError, match="empty or longer than maximum length 1024"):
        options.add_session_config_entry("", "v")


def test_free_dimensions_are_fixed_and_enforced():
    options = ortlite.SessionOptions()
    options.add_free_dimension_override_by_name("N", 3)
    s = session(sess_options=options)
    assert s.get_inputs()[0].shape == [3, 2]
    with pytest.raises(InvalidArgument, match="index: 0 Got: 2 Expected: 3"):
        s.run(None, {"x": X, "b": B})


def test_terminate():
    run_options = ortlite.RunOptions()
    run_options.terminate = True
    with pytest.raises(Fail, match="Exiting due to terminate flag being set to true"):
        session().run(None, {"x": X, "b": B}, run_options)


def test_provider_rules():
    assert ortlite.get_available_providers()[-1] == "CPUExecutionProvider"
    assert session().get_providers() == ["CPUExecutionProvider"]
    assert session(providers=["StrictExecutionProvider"]).get_providers() == [
        "StrictExecutionProvider",
        "CPUExecutionProvider",
    ]
    with pytest.warns(UserWarning, match="Specified provider 'TensorrtExecutionProvider' is not in available"):
        s = session(providers=["TensorrtExecutionProvider", "CPUExecutionProvider"])
    assert s.get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="'Nope' is not in available"):
        assert session(providers=["Nope"]).get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="Nope"), pytest.raises(RuntimeError, match="Unknown Provider Type: Nope"):
        session(providers=["Nope"], enable_fallback=0)
    with pytest.warns(UserWarning, match="Duplicate provider 'CPUExecutionProvider' encountered, ignoring"):
        session(providers=["CPUExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(TypeError, match="should be a sequence"):
        session(providers=1, enable_fallback=0)
    with pytest.raises(ValueError, match="either strings or"):
        session(providers=[["CPUExecutionProvider", {}]], enable_fallback=0)


def test_the_same_from_eight_threads(tmp_path: Path):
    s = session()
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.full((seed % 3 + 1, 2), seed, np.float32)
        for _ in range(50):
            if not np.array_equal(s.run(None, {"x": x, "b": B})[0], x + B):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_explain_says_who_runs_what_and_what_crosses():
    s = session(
        """<ir_version: 10, opset_import: ["": 18]>
        g (float16[N] x, float[N] z) => (float16[N] y, float[N] w)
        { [half] y = Add(x, x)  [full] w = Add(z, z) }""",
        providers=["StrictExecutionProvider"],
    )
    half, full = s.explain().nodes
    assert (half.name, half.provider) == ("half", "CPUExecutionProvider")
    assert half.reasons == ("StrictExecutionProvider: array_api_strict has no float16",)
    assert (full.provider, full.reasons) == ("StrictExecutionProvider", ())
    assert [(c.value, c.target) for c in s.explain().copies if c.value == "w"] == [("w", "CPUExecutionProvider")]
    assert "array_api_strict has no float16" in str(s.explain())


STRICT, CPU = "StrictExecutionProvider", "CPUExecutionProvider"
MIXED = """<ir_version: 10, opset_import: ["": 20]>
g (float16[N] x, string[1] q, float[N] z) => (float16[N] y, string[1] t, float[N] w)
{ [half] y = Abs(x)  t = StringConcat(q, q)  w = Exp(z) }"""
LEFT_TO_CPU = (
    r"\n  half \(Abs\): StrictExecutionProvider: array_api_strict has no float16"
    r"\n  t \(StringConcat\): .*Python objects"
)


def no_cpu():
    options = ortlite.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def test_fallback_warns_or_fails_and_names_the_nodes():
    with pytest.warns(RuntimeWarning, match=f"2 nodes run on the CPU provider:{LEFT_TO_CPU}") as caught:
        session(MIXED, providers=[STRICT], fallback="warn")
    assert caught[0].filename == __file__
    with pytest.raises(Fail, match=f"fallback to CPU EP has been explicitly disabled by the user.{LEFT_TO_CPU}"):
        session(MIXED, providers=[STRICT], fallback="error")
    session(ADD, providers=[STRICT], fallback="error")
    session(MIXED, providers=[STRICT], fallback="error", placement={"half": CPU, "t": CPU})  # as asked
    with pytest.raises(ValueError, match="fallback is one of allow, warn, error, not 'eror'"):
        session(fallback="eror")


@pytest.mark.parametrize("wanted", ["TensorrtExecutionProvider", "Nope"])
def test_a_provider_that_is_missing_is_no_reason_to_run_on_the_cpu(wanted):
    with pytest.warns(UserWarning, match="is not in available"), pytest.raises((Fail, RuntimeError), match=wanted):
        session(providers=[wanted], fallback="error")
    with pytest.warns(UserWarning, match="is not in available"), pytest.raises((Fail, RuntimeError), match=wanted):
        session(providers=[wanted, STRICT], fallback="error")
    with pytest.warns(UserWarning, match="is not in available"):
        session(providers=[wanted])


def test_a_config_entry_forbids_the_cpu_as_in_onnxruntime():
    onnxruntime = pytest.importorskip("onnxruntime")
    state = onnxruntime.capi.onnxruntime_pybind11_state
    data = parser.parse_model(ADD).SerializeToString()
    theirs = onnxruntime.SessionOptions()
    theirs.log_severity_level = 4
    theirs.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for providers, mine, other in ((None, Fail, state.Fail), ([CPU], InvalidArgument, state.InvalidArgument)):
        with pytest.raises(other) as expected:
            onnxruntime.InferenceSession(data, theirs, providers=providers)
        with pytest.raises(mine) as got:
            ortlite.InferenceSession(data, no_cpu(), providers=providers)
        assert str(got.value).startswith(str(expected.value).strip())
    assert ortlite.InferenceSession(data, no_cpu(), providers=[STRICT]).get_providers() == [STRICT, CPU]


def test_set_providers_that_fails_leaves_the_session_as_it_was():
    s = session(MIXED, providers=[CPU], fallback="error")
    feed = {"x": np.ones(2, np.float16), "q": np.array(["a"]), "z": np.zeros(2, np.float32)}
    with pytest.raises(Fail, match="half"):
        s.set_providers([STRICT])
    with pytest.warns(UserWarning, match="Nope"), pytest.raises(RuntimeError, match="Unknown Provider Type: Nope"):
        s.set_providers(["Nope"])
    assert s.get_providers() == [CPU]
    assert s.get_provider_options() == {CPU: {}}
    assert {n.provider for n in s.explain().nodes} == {CPU}
    assert s.run(["w"], feed)[0].tolist() == [1, 1]
    s = session(MIXED)
    s.set_providers([STRICT])
    assert s.get_providers() == [STRICT, CPU]
    assert s.run(["w"], feed)[0].tolist() == [1, 1]


def test_what_has_no_effect_is_said():
    with pytest.warns(UserWarning, match="no argument 'provider': it is ignored. Did you mean providers?") as caught:
        session(provider=[STRICT])
    assert caught[0].filename.endswith("test_session.py")
    session(disabled_optimizers={"ConstantFolding"}, read_config_from_model=1)  # onnxruntime's


def test_options_of_another_library_are_refused():
    with pytest.raises(TypeError, match=r"sess_options is an ortlite.SessionOptions, not <class 'dict'>"):
        session(sess_options={})
    with pytest.raises(TypeError, match=r"run_options is an ortlite.RunOptions, not <class 'dict'>"):
        session().run(None, {"x": X, "b": B}, {})


def test_a_node_without_a_name_is_shown_by_what_it_computes():
    s = session(MIXED, providers=[STRICT])
    assert [n.name for n in s.explain().nodes if n.op_type == "Exp"] == ["w"]
    assert "\nw " in str(s.explain())
    assert {n.name: n.provider for n in session(MIXED, providers=[STRICT], placement={"w": CPU}).explain().nodes}[
        "w"
    ] == CPU


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"hal": CPU}, "no node is called 'hal' or computes a value of that name; near it: 'half'"),
        ({"": CPU}, "no node is called ''"),
        ({"half": "JAXExecutionProvider"}, "'half' is to run on 'JAXExecutionProvider', which is not among"),
    ],
)
def test_a_placement_of_nothing_is_refused(placement, message):
    with pytest.raises(ValueError, match=message):
        session(MIXED, providers=[STRICT], placement=placement)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_a_subclass_come_in_plain(tmp_path):
    """With np.matrix `*` is a product of matrices, a masked array hands its mask on, a memory map its class."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z)
    { y = Mul(x, x)  z = Identity(x) }"""
    s = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for value in (np.matrix(x), np.ma.array(x), np.ma.array(x, mask=False), mapped, x.view(np.recarray)):
        for _ in range(3):
            y, z = s.run(None, {"x": value})
            assert type(y) is type(z) is np.ndarray
            np.testing.assert_array_equal(y, x * x)
            np.testing.assert_array_equal(z, x)
    masked = np.ma.array(x, mask=[[False, True], [True, False]])
    with pytest.raises(InvalidArgument, match=r"'x' is a masked array, 2 of its 4 elements masked: feed x.filled"):
        s.run(None, {"x": masked})
    with pytest.raises(InvalidArgument, match="1 of its 2 elements masked"):
        s.run(None, {"x": [np.ma.array([1, 2], mask=[True, False]), [3, 4]]})
    with pytest.raises(InvalidArgument, match="'x' is an array of records"):
        s.run(None, {"x": np.zeros((2, 2), [("a", np.float32)])})


SEQUENCE = """<ir_version: 8, opset_import: ["": 18]> g (seq(float[2]) q) => (float[2] y, int64 n)
<int64 i = {0}> { y = SequenceAt(q, i)  n = SequenceLength(q) }"""


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_a_subclass_in_a_sequence_come_in_plain():
    s = ortlite.InferenceSession(parser.parse_model(SEQUENCE).SerializeToString())
    (y, _) = s.run(None, {"q": [np.ma.array([1, 2], dtype=np.float32)]})
    assert type(y) is np.ndarray
    with pytest.raises(InvalidArgument, match="'q' is a masked array"):
        s.run(None, {"q": [np.ma.array([1, 2], dtype=np.float32, mask=[True, False])]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[2] x, float[2] z) => (float[2] y) <float[2] z = {1, 2}> { y = Add(x, z) }", [2, 3]),
        ("(float[2] x, float[2] z) => (float[2] y) { y = Relu(x) }", [1, 1]),
        ("(float[2] x, float[2] z) => (bool y) { y = OptionalHasElement(z) }", False),
        ("(float[2] x, optional(float[2]) z) => (bool y) { y = OptionalHasElement(z) }", False),
    ],
)
def test_none_is_fed_where_nothing_is_needed(text, expected):
    model = parser.parse_model('<ir_version: 9, opset_import: ["": 18]> g ' + text)
    s = ortlite.InferenceSession(model.SerializeToString())
    for _ in range(3):
        assert s.run(None, {"x": np.ones(2, np.float32), "z": None})[0].tolist() == expected


@pytest.mark.parametrize("node", ["Add(x, z)", "Clip(x, z)", "Identity(z)"])
def test_none_for_what_is_needed_names_the_input(node):
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> g (float[2] x, float[N] z) => (float[M] y) {{ y = {node} }}'
    )
    s = ortlite.InferenceSession(model.SerializeToString())
    with pytest.raises(Fail, match=r"Input 'z' is None, and tensor\(float\) is wanted"):
        s.run(None, {"x": np.ones(2, np.float32), "z": None})
    with pytest.raises(Fail, match=r"Input 'q' is None, and seq\(tensor\(float\)\) is wanted"):
        ortlite.InferenceSession(parser.parse_model(SEQUENCE).SerializeToString()).run(None, {"q": None})


BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
g (float[3,1] x, bool c) => (float[?,?] y, int64[2] s, float[?,?] z) {
y = If (c) <then_branch = t () => (float[?,?] q) { q = Neg(x) },
            else_branch = e () => (float[?,?] p) { p = Concat<axis = 0>(x, x) }>
s = Shape(y)  z = Add(y, y) }"""


@pytest.mark.parametrize("before", [True, False])
def test_the_shape_of_what_a_branch_makes_is_not_that_of_the_other(before):
    found = session(BRANCHES)
    x = np.ones((3, 1), np.float32)
    for c in (before, before, not before, not before, before, before, not before):
        y, s, z = found.run(None, {"x": x, "c": np.array(c)})
        assert s.tolist() == list(y.shape) == list(z.shape) == ([3, 1] if c else [6, 1])


def test_what_was_made_for_shapes_can_be_let_go():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x, bool b) => (float[N] y) {
        z = Add(x, x)
        y = If(b) <then_branch = t () => (float[N] u) { u = Neg(z) }, else_branch = e () => (float[N] v) { v = Exp(z) }>
    }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    feed = {"x": np.ones(2, np.float32), "b": np.array(True)}
    program = session.stages.program
    left = program.shared.budget.left
    for _ in range(2):
        for _ in range(3):
            np.testing.assert_array_equal(session.run(None, feed)[0], [-2, -2])
        assert ", 1 specialised" in str(program)
        session.release_captured_graph()
        assert ", 0 specialised" in str(program)
        assert program.shared.budget.left == left
