"""Recordings of kernels: the same answers as the kernels', for other values too; and none where values decide."""

import inspect
import weakref
from functools import partial

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import inline, ordered
from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite.provider import CPU, create
from ortlite_numpy import record, threads

F = np.float32


def replay(found, arrays, names):
    """Run the lines of a recording."""
    scope = dict(found.scope) | {names[i]: array for i, array in enumerate(arrays)}
    for target, text in found.lines:
        exec(f"{target} = {text}" if target else text, scope)
    return [eval(name, scope) for name in found.results]


def recorded(fn, *arrays, **keywords):
    xp = create(CPU, {"compiled": "0"}).xp
    names = {i: f"q_v{i}" for i in range(len(arrays))}
    return record.recorded(fn, xp, arrays, keywords, names, "q_"), names


def check(fn, *arrays, **keywords):
    """The recording gives what the function gives, for other values too, and holds no Python of the function."""
    found, names = recorded(fn, *arrays, **keywords)
    assert found is not None
    xp = create(CPU, {"compiled": "0"}).xp
    for given in (arrays, [a[::-1].copy() if a.ndim else a for a in arrays]):
        wanted = fn(xp, *given, **keywords)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        before = [a.copy() for a in given]
        for _ in range(2):  # what is written to is not kept
            results = replay(found, given, names)
            for result, value in zip(results, wanted, strict=True):
                np.testing.assert_array_equal(result, value, strict=True)
        for a, b in zip(given, before, strict=True):
            np.testing.assert_array_equal(a, b)
    return found


def data(*shape, dtype=F):
    return np.random.default_rng(0).uniform(-2, 2, shape).astype(dtype)


@pytest.mark.parametrize(
    ("op_type", "opset", "shapes", "attributes"),
    [
        ("Softmax", 13, [(3, 5)], {}),
        ("Softmax", 13, [(3, 5)], {"axis": 0}),
        ("LayerNormalization", 17, [(2, 3, 5), (5,), (5,)], {}),
        ("Gemm", 13, [(3, 4), (5, 4), (5,)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Conv", 11, [(1, 2, 7, 7), (3, 2, 3, 3), (3,)], {"pads": (1, 1, 1, 1)}),
        ("Conv", 11, [(1, 4, 6, 6), (4, 1, 3, 3)], {"group": 4, "strides": (2, 2)}),
        ("MaxPool", 12, [(1, 2, 6, 6)], {"kernel_shape": (2, 2), "strides": (2, 2), "n_outputs": 1}),
        ("Attention", 23, [(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)], {}),
        ("LSTM", 7, [(3, 1, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}),
        ("Gelu", 20, [(4, 6)], {}),
        ("ReduceMean", 13, [(3, 4)], {"axes": (1,)}),
        ("Elu", 6, [(3, 4)], {}),
        ("Mish", 18, [(3, 4)], {}),
    ],
)
def test_recordings_of_overrides_and_kernels_give_what_they_give(op_type, opset, shapes, attributes):
    kernel = registry.lookup("", op_type, opset)
    override = create(CPU, {"compiled": "0"}).overrides.get(("", op_type, kernel.since))
    for fn in filter(None, (kernel.fn, override)):
        arrays = [data(*shape) for shape in shapes]
        if fn(create(CPU, {"compiled": "0"}).xp, *arrays, **attributes) is NotImplemented:
            continue
        found, _ = recorded(fn, *arrays, **attributes)
        if found is not None:
            check(fn, *arrays, **attributes)
    assert found is not None


def test_a_recording_has_the_calls_alone():
    found = check(lambda xp, x: xp.sum(xp.reshape(x, (6,)), axis=0), data(2, 3))
    assert found.lines[0][1] == "q_v0.reshape((6, ))"
    assert len(found.lines) == 2


@pytest.mark.parametrize("fn", [lambda xp, x: xp.reshape(x, (-1,)), lambda xp, x: record.numpy.ascontiguousarray(x)])
def test_large_copies_of_images_with_channels_last_are_made_block_by_block(fn):
    x = np.moveaxis(data(2, 100, 83, 16), -1, 1)
    found, names = recorded(fn, x)
    assert ordered.in_order in found.scope.values()
    (result,) = replay(found, [x], names)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, fn(create(CPU, {"compiled": "0"}).xp, x))


@pytest.mark.parametrize(
    "fn",
    [
        lambda xp, x: x if float(x[0]) > 0 else -x,
        lambda xp, x: x * bool(xp.any(x > 0)),
        lambda xp, x: x[x > 0],
        lambda xp, x: xp.asarray(x.tolist()),
        lambda xp, x: np.frombuffer(x.tobytes(), F),
        lambda xp, x: np.unique(x),
        lambda xp, x: np.random.default_rng(0).permutation(x),
    ],
)
def test_what_values_decide_is_not_recorded(fn):
    assert recorded(fn, data(4))[0] is None


def test_a_layout_is_that_of_axes_with_more_than_one_place():
    provider, x = create(CPU), data(1, 3, 4)
    same = np.broadcast_to(x, x.shape)
    assert same.strides != x.strides
    assert inline._same(same, x, provider)
    assert not inline._same(np.asfortranarray(x), x, provider)


def test_an_argument_that_is_written_to_is_not_recorded():
    def careless(xp, x):
        x += 1
        return x

    x = data(4)
    before = x.copy()
    assert recorded(careless, x)[0] is None
    np.testing.assert_array_equal(x, before)


def test_memory_that_is_written_to_is_made_in_every_run():
    def filled(xp, x):
        y = record.numpy.zeros(x.shape, x.dtype)
        y += x
        y[1:] *= 2
        return y

    check(filled, data(4))


def test_the_first_function_that_writes_to_an_empty_array_makes_it():
    def fn(xp, x, y):
        a, b, c, d = (np.empty_like(x) for _ in range(4))
        np.negative(x, out=b)  # not the last that was made
        np.exp(x, out=d)
        np.add(d, y, out=c)
        z = np.empty_like(x)
        np.add(x, y, out=z)  # of two arrays: their layouts may differ
        w = np.empty_like(x)
        np.isnan(x, out=w)  # which makes bools by itself
        np.copyto(a, z)
        return a, b, c, d, z, w

    found = check(fn, data(3, 4), data(3, 4))
    assert sum("out=" in text for _, text in found.lines) == 5
    (only,) = check(lambda xp, x: np.maximum(x, F(0), out=np.empty_like(x)), data(3, 4)).lines
    assert "out=" not in only[1]
    check(lambda xp, x: np.exp(x, out=np.empty_like(x)), data())  # a scalar would be no array


def test_a_small_array_that_is_written_to_later_counts_as_it_was():
    def counting(xp, x):
        steps = np.ones(4, F)  # not seen by the recording
        first = x * steps
        steps += 1
        return first + x * steps

    check(counting, data(4))


def test_layouts_that_a_kernel_looks_at_are_a_condition():
    def fn(xp, x):
        return x * 2 if x.flags.c_contiguous else x * 3

    found = check(fn, data(3, 4))
    assert found.layouts == ((0, (16, 4)),)
    found, _ = recorded(lambda xp, x: x * 2, data(3, 4))
    assert found.layouts == ()
    for shape, steps in [((1, 3, 1, 4), (None, 16, None, 4)), ((1, 3, 4), (None, 16, 4)), ((1, 1), (None, None))]:
        found = check(fn, data(*shape))
        assert found.layouts == ((0, steps),)


def test_strides_of_axes_with_one_element_do_not_matter():
    """They are what the function that made the array left there."""
    odd = np.ndarray((1, 3, 1), F, bytes(range(12)), 0, (4, 4, 400))
    for x in (odd, odd.transpose(2, 1, 0), odd.copy()):
        for conditions in (inline._lies("x.strides", (None, 4, None)), inline._lies("x.strides", (None, None, None))):
            assert all(eval(text, {"x": x}) for text in conditions)
    assert inline._lies("x", (8, 4)) == ["x == (8, 4)"]
    assert inline._lies("x", (None, 8, 4, None)) == ["x[1:3] == (8, 4)"]
    assert inline._lies("x", (8, None, 4)) == ["x[0] == 8", "x[2] == 4"]


def test_a_mistake_is_no_recording():
    assert recorded(lambda xp, x: xp.reshape(x, (5,)), data(4))[0] is None
    assert not record.recording()


def test_names_that_kernels_see_are_numpys_own_without_a_recording():
    for name in ("empty", "zeros", "ones", "full", "asarray", "array", "ascontiguousarray", "take"):
        assert name in vars(record.numpy)
    assert record.numpy.add is np.add
    assert inspect.ismodule(record.numpy)
    np.testing.assert_array_equal(record.numpy.take(np.arange(4), np.array([1, 3])), [1, 3])


TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y, float[n,4] z) {
  a = Softmax(x)  t = Transpose<perm = [1, 0]>(x)  b = ReduceSum<keepdims = 1>(t)  z = Mul(a, b)  y = Relu(x) }"""


def test_a_session_gives_the_same_recorded_or_not_in_any_layout():
    session = ortlite.InferenceSession(
        parser.parse_model(TEXT).SerializeToString(), providers=[(CPU, {"compiled": "0"})]
    )
    program = session._whole.stages.program
    x = data(3, 4)
    plain = session.run(None, {"x": x})
    session.run(None, {"x": x})
    (entry,) = program._signatures.entries.values()
    names = entry.function.source.__code__.co_names
    assert [name for name in names if name.startswith("q")]  # what recordings name
    for a, b in zip(session.run(None, {"x": x}), plain, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    for given in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2]):
        for a, b in zip(session.run(None, {"x": given}), plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, strict=True)
    other = np.full((3, 4), np.nan, F)
    assert np.isnan(session.run(None, {"x": other})[1]).all()


def test_an_index_out_of_range_is_told_as_before():
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[n] i) => (float[n] y)
      <float[3] w = {1, 2, 3}> { y = Gather(w, i) }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    for _ in range(3):
        assert session.run(None, {"i": np.array([2, -1])})[0].tolist() == [3, 3]
    with pytest.raises(ortlite.errors.OrtError, match="Gather"):
        session.run(None, {"i": np.array([2, 3])})


def test_what_is_kept_for_a_signature_is_made_of_arrays_also_while_a_kernel_is_recorded():
    @record.aside
    def steps(count):
        return record.numpy.ones(count, F)

    kept = []

    def fn(xp, x):
        kept.append(steps(4))
        return x * kept[-1]

    check(fn, data(4))
    assert all(type(array) is np.ndarray for array in kept)


def test_results_derived_from_constants_are_kept_as_arrays():
    weights = data(4, 4)
    keep = Derived([weights])

    def doubled(w):
        return record.numpy.zeros(w.shape, F) + w * 2

    def fn(xp, x, derived):
        return x @ derived(doubled, weights) + derived(doubled, x)

    found, names = recorded(partial(fn, derived=keep), data(4, 4))
    assert [type(value) for value in keep._made.values()] == [np.ndarray]
    (result,) = replay(found, [data(4, 4)], names)
    np.testing.assert_array_equal(result, data(4, 4) @ (weights * 2) + data(4, 4) * 2)


@pytest.mark.parametrize("op_type", ["GatherElements", "ArrayFeatureExtractor"])
def test_a_check_of_values_is_a_line_of_the_recording(op_type):
    domain = "" if op_type == "GatherElements" else "ai.onnx.ml"
    kernel = registry.lookup(domain, op_type, 13 if not domain else 1)
    x, places = data(3, 4), np.array([[0, 2]] * 3)
    if domain:
        places = places[0]
    found, names = recorded(partial(kernel.fn, **({} if domain else {"axis": 1})), x, places)
    assert found is not None
    (result,) = replay(found, [x, places], names)
    np.testing.assert_array_equal(result, x[:, [0, 2]])
    with pytest.raises(ValueError, match="must lie from"):
        replay(found, [x, places + 7], names)


@pytest.mark.parametrize(
    "fn",
    [
        lambda xp, x: xp.round(x),
        lambda xp, x: np.argmax(x, axis=1, keepdims=True),
        lambda xp, x: xp.broadcast_to(x, (3, 4)) + xp.broadcast_to(x, (2, 3, 4)),
        lambda xp, x: xp.stack([x, x * 2], axis=-1),
        lambda xp, x: np.stack([x, np.ones((3, 4), F), x * 2], axis=1),
        lambda xp, x: np.stack([x.sum(), x.max(), F(2)]),
        lambda xp, x: np.stack([x, x * 2], 2, dtype=np.float64),
        lambda xp, x: xp.where(x > 0, x, -x) ** 2 + 2**x - 1 / (x + 5),
        lambda xp, x: xp.moveaxis(xp.expand_dims(x, axis=(0, -1)), 0, 2),
        lambda xp, x: xp.clip(x, -0.5, 0.5) + xp.squeeze(xp.expand_dims(x, axis=1), axis=1),
        lambda xp, x: (
            xp.mean(x, axis=0) + xp.max(x, axis=0) + xp.prod(x, axis=0) + xp.astype(xp.any(x > 0), xp.float32)
        ),
        lambda xp, x: sum(xp.unstack(x)) + np.split(x, 2, axis=1)[0].sum(),
        lambda xp, x: np.einsum("ij,kj->ik", x, x) @ x,
        lambda xp, x: xp.take(x, xp.argmin(x, axis=1), axis=1) + xp.asarray(x[0, 0]),
    ],
)
def test_functions_of_the_standard(fn):
    check(fn, data(3, 4))


def test_what_is_stacked_is_put_together_without_python():
    found = check(lambda xp, x: xp.stack([x, x * 2], axis=1), data(3, 4))
    assert not any("stack" in getattr(value, "__name__", "") for value in found.scope.values())
    assert recorded(lambda xp, x: np.stack([x, x], axis=3), data(3, 4))[0] is None
    assert recorded(lambda xp, x: np.stack([x, x[0]]), data(3, 4))[0] is None


def test_small_products_are_methods():
    found = check(lambda xp, x: xp.matmul(x, np.ones((4, 2), F)), data(3, 4))
    assert [line for _, line in found.lines] == ["q_v0.dot(q_c0)"]
    check(lambda xp, x: xp.matmul(np.ones((2, 3), F), x), data(3, 4))
    check(lambda xp, x: xp.matmul(x, x.T), data(3, 4, dtype=np.float64))


def test_searches_means_and_short_orders_are_recorded():
    table = np.array([-1, 0, 0.5, 1], F)
    found = check(lambda xp, x: xp.searchsorted(table, x), data(9))
    assert [line for _, line in found.lines] == ["q_c0.searchsorted(q_v0, 'left')"]
    for dtype in (F, np.float64):
        found = check(lambda xp, x: np.mean(x, axis=1, keepdims=True), data(3, 7, dtype=dtype))
        assert len(found.lines) == 2
    check(lambda xp, x: np.mean(x), data(3, 7))
    check(lambda xp, x: np.mean(x, axis=0), data(3, 7, dtype=np.float16))  # added up in float32
    for axis, largest in ((0, True), (1, False), (1, True)):
        check(lambda xp, x, a=axis, big=largest: xp.top_k(x, 2, a, big, True), data(3, 4))


@pytest.fixture
def shared_out(monkeypatch):
    """All that can be is shared out to two threads, however short it is."""
    monkeypatch.setattr(threads, "WOKEN", 0)
    monkeypatch.setattr(threads, "_waiting", None)
    monkeypatch.setattr(threads, "limit", lambda: 2)
    monkeypatch.setattr("ortlite_numpy.elementwise.BLOCK", 8)
    monkeypatch.setattr("ortlite_numpy.elementwise.ROWS", 8)
    return create(CPU, {"compiled": "0", "intra_op_num_threads": "2"}).xp


def share(fn, xp, *arrays, **keywords):
    names = {i: f"q_v{i}" for i in range(len(arrays))}
    return record.recorded(fn, xp, arrays, keywords, names, "q_"), names


@pytest.mark.parametrize(
    ("op_type", "opset", "shapes", "attributes"),
    [
        ("Gelu", 20, [(5, 6)], {}),
        ("Softmax", 13, [(5, 6)], {}),
        ("LayerNormalization", 17, [(5, 6), (6,), (6,)], {}),
        ("MaxPool", 12, [(1, 2, 8, 6)], {"kernel_shape": (2, 2), "strides": (2, 2), "n_outputs": 1}),
        ("Conv", 11, [(3, 2, 7, 7), (3, 2, 3, 3), (3,)], {"pads": (1, 1, 1, 1)}),
        ("Conv", 11, [(1, 64, 50, 50), (64, 1, 3, 3)], {"group": 64}),
        ("Conv", 11, [(3, 2, 20, 20), (3, 2, 1, 1), (3,)], {}),
        ("MatMul", 13, [(64, 48), (48, 64)], {}),
        ("MatMul", 13, [(3, 48, 48), (3, 48, 48)], {}),
    ],
)
def test_each_threads_share_is_written_out(op_type, opset, shapes, attributes, shared_out):
    kernel = registry.lookup("", op_type, opset)
    fn = create(CPU, {"compiled": "0"}).overrides.get(("", op_type, kernel.since), kernel.fn)
    arrays = [data(*shape) for shape in shapes]
    found, names = share(fn, shared_out, *arrays, **attributes)
    assert found is not None
    assert any(value is threads._together for value in found.scope.values())
    with np.errstate(all="ignore"):
        for given in (arrays, [a[::-1].copy() for a in arrays]):
            wanted = fn(shared_out, *given, **attributes)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for _ in range(3):
                for result, value in zip(replay(found, given, names), wanted, strict=False):
                    np.testing.assert_array_equal(result, value, strict=True)


def test_a_share_that_leaves_an_array_behind_is_not_recorded(shared_out):
    def fn(xp, x):
        halves = {}
        threads.split(lambda start, stop: halves.update({start: x[start:stop] + x[start:stop]}), 6, 1e-4, 2)
        return record.numpy.concatenate([halves[start] for start in sorted(halves)])

    assert share(fn, shared_out, data(6, 2))[0] is None
    np.testing.assert_array_equal(fn(None, data(6, 2)), data(6, 2) * 2)


def test_a_share_lets_go_of_what_nobody_reads_any_more(shared_out):
    alive = []

    def noted(x):
        alive.append(weakref.ref(y := x.copy()))
        assert sum(ref() is not None for ref in alive) <= 2
        return y

    def fn(xp, x):
        out = record.numpy.empty_like(x)

        def some(start, stop):
            for i in range(start, stop):
                out[i] = record.opaque(noted, x)[i] if record.recording() else noted(x)[i]

        threads.split(some, 8, 1e-4, 1 if not record.recording() else 2)
        return out

    found, names = share(fn, shared_out, data(8, 2))
    alive.clear()
    replay(found, [data(8, 2)], names)
    assert len(alive) == 8


def test_a_result_that_is_a_constant_of_the_recording_is_not_the_callers_to_write_to():
    """Of no rows the scale is 1: a caller's 77 in it must not be in what later runs return."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[N,4] x) => (uint8[N,4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    for _ in range(5):
        _, scale, zero = session.run(None, {"x": np.zeros((0, 4), F)})
        assert (scale, zero) == (1, 0)
        scale[...], zero[...] = 77, 77


def test_variables_of_a_recording_are_no_seeds():
    """What draws the seeds of random nodes had names of the same kind: the third run had one in the other's place."""
    text = """<ir_version: 8, opset_import: ["": 22]> g (float[N,M] x) => (float[N,M] noise, float[N,M] y, float[N,M] z)
    { noise = RandomNormalLike (x)  y = Softmax (x)  z = LogSoftmax (x) }"""
    session = ortlite.InferenceSession(
        parser.parse_model(text).SerializeToString(), providers=[(CPU, {"compiled": "0"})]
    )
    x = data(3, 5)
    wanted = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    for _ in range(4):
        noise, y, z = session.run(None, {"x": x})
        assert noise.std() > 0.1
        np.testing.assert_allclose(y, wanted, rtol=1e-5)
        np.testing.assert_allclose(z, np.log(wanted), rtol=1e-5)
