"""Compiled kernels: each agrees with the kernel whose place it takes, on whatever comes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

pytest.importorskip("numba")

from ortlite import load, pipeline, provider
from ortlite.derived import Derived, at_once
from ortlite.ops import registry
from ortlite_numpy import compiled
from ortlite_numpy import conv as dense
from ortlite_numpy.compiled import attention, pointwise, products
from ortlite_numpy.compiled.conv import convolved

MS, ML, OWN = "com.microsoft", "ai.onnx.ml", "ortlite"
CPU = provider.create("CPUExecutionProvider", {"compiled": "0"})
RNG = np.random.default_rng(7)
F = np.float32
KEYS = sorted(compiled.OVERRIDES, key=str)


@pytest.fixture(autouse=True)
def _the_same_numbers():
    """Whatever tests ran before in this process."""
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


def floats(*shape):
    return RNG.standard_normal(shape).astype(F)


def flat(result):
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,)) if r is not None]


def answers(key, inputs, attributes, n_outputs=1, xp=CPU.xp):
    """What the compiled kernel, and what the kernel itself makes of the inputs, in float64 where it can."""
    kernel = registry.lookup(key[0], key[1], key[2])
    assert kernel.since == key[2]
    fn = compiled.OVERRIDES[key]
    before = [None if v is None else np.array(v) for v in inputs]
    with np.errstate(all="ignore"):
        got = registry.call(replace(kernel, fn=fn), xp, inputs, attributes, n_outputs=n_outputs)
        wide = [v.astype(np.float64) if v is not None and v.dtype == F else v for v in inputs]
        want = registry.call(kernel, CPU.xp, wide, attributes, n_outputs=n_outputs)
    for was, value in zip(before, inputs, strict=True):
        if was is not None:
            np.testing.assert_array_equal(was, value, err_msg="an argument changed")
    assert got is not NotImplemented, f"{key} does not take this"
    return flat(got), flat(want)


def agree(key, inputs, attributes=None, *, rtol=3e-6, atol=3e-6, n_outputs=1, xp=CPU.xp):
    got, want = answers(key, inputs, attributes or {}, n_outputs, xp)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        if a.dtype.kind == "f":
            assert a.dtype in {inputs[0].dtype, np.dtype(F)}
            with np.errstate(over="ignore"):
                b = b.astype(a.dtype)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    return got


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_examples_are_taken_and_signatures_are_the_kernels(key):
    """What warms a kernel does run it, for every dtype that it names."""
    fn, kernel = compiled.OVERRIDES[key], registry.lookup(*key)
    assert kernel is not None
    assert kernel.since == key[2]
    names = [p for p in inspect.signature(fn).parameters if p != "derived"]
    assert names == list(inspect.signature(kernel.fn).parameters)
    assert "fast" in str(inspect.getdoc(compiled))
    for dtype in fn.dtypes:
        for arguments, keywords in fn.examples(np.dtype(dtype), {}):
            assert fn(None, *arguments, **keywords) is not NotImplemented


ODD = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-42, 1.17e-38, 88.8, -88.8, 104.0, -104.0, 3e38, -3e38, 1e-4, 0.625],
    F,
)
ACTIVATIONS = [
    ("", "Sigmoid", 1, {}), ("", "Tanh", 1, {}), ("", "Erf", 9, {}), ("", "Softplus", 1, {}), ("", "Mish", 18, {}),
    ("", "HardSwish", 14, {}), ("", "HardSigmoid", 1, {"alpha": 0.3, "beta": 0.4}), ("", "Elu", 1, {"alpha": -1.5}),
    ("", "Selu", 6, {}), ("", "Celu", 12, {"alpha": 0.7}), ("", "Swish", 24, {"alpha": 1.3}), (MS, "QuickGelu", 1, {}),
    ("", "Gelu", 20, {}), ("", "Gelu", 20, {"approximate": "tanh"}), (MS, "Gelu", 1, {}), (MS, "FastGelu", 1, {}),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "op", "since", "attributes"), ACTIVATIONS, ids=str)
def test_activations(domain, op, since, attributes):
    key = (domain, op, since)
    few = np.tile(ODD, 40)
    wide = np.concatenate([few, floats(2000) * 3, np.linspace(-120, 120, 2000, dtype=F)])
    for x in (wide, wide.reshape(5, -1), wide[::3], np.zeros((0, 5), F) if op != "Tanh" else wide):
        agree(key, [x], attributes, rtol=2e-6, atol=2e-6)
    image = np.moveaxis(floats(2, 9, 8, 33), 3, 1)  # channels last in memory
    (y,) = agree(key, [image], attributes)
    assert y.strides == image.strides, "the layout of memory is kept"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 48, 14, 14), (1, 5, 3000), (3, 8, 12, 9, 8)])
def test_images_times_one_number_a_channel(shape, dtype):
    x = np.moveaxis(floats(shape[0], *shape[2:], shape[1]).astype(dtype), -1, 1)
    scale = floats(*shape[:2], *(1,) * (len(shape) - 2)).astype(dtype)
    for inputs in ([x, scale], [scale, x]):
        (y,) = agree(("", "Mul", 7), inputs, rtol=0, atol=0)
        assert y.strides == x.strides
    key = ("", "Mul", 7)
    for a, b in ((np.ascontiguousarray(x), scale), (x, scale[:1]), (x, scale[0, 0, 0]), (x, x), (x[:, :, ::2], scale)):
        if (a.shape, b.shape) != (x.shape, scale.shape) or a.flags.c_contiguous:
            assert compiled.OVERRIDES[key](None, a, b) is NotImplemented


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_biased_activations(op):
    for x, bias in ((floats(7, 33), floats(33)), (floats(2, 3, 8)[:, ::2], floats(8))):
        agree((MS, op, 1), [x, bias])


def ulps(y, exact):
    with np.errstate(all="ignore"):
        unit = np.spacing(np.abs(exact.astype(F))).astype(np.float64)
        return np.abs(y.astype(np.float64) - exact) / unit


@pytest.mark.parametrize("op", ["Tanh", "Erf", "Sigmoid"])
def test_functions_are_within_a_few_units_in_the_last_place(op):
    from math import erf

    x = np.concatenate([np.linspace(-9, 9, 50_001), np.linspace(-1, 1, 50_001)]).astype(F)
    x64 = x.astype(np.float64)
    exact = {"Tanh": np.tanh, "Sigmoid": lambda v: 1 / (1 + np.exp(-v)), "Erf": np.vectorize(erf)}[op](x64)
    (got,), _ = answers(("", op, 9 if op == "Erf" else 1), [x], {})
    assert np.nanmax(ulps(got, exact)) < 2.5


@pytest.mark.parametrize("shape", [(3, 7), (1, 64), (2, 3, 1000), (5, 1), (4, 33, 9)])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op, shape):
    x = floats(*shape) * 20
    for axis in range(-len(shape), len(shape)):
        agree(("", op, 13), [x], {"axis": axis}, atol=2e-6)
        agree(("", op, 1), [x], {"axis": axis}, atol=2e-6)
    agree(("", op, 13), [np.swapaxes(x, 0, -1)], atol=2e-6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_odd_numbers(op):
    rows = [[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf] * 3, [3e38, -3e38, 0], [1, 2, np.nan], [0, 0, 0]]
    for width in (3, 40):
        agree(("", op, 13), [np.resize(np.array(rows, F), (7, width))])
        agree(("", op, 13), [np.array([np.resize(np.array(row, F), width) for row in rows])])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 64), (1, 1, 1), (4, 6, 5)])
def test_normalisations_of_rows(shape, dtype):
    def of(*s):
        return RNG.standard_normal(s).astype(dtype)

    x, scale, shift = of(*shape) * 5 + 100, of(shape[-1]), of(shape[-1])
    tight = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for since in (1, 17):
        agree(("", "LayerNormalization", since), [x, scale, shift], **tight)
        agree(("", "LayerNormalization", since), [x[::-1], scale], {"epsilon": 0.1}, **tight)
        agree(("", "LayerNormalization", since), [x, of(*shape[1:]), of(*shape[1:])], {"axis": 1}, **tight)
    agree(("", "RMSNormalization", 23), [x, scale], **tight)
    agree(("", "SimplifiedLayerNormalization", 1), [x, scale], n_outputs=2, **tight)
    for skip in (of(*shape), of(1, *shape[1:])) if len(shape) == 3 else (of(*shape),):
        agree((MS, "SkipLayerNormalization", 1), [x, skip, scale, shift, of(shape[-1])], n_outputs=4, **tight)
        agree((MS, "SkipLayerNormalization", 1), [x, skip, scale], n_outputs=4, **tight)
        agree((MS, "SkipSimplifiedLayerNormalization", 1), [x, skip, scale, of(shape[-1])], n_outputs=4, **tight)


WAYS = [(1, 0), (100, 0), (100, 100)]  # panels; BLAS; keys and values as they lie
HIDING = [None, (3, 7), (2, 1, 1, 7), (1, 4, 3, 7), (4, 1, 7), (2, 4, 1, 7), (1, 7)]


@pytest.mark.parametrize("mask", HIDING, ids=str)
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("more", [{}, {"is_causal": 1}, {"past": 1}, {"past": 1, "is_causal": 1}], ids=str)
@pytest.mark.parametrize(("few", "fewest"), WAYS)
def test_attention(mask, heads, more, few, fewest, monkeypatch):
    """Rows that a mask hides, NaN, and infinities among the values, are what the kernel makes of them."""
    monkeypatch.setattr(attention, "FEW", few)
    monkeypatch.setattr(attention, "FEWEST", fewest)
    past = [floats(2, heads, 2, 8), floats(2, heads, 2, 6)] if "past" in more else []
    keys = 5 if past else 7
    attributes = {k: v for k, v in more.items() if k == "is_causal"}
    q, k, v = floats(2, 4, 3, 8), last(floats(2, heads, keys, 8)), floats(2, heads, keys, 6)
    given = None if mask is None else floats(*mask)
    agree(("", "Attention", 23), [q, k, v, given, *past], attributes, rtol=1e-5, atol=1e-5)
    q[0, 1, 2, 3], v[0, 0, 2, 3] = np.nan, np.inf
    if given is not None:
        given[given > 0.5] = -np.inf
        given[..., 0, :] = -np.inf
    agree(("", "Attention", 23), [q, k, v, given, *past], attributes, rtol=1e-5, atol=1e-5)


def test_attention_in_blocks():
    """Several heads at once, and one head in parts; three axes."""
    for queries, keys in ((1, 300), (90, 40), (1000, 900)):
        q, k, v = floats(1, queries, 6 * 8), floats(1, keys, 3 * 8), floats(1, keys, 3 * 5)
        agree(("", "Attention", 23), [q, k, v], {"q_num_heads": 6, "kv_num_heads": 3}, rtol=1e-4, atol=1e-5)
        q, k, v = floats(1, 3, queries, 8), floats(1, 3, keys, 8), floats(1, 3, keys, 5)
        agree(("", "Attention", 23), [q, k, v, floats(3, queries, keys)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("few", "fewest"), WAYS)
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("attributes", ["", "<is_causal = 1>"])
def test_attention_is_written_out(attributes, heads, few, fewest, monkeypatch):
    monkeypatch.setattr(attention, "FEW", few)
    monkeypatch.setattr(attention, "FEWEST", fewest)
    text = f"""<ir_version: 10, opset_import: ["": 23]>
        g (float[2, 4, 3, 8] q, float[2, {heads}, 7, 8] k, float[2, {heads}, 7, 6] v, float[2, 1, 3, 7] m)
        => (float[2, 4, 3, 6] y) {{ y = Attention {attributes} (q, k, v, m) }}"""
    model = load.load(parser.parse_model(text).SerializeToString())
    ours, plain = (pipeline.build(model, [cpu]).program for cpu in (provider.create(CPU.name, {"compiled": "1"}), CPU))
    for _ in range(5):
        feed = [floats(2, 4, 3, 8), floats(2, heads, 7, 8), floats(2, heads, 7, 6), floats(2, 1, 3, 7)]
        np.testing.assert_allclose(ours(feed)[0], plain(feed)[0], rtol=1e-5, atol=1e-6)
    (entry,) = ours._signatures.entries.values()
    assert entry.kernels


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)), st.integers(1, 9), st.integers(0, 3),
    st.booleans(), st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
def test_rotary_embedding(shape, half, rest, interleaved, by_position, four, data):
    """Both layouts of a head's rows in memory, elements that stay, one or each example's own angles, and positions."""
    batch, heads, sequence = shape
    x = floats(batch, heads, sequence, 2 * half + rest)
    if by_position or not four:
        x = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    x = x if four else x.transpose(0, 2, 1, 3).reshape(batch, sequence, -1)
    attributes = {"interleaved": int(interleaved), "num_heads": heads, "rotary_embedding_dim": 2 * half}
    examples = data.draw(st.sampled_from([1, batch]))
    own, key = floats(2, examples, sequence, half), ("", "RotaryEmbedding", 23)
    agree(key, [x, *own], attributes)
    cos, sin = floats(2, 9, half)
    positions = RNG.integers(0, 9, (batch, sequence))
    agree(key, [x, cos, sin, positions], attributes)
    at = data.draw(st.sampled_from([positions, np.array([9 - sequence])]))
    agree((MS, "RotaryEmbedding", 1), [x, at, cos, sin], attributes)


def test_normalisations_of_odd_numbers():
    x = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, np.inf, 0], [0, 0, 0], [3e38, 3e38, -3e38]], F)[:4]
    agree(("", "LayerNormalization", 17), [x, np.ones(3, F), np.zeros(3, F)])
    agree(("", "RMSNormalization", 23), [x, np.ones(3, F)])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("spatial", [(), (5,), (4, 6), (3, 2, 2), (30, 5)])
def test_normalisations_of_channels(spatial, last):
    x = floats(2, 6, *spatial) * 3 + 1
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x
    agree(("", "InstanceNormalization", 1), [x, floats(6), floats(6)], rtol=1e-4, atol=1e-4)
    for groups in (1, 2, 3):
        agree(("", "GroupNormalization", 21), [x, floats(6), floats(6)], {"num_groups": groups}, rtol=1e-4, atol=1e-4)
        agree(
            ("", "GroupNormalization", 18), [x, floats(groups), floats(groups)], {"num_groups": groups},
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("groups", [3, 130, 390])
def test_large_images_are_normalised_in_stripes_of_their_channels(groups):
    x = np.moveaxis(floats(1, 700, 390) * 3 + 1, -1, 1)
    inputs = [x, floats(390), floats(390)]
    (y,) = agree(("", "GroupNormalization", 21), inputs, {"num_groups": groups}, rtol=1e-4, atol=1e-4)
    assert y.strides == x.strides


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_networks(op, direction):
    count, gates = 2 if direction == "bidirectional" else 1, GATES[op]
    for time, batch, size, hidden in ((5, 3, 4, 7), (1, 1, 3, 16), (9, 2, 8, 11)):
        x = floats(time, batch, size)
        w, r = floats(count, gates * hidden, size) / 2, floats(count, gates * hidden, hidden) / 2
        b, state = floats(count, 2 * gates * hidden), floats(count, batch, hidden)
        lens = RNG.integers(0, time + 1, batch).astype(np.int32)
        attributes = {"direction": direction, "hidden_size": hidden}
        outputs = 3 if op == "LSTM" else 2
        agree(("", op, 1), [x, w, r], attributes, n_outputs=outputs, rtol=2e-5, atol=2e-6)
        states = [state, floats(*state.shape), floats(count, 3 * hidden)] if op == "LSTM" else [state]
        more = {"clip": 0.6, "layout": 0}
        more |= {"linear_before_reset": 1} if op == "GRU" else {"input_forget": 1} if op == "LSTM" else {}
        agree(("", op, 1), [x, w, r, b, lens, *states], attributes | more, n_outputs=outputs, rtol=2e-5, atol=2e-6)
        turned = [np.swapaxes(x, 0, 1), w, r, b, lens, np.swapaxes(state, 0, 1)]
        agree(("", op, 1), turned, attributes | {"layout": 1}, n_outputs=outputs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_networks_of_many_examples(op, threads):
    """Their states are multiplied together, as many as there are for a thread, whatever lengths they have."""
    xp = provider.create("CPUExecutionProvider", {"intra_op_num_threads": str(threads)}).xp
    for count, batch, hidden in ((1, 5, 7), (2, 6, 33), (1, 131, 16), (1, 9, 300)):
        gates = GATES[op] * hidden
        w, r, b = floats(count, gates, 4) / 4, floats(count, gates, hidden) / 9, floats(count, 2 * gates) / 4
        lens, state = RNG.integers(0, 5, batch).astype(np.int32), floats(count, batch, hidden)
        states = [state, floats(*state.shape), floats(count, 3 * hidden)] if op == "LSTM" else [state]
        given = {"direction": "bidirectional" if count == 2 else "reverse"}
        given |= {"linear_before_reset": batch % 2} if op == "GRU" else {}
        limits = {"rtol": 2e-5, "atol": 5e-6, "n_outputs": 3 if op == "LSTM" else 2, "xp": xp}
        agree(("", op, 1), [floats(4, batch, 4), w, r, b, lens, *states], given | {"clip": 0.9}, **limits)
        agree(("", op, 1), [floats(4, batch, 4), w, r], given, **limits)


@pytest.mark.parametrize("name", ["Relu", "Tanh", "Sigmoid"])
def test_recurrent_networks_of_each_activation(name):
    agree(("", "RNN", 1), [floats(4, 2, 3), floats(1, 5, 3), floats(1, 5, 5)], {"activations": (name,)}, n_outputs=2)


def test_recurrent_networks_of_odd_numbers():
    for (op, gates), batch in product(GATES.items(), (2, 700)):  # one by one and together
        x = floats(4, batch, 3)
        x[1, 0, 0], x[2, 1, 1] = np.nan, np.inf
        w, r = floats(1, gates * 5, 3), floats(1, gates * 5, 5)
        agree(("", op, 1), [x, w, r], n_outputs=3 if op == "LSTM" else 2, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("dtype", "most"), [(np.int8, 0), (np.int8, 9), (np.uint8, 9)])
def test_the_quantised_lstm(dtype, most):
    """The state's weights are read as bytes where no zero point is taken from them, and as floats."""
    info = np.iinfo(dtype)
    w, r = (RNG.integers(info.min, info.max + 1, s).astype(dtype) for s in ((2, 3, 20), (2, 5, 20)))
    for shape in ((2,), (2, 20)):
        scales = [RNG.uniform(0.001, 0.01, shape).astype(F) for _ in range(2)]
        zeros = [RNG.integers(0, most + 1, shape).astype(dtype) for _ in range(2)]
        lens, states = np.array([4, 2], np.int32), [floats(2, 2, 5), floats(2, 2, 5), floats(2, 15)]
        weights = [scales[0], zeros[0], scales[1], zeros[1]]
        inputs = [floats(4, 2, 3), w, r, floats(2, 40), lens, *states, *weights]
        agree((MS, "DynamicQuantizeLSTM", 1), inputs, {"direction": "bidirectional"}, n_outputs=3, rtol=2e-5)


WINDOWS = [
    {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (0, 1, 2, 0)},
    {"kernel_shape": (2, 3), "strides": (2, 3), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (3, 3), "dilations": (2, 3), "auto_pad": "SAME_LOWER"},
    {"kernel_shape": (2, 2), "strides": (3, 2), "auto_pad": "VALID"},
    {"kernel_shape": (5, 4), "strides": (1, 2), "pads": (2, 3, 2, 1)},
    {"kernel_shape": (2, 3), "pads": (4, 5, 1, 6), "dilations": (1, 3)},
]


def last(x):
    """The same image with the channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, last, lambda x: x[:, :, ::-1, :]], ids=["first", "last", "turned"]
)
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_convolutions_of_few_channels(windows, layout, dtype):
    for n, c, m, group in ((2, 12, 12, 12), (1, 155, 155, 155), (1, 8, 16, 8), (1, 6, 4, 2), (2, 3, 5, 1)):
        x = layout(floats(n, c, 9, 10).astype(dtype))
        w = floats(m, c // group, *windows["kernel_shape"]).astype(dtype)
        attributes = {"group": group, **windows}
        agree(("", "Conv", 1), [x, w, floats(m).astype(dtype)], attributes, rtol=1e-5, atol=1e-5)
        agree(("", "Conv", 1), [x, w], attributes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, last, lambda x: x[:, :, ::-1, :]], ids=["first", "last", "turned"]
)
@pytest.mark.parametrize(
    "windows", [*WINDOWS, {"kernel_shape": (3, 3), "pads": (5, 0, 1, 7), "strides": (1, 4)}], ids=str
)
def test_convolutions_of_many_channels(windows, layout):
    """Those that are products, for which the kernel copies what windows show."""
    for c, n in ((40, 2), (3, 1)):
        x, w = layout(floats(n, c, 37, 31)), floats(64, c, *windows["kernel_shape"])
        x[0, 1, 3, 4] = np.nan
        agree(("", "Conv", 1), [x, w, floats(64)], windows, rtol=2e-5, atol=1e-4)
    x, w = layout(floats(2, 40, 900, 1))[..., 0], floats(64, 40, 3)
    windows = {"strides": (2,), "dilations": (2,), "pads": (3, 1)}
    agree(("", "Conv", 1), [x, w], windows, rtol=2e-5, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    st.data(), st.sampled_from([1, 2]), st.sampled_from([1, 3, 17, 90]), st.sampled_from([5, 40]),
    st.sampled_from([1, 1, 3]),
)  # fmt: skip
def test_convolutions_by_lines(data, rank, c, m, groups):
    """Whole lines of windows, parts of long ones, and what is copied, with and without borders, gaps and groups."""
    each = lambda low, high: data.draw(st.tuples(*[st.integers(low, high)] * rank))  # noqa: E731
    kernel, strides, before, behind = each(1, 4), each(1, 3), each(0, 2), each(0, 2)
    dilations = data.draw(st.sampled_from([(1,) * rank, each(1, 3)]))
    width = data.draw(st.sampled_from([13, 25, 33, 600]))
    x = floats(data.draw(st.integers(1, 2)), c * groups, *(10, width)[2 - rank :])
    if data.draw(st.booleans()):
        x = np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)
    windows = {"strides": strides, "dilations": dilations, "pads": before + behind, "group": groups}
    inputs = [x, floats(m * groups, c, *kernel), floats(m * groups)]
    (plain,) = agree((MS, "FusedConv", 1), inputs, windows, rtol=2e-5, atol=2e-4)
    attributes = windows | data.draw(st.sampled_from([{"activation": "Relu"}, {"activation": "Sigmoid"}, {}]))
    agree((MS, "FusedConv", 1), [*inputs, floats(*plain.shape)], attributes, rtol=2e-5, atol=2e-4)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([1, 8, 33]), st.sampled_from(["depthwise", "grouped", "dense"]), st.booleans())
def test_convolutions_of_images_that_are_smaller_than_the_kernel(data, each, kind, channels_last):
    """No pixel sees all of the kernel there, or all see a part of it."""
    pair = lambda low, high: data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731
    size, kernel, strides, dilations = pair(1, 5), pair(1, 7), pair(1, 3), pair(1, 3)
    before, more = pair(0, 6), pair(0, 2)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    behind = [max(r - n - lo, 0) + m for r, n, lo, m in zip(reach, size, before, more, strict=True)]
    c, group, m = {"depthwise": (each, each, each), "grouped": (2 * each, 2, 6), "dense": (each, 1, 5)}[kind]
    x = (last if channels_last else np.ascontiguousarray)(floats(data.draw(st.integers(1, 2)), c, *size))
    windows = {"strides": strides, "dilations": dilations, "pads": (*before, *behind), "group": group}
    agree(("", "Conv", 1), [x, floats(m, c // group, *kernel), floats(m)], windows, rtol=2e-5, atol=1e-4)


ENDS = [
    {}, {"": "Relu"}, {"": "Clip", "_params": (-0.5, 0.7)}, {"": "QuickGelu", "_params": (1.0,)}, {"": "HardSwish"},
    {"": "Softsign"},
]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    st.data(), st.sampled_from([1, 3, 300]), st.sampled_from([1, 16, 33, 70]), st.sampled_from([1, 2]),
    st.sampled_from([1, 400, 3000, 1 << 16]),
)  # fmt: skip
def test_pixels_are_widened_and_convolved_at_once(data, c, m, threads, scratch):
    """All of an image, or strips of some lines; what a strip sees of the image may be nothing but pads."""
    pair = lambda low, high: data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))  # noqa: E731
    size, kernel, strides, dilations = pair(1, 12), pair(1, 5), pair(1, 3), pair(1, 2)
    before, beyond = pair(0, 6), pair(0, 2)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    behind = [max(r - n - lo, 0) + more for r, n, lo, more in zip(reach, size, before, beyond, strict=True)]
    x = data.draw(st.sampled_from([last, np.ascontiguousarray]))(floats(data.draw(st.integers(1, 2)), c, *size))
    w, v, b, shift = floats(m, c, 1, 1) / F(c), floats(m, 1, *kernel), floats(m), floats(m)
    first, end = (data.draw(st.sampled_from(ENDS)) for _ in range(2))
    given = {"strides": strides, "dilations": dilations, "pads": (*before, *behind)}
    given |= {f"activation{k}": p for k, p in first.items()} | {f"last_activation{k}": p for k, p in end.items()}
    inputs = [x, w, v, *data.draw(st.sampled_from([[], [b], [b, shift], [None, shift]]))]
    key, xp = (OWN, "PointwiseDepthwiseConv", 1), provider.create(CPU.name, {"intra_op_num_threads": str(threads)}).xp
    want = registry.call(
        registry.lookup(*key), CPU.xp, [i if i is None else i.astype(np.float64) for i in inputs], given
    )
    kept = Derived([i for i in inputs[1:] if i is not None])
    few = {} if scratch > 3000 else {"SCRATCH": scratch, "TWICE": 0}
    with mock.patch.multiple(pointwise, LARGE=0 if scratch == 400 else 1 << 19, **few):
        got = compiled.OVERRIDES[key](xp, *inputs, **given, derived=kept)
    assert (got.shape, got.dtype) == (want.shape, F)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, lambda x: np.swapaxes(np.swapaxes(x, 1, 2).copy(), 1, 2)])
def test_convolutions_of_lines(layout):
    for group, m in ((10, 10), (5, 10), (1, 4)):
        for attributes in ({"pads": (2, 1)}, {"strides": (3,), "dilations": (2,)}, {"auto_pad": "SAME_UPPER"}):
            x, w = layout(floats(2, 10, 31)), floats(m, 10 // group, 4)
            agree(("", "Conv", 1), [x, w, floats(m)], {"group": group, **attributes}, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("Relu", ()), ("Clip", (-0.5, 0.7)), ("Sigmoid", ()), ("Tanh", ()), ("HardSigmoid", (0.2, 0.5)),
        ("LeakyRelu", (0.1,)), ("QuickGelu", (1.702,)), ("HardSwish", ()),
    ],
)  # fmt: skip
def test_convolutions_with_activations(activation, params):
    attributes = {"group": 8, "activation": activation, "activation_params": params, "pads": (1, 1, 1, 1)}
    for layout in (np.ascontiguousarray, last):
        inputs = [layout(floats(1, 8, 9, 9)), floats(8, 1, 3, 3), floats(8)]
        agree((MS, "FusedConv", 1), inputs, attributes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "params", "dtype"),
    [
        ("", (), np.float32), ("Relu", (), np.float64), ("Clip", (-0.5, 0.7), np.float32), ("Sigmoid", (), np.float32),
        ("Tanh", (), np.float32), ("HardSigmoid", (0.2, 0.5), np.float32), ("LeakyRelu", (0.1,), np.float32),
        ("HardSigmoid", (0.3, 0.0), np.float32), ("QuickGelu", (1.0,), np.float32), ("HardSwish", (), np.float32),
    ],
)  # fmt: skip
def test_products_of_convolutions_are_finished_block_by_block(activation, params, dtype):
    """With a bias, what is added, neither and both; what is added may lie otherwise in memory, or broadcast."""
    attributes = {"activation": activation, "activation_params": params}
    x, w, b = floats(2, 24, 20, 20).astype(dtype), floats(32, 24, 3, 3).astype(dtype), floats(32).astype(dtype)
    x[1, 3, 5, 5], x[1, 4, 15, 5] = np.nan, np.inf
    z = floats(2, 32, 18, 18).astype(dtype)
    for layout, more in (
        (np.ascontiguousarray, [b]), (last, [b, z]), (last, [None, last(z)]), (last, [b, z[:, :, :1, :1]]), (last, []),
    ):  # fmt: skip
        if activation or more:
            agree((MS, "FusedConv", 1), [layout(x), w, *more], attributes, rtol=2e-5, atol=5e-5)


def test_convolutions_of_odd_numbers():
    x = floats(1, 8, 6, 6)
    x[0, 0, 2, 2], x[0, 1, 3, 3], x[0, 2, 0, 0] = np.nan, np.inf, -np.inf
    for layout in (np.ascontiguousarray, last):
        agree(("", "Conv", 1), [layout(x), np.abs(floats(8, 1, 3, 3))], {"group": 8, "pads": (1, 1, 1, 1)}, rtol=1e-5)


SAMPLED = [
    {"mode": "linear"}, {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, {"mode": "nearest"},
    {"mode": "linear", "antialias": 1}, {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("attributes", SAMPLED, ids=str)
def test_images_are_resampled(attributes, layout, dtype):
    """Few and many channels, short and long lines, one axis and two, those that are not neighbours, none."""
    kernel, taken = registry.lookup("", "Resize", 11), 0
    for shape, scales in [
        ((2, 3, 7, 9), (2.5, 0.6)), ((1, 20, 5, 300), (1.4, 1.2)), ((1, 70, 6, 5), (1, 2)), ((1, 4, 6, 5), (0.5, 1)),
        ((1, 4, 6, 5), (1, 1)), ((2, 5, 40), (0.3,)), ((1, 2, 5, 5), (0.1, 1)), ((1, 2, 3, 4, 5), (2, 1, 2)),
    ]:  # fmt: skip
        x = layout(floats(*shape).astype(dtype))
        x[0, 1, 2], x[0, 0, 1] = np.nan, np.inf
        given = {**attributes, "axes": tuple(range(2, len(shape)))}
        regions, sizes = (0.1,) * len(scales) + (0.9,) * len(scales), tuple(n * 3 // 2 for n in shape[2:])
        for where in ((regions, scales, None), (regions, None, sizes)):
            with np.errstate(all="ignore"):
                got = compiled.OVERRIDES["", "Resize", 11](CPU.xp, x, *where, **given)
                want = kernel.fn(CPU.xp, x.astype(np.float64), *where, **given)
            if got is not NotImplemented:
                taken += 1
                assert got.dtype == dtype
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert taken >= 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("windows", WINDOWS[:-1], ids=str)  # pads are less than the kernel
def test_pools(windows, layout, dtype):
    x = layout(floats(2, 9, 11, 12).astype(dtype))
    for ceil_mode in (0, 1):
        attributes = windows | {"ceil_mode": ceil_mode}
        agree(("", "MaxPool", 1), [x], attributes)
        for include in (0, 1):
            agree(("", "AveragePool", 1), [x], attributes | {"count_include_pad": include}, rtol=1e-5, atol=1e-6)
    x[0, 0, 3, 3], x[0, 1, 4, 4], x[0, 2] = np.nan, np.inf, -np.inf
    agree(("", "MaxPool", 1), [x], windows)


def test_pools_of_lines_and_of_windows_larger_than_the_image():
    agree(("", "MaxPool", 1), [floats(2, 3, 30)], {"kernel_shape": (4,), "strides": (3,), "pads": (1, 2)})
    agree(("", "AveragePool", 1), [floats(2, 3, 30)], {"kernel_shape": (4,), "strides": (3,), "pads": (1, 2)})
    huge = {"kernel_shape": (1280, 1280), "ceil_mode": 1, "strides": (1280, 1280)}
    agree(("", "AveragePool", 1), [floats(1, 4, 7, 7)], huge)
    for x in (floats(2, 9, 5, 4), last(floats(2, 9, 5, 4)), floats(1, 3, 8), floats(1, 2, 3, 4, 5)):
        agree(("", "GlobalAveragePool", 1), [x])
    agree(("", "GlobalAveragePool", 1), [last(floats(2, 41, 90, 83))], rtol=1e-5)  # in parts


@pytest.mark.parametrize("shape", [(1, 16, 127, 128), (1, 2, 360, 360)])
def test_long_sums_keep_their_digits(shape):
    """Of equal numbers every addition to a large sum rounds the same way: one after the other these are 1.5e-4 off."""
    agree(("", "GlobalAveragePool", 1), [last(np.full(shape, 0.1, F))], rtol=1e-5, atol=0)


KINDS = [np.uint8, np.int8, np.uint16, np.int16]


@pytest.mark.parametrize("kind", KINDS)
def test_quantising(kind):
    info = np.iinfo(kind)

    def zeros(*shape):
        return RNG.integers(info.min, info.max + 1, shape).astype(kind)

    x = floats(3, 4, 5) * 200
    x.flat[:7] = np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.5, 1.5
    for y in (x, x[:, ::2], np.swapaxes(x, 0, 2)):
        exact = {"rtol": 0, "atol": 0}
        agree_as_float32(("", "QuantizeLinear", 10), [y, np.array(0.37, F), zeros()])
        agree_as_float32(("", "QuantizeLinear", 10), [np.round(y[:, 1:]), np.array([2], F), zeros(1)])
        for axis in range(-3, 3):
            n = y.shape[axis]
            inputs = [y, RNG.uniform(0.1, 2, n).astype(F), zeros(n)]
            agree_as_float32(("", "QuantizeLinear", 10), inputs, {"axis": axis})
            agree(("", "DequantizeLinear", 10), [zeros(*y.shape), *inputs[1:]], {"axis": axis}, **exact)
        agree(("", "DequantizeLinear", 10), [zeros(4, 6)[:, ::2], np.array(0.3, F), zeros()], **exact)
        agree(("", "DequantizeLinear", 10), [zeros(7), np.array([0.3], F)], **exact)
    nan = registry.call(
        replace(registry.lookup("", "QuantizeLinear", 10), fn=compiled.OVERRIDES["", "QuantizeLinear", 10]),
        CPU.xp, [np.array([np.nan], F), np.ones((), F), np.zeros((), kind)], {},
    )  # fmt: skip
    assert nan[0] == 0


def agree_as_float32(key, inputs, attributes=None):
    """Both in float32: a last bit decides how a tie is rounded."""
    kernel = registry.lookup(*key)
    with np.errstate(all="ignore"):
        got, want = (
            registry.call(replace(kernel, fn=fn), CPU.xp, inputs, attributes or {})
            for fn in (compiled.OVERRIDES[key], kernel.fn)
        )
    for a, b in zip(flat(got), flat(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_quantising_by_the_range():
    many = floats(60, 60)
    for x in (many * 5, np.abs(many) + 1, -np.abs(many.reshape(3, 2, -1)), np.zeros(5000, F), floats(90, 90)[:, ::3]):
        agree_as_float32(("", "DynamicQuantizeLinear", 11), [x])


@pytest.mark.parametrize("shape", [(7,), (3, 40), (0, 3), (2, 1 << 15)])
def test_dynamic_quantisation_is_numpys_to_the_bit(shape):
    kernel = registry.lookup("", "DynamicQuantizeLinear", 11)
    fn = compiled.OVERRIDES["", "DynamicQuantizeLinear", 11]
    for x in (floats(*shape), np.zeros(shape, F), -np.abs(floats(*shape)), np.full(shape, 1e-45, F)):
        got, want = fn(CPU.xp, x), kernel.fn(CPU.xp, x)
        if not x.size:
            assert got is NotImplemented
            continue
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b), strict=True)


@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize(("rows", "depth"), [((3,), 4), ((2, 3), 4), ((1,), 900), ((40,), 900)])
@pytest.mark.parametrize("per_column", [False, True])
def test_dynamically_quantised_products_are_numpys_to_the_bit(rows, depth, columns, per_column):
    key = MS, "DynamicQuantizeMatMul", 1
    fn, other = compiled.OVERRIDES[key], CPU.overrides[key]
    kinds = (columns,) if per_column else ()
    a, b = floats(*rows, depth), RNG.integers(-128, 128, (depth, columns)).astype(np.int8)
    scale, zero = np.abs(floats(*kinds)) if kinds else np.float32(0.1), RNG.integers(-9, 9, kinds).astype(np.int8)
    for bias in (None, floats(columns)):
        given = (CPU.xp, a, b, np.asarray(scale, F), np.asarray(zero), bias)
        np.testing.assert_array_equal(fn(*given), other(*given), strict=True)


def test_dequantising_int32_is_exact_to_the_last_bit_of_its_float():
    x = np.array([2**31 - 1, -(2**31), 7, -7, 123456789], np.int32)
    agree_as_float32(("", "DequantizeLinear", 10), [x, np.array(1e-3, F)])
    agree_as_float32(("", "DequantizeLinear", 10), [x, np.array(1e-3, F), np.array(0, np.int32)])


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 5), (9,)])
@pytest.mark.parametrize(("K", "block"), [(32, 16), (40, 16), (64, 32), (31, 16)])
def test_products_with_packed_weights(rows, K, block):
    blocks, N = -(-K // block), 6
    weights = RNG.integers(0, 256, (N, blocks, block // 2)).astype(np.uint8)
    scales, zeros = floats(N * blocks), RNG.integers(0, 256, N * -(-blocks // 2)).astype(np.uint8)
    attributes = {"K": K, "N": N, "bits": 4, "block_size": block}
    for more in ([], [zeros], [zeros, None, floats(N)]):
        agree((MS, "MatMulNBits", 1), [floats(*rows, K), weights, scales, *more], attributes, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_models(post, dtype):
    for rows in (1, 5):
        x = (floats(rows, 4) * 3).astype(dtype)
        for count, labels in ((1, None), (1, (7,)), (1, (3, 9)), (3, (5, 6, 7)), (3, None), (2, (4, 2))):
            attributes = {"coefficients": floats(count * 4).tolist(), "intercepts": floats(count).tolist()}
            attributes |= {"post_transform": post, "classlabels_ints": labels}
            agree((ML, "LinearClassifier", 1), [x], attributes)
            if labels and len(labels) > 1:
                words = {"classlabels_ints": None, "classlabels_strings": tuple(map(str, labels))}
                agree((ML, "LinearClassifier", 1), [x], attributes | words)
            attributes = {"coefficients": floats(count * 4).tolist(), "targets": count, "post_transform": post}
            agree((ML, "LinearRegressor", 1), [x], attributes)
            agree((ML, "LinearRegressor", 1), [x[0]], attributes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_scaling_and_normalising_rows(dtype):
    x = (floats(3, 5) * 9).astype(dtype)
    x[1] = 0
    for offset, scale in ((floats(5).tolist(), floats(5).tolist()), ((2.0,), (3.0,)), (None, floats(5).tolist())):
        agree((ML, "Scaler", 1), [x], {"offset": offset, "scale": scale})
    for norm in ("MAX", "L1", "L2"):
        agree((ML, "Normalizer", 1), [x], {"norm": norm})
    if dtype != np.int32:
        x[0, 2], x[2, 1] = np.nan, np.inf
        for norm in ("MAX", "L1", "L2"):
            agree((ML, "Normalizer", 1), [x], {"norm": norm})


@pytest.mark.parametrize("center", [0, 1])
def test_choosing_boxes(center):
    for count, classes in ((1, 1), (30, 3), (200, 2)):
        boxes = np.round(RNG.uniform(0, 20, (2, count, 4)), 1).astype(np.float64)
        scores = np.round(RNG.uniform(0, 1, (2, classes, count)), 2).astype(np.float64)  # with ties
        for most, iou, score in ((5, 0.3, 0.2), (50, 0.0, None), (3, 0.9, 0.99), (4, 0.5, 2.0)):
            inputs = [boxes, scores, *(np.array(v) for v in (most, iou))]
            inputs += [] if score is None else [np.array(score)]
            agree(("", "NonMaxSuppression", 10), inputs, {"center_point_box": center})


def stump_forest(kind, trees, depth, classes, modes, nan=False, same=None):
    """Random complete trees, whose nodes are numbered level by level."""
    inner, count = 2**depth - 1, 2 ** (depth + 1) - 1
    of = [t for t in range(trees) for _ in range(count)]
    nodes = list(range(count)) * trees
    split = [n < inner for n in nodes]
    leaves = [i for i, s in enumerate(split) if not s]
    found = {
        "nodes_treeids": of,
        "nodes_nodeids": nodes,
        "nodes_featureids": RNG.integers(0, 4, len(of)).tolist(),
        "nodes_modes": [str(RNG.choice(modes)) if s else "LEAF" for s in split],
        "nodes_values": np.round(floats(len(of)), 1).tolist(),
        "nodes_truenodeids": [2 * n + 1 if s else 0 for n, s in zip(nodes, split, strict=True)],
        "nodes_falsenodeids": [2 * n + 2 if s else 0 for n, s in zip(nodes, split, strict=True)],
        f"{kind}_treeids": [of[i] for i in leaves],
        f"{kind}_nodeids": [nodes[i] for i in leaves],
        f"{kind}_ids": [same] * len(leaves) if same is not None else RNG.integers(0, classes, len(leaves)).tolist(),
        f"{kind}_weights": floats(len(leaves)).tolist(),
    }
    return found | ({"nodes_missing_value_tracks_true": RNG.integers(0, 2, len(of)).tolist()} if nan else {})


MODES = [["BRANCH_LEQ"], ["BRANCH_LT"], ["BRANCH_EQ"], [f"BRANCH_{m}" for m in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")]]


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("modes", MODES, ids=str)
def test_trees(modes, nan):
    for rows, dtype in ((1, F), (3, np.float64), (100, F), (7, np.int64), (0, F)):
        x = np.round(floats(rows, 4), 1)
        if rows and dtype != np.int64:
            x[0, 1], x[-1, 2] = np.nan, np.inf
        x = x.astype(dtype)
        for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
            attributes = stump_forest("target", 5, 3, 3, modes, nan)
            attributes |= {"n_targets": 3, "aggregate_function": aggregate, "base_values": (0.5, -0.5)}
            agree((ML, "TreeEnsembleRegressor", 1), [x], attributes)
        for post in ("NONE", "LOGISTIC", "SOFTMAX"):
            for labels, same in (((4, 5, 6), None), ((7, 8), 0), ((7, 8), 1), ((7, 8), None), ((3,), 0)):
                attributes = stump_forest("class", 5, 3, len(labels), modes, nan, same)
                attributes |= {"classlabels_int64s": labels, "post_transform": post}
                agree((ML, "TreeEnsembleClassifier", 1), [x], attributes)


def test_trees_with_text_labels_and_double_thresholds():
    attributes = stump_forest("class", 3, 2, 3, ["BRANCH_LEQ"]) | {"classlabels_strings": ("a", "b", "c")}
    attributes["nodes_values_as_tensor"] = np.array(attributes.pop("nodes_values"))
    agree((ML, "TreeEnsembleClassifier", 1), [floats(6, 4)], attributes)


def test_trees_by_position():
    leaf = {
        "leaf_targetids": (0, 1, 0, 1),
        "leaf_weights": np.array([1, 2, 3, 4], F),
        "tree_roots": (0,),
        "n_targets": 2,
    }
    node = {
        "nodes_featureids": (0, 1, 1),
        "nodes_splits": np.array([0, 0.5, -0.5], F),
        "nodes_modes": np.zeros(3, np.uint8),
    }
    node |= {"nodes_truenodeids": (1, 0, 2), "nodes_trueleafs": (0, 1, 1)}
    node |= {"nodes_falsenodeids": (2, 1, 3), "nodes_falseleafs": (0, 1, 1)}
    for aggregate in range(4):
        agree((ML, "TreeEnsemble", 5), [floats(9, 2)], {**leaf, **node, "aggregate_function": aggregate})


@pytest.mark.parametrize("kind", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_support_vector_machines(kind):
    for rows, dtype in ((1, F), (6, np.float64), (4, np.int64)):
        x = (floats(rows, 3) * 2).astype(dtype)
        common = {"kernel_type": kind, "kernel_params": (0.3, 0.5, 3.0)}
        vectors = floats(5 * 3).tolist()
        for post in ("NONE", "LOGISTIC"):
            for one_class in (0, 1):
                attributes = {
                    "coefficients": floats(5).tolist(),
                    "n_supports": 5,
                    "rho": (0.2,),
                    "one_class": one_class,
                }
                attributes |= {"post_transform": post, "support_vectors": vectors, **common}
                agree((ML, "SVMRegressor", 1), [x], attributes, rtol=1e-5)
        for counts in ((2, 3), (1, 2, 2), (2, 0, 1, 2)):
            classes = len(counts)
            pairs = classes * (classes - 1) // 2
            attributes = {"coefficients": floats((classes - 1) * 5).tolist(), "support_vectors": vectors, **common}
            attributes |= {"vectors_per_class": counts, "rho": floats(pairs).tolist()}
            labels = tuple(range(10, 10 + classes))
            for more in ({}, {"prob_a": (-np.abs(floats(pairs))).tolist(), "prob_b": floats(pairs).tolist()}):
                for names in ({"classlabels_ints": labels}, {"classlabels_strings": tuple(map(str, labels))}):
                    for post in ("NONE", "LOGISTIC", "SOFTMAX"):
                        given = {**attributes, **more, **names, "post_transform": post}
                        agree((ML, "SVMClassifier", 1), [x], given, rtol=1e-5)


def test_few_pixels_by_many_weights_are_a_product():
    """A convolution weight by weight is slow where each meets a few pixels only: left to the matrix product."""
    few, many = np.zeros((1, 128, 4), F), np.zeros((1, 1, 400), F)
    weights, light = np.zeros((64, 128, 3), F), np.zeros((8, 1, 3), F)
    plain = (None, "", (), "NOTSET", None, 1, None, None, None, at_once)
    assert convolved(None, few, weights, *plain) is NotImplemented
    assert convolved(None, many, light, *plain).shape == (1, 8, 398)
    assert compiled.OVERRIDES["", "Conv", 1](None, few, weights).shape == (1, 64, 2)


def multiplied(a, b, bias=None, *, threads=1, transposed=False):
    """A product with a constant matrix, by the kernel's panels."""
    xp = SimpleNamespace(threads=threads)
    b = np.ascontiguousarray(b.T) if transposed else b
    given = [b] if bias is None else [b, bias]
    op = ("", "Gemm", 7) if transposed or bias is not None else ("", "MatMul", 1)
    more = {"transB": int(transposed)} if op[1] == "Gemm" else {}
    return compiled.OVERRIDES[op](xp, a, *given, **more, derived=Derived(given))


@pytest.fixture
def every_product(monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13, 169, 341])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (3, 16), (40, 17), (385, 31), (800, 5), (70, 900)])
def test_products_with_a_constant_matrix(rows, depth, columns, dtype, threads, every_product, monkeypatch):
    if threads > 1:  # everything is worth a thread
        monkeypatch.setattr(products, "RATE", 1.0)
    a, b = RNG.standard_normal((rows, depth)).astype(dtype), RNG.standard_normal((depth, columns)).astype(dtype)
    bias = RNG.standard_normal(columns).astype(dtype)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    close = {"rtol": 0, "atol": np.finfo(dtype).eps * 4 * depth**0.5 * max(1, abs(a).max() * abs(b).max())}
    np.testing.assert_allclose(multiplied(a, b, threads=threads), exact, **close)
    for turned in (False, True):
        np.testing.assert_allclose(multiplied(a, b, bias, threads=threads, transposed=turned), exact + bias, **close)
    far = np.swapaxes(np.stack([a, a]), 0, 1)  # strides that nobody flattens
    np.testing.assert_allclose(multiplied(far, b), np.stack([exact, exact], 1), **close)
    linear, xp = compiled.OVERRIDES[OWN, "Linear", 1], SimpleNamespace(threads=threads)
    np.testing.assert_allclose(
        linear(xp, far, b, bias, derived=Derived([b, bias])), np.stack([exact, exact], 1) + bias, **close
    )
    assert linear(xp, far, b, bias, derived=Derived([b])) is NotImplemented, "another row may come"


@pytest.mark.parametrize("groups", [1, 3])
def test_panels(groups):
    """Rows of several groups as columns of their panels, filled up with zeros; a matrix turned round is one group."""
    w = floats(groups * 37, 70, 3)
    each = products.width(w.dtype)
    for made, matrix in zip(np.split(products.turned_panels(w, groups), groups), np.split(w, groups), strict=True):
        columns = np.swapaxes(made, 1, 2).reshape(-1, 3, 70)
        np.testing.assert_array_equal(columns[:37], np.swapaxes(matrix, 1, 2))
        assert len(columns) % each == 0
        assert not columns[37:].any()
    np.testing.assert_array_equal(products.panels(w[:, :, 0].T), products.panels(w[:, :, 0].T.copy()))


def test_products_of_odd_numbers(every_product):
    """NaN and infinities stay in their rows and columns; what fills up the last panel touches nothing."""
    a, b = floats(9, 20), floats(20, 19)
    a[2, 3], a[4, 5], b[7, 18] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        want = a @ b
    got = multiplied(a, b)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert multiplied(np.full((7, 1), 3e38, F), np.full((1, 2), 3e38, F)).tolist() == [[np.inf] * 2] * 7


def test_products_that_are_left_to_others(every_product):
    """Matrices that are no constants, other dtypes, what is scaled, and shapes that do not fit."""
    a, b, fn = floats(4, 5), floats(5, 6), compiled.OVERRIDES["", "MatMul", 1]
    gemm, xp = compiled.OVERRIDES["", "Gemm", 7], SimpleNamespace(threads=1)
    kept = Derived([b])
    assert fn(xp, a, b) is NotImplemented
    assert fn(xp, a, b.copy(), derived=kept) is NotImplemented
    assert fn(xp, a.astype(np.float64), b, derived=kept) is NotImplemented
    assert fn(xp, floats(4, 6), b, derived=kept) is NotImplemented
    assert fn(xp, np.empty((0, 5), F), b, derived=kept) is NotImplemented
    assert gemm(xp, a, b, alpha=2.0, derived=kept) is NotImplemented
    assert gemm(xp, a, b, floats(4, 6), derived=kept) is NotImplemented
    assert gemm(xp, a, b, floats(4, 1), derived=kept) is NotImplemented
    np.testing.assert_allclose(gemm(xp, a, b, floats(4, 6), beta=0.0, derived=kept), a @ b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="C"):
        gemm(xp, a, b, floats(5), derived=kept)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5,)])
@pytest.mark.parametrize(("given", "changing"), [("", 0), ("bias", 1), ("bias, z, Relu", 0), ("Tanh", 1)])
def test_convolutions_by_panels(given, changing, kernel, layout, threads, monkeypatch):
    """As products with panels of constant or changing weights, whatever the layout, on one thread or two."""
    monkeypatch.setattr(compiled.conv, "SETUP", -1.0)
    monkeypatch.setattr(dense, "finished", None)  # nothing is left to NumPy
    if threads > 1:
        monkeypatch.setattr(dense.products, "RATE", 1.0)
    rank = len(kernel)
    for n, c, m, spatial, group in [
        (1, 3, 37, 9, 1), (2, 40, 5, 30, 1), (1, 70, 64, 13, 1), (1, 60, 40, 9, 5), (2, 20, 200, 3, 2),
    ]:  # fmt: skip
        x, w = floats(n, c, *[spatial] * rank), floats(m, c // group, *kernel)
        if layout == "last":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            x = np.moveaxis(x, -1, 1)
        inputs = [x, w, floats(m) if "bias" in given else None]
        activation = given.split(", ")[-1] if given[-1:] in {"u", "h"} else ""
        attributes = {"pads": [k // 2 for k in kernel] * 2, "strides": [2] * rank, "activation": activation}
        attributes["group"] = group
        inputs += [np.float32(RNG.standard_normal((n, m, *[-(-spatial // 2)] * rank)))] if "z" in given else []
        xp = SimpleNamespace(threads=threads)
        fn = compiled.OVERRIDES[MS, "FusedConv", 1]
        with np.errstate(all="ignore"):
            got = fn(xp, *inputs, **attributes, derived=Derived([] if changing else [w]))
            kernel_itself = registry.lookup(MS, "FusedConv", 1)
            wide = [None if v is None else v.astype(np.float64) for v in inputs]
            want = registry.call(kernel_itself, CPU.xp, wide, attributes, n_outputs=1)
        assert got is not NotImplemented
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.sampled_from([32, 48]), st.integers(1, 21), st.integers(1, 40)),
    st.sampled_from([33, 48, 70]), st.sampled_from([1, 2]), st.sampled_from(["", "Relu", "Sigmoid", "z", "z, Tanh"]),
    st.tuples(*[st.integers(0, 2)] * 4), st.sampled_from(["", "inf", "nan", "large"]), st.data(),
)  # fmt: skip
def test_convolutions_by_tiles(shape, m, threads, given, pads, odd, data):
    """Images of all sizes; where numbers are infinite, or become it on the way, exactly what lines give."""
    n, c, h, w = shape
    h, w = h + 2, w + 2
    x, weights = floats(n, c, h, w), floats(m, c, 3, 3) / 16
    if odd:
        x[data.draw(st.integers(0, n - 1)), 3, h - 2, w // 2] = {"inf": -np.inf, "nan": np.nan, "large": 3e38}[odd]
        x[:, 3, h - 1, w // 2] = -2e38 if odd == "large" else 1
    inputs = [last(x), weights, floats(m)]
    attributes = {"pads": pads, "activation": given.removeprefix("z").removeprefix(", ")}
    xp, fn = SimpleNamespace(threads=threads), compiled.OVERRIDES[MS, "FusedConv", 1]
    kernel = registry.lookup(MS, "FusedConv", 1)
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.conv, "PIXELS", 1)
        if given.startswith("z"):
            inputs.append(last(floats(n, m, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2)))
        got = fn(xp, *inputs, **attributes, derived=Derived([weights]))
        want = registry.call(kernel, CPU.xp, [v.astype(np.float64) for v in inputs], attributes, n_outputs=1)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want.astype(F)))
        patch.setattr(compiled.conv, "PIXELS", 1 << 30)
        by_lines = fn(xp, *inputs, **attributes, derived=Derived([weights]))
    np.testing.assert_allclose(got, by_lines, rtol=1e-5, atol=1e-5 * max(1, np.nanmax(np.abs(x[np.isfinite(x)]))))


def test_what_a_weight_of_zero_hides_leaves_no_trace():
    x, w = np.ones((1, 32, 12, 12), F), np.ones((32, 32, 3, 3), F)
    w[:, :, 1, 1], x[0, 0, 6, 6] = 0, 1e30
    got = compiled.OVERRIDES["", "Conv", 1](SimpleNamespace(threads=1), last(x), w, derived=Derived([w]))
    assert got[0, 0, 5, 5] == 32 * 8


def test_pads_that_cut_on_one_side_and_add_on_the_other(monkeypatch):
    """The result of a kernel of one place is as large as the image then, but lies elsewhere."""
    monkeypatch.setattr(compiled.conv, "SETUP", -1.0)
    x, w = floats(1, 20, 12, 12), floats(18, 20, 1, 1)
    got = compiled.OVERRIDES["", "Conv", 1](SimpleNamespace(threads=1), x, w, pads=[-1, 2, 1, -2], derived=Derived([w]))
    shifted = np.zeros_like(x)
    shifted[:, :, :-1, 2:] = x[:, :, 1:, :-2]
    np.testing.assert_allclose(got, np.einsum("nchw,mc->nmhw", shifted, w[:, :, 0, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modes", [("LEQ",), ("LT",), ("LEQ", "LT", "EQ", "NEQ", "GT", "GTE")])
@pytest.mark.parametrize("rows", [1, 7, 8, 66, 150])
def test_trees_whose_leaves_are_on_all_levels(rows, modes):
    nodes = {name: [] for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids")}
    nodes |= {"falsenodeids": [], "missing_value_tracks_true": []}
    leaves = {"treeids": [], "nodeids": [], "ids": [], "weights": []}
    for tree in range(4):
        depth = (12, 1, 5, 0)[tree]
        for node in range(2 * depth + 1):  # 0, 2, 4, ... are splits, each with a leaf before the next one
            leaf = node % 2 == 1 or node == 2 * depth
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(0 if leaf else int(RNG.integers(3)))
            nodes["modes"].append("LEAF" if leaf else f"BRANCH_{RNG.choice(modes)}")
            nodes["values"].append(0.0 if leaf else float(RNG.integers(-2, 3)))
            nodes["truenodeids"].append(0 if leaf else node + 1)
            nodes["falsenodeids"].append(0 if leaf else node + 2)
            nodes["missing_value_tracks_true"].append(int(RNG.integers(2)))
            if leaf:
                for name, value in (
                    ("treeids", tree),
                    ("nodeids", node),
                    ("ids", node % 2),
                    ("weights", float(node + 1)),
                ):
                    leaves[name].append(value)
    x = RNG.integers(-3, 4, (rows, 3)).astype(F)
    x[RNG.random(x.shape) < 0.1] = np.nan
    given = {f"nodes_{k}": v for k, v in nodes.items()} | {f"target_{k}": v for k, v in leaves.items()}
    agree((ML, "TreeEnsembleRegressor", 1), [x], given | {"n_targets": 2})


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 70, 5), (40, 33, 64)])
def test_distances(m, n, k, metric):
    a, b = floats(m, k), floats(n, k)
    b[0] = a[0]
    for dtype in (np.float32, np.float64):
        (y,) = agree((MS, "CDist", 1), [a.astype(dtype), b.astype(dtype)], {"metric": metric}, rtol=2e-6, atol=0)
        assert y[0, 0] == 0
    assert compiled.OVERRIDES[MS, "CDist", 1](None, a, b[:0]) is NotImplemented
