"""How many threads of OpenMP a call of torch gets: small work stays on the one that asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from onnx import parser

import ortlite

torch = pytest.importorskip("torch")
threads = pytest.importorskip("ortlite_torch.threads")
pytestmark = pytest.mark.skipif(threads.SETTERS is None, reason="torch has no OpenMP")
several = pytest.mark.skipif(threads.OPENMP is None, reason="torch has one thread")


def count(*_, **__):
    """How many threads there are where it is called."""
    return torch.tensor(torch.get_num_threads())


@several
def test_small_work_is_done_by_one_thread():
    x, usual = torch.zeros(2), torch.get_num_threads()
    assert usual > 1
    assert int(threads.fit(count, threads.SMALL - 1, x)(x)) == 1
    assert torch.get_num_threads() == usual
    assert threads.fit(count, threads.SMALL, x) is count


@several
def test_an_error_leaves_all_threads():
    usual = torch.get_num_threads()

    def refuses(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        threads.fit(refuses, 1, torch.zeros(2))(torch.zeros(2))
    assert torch.get_num_threads() == usual


@several
def test_other_threads_keep_theirs():
    usual, seen = torch.get_num_threads(), []

    def asks(x):
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        return x + 1

    threads.fit(asks, 1, torch.zeros(2))(torch.zeros(2))
    assert seen == [usual]


@several
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


SOFTMAX = '<ir_version: 8, opset_import: ["": 17]> g (float[N] X) => (float[N] Y) {Y = Softmax(X)}'
LARGE = threads.SMALL // threads.TOUCHED  # elements that one thread does not keep for itself


def session(count, name="TorchExecutionProvider", **given):
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = count
    return ortlite.InferenceSession(parser.parse_model(SOFTMAX).SerializeToString(), options, providers=[(name, given)])


@pytest.fixture
def seen(monkeypatch):
    """How many threads OpenMP and MKL had in every call of torch.softmax."""
    found, real = [], torch.softmax
    by_mkl = threads.SETTERS[1]

    def mkls():
        if by_mkl is None:
            return None
        count = by_mkl(0)
        by_mkl(count)
        return count

    from ortlite import provider

    provider._shared.cache_clear()  # one of its own, which finds this softmax
    monkeypatch.setattr(torch, "softmax", lambda *args: found.append((torch.get_num_threads(), mkls())) or real(*args))
    yield found
    provider._shared.cache_clear()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_session_has_the_threads_it_asks_for(count, seen):
    x, usual = np.ones(LARGE, np.float32), torch.get_num_threads()
    one, free = session(count), session(0)
    outside = seen_outside()
    for _ in range(4):  # interpreted, recorded; then what was recorded runs, in the same context
        one.run(None, {"X": x})
        assert seen_outside() == outside
    assert {n for n, _ in seen} == {count}
    assert {n for _, n in seen} <= {None, count}
    seen.clear()
    free.run(None, {"X": x})
    assert {n for n, _ in seen} == {usual}
    assert session(2, intra_op_num_threads="1").run(None, {"X": x})
    assert seen[-1][0] == 1  # what is given to the provider comes first


def seen_outside():
    """What the caller has."""
    by_mkl = threads.SETTERS[1]
    count = None if by_mkl is None else by_mkl(0)
    if by_mkl is not None:
        by_mkl(count)
    return torch.get_num_threads(), count


def test_threads_that_start_later_and_sessions_within_sessions(seen):
    """A thread that has never called torch takes the process's number at its first call, not in a run."""
    x, made, other = np.ones(LARGE, np.float32), session(1), session(3)
    usual, found = torch.get_num_threads(), []

    def work():
        made.run(None, {"X": x})
        found.append(torch.get_num_threads())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert {n for n, _ in seen} == {1}
    assert found == [usual, usual]
    with threads.On(1):
        with threads.On(3):
            other.run(None, {"X": x})
            assert seen[-1][0] == torch.get_num_threads() == 3
        session(1).run(None, {"X": x})
        assert seen[-1][0] == torch.get_num_threads() == 1
    assert {n for n, _ in seen} == {1, 3}
    assert torch.get_num_threads() == usual


def test_sessions_that_run_at_once_have_their_own(monkeypatch):
    """Each waits, in the middle of a run, for the others to be there, too."""
    counts, rounds = (1, 2, 3), 4
    meeting, found, real = threading.Barrier(len(counts), timeout=60), {}, torch.softmax
    from ortlite import provider

    provider._shared.cache_clear()

    def noted(*args):
        meeting.wait()
        found.setdefault(threading.current_thread().name, []).append(torch.get_num_threads())
        y = real(*args)
        meeting.wait()
        return y

    monkeypatch.setattr(torch, "softmax", noted)
    x, usual = np.ones(LARGE, np.float32), torch.get_num_threads()
    answers, afterwards = [], []

    def work(count):
        made = session(count)
        answers.extend(made.run(None, {"X": x})[0] for _ in range(rounds))
        afterwards.append(torch.get_num_threads())

    workers = [threading.Thread(target=work, args=(count,), name=str(count)) for count in counts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    provider._shared.cache_clear()
    assert found == {str(count): [count] * len(found[str(count)]) for count in counts}
    assert len(answers) == len(counts) * rounds
    for y in answers:
        np.testing.assert_allclose(y, 1 / LARGE, rtol=1e-5)
    assert afterwards == [usual] * len(counts)
    assert torch.get_num_threads() == usual


def test_the_callers_own_setting_stays(seen):
    """Of MKL, too, which torch.set_num_threads tells apart from OpenMP."""
    found = []

    def work():
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            outside = seen_outside()
            session(1).run(None, {"X": np.ones(LARGE, np.float32)})
            found.append((outside, seen_outside()))
        finally:
            torch.set_num_threads(before)

    thread = threading.Thread(target=work)  # what it has set for MKL goes with it
    thread.start()
    thread.join()
    ((before, after),) = found
    assert before == after
    assert seen == [(1, seen[0][1])]
    assert seen[0][1] in {None, 1}


def test_an_error_in_a_run_leaves_the_threads():
    usual = torch.get_num_threads()
    with pytest.raises(ortlite.capi.onnxruntime_pybind11_state.InvalidArgument):
        session(1).run(None, {"X": np.ones((2, 2), np.float32)})
    assert torch.get_num_threads() == usual
    with pytest.raises(ortlite.capi.onnxruntime_pybind11_state.Fail, match="intra_op_num_threads is a number"):
        session(0, intra_op_num_threads="-1")


FORK = """
import os, signal, sys, threading
import numpy as np, torch, ortlite
from onnx import numpy_helper, parser
torch.set_num_threads(2)
text = '<ir_version: 8, opset_import: ["": 17]> g (float[1,16,H,W] x) => (float[a,b,c,d] y) { y = Conv (x, w) }'
model = parser.parse_model(text)
draw = np.random.default_rng(0)
weights = draw.standard_normal((16, 16, 3, 3)).astype(np.float32)
model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
options = ortlite.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
given = {"loops": sys.argv[1]}
session = ortlite.InferenceSession(model.SerializeToString(), options, providers=[("TorchExecutionProvider", given)])
x = draw.standard_normal((1, 16, 96, 96)).astype(np.float32)
for _ in range(3):
    y, = session.run(None, {"x": x})

def right():
    return np.allclose(session.run(None, {"x": x})[0], y, atol=1e-3)

child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for threads which it has not
    found = [right()]
    other = threading.Thread(target=lambda: found.append(right()))
    other.start()
    other.join()
    os._exit(0 if found == [True, True] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@several
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("loops", ["0", "1"])
def test_a_forked_child_waits_for_no_thread(loops, count):
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, loops, str(count)],
        timeout=300, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
