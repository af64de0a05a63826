"""Parts of specialised programs as XLA gets them: what follows from the weights alone is computed beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

import ortlite
from ortlite.provider import create

jax = pytest.importorskip("jax")
jnp = jax.numpy

from ortlite_jax import region  # noqa: E402
from ortlite_jax.region import Region  # noqa: E402

NAME = "JAXExecutionProvider"


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def text(region, *arrays):
    """What the program for these arrays is, before XLA sees it."""
    region(*arrays)
    (program, weights, _), *_ = reversed(region.programs.values())
    return program.lower(*arrays, *weights).as_text()


def model(nodes, inputs, outputs, **weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return proto.SerializeToString()


def test_weights_are_turned_once():
    w, x = draw(5, 7), draw(3, 7, seed=1)
    region = Region(lambda x, w: (x @ w.T,), {1: w})
    np.testing.assert_allclose(region(x)[0], np.asarray(x) @ np.asarray(w).T, rtol=1e-6)
    assert "transpose" not in text(region, x)
    assert "transpose" in jax.jit(lambda x, w: x @ w.T).lower(x, w).as_text()


def test_what_is_made_of_weights_serves_all_signatures():
    w = draw(5, 7)
    region = Region(lambda w, x: (x @ w.T,), {0: w})
    for rows in (1, 2, 3):
        x = draw(rows, 7, seed=rows)
        np.testing.assert_allclose(region(x)[0], np.asarray(x) @ np.asarray(w).T, rtol=1e-6)
    turned = [weights[0] for _, weights, _ in region.programs.values()]
    assert len(turned) == 3
    assert turned[0] is turned[1] is turned[2]


def test_other_weights_are_other_arrays():
    x = draw(3, 7, seed=1)
    for seed in range(4):
        w = draw(5, 7, seed=seed + 2)
        region = Region(lambda x, w: (x @ w.T,), {1: w})
        np.testing.assert_allclose(region(x)[0], np.asarray(x) @ np.asarray(w).T, rtol=1e-5, atol=1e-6)


def test_nothing_large_is_made_of_something_small():
    w, x = draw(4), draw(1000, 4, seed=1)
    region = Region(lambda x, w: (x + jnp.broadcast_to(w, (1000, 4)),), {1: w})
    np.testing.assert_array_equal(region(x)[0], np.asarray(x) + np.asarray(w))
    _, weights, _ = next(iter(region.programs.values()))
    assert max(weight.size for weight in weights) <= 4


def test_results_that_are_weights_or_arguments():
    w, x = draw(4, 3), draw(2, seed=1)
    region = Region(lambda x, w: (w, x, w.T, x + 1), {1: w})
    for _ in range(2):
        same, given, turned, more = region(x)
        np.testing.assert_array_equal(same, w)
        np.testing.assert_array_equal(given, x)
        np.testing.assert_array_equal(turned, np.asarray(w).T)
        np.testing.assert_array_equal(more, np.asarray(x) + 1)


def test_functions_and_loops_inside_are_what_they_were():
    w, x = draw(3, 3), draw(4, 3, seed=1)

    def fn(x, w):
        y = jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ w.T), x)
        return (jax.nn.relu(y), jnp.where(w.T > 0, w, 0.0))

    for got, wanted in zip(Region(fn, {1: w})(x), fn(x, w), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_regions_within_transformations():
    w, x = draw(5, 7), draw(3, 7, seed=1)
    wanted = np.asarray(x) @ np.asarray(w).T
    for transformed in (jax.jit, jax.vmap, lambda fn: lambda x: jax.jvp(fn, (x,), (x,))[1]):
        region = Region(lambda x, w: (x @ w.T,), {1: w})  # whose first program is made while JAX traces
        np.testing.assert_allclose(transformed(lambda x: region(x)[0])(x), wanted, rtol=1e-5)  # noqa: B023
        np.testing.assert_allclose(region(x)[0], wanted, rtol=1e-5)


def test_values_of_the_host_that_depend_on_shapes_make_no_borders():
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=1),  # of shapes alone: known before any run, carried over to JAX
        helper.make_node("Add", ["e", "f"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    w = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    session = ortlite.InferenceSession(model(nodes, {"x": ["n", 2]}, ["z"], w=w), providers=[NAME])
    for rows in (4, 5):
        x = np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)
        for _ in range(2):
            (z,) = session.run(None, {"x": x})
            np.testing.assert_allclose(z, (np.exp(x) + np.float32([rows, 2])) @ w, rtol=1e-5)
    assert len(session._parts.shared.compilations) == 2  # one a signature


def test_arrays_are_carried_to_jax_whatever_it_traces():
    place = create(NAME)
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    seen = []
    jax.jit(lambda x: seen.append(place.from_numpy(values)) or x)(1.0)
    assert not isinstance(seen[0], jax.core.Tracer)
    exact = values + 2**53, values / 7, values / 7 + 1j  # JAX is not set to 64 bits here
    arrays = (values, values.T, values[:, ::-1], values.astype(">i8"), np.array(3), np.zeros((0, 2)), values > 2)
    for array in (*arrays, *exact, np.broadcast_to(values[:1], (4, 3))):
        got = place.from_numpy(array)
        back = place.to_numpy(got)
        assert got.dtype == back.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, array)


def test_sequences_enter_and_leave():
    def twice(pair, w, x):
        a, b = pair
        return (a * x, b + w), (w - x,)

    w, x, pair = draw(3), draw(3, seed=1), (draw(3, seed=2), draw(3, seed=3))
    region = Region(twice, {1: w})
    got, want = region(pair, x), twice(pair, w, x)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    made = Region(lambda w, x: ((w * x, x), x + w), {0: w})
    (one, two), three = made(x)
    np.testing.assert_allclose(np.stack([*got[0], *got[1], one, two, three]),
                               np.stack([*want[0], *want[1], w * x, x, x + w]), rtol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    ("fn", "compiled"),
    [
        (lambda x, w: (x @ w.T,), 1),
        (lambda x, w: (x @ jnp.concatenate([w[:3], w[3:]]).reshape(7, 5).swapaxes(0, 1).T,), 1),
        (lambda x, w: (x[:, :4] @ w[:, ::2].T,), 1),
        (lambda x, w: (x @ jnp.squeeze(w.reshape(5, 1, 7)).T,), 1),
        (lambda x, w: (x @ (w.T * w.T),), 2),
        (lambda x, w: (x @ (w * w).T,), 2),
    ],
)
def test_what_only_moves_weights_is_not_compiled(fn, compiled, monkeypatch):
    w, x, names, jit = draw(5, 7), draw(3, 7, seed=1), [], jax.jit
    monkeypatch.setattr(region, "LARGE", 0)
    wanted = fn(x, w)[0]
    monkeypatch.setattr(region.jax, "jit", lambda fn, **options: names.append(fn.__name__) or jit(fn, **options))
    one = Region(fn, {1: w})
    np.testing.assert_allclose(one(x)[0], wanted, rtol=1e-6)
    assert len(names) == compiled


def convolved(x, w):
    return (jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)], precision="highest"),)


@pytest.mark.parametrize(
    ("channels", "maps", "size", "groups", "expected"),
    [
        (64, 64, 48, 1, True),
        (64, 65, 48, 1, False),
        (64, 64, 24, 1, False),
        (64, 64, 96, 2, False),
        (3, 64, 256, 1, False),
    ],
)
def test_large_convolutions_of_few_maps_are_those_that_xla_computes_on_one_thread(
    channels, maps, size, groups, expected
):
    x, w = jnp.zeros((1, channels, size, size)), jnp.zeros((maps, channels // groups, 3, 3))
    traced = jax.make_jaxpr(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)], feature_group_count=groups)
    )(x, w)
    (eqn,) = traced.eqns
    assert region._on_one_thread(eqn) is (expected and jax.default_backend() == "cpu")


@pytest.mark.parametrize("known", [True, False])
def test_options_of_large_convolutions(known, monkeypatch):
    """They change how, not what is computed; an XLA that has none goes without."""
    given, jit = [], jax.jit
    monkeypatch.setattr(region, "_known", lambda *options: known)
    monkeypatch.setattr(
        region.jax, "jit", lambda fn, **options: given.append(options.get("compiler_options")) or jit(fn, **options)
    )
    x, w = draw(1, 64, 48, 48), draw(64, 64, 3, 3, seed=1)
    wanted = convolved(*(np.asarray(a, np.float64) for a in (x, w)))[0]
    np.testing.assert_allclose(Region(convolved, {1: w})(x)[0], wanted, atol=1e-3)
    on_cpu = jax.default_backend() == "cpu"
    assert (region.THREADED in given) is (known and on_cpu)


def test_options_are_known_or_not(monkeypatch):
    assert not region._known(("xla_cpu_such_an_option_there_is_not", "1"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert not region._known(("xla_cpu_enable_fast_math", "false"))  # somebody has chosen


def test_explain_tells_of_the_last_array_whether_its_memory_was_shared():
    """JAX shares what starts at a multiple of 64 bytes, and copies the same bytes that start elsewhere."""
    session = ortlite.InferenceSession(
        model([helper.make_node("Exp", ["x"], ["y"])], {"x": [16]}, ["y"]), providers=[NAME]
    )
    buffer = np.zeros(256, np.uint8)
    round_ = -buffer.__array_interface__["data"][0] % 64
    for offset in (0, 4, 4, 0, 0):
        x = buffer[round_ + offset : round_ + offset + 64].view(np.float32)
        session.run(None, {"x": x})
        assert session.explain().copies[0].shared is (offset == 0)
