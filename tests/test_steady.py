"""Code for runs of which a part of the signature comes up again: it answers as the code for all signatures does."""

from __future__ import annotations

import gc
import importlib.util
import threading
import weakref

import numpy as np
import pytest
from onnx import numpy_helper, parser

import ortlite
from ortlite import steady
from ortlite.signatures import UNKNOWN

D = 6
RUNS = steady.RUNS + steady.TRIES
W = np.random.default_rng(0).standard_normal((D, D)).astype(np.float32)
GROWS = """<ir_version: 8, opset_import: ["": 18]>
g (float[B, 6] x, float[N, 6] past) => (float[B, 6] y, float[M, 6] present, int64[2] size, float[K, 3] halves)
<int64[2] form = {-1, 3}>
{ a = MatMul(x, W)  b = Tanh(a)  present = Concat<axis=0>(past, b)  mean = ReduceMean<keepdims=1>(present)
  c = Mul(b, mean)  y = Add(c, x)  size = Shape(y)  halves = Reshape(y, form) }"""
MASKED = """<ir_version: 8, opset_import: ["": 18]>
g (float[4] x, bool[4] mask, float[N] past) => (float[K] y, int64[2] size, float s)
{ places = NonZero(mask)  size = Shape(places)  row = Squeeze(places)  taken = Gather(x, row)  e = Exp(taken)
  y = Mul(e, e)  s = ReduceSum<keepdims=0>(past) }"""
PROVIDERS = ["CPUExecutionProvider", "TorchExecutionProvider"]


def session(text, name):
    if name.startswith("Torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    model = parser.parse_model(text)
    if "W" in text:
        model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    return ortlite.InferenceSession(model.SerializeToString(), providers=[name])


def program(found):
    return found._whole.stages.program


def grown(x, past):
    b = np.tanh(x @ W)
    present = np.concatenate([past, b])
    y = b * present.mean() + x
    return y, present, np.array(y.shape), y.reshape(-1, 3)


def check(found, x, past):
    made = found.run(None, {"x": x, "past": past})
    for value, wanted in zip(made, grown(x, past), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    return made


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_cache_that_grows(name):
    found, draw = session(GROWS, name), np.random.default_rng(1)
    past, kept = np.zeros((1, D), np.float32), []
    for _ in range(RUNS + 9):
        made = check(found, draw.standard_normal((1, D)).astype(np.float32), past)
        past = made[1]
        kept.append((past, past.copy(), made[2]))
    assert program(found)._steady.function is not None
    assert all(np.array_equal(a, b) and tuple(size) == (1, D) for a, b, size in kept)
    for rows in (1, 3, 2, 1, 4, 1):  # other rows are another part
        for extra in range(3):
            x = draw.standard_normal((rows, D)).astype(np.float32)
            check(found, x, draw.standard_normal((200 + 10 * rows + extra, D)).astype(np.float32))
    assert not program(found)._steady.differed


def test_lengths_that_come_up_again_need_no_function_of_their_own():
    found = session(GROWS, PROVIDERS[0])
    signatures = program(found)._signatures
    for length in [*range(RUNS + 9), *range(UNKNOWN)]:
        check(found, np.ones((1, D), np.float32), np.ones((1 + length, D), np.float32))
        if signatures.cost is not None:
            signatures.cost = 1e9  # no time decides
    assert program(found)._steady.function is not None
    assert signatures.cost is not None
    assert not signatures.entries


@pytest.mark.parametrize("name", PROVIDERS)
def test_shapes_that_only_happened_to_stay_the_same(name):
    found, draw = session(MASKED, name), np.random.default_rng(2)

    def run(count, length):
        mask = np.zeros(4, bool)
        mask[draw.permutation(4)[:count]] = True
        x, past = draw.standard_normal(4).astype(np.float32), draw.standard_normal(length).astype(np.float32)
        y, size, total = found.run(None, {"x": x, "mask": mask, "past": past})
        np.testing.assert_allclose(y, np.exp(x[mask]) ** 2, rtol=1e-5)
        assert tuple(size) == (1, count)
        np.testing.assert_allclose(total, past.sum(), rtol=1e-4, atol=1e-5)

    for length in range(RUNS + 6):
        run(3, length)
    steadily = program(found)._steady
    assert steadily.function is not None
    for wrong, count in enumerate((2, 4, 3, 2), 1):
        run(count, 100 + wrong)
    assert len(steadily.differed) == 3
    for length in range(200, 201 + steady.WRONG):
        run(2, length)
    assert steadily.function is None
    for length in range(300, 310):
        run(1 + length % 3 + 1, length)


def test_a_program_is_freed_with_its_last_reference():
    found = session(GROWS, PROVIDERS[0])
    for length in range(RUNS + 6):
        found.run(None, {"x": np.ones((1, D), np.float32), "past": np.ones((1 + length, D), np.float32)})
    learned = weakref.ref(program(found)._steady)
    assert learned().function is not None
    gc.disable()
    try:
        del found
        assert learned() is None
    finally:
        gc.enable()


def test_many_threads():
    found, wrong = session(GROWS, PROVIDERS[0]), []

    def work(number):
        draw = np.random.default_rng(number)
        try:
            for step in range(60):
                x = draw.standard_normal((1 + (step > 50), D)).astype(np.float32)
                check(found, x, draw.standard_normal((1 + step * 8 + number, D)).astype(np.float32))
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_random_numbers_are_drawn_once_a_run():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[4] x, float[N] past) => (float[4] y, float s)
    { r = RandomUniformLike(x)  t = Exp(x)  y = Add(r, t)  s = ReduceSum<keepdims=0>(past) }"""
    found = session(text, PROVIDERS[0])
    for length in range(RUNS + 6):
        found.run(None, {"x": np.ones(4, np.float32), "past": np.ones(length, np.float32)})
    assert program(found)._steady is None


def test_what_a_library_compiles_has_no_place_for_a_look():
    pytest.importorskip("jax")
    found = session(GROWS, "JAXExecutionProvider")
    for length in range(6):
        found.run(None, {"x": np.ones((1, D), np.float32), "past": np.ones((1 + length, D), np.float32)})
    assert program(found)._steady is None


def test_an_error_is_told_as_that_of_its_node():
    x = np.ones(4, np.float32)
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[4] x, int64[2] at, float[N] past) => (float[2] y, float s)
    { e = Exp(x) [pick] y = Gather(e, at)  s = ReduceSum<keepdims=0>(past) }"""
    found = session(text, PROVIDERS[0])
    for length in range(RUNS + 6):
        found.run(None, {"x": x, "at": np.array([0, 1]), "past": np.ones(length, np.float32)})
    assert program(found)._steady.function is not None
    with pytest.raises(ortlite.capi.onnxruntime_pybind11_state.InvalidArgument, match="pick"):
        found.run(None, {"x": x, "at": np.array([0, 9]), "past": np.ones(999, np.float32)})
