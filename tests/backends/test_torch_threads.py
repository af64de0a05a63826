"""How many threads of OpenMP a call of torch gets: small work stays on the one that asks for it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import parser

import ortlite

torch = pytest.importorskip("torch")
threads = pytest.importorskip("ortlite_torch.threads")
pytestmark = pytest.mark.skipif(threads.OPENMP is None, reason="torch has one thread, or no OpenMP")


def count(*_, **__):
    """How many threads there are where it is called."""
    return torch.tensor(torch.get_num_threads())


def test_small_work_is_done_by_one_thread():
    x, usual = torch.zeros(2), torch.get_num_threads()
    assert usual > 1
    assert int(threads.fit(count, threads.SMALL - 1, x)(x)) == 1
    assert torch.get_num_threads() == usual
    assert threads.fit(count, threads.SMALL, x) is count


def test_an_error_leaves_all_threads():
    usual = torch.get_num_threads()

    def refuses(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        threads.fit(refuses, 1, torch.zeros(2))(torch.zeros(2))
    assert torch.get_num_threads() == usual


def test_other_threads_keep_theirs():
    usual, seen = torch.get_num_threads(), []

    def asks(x):
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        return x + 1

    threads.fit(asks, 1, torch.zeros(2))(torch.zeros(2))
    assert seen == [usual]


def test_recordings_do_the_same(monkeypatch):
    """In a session: interpreted, while it is recorded, and afterwards."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] X) => (float[N, 8] Y) {P = MatMul(X, W) Y = Softmax(P)}'
    )
    model = parser.parse_model(text)
    from onnx import numpy_helper

    weights = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "W"))
    seen = []
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda *args: seen.append(torch.get_num_threads()) or real(*args))
    session = ortlite.InferenceSession(model.SerializeToString(), providers=["TorchExecutionProvider"])
    usual = torch.get_num_threads()
    answers = [session.run(None, {"X": np.ones((3, 8), np.float32)})[0] for _ in range(4)]
    assert seen
    assert set(seen) == {1}
    assert torch.get_num_threads() == usual
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
