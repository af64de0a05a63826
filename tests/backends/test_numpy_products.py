"""Products of matrices on NumPy: however few the rows, however the arrays lie in memory."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import ortlite
from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite.provider import create
from ortlite_numpy import blas, products
from ortlite_numpy.ops import OVERRIDES

XP = create("CPUExecutionProvider", {"intra_op_num_threads": "2"}).xp
SHAPES = [
    ((5, 7), (7, 3)), ((1, 300), (300, 400)), ((2, 300), (300, 400)), ((3, 1, 300), (300, 400)), ((7,), (7, 3)),
    ((5, 7), (7,)), ((7,), (7,)), ((2, 3, 5, 7), (7, 4)), ((2, 3, 5, 7), (2, 3, 7, 4)), ((2, 1, 5, 7), (3, 7, 4)),
    ((1, 1, 5, 7), (4, 1, 7, 4)), ((0, 7), (7, 3)), ((5, 0), (0, 3)), ((2, 0, 7), (2, 7, 3)), ((2, 5, 7), (2, 7, 0)),
    ((7,), (2, 7, 3)), ((2, 5, 7), (7,)), ((120, 40), (40, 50)), ((6, 64, 32), (6, 32, 64)),
]  # fmt: skip


def drawn(draw, shape, dtype, layout):
    """Numbers in a layout that BLAS reads or does not: plain, transposed, with gaps, backwards, one row for all."""
    if layout == 1 and len(shape) > 1:
        return np.swapaxes(draw.standard_normal((*shape[:-2], shape[-1], shape[-2])).astype(dtype), -1, -2)
    x = draw.standard_normal((*shape, 2) if layout == 2 else shape).astype(dtype)
    x = x[..., 0] if layout == 2 else x[..., ::-1] if layout == 3 else x
    if layout == 4 and len(shape) > 1:
        x = np.broadcast_to(x[..., :1, :], shape)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("split", [False, True])
def test_matmul(shapes, dtype, split, monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)
    if split:  # everything is worth a thread
        monkeypatch.setattr(products, "RATE", 1.0)
        monkeypatch.setattr(products, "BYTES", 1.0)
    draw = np.random.default_rng(0)
    for left in range(5):
        for right in range(5):
            a, b = (drawn(draw, s, dtype, layout) for s, layout in zip(shapes, (left, right), strict=True))
            y = OVERRIDES["", "MatMul", 1](XP, a, b)
            wanted = np.matmul(a.astype(np.float64), b.astype(np.float64))
            assert y.dtype == dtype
            assert y.shape == wanted.shape
            np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("rows", [(1,), (2,), (3,), (2, 5), (24,), (5, 5), (48,), (49,)], ids=str)
@pytest.mark.parametrize("size", [(300, 400), (1000, 100), (31, 3000), (5000, 30)], ids=str)
@pytest.mark.parametrize("split", [False, True])
def test_a_constant_matrix_is_turned_for_few_rows(rows, size, split, monkeypatch):
    monkeypatch.setattr(products, "reads_small", lambda: True)  # whatever the processor is
    monkeypatch.setattr(products, "LARGE", 1 << 10)
    monkeypatch.setattr(products, "WEIGHTS", 1 << 15)
    if split:
        monkeypatch.setattr(products, "RATE", 1.0)
    draw = np.random.default_rng(0)
    b = draw.standard_normal(size).astype(np.float32)
    derived = Derived([b])
    a = draw.standard_normal((*rows, size[0])).astype(np.float32)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    few = 1 < np.prod(rows) <= 24 and size[0] >= 32 and 16 * size[0] * np.prod(rows) <= products.UNPACKED
    for left in (a, np.asfortranarray(a)):
        y = OVERRIDES["", "MatMul", 1](XP, left, b, derived=derived)
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert derived.nbytes == (b.nbytes if few else 0)
    if len(rows) == 1:  # columns that lie side by side already are read where they lie
        c = draw.standard_normal(size[1]).astype(np.float32)
        derived = Derived([w := np.ascontiguousarray(b.T)])
        y = OVERRIDES["", "Gemm", 7](XP, a, w, c, transB=1, derived=derived)
        np.testing.assert_allclose(y, wanted + c, rtol=1e-4, atol=1e-4)
        assert derived.nbytes == 0


@pytest.mark.parametrize("rows", [7, 24, 40])
@pytest.mark.parametrize("size", [(300, 1111), (768, 770)], ids=str)
def test_threads_do_not_change_the_answer(rows, size, monkeypatch):
    """Columns are rounded alike on whichever thread, by the kernels of BLAS that such parts are for."""
    tolerance = 0 if products.reads_small() else 1e-4
    monkeypatch.setattr(products, "reads_small", lambda: True)
    monkeypatch.setattr(products, "WEIGHTS", 1 << 15)
    draw = np.random.default_rng(1)
    b = draw.standard_normal(size).astype(np.float32)
    a = draw.standard_normal((rows, size[0])).astype(np.float32)
    b = np.asfortranarray(b) if rows > 24 else b
    alone = products.product(a, b, 1, Derived([b]))
    monkeypatch.setattr(products, "split", in_parts)
    for parts in (2, 3, 4):
        y = products.product(a, b, parts, Derived([b]))
        np.testing.assert_allclose(y, alone, rtol=tolerance, atol=tolerance)


def in_parts(fn, count, seconds, threads):
    edges = [count * part // threads for part in range(threads + 1)]
    for start, stop in pairwise(edges):
        fn(start, stop)


def test_a_program_turns_no_matrix_again(monkeypatch):
    monkeypatch.setattr(products, "reads_small", lambda: True)
    weights = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ortlite.InferenceSession(
        model.SerializeToString(), providers=[("CPUExecutionProvider", {"compiled": "0"})]
    )
    turned = []
    monkeypatch.setattr(products, "turned", lambda b, old=products.turned: turned.append(b.shape) or old(b))
    x = np.random.default_rng(1).standard_normal((4, 300)).astype(np.float32)
    answers = [session.run(None, {"x": x})[0] for _ in range(4)]
    np.testing.assert_allclose(answers[0], x.astype(np.float64) @ weights, rtol=1e-4, atol=1e-4)
    assert all(np.array_equal(y, answers[0]) for y in answers)
    assert turned == [(300, 400)]


def test_a_blas_that_says_nothing_of_itself(monkeypatch):
    monkeypatch.setattr(blas, "_found", lambda: None)
    assert not blas.reads_small.__wrapped__()
    monkeypatch.setattr(blas, "_found", lambda: (SimpleNamespace(openblas_set_num_threads=None), "openblas_{}"))
    assert not blas.reads_small.__wrapped__()
    for core, wanted in ((b"SkylakeX", True), (b"Haswell", False), (None, False)):
        library = SimpleNamespace(openblas_get_corename=Mock(return_value=core))
        monkeypatch.setattr(blas, "_found", lambda library=library: (library, "openblas_{}"))
        assert blas.reads_small.__wrapped__() == wanted


def test_shapes_that_do_not_fit():
    for shapes in [((2, 3), (4, 5)), ((2, 2, 3), (3, 3, 5)), ((), (3,))]:
        with pytest.raises(ValueError, match=r"matmul|mismatch|dimension|broadcast"):
            OVERRIDES["", "MatMul", 1](XP, *(np.ones(s, np.float32) for s in shapes))
    assert OVERRIDES["", "MatMul", 1](XP, np.ones((2, 3), np.int32), np.ones((3, 2), np.int32)) is NotImplemented
    assert OVERRIDES["", "Gemm", 7](XP, np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)) is NotImplemented


@pytest.mark.parametrize("transposed", range(4))
@pytest.mark.parametrize("shape", [None, (), (4,), (1, 4), (3, 1), (3, 4)], ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_gemm(transposed, shape, alpha, beta):
    draw = np.random.default_rng(1)
    a_turned, b_turned = transposed & 1, transposed >> 1
    a = drawn(draw, (6, 3) if a_turned else (3, 6), np.float32, transposed)
    b = drawn(draw, (4, 6) if b_turned else (6, 4), np.float32, 0)
    c = None if shape is None else np.asarray(draw.standard_normal(shape), np.float32)
    given = {"alpha": alpha, "beta": beta, "transA": a_turned, "transB": b_turned}
    wanted = registry.lookup("", "Gemm", 13).fn(XP, a, b, c, **given)
    np.testing.assert_allclose(OVERRIDES["", "Gemm", 7](XP, a, b, c, **given), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("turned", range(16))
def test_fused_matmul(turned):
    draw = np.random.default_rng(2)
    flags = [turned >> i & 1 for i in range(4)]
    given = dict(zip(["transA", "transB", "transBatchA", "transBatchB"], flags, strict=True))
    shapes = []
    for rows, columns, swap, batch in ((5, 6, flags[0], flags[2]), (6, 4, flags[1], flags[3])):
        last = (columns, rows) if swap else (rows, columns)
        shapes.append((last[0], 2, 3, last[1]) if batch else (2, 3, *last))
    a, b = (drawn(draw, s, np.float32, 0) for s in shapes)
    wanted = registry.lookup("com.microsoft", "FusedMatMul", 1).fn(XP, a, b, alpha=0.5, **given)
    actual = OVERRIDES["com.microsoft", "FusedMatMul", 1](XP, a, b, alpha=0.5, **given)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("plain", [False, True])
def test_matrices_are_turned_whatever_they_look_like(dtype, plain, monkeypatch):
    if plain:  # a BLAS that has nothing for it
        monkeypatch.setattr(blas, "_copies_turned", dict)
    x = np.random.default_rng(0).standard_normal((700, 333)).astype(dtype)
    x[3, 4], x[5, 6], x[7, 8] = np.nan, np.inf, -0.0
    odd = np.ndarray((3, 5), dtype, bytes(range(1, 200)), 1)  # not where numbers of its size are expected
    views = [x, x[:, 3:100], x[::2], x[::-1], x.T, x[:, ::2], np.broadcast_to(x[0], (5, 333)), x[:0], x[:, :0], odd]
    for view in views:
        result = blas.turned(view)
        assert result.flags.c_contiguous
        assert result.tobytes() == np.ascontiguousarray(view.T).tobytes()


def test_a_blas_without_transposition(monkeypatch):
    monkeypatch.setattr(blas, "_found", lambda: None)
    assert blas._copies_turned.__wrapped__() == {}
