"""The collector rests while sessions are made, and only then."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import ortlite
from ortlite import garbage, pipeline
from ortlite.garbage import uncollected
from tests.api.test_beyond import FORKED

DIGITS = Path(ortlite.__file__).parent / "demo" / "digits.onnx"


@pytest.fixture(autouse=True)
def _on():
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_nothing_is_collected_within():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="wrong"), uncollected():
        raise ValueError("wrong")


def test_who_turned_it_off_finds_it_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_frozen_stays_frozen():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with uncollected():
            pass
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()


@contextmanager
def another_inside():
    """Within, another thread is inside `uncollected`."""
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with uncollected():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_two_threads():
    """The last that leaves turns it on."""
    with ExitStack() as stack:
        with uncollected():
            stack.enter_context(another_inside())
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked")
@FORKED
def test_a_forked_child_collects():
    """Whatever the parent's other threads were at."""
    with another_inside():
        child = os.fork()
        if not child:
            with uncollected():
                pass
            os._exit(not gc.isenabled())
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked")
@FORKED
def test_a_child_forked_while_the_last_one_leaves_collects(monkeypatch):
    children = []

    def fork():
        children.append(os.fork())
        if not children[-1]:
            os._exit(not gc.isenabled())
        return 0

    monkeypatch.setattr(garbage.gc, "get_freeze_count", fork)
    with uncollected():
        pass
    assert len(children) == 1
    assert os.waitpid(children[0], 0)[1] == 0


def test_a_session_is_made_without_it(monkeypatch):
    build, found = pipeline.build, []
    monkeypatch.setattr(pipeline, "build", lambda *args, **given: found.append(gc.isenabled()) or build(*args, **given))
    ortlite.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    assert found == [False]
    with pytest.raises(ortlite.errors.InvalidProtobuf):
        ortlite.InferenceSession(b"nothing", providers=["CPUExecutionProvider"])
