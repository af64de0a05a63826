"""How many threads a session uses, and that the caller's own NumPy keeps its BLAS threads."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

import ortlite
from ortlite.provider import create
from ortlite_numpy import blas, products, threads


def model():
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "xy")
    graph = helper.make_graph(nodes, "product", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("asked", [0, 1, 3, -1])
def test_the_session_says_how_many(asked):
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = asked
    session = ortlite.InferenceSession(model(), options)
    (provider,) = session._chosen
    assert provider.xp.threads == (asked if asked > 0 else threads.available())
    assert session.get_provider_options() == {"CPUExecutionProvider": {}}  # as in onnxruntime


def test_the_provider_says_how_many():
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = 3
    given = {"intra_op_num_threads": "2"}
    session = ortlite.InferenceSession(model(), options, providers=[("CPUExecutionProvider", given)])
    assert session._chosen[0].xp.threads == 2
    assert session.get_provider_options() == {"CPUExecutionProvider": given}
    with pytest.raises(ValueError, match="intra_op_num_threads is a number, 0 or more, not 'two'"):
        create("CPUExecutionProvider", {"intra_op_num_threads": "two"}).threads  # noqa: B018


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_only_processors_that_the_process_may_use_count():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.available() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(blas._functions() is None, reason="NumPy uses no OpenBLAS here")
def test_blas_has_one_thread_while_a_model_runs_and_the_callers_number_afterwards():
    count, put = blas._functions()
    before = count()
    try:
        put(2)
        inside = []
        with create("CPUExecutionProvider").context():
            inside.append(count())
            with create("CPUExecutionProvider").context():  # a second run at the same time
                inside.append(count())
            inside.append(count())
        assert inside == [1, 1, 1]
        assert count() == 2
        session = ortlite.InferenceSession(model())
        runs = [threading.Thread(target=session.run, args=(None, {"x": np.eye(50, dtype=np.float32)})) for _ in "abcd"]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert count() == 2
        with pytest.raises(ortlite.errors.OrtError):
            session.run(None, {"x": np.ones((2, 3), np.float32)})
        assert count() == 2
    finally:
        put(before)


@pytest.mark.parametrize("shape", [(1, 300, 500), (40, 200, 333), (500, 200, 40), (0, 3, 4), (3, 0, 4), (3, 4, 0)])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_products_are_those_of_numpy(shape, workers, monkeypatch):
    """However they are split; the parts have different shapes, and BLAS may round their sums in another order."""
    monkeypatch.setattr(products, "RATE", 1e3)  # everything is worth a thread
    rows, depth, columns = shape
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((rows, depth)), draw.standard_normal((depth, columns))
    for left in (a, np.ascontiguousarray(a.T).T):
        out = np.full((rows, columns), np.nan)
        assert products.multiply(left, b, out, workers) is out
        np.testing.assert_allclose(out, a @ b, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(blas._functions() is None or not hasattr(os, "fork"), reason="no OpenBLAS, or no fork, here")
def test_a_child_forked_in_the_middle_of_a_run_has_the_callers_number():
    count, put = blas._functions()
    before = count()
    try:
        put(2)
        with create("CPUExecutionProvider").context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other libraries of this process warn of what may become of theirs
            child = os.fork()
            if child == 0:
                found = [count()]
                with create("CPUExecutionProvider").context():
                    found.append(count())
                found.append(count())
                os._exit(int(found != [2, 1, 2]))
        assert os.waitpid(child, 0)[1] == 0
        assert count() == 2
    finally:
        put(before)
