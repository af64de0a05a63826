"""Convolutions and products of JAXExecutionProvider by the loops that are compiled for NumPy, called by XLA."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ortlite
from tests.optimize.models import model, node

jax = pytest.importorskip("jax")
pytest.importorskip("numba")

from ortlite_jax import calls, loops, region  # noqa: E402

if not calls.available():
    pytest.skip("this jaxlib calls no functions", allow_module_level=True)

R = np.random.default_rng(0)
JAX = "JAXExecutionProvider"


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def session(source, provider=JAX, **options):
    options = {"stand_in": "0", **options} if provider == JAX else options
    return ortlite.InferenceSession(source, providers=[(provider, options)])


@pytest.fixture
def grouped(monkeypatch):
    """How many calls stand together in each of the calls that programs made."""
    found = []
    together = loops.together

    def noted(each, outside):
        found.append(len(each))
        return together(each, outside)

    monkeypatch.setattr(loops, "together", noted)
    return found


def conv(x, y, w, *more, op_type="Conv", **attributes):
    return node(op_type, [x, w, *more], [y], domain="com.microsoft" if op_type == "FusedConv" else "", **attributes)


def source(nodes, outputs, weights, given=("X",), rank=4):
    return model(
        nodes, dict.fromkeys(given, np.float32(0)), outputs, weights, dims=dict.fromkeys(given, [None] * rank)
    ).SerializeToString()


def check(proto, *feeds, tolerance=1e-4):
    ours, kernel = session(proto), session(proto, "StrictExecutionProvider")
    for feed in feeds:
        for got, expected in zip(ours.run(None, feed), kernel.run(None, feed), strict=True):
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels", [3, 16, 24])
@pytest.mark.parametrize("activation", ["", "Relu", "HardSigmoid"])
@pytest.mark.parametrize("attributes", [
    {"pads": [1, 1, 1, 1]}, {"strides": [2, 1], "pads": [0, 1, 2, 1]}, {"group": -1, "pads": [2, 2, 2, 2]},
    {"dilations": [2, 2], "auto_pad": "SAME_LOWER"},
], ids=str)  # fmt: skip
def test_it_convolves_as_the_kernel_does(channels, activation, attributes, grouped):
    attributes = {k: channels if k == "group" else v for k, v in attributes.items()}
    weights = {"W": floats(channels, channels // attributes.get("group", 1), 3, 3), "B": floats(channels)}
    more = {"activation": activation} if activation else {}
    more |= {"activation_params": [0.2, 0.5]} if activation == "HardSigmoid" else {}
    proto = source([conv("X", "Y", "W", "B", op_type="FusedConv" if activation else "Conv", **more, **attributes)],
                   ["Y"], weights)  # fmt: skip
    check(proto, *({"X": floats(2, channels, *size)} for size in [(9, 7), (8, 8), (9, 7), (3, 12)]))
    assert grouped == [1, 1, 1]  # a program for each shape


def test_images_of_one_and_of_three_axes(grouped):
    weights = {"W": floats(16, 16, 3), "B": floats(16)}
    check(source([conv("X", "Y", "W", "B", pads=[1, 1])], ["Y"], weights, rank=3), {"X": floats(1, 16, 11)})
    weights = {"W": floats(16, 16, 3, 3, 3)}
    check(source([conv("X", "Y", "W")], ["Y"], weights, rank=5), {"X": floats(1, 16, 5, 5, 5)})
    assert grouped[:1] == [1]


def test_calls_that_follow_one_another_are_one(grouped):
    weights = {f"W{i}": floats(16, 16, 3, 3) / 12 for i in range(3)}
    nodes = [
        conv("X", "a", "W0", pads=[1, 1, 1, 1]),
        conv("a", "b", "W1", pads=[1, 1, 1, 1]),
        conv("b", "Y", "W2", "", "a", op_type="FusedConv", activation="Relu", pads=[1, 1, 1, 1]),  # a residual
    ]
    check(source(nodes, ["Y"], weights), {"X": floats(1, 16, 8, 8)}, {"X": floats(2, 16, 5, 6)})
    assert grouped == [3, 3]


def test_what_stands_between_parts_them_and_what_does_not_is_done_before(grouped):
    weights = {f"W{i}": floats(16, 16, 1, 1) for i in range(3)}
    nodes = [
        conv("X", "a", "W0"),
        node("Sin", ["Z"], ["s"]),  # nothing of a call: before both
        conv("s", "b", "W1"),
        node("Cos", ["b"], ["c"]),
        conv("c", "d", "W2"),
        node("Add", ["a", "d"], ["Y"]),
    ]
    feeds = {"X": floats(1, 16, 4, 4), "Z": floats(1, 16, 4, 4)}
    check(source(nodes, ["Y", "b"], weights, given=("X", "Z")), feeds, feeds)
    assert sorted(grouped) == [1, 2]


def test_what_reads_the_images_of_calls_is_one_with_them(grouped):
    weights = {"W": floats(16, 16, 3, 3) / 12, "V": floats(16, 16, 1, 1) / 4}
    nodes = [
        conv("X", "a", "W", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["a"], ["m"]),
        conv("m", "g", "V", op_type="FusedConv", activation="Sigmoid"),
        node("Mul", ["a", "g"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        conv("c", "Y", "W"),
    ]
    check(source(nodes, ["Y"], weights), {"X": floats(1, 16, 40, 40)}, {"X": floats(2, 16, 9, 7)})
    assert grouped[0] == 6
    pool = [node("MaxPool", ["X"], ["Y"], kernel_shape=[3, 3])]
    check(source(pool, ["Y"], {}), {"X": floats(1, 16, 40, 40)})  # no call's, so XLA's
    assert len(grouped) <= 4


@pytest.mark.parametrize("shape", [(), (1,), (4, 4), (16, 1, 1), (1, 16, 1, 1), (1, 1, 4, 4), (1, 16, 4, 4)], ids=str)
def test_images_times_anything(shape):
    nodes = [conv("X", "a", "W"), node("Mul", ["Z", "a"], ["b"]), node("Mul", ["b", "b"], ["Y"])]
    proto = model(
        nodes, {"X": np.float32(0), "Z": np.float32(0)}, ["Y"], {"W": floats(16, 16, 1, 1)},
        dims={"X": [None] * 4, "Z": [None] * len(shape)},
    ).SerializeToString()  # fmt: skip
    check(proto, {"X": floats(1, 16, 4, 4), "Z": np.asarray(floats(*shape))}, tolerance=1e-3)


def test_a_number_is_no_view_of_a_result():
    """Bounds that an attribute gives become arrays by a reshape."""
    nodes = [node("Clip", ["X"], ["Y"], min=-0.5, max=0.5)]
    check(model(nodes, {"X": floats(3)}, ["Y"], opset=6).SerializeToString(), {"X": floats(3)})


def test_large_products_with_constants(grouped):
    weights = {"W": floats(1024, 512), "V": floats(512, 512), "B": floats(512)}
    nodes = [node("MatMul", ["X", "W"], ["a"]), node("Gemm", ["a", "V", "B"], ["Y"], transB=1)]
    check(source(nodes, ["Y"], weights, rank=2), {"X": floats(130, 1024)}, {"X": floats(3, 1024)}, tolerance=1e-3)
    assert grouped == [2]  # of 130 rows; XLA multiplies three itself


def layer(weights, more=()):
    """Attention of X (batch, sequence, 256) by four heads, as exporters write it, and a norm of that and X."""
    weights |= {f"W{k}": floats(256, 256) / 16 for k in "qkvo"} | {f"B{k}": floats(256) for k in "qkv"}
    weights |= {"heads": np.array([0, 0, 4, 64]), "rows": np.array([0, 0, 256]), "gamma": floats(256)}
    nodes = []
    for k in "qkv":
        nodes += [
            node("MatMul", ["X", f"W{k}"], [f"{k}1"]),
            node("Add", [f"{k}1", f"B{k}"], [f"{k}2"]),
            node("Reshape", [f"{k}2", "heads"], [f"{k}3"]),
            node("Transpose", [f"{k}3"], [k], perm=[0, 2, 1, 3]),
        ]
    return [
        *nodes,
        node("Attention", ["q", "k", "v", *more], ["a"]),
        node("Transpose", ["a"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "rows"], ["b"]),
        node("MatMul", ["b", "Wo"], ["c"]),
        node("SkipLayerNormalization", ["c", "X", "gamma"], ["Y"], domain="com.microsoft"),
    ]


def transformer(nodes, outputs, weights, given=("X",)):
    return model(
        nodes, dict.fromkeys(given, np.float32(0)), outputs, weights, opset=23,
        dims={name: [None, None, 256] if name == "X" else [None] * 4 for name in given},
    ).SerializeToString()  # fmt: skip


def test_a_layer_of_a_transformer_is_one_call(grouped):
    """Heads that are split off and put together again are the same memory under other names."""
    weights: dict = {}
    proto = transformer(layer(weights), ["Y"], weights)
    check(proto, {"X": floats(1, 70, 256)}, {"X": floats(3, 40, 256)})
    assert grouped == [6, 6]
    check(proto, {"X": floats(1, 3, 256)})
    assert len(grouped) == 2, "of three rows XLA computes all"


@pytest.mark.parametrize("shape", [(1, 1, 70, 70), (2, 4, 70, 70), (2, 1, 1, 70), (1, 4, 70, 70)], ids=str)
@pytest.mark.parametrize("fed", [False, True])
def test_attention_under_a_mask(shape, fed, grouped):
    mask = np.where(R.random(shape) < 0.3, -np.inf, floats(*shape)).astype(np.float32)
    weights = {} if fed else {"M": mask}
    nodes = layer(weights, more=["M"])
    proto = transformer(nodes, ["Y"], weights, ("X", "M") if fed else ("X",))
    check(proto, {"X": floats(2, 70, 256), **({"M": mask} if fed else {})})
    assert sum(grouped) == 6


def test_what_lies_between_calls_is_there_for_others_too(grouped):
    """Heads that come out, are read by XLA, or are not turned back."""
    weights: dict = {"flat": np.array([0, -1]), "any": np.array([0, -1, 256]), "U": floats(256, 128)}
    nodes = [
        *layer(weights),
        node("Sin", ["q3"], ["s"]),
        node("Transpose", ["v3"], ["w"], perm=[0, 2, 3, 1]),
        node("Reshape", ["turned", "flat"], ["f"]),
        node("Reshape", ["a", "any"], ["mixed"]),  # turned heads, one after the other: other memory
        node("MatMul", ["mixed", "U"], ["Z"]),
    ]
    proto = transformer(nodes, ["Y", "q", "s", "w", "f", "Z", "turned", "c"], weights)
    check(proto, {"X": floats(2, 70, 256)})
    assert sum(grouped) == 7


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [0, 5])
def test_attention_of_groups_with_a_past(heads, causal, past, grouped):
    given = {"q": (2, 4, 70, 64), "k": (2, heads, 70, 64), "v": (2, heads, 70, 64)}
    given |= {"pk": (2, heads, past, 64), "pv": (2, heads, past, 64)} if past else {}
    names = [*"qkv", "", *(["pk", "pv"] if past else [])]
    nodes = [node("Attention", names, ["y", "K", "V"] if past else ["y"], is_causal=causal)]
    proto = transformer(nodes, ["y", "K", "V"] if past else ["y"], {}, tuple(given))
    check(proto, {name: floats(*shape) for name, shape in given.items()})
    assert grouped == [1]


def test_what_is_no_constant_is_left_to_xla(grouped):
    proto = source([conv("X", "Y", "W")], ["Y"], {}, given=("X", "W"))
    check(proto, {"X": floats(1, 16, 6, 6), "W": floats(16, 16, 3, 3)})
    assert not grouped


def test_the_option_leaves_all_to_xla(grouped):
    proto = source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)})
    feed = {"X": floats(1, 16, 6, 6)}
    expected = session(proto, "StrictExecutionProvider").run(None, feed)[0]
    np.testing.assert_allclose(session(proto, loops="0").run(None, feed)[0], expected, rtol=1e-4, atol=1e-4)
    assert not grouped


def test_a_function_is_differentiated_and_mapped_as_before():
    fn = ortlite.function(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    x = jax.numpy.asarray(floats(1, 16, 6, 6))
    gradient = jax.grad(lambda x: (fn(x) ** 2).sum())(x)
    step = jax.numpy.zeros_like(x).at[0, 3, 2, 2].set(0.01)
    slope = ((fn(x + step) ** 2).sum() - (fn(x - step) ** 2).sum()) / 0.02
    np.testing.assert_allclose(gradient[0, 3, 2, 2], slope, rtol=0.02)
    np.testing.assert_allclose(jax.vmap(fn)(x[None])[0], fn(x), rtol=1e-4, atol=1e-4)


def test_models_alike_keep_their_own_weights(grouped):
    x = floats(1, 16, 6, 6)
    protos = [source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}) for _ in range(3)]
    ours = [session(proto) for proto in protos]
    for proto, one in zip(protos, ours, strict=True):
        expected = session(proto, "StrictExecutionProvider").run(None, {"X": x})[0]
        np.testing.assert_allclose(one.run(None, {"X": x})[0], expected, rtol=1e-4, atol=1e-4)
    assert grouped == [1, 1, 1]


PROGRAM = """
import sys, numpy as np, jax, ortlite
first, second, x = sys.argv[1:]
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for path in (first, second):
    run = ortlite.InferenceSession(path, providers=[("JAXExecutionProvider", {"stand_in": "0"})]).run
    print(float(np.abs(run(None, {"X": np.load(x)})[0]).sum()))
"""


def test_a_program_from_the_disk_calls_the_functions_of_its_process(tmp_path):
    """The same program in the cache serves other models with other weights, in another order."""
    paths = []
    for name in "ab":
        paths.append(str(tmp_path / f"{name}.onnx"))
        (tmp_path / f"{name}.onnx").write_bytes(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    np.save(tmp_path / "x.npy", floats(1, 16, 6, 6))
    found = []
    for order in (paths, paths[::-1]):
        command = [sys.executable, "-c", PROGRAM, *order, str(tmp_path / "x.npy")]
        env = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        found.append([float(line) for line in done.stdout.split()])
    np.testing.assert_allclose(found[0], found[1][::-1], rtol=1e-6)
    assert abs(found[0][0] - found[0][1]) > 1


def test_threads_run_one_session():
    proto = source(
        [conv("X", "a", "W", pads=[1, 1, 1, 1]), conv("a", "Y", "W", pads=[1, 1, 1, 1])], ["Y"],
        {"W": floats(32, 32, 3, 3)},
    )  # fmt: skip
    ours, xs = session(proto), [floats(1, 32, 24, 24) for _ in range(4)]
    expected = [ours.run(None, {"X": x})[0] for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for got, right in zip(pool.map(lambda x: ours.run(None, {"X": x})[0], xs * 25), expected * 25, strict=True):
            np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize(
    ("error", "seen", "said"),
    [
        (ValueError("on purpose"), ortlite.errors.Fail, "ValueError: on purpose"),
        (KeyboardInterrupt("on purpose"), KeyboardInterrupt, "^on purpose$"),
        (SystemExit("on purpose"), SystemExit, "^on purpose$"),
    ],
)
def test_an_error_in_a_call_is_one_of_the_run(error, seen, said, monkeypatch):
    def together(each, outside):
        def fails(given, results, team):
            raise error

        return fails

    ours = session(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    with monkeypatch.context() as patch:
        patch.setattr(loops, "together", together)
        for _ in range(2):
            with pytest.raises(seen, match=said):
                ours.run(None, {"X": floats(1, 16, 6, 6)})
    assert calls.stopped() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_on_the_way_to_a_call_is_an_error(monkeypatch):
    """Where no `try` is: Python shows it and goes on, and there is no result."""
    ours = session(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    feed = {"X": floats(1, 16, 6, 6)}
    expected = ours.run(None, feed)[0]
    with monkeypatch.context() as patch:
        patch.setattr(calls, "EXTENSION", None)  # as if interrupted there
        with pytest.raises(ortlite.errors.Fail, match="interrupted"):
            ours.run(None, feed)
    np.testing.assert_array_equal(ours.run(None, feed)[0], expected)


def test_functions_go_with_their_session():
    ours = session(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    before = len(calls._programs)
    ours.run(None, {"X": floats(1, 16, 6, 6)})
    assert len(calls._programs) > before
    del ours
    gc.collect()
    assert len(calls._programs) <= before


@given(st.lists(st.tuples(st.sampled_from(["conv", "sin", "deep", "residual"]), st.integers(0, 9)), max_size=7))
def test_drawn_chains_agree_with_xla(drawn):
    """Calls between functions of XLA's, whose results are read by others later."""
    names, nodes = ["X"], []
    for i, (kind, at) in enumerate(drawn):
        x, y = names[-1] if kind == "conv" else names[at % len(names)], f"y{i}"
        if kind == "sin":
            nodes.append(node("Sin", [x], [y]))
        elif kind == "residual":
            nodes.append(conv(x, y, "W", "", names[-1], op_type="FusedConv", activation="Relu", pads=[1, 1, 1, 1]))
        else:
            more = {"group": 16} if kind == "deep" else {}
            nodes.append(conv(x, y, "V" if kind == "deep" else "W", pads=[1, 1, 1, 1], **more))
        names.append(y)
    if not nodes:
        return
    proto = source(nodes, list({*names[-1:], *names[1::2]}), {"W": W, "V": V})
    feed = {"X": floats(1, 16, 5, 4)}
    for got, expected in zip(session(proto).run(None, feed), session(proto, loops="0").run(None, feed), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


W, V = floats(16, 16, 3, 3) / 12, floats(16, 1, 3, 3) / 3


def test_a_call_within_a_loop_of_jax_stands_alone():
    """What a control flow of JAX's calls is not in the program's own equations: it is made when it is first called."""
    call = loops.Operator(loops_of("Conv"), (1, 2), (("pads", (1, 1, 1, 1)),), W, None)

    def steps(x):
        return (jax.lax.fori_loop(0, 3, lambda _, x: call(calls.gathered(), x, order=loops.image), x),)

    x = jax.numpy.asarray(floats(1, 16, 5, 4))
    found, expected = region.Region(steps, {})(x)[0], x
    for _ in range(3):
        expected = jax.lax.conv_general_dilated(expected, W, (1, 1), [(1, 1), (1, 1)])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def loops_of(name):
    from ortlite_numpy.compiled import table

    return table.OVERRIDES["", name, 1]


def test_an_interface_that_is_another_is_left_alone(monkeypatch, caplog):
    def refuses(*args, **keywords):
        raise ValueError("of another version")

    try:
        for place, name, value in [
            (jax.ffi, "register_ffi_target", refuses),
            (calls._Copy, "alone", lambda self: lambda given, results, team: ctypes.memset(results[0], 7, 12)),
        ]:
            calls.available.cache_clear()
            with monkeypatch.context() as patch, caplog.at_level("INFO", logger="ortlite"):
                patch.setattr(place, name, value)
                assert not calls.available()
    finally:
        calls.available.cache_clear()
    assert "of another version" in caplog.text
    assert calls.available()


def test_a_result_in_reverse_is_copied():
    y = np.empty((4, 5), np.float32)
    assert loops._home("y", loops._value("y", y, (0, 1)), y) == ("y", (4, 5))
    assert loops._home("y", loops._value("y", y.T, (1, 0)), y.T) == ("y", (4, 5))
    for view in (y[::-1], y[:2], np.broadcast_to(y[:1], (4, 5))):
        assert loops._home("y", loops._value("y", view, loops._axes(view, loops.rows)), view) == ("", ())


def test_arrays_are_held_by_nobody_after_a_run():
    ours = session(source([conv("X", "Y", "W")], ["Y"], {"W": floats(16, 16, 3, 3)}))
    y = ours.run(None, {"X": floats(1, 16, 6, 6)})[0]
    gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None


def test_the_struct_is_read_as_its_header_says():
    """Places in xla/ffi/api/c_api.h, by ctypes' own layout."""
    word = ctypes.c_int64

    class List(ctypes.Structure):
        _fields_ = [(name, word) for name in ("struct_size", "extension", "size", "types", "items")]

    class Attributes(ctypes.Structure):
        _fields_ = [(name, word) for name in ("struct_size", "extension", "size", "types", "names", "items")]

    class Frame(ctypes.Structure):
        _fields_ = [
            ("struct_size", word), ("extension", word), ("api", word), ("context", word), ("stage", ctypes.c_int),
            ("args", List), ("rets", List), ("attrs", Attributes), ("future", word),
        ]  # fmt: skip

    places = [Frame.extension, Frame.api, Frame.context]
    assert [8 * place for place in (calls.EXTENSION, calls.API, calls.CONTEXT)] == [f.offset for f in places]
    assert Frame.args.offset + List.size.offset == 8 * calls.OPERANDS
    assert Frame.args.offset + List.items.offset == 8 * calls.OPERAND
    assert Frame.rets.offset + List.size.offset == 8 * calls.RESULTS
    assert Frame.rets.offset + List.items.offset == 8 * calls.RESULT
    assert Frame.attrs.offset + Attributes.items.offset == 8 * calls.ATTRIBUTE


@pytest.mark.parametrize(
    ("op_type", "more", "outputs", "attributes"),
    [
        ("MaxPool", (), ["Y", "I"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", (), ["Y"], {"kernel_shape": [3, 3], "dilations": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", (), ["Y"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1, "strides": [2, 2]}),
        ("AveragePool", (), ["Y"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GroupNormalization", ("S", "B"), ["Y"], {"num_groups": 4}),
        ("QuickGelu", (), ["Y"], {"alpha": 1.5}),
        ("GlobalAveragePool", (), ["Y"], {}),
    ],
    ids=str,
)
def test_whatever_reads_an_image_of_a_call(op_type, more, outputs, attributes):
    weights = {"W": floats(16, 16, 1, 1) / 4, "S": floats(4), "B": floats(4)}
    domain = "com.microsoft" if op_type == "QuickGelu" else ""
    nodes = [conv("X", "a", "W"), node(op_type, ["a", *more], outputs, domain=domain, **attributes)]
    weights = {name: weights[name] for name in ("W", *more)}
    check(source(nodes, outputs, weights), {"X": floats(2, 16, 9, 7)}, {"X": floats(1, 16, 40, 40)}, tolerance=1e-3)
