"""What overrides derive from constants is made once."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import HEAD, graph

from ortlite import pipeline
from ortlite.derived import Derived
from ortlite.load.tensors import Tensors
from ortlite.provider import create

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
