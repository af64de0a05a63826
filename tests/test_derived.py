"""What overrides derive from constants is made once; threads of ours share work and survive a fork."""

from __future__ import annotations

import os
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import HEAD, graph

from ortlite import pipeline
from ortlite.derived import Derived
from ortlite.load.tensors import Tensors
from ortlite.provider import create
from ortlite_numpy import threads

CPU = "CPUExecutionProvider"


def doubled(x, factor=2):
    doubled.calls += 1
    return x * factor


@pytest.fixture(autouse=True)
def _count():
    doubled.calls = 0


def test_results_of_constants_are_made_once_and_counted():
    w, other = np.ones(4, np.float32), np.ones(4, np.float32)
    derived = Derived([w])
    assert derived(doubled, w) is derived(doubled, w)
    assert derived(doubled, w, 3)[0] == 3
    assert doubled.calls == 2
    assert derived(doubled, other) is not derived(doubled, other)
    assert doubled.calls == 4
    assert derived.nbytes == 2 * w.nbytes


def test_threads_that_ask_at_the_same_time_get_one_result():
    w = np.ones(4, np.float32)
    derived, start = Derived([w]), threading.Barrier(8)

    def ask(_):
        start.wait()
        return id(derived(doubled, w))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert doubled.calls == 1


def test_an_override_is_given_what_the_session_derived(monkeypatch):
    def relu(xp, X, *, derived=None):
        return NotImplemented if X.ndim > 1 else X + derived(doubled, weight)[0]

    weight = np.ones(1, np.float32)
    cpu = create(CPU)
    monkeypatch.setattr(type(cpu), "overrides", {("", "Relu", 1): relu})
    from ortlite import plan

    plan._overrides.cache_clear()
    try:
        stages = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Relu(x) }"), [cpu])
        stages.program.shared.derived.watch([weight])
        for _ in range(4):  # interpreted, then specialised
            assert stages.program([np.float32([-1, 1])])[0].tolist() == [1, 3]
        assert doubled.calls == 1
        assert stages.program([np.float32([[-1, 1]])])[0].tolist() == [[0, 1]]  # NotImplemented: the kernel
    finally:
        plan._overrides.cache_clear()


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_constants_in_files_are_there_after_their_memory_was_given_back(mode, tmp_path):
    """What was written to a private map is, too."""
    path = tmp_path / "weights"
    np.arange(50_000, dtype=np.float32).tofile(path)
    weights = np.memmap(path, np.float32, mode)
    if mode != "r":
        weights[7] = -1
    before = np.array(weights)
    view = np.asarray(weights)[1:40_001].reshape(200, 200)
    derived = Derived([view])
    assert derived(np.transpose, view)[3, 5] == before[1 + 5 * 200 + 3]
    np.testing.assert_array_equal(weights, before)
    np.testing.assert_array_equal(view.reshape(-1), before[1:40_001])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="nobody tells here what memory a map holds")
def test_constants_in_files_give_their_memory_back(tmp_path):
    """Those that are mapped as a model's weights are."""
    path = tmp_path / "weights"
    np.ones(1 << 20, np.float32).tofile(path)
    weights = Tensors(tmp_path)._file("w", "weights").view(np.float32).reshape(1024, 1024)
    assert weights.sum() == 1 << 20

    def held():
        (lines,) = re.findall(rf"{path}\n(?:\w+:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
        return int(lines)

    assert held() > 4000
    Derived([weights])(np.negative, weights)
    assert held() < 100
    assert weights.sum() == 1 << 20


@pytest.fixture(params=["asleep", "looking out"])
def waiting(request, monkeypatch):
    """Helpers that sleep when they have nothing to do, and such as first look out for work in compiled code."""
    waiting = None
    if request.param != "asleep":
        pytest.importorskip("numba")
        from ortlite_numpy.compiled import waiting
    monkeypatch.setattr(threads, "_waiting", waiting)


@pytest.mark.parametrize("finely", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_every_part_of_the_work_is_done_once(count, seconds, finely, waiting):
    done = np.zeros(count, np.int64)

    def work(start, stop):
        done[start:stop] += 1

    for _ in range(20):
        done[:] = 0
        threads.split(work, count, seconds, 3, finely)
        assert (done == 1).all()


def test_many_callers_share_the_helpers(waiting):
    """Each gets all of its own work done, whoever does it."""

    def call(_):
        done = np.zeros(50, np.int64)

        def work(start, stop):
            done[start:stop] += 1

        for _ in range(100):
            threads.split(work, 50, 1.0, 3, finely=True)
        return (done == 100).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(8)))


def test_an_error_in_another_thread_reaches_the_caller(waiting):
    def work(start, stop):
        raise ValueError(f"{start}")

    with pytest.raises(ValueError, match=r"\d"):
        threads.split(work, 10, 1.0, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own(waiting):
    threads.split(lambda a, b: None, 4, 1.0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries of this process warn of what may become of theirs
        child = os.fork()
    if not child:
        total = []
        threads.split(lambda a, b: total.append(b - a), 4, 1.0, 2)
        os._exit(0 if sum(total) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
