"""Work that threads share: every range is done, by whoever is free; many callers, errors, forks."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ortlite_numpy import threads
from ortlite_numpy.compiled.team import load, pause, store

LOOKS = 1 << 20  # a tenth of a second at most


@pytest.fixture
def kernel():
    """A compiled kernel of arrays x and y over a range, which gives y the sigmoid of x."""
    pytest.importorskip("numba")
    from ortlite_numpy.compiled import elementwise

    return elementwise.EACH["sigmoid"]


def computed(kernel, count, most, parts, team=threads.TEAM):
    """What the kernel gives, in ranges, of `count` numbers; and whether it wrote only where it should."""
    x = np.linspace(-5, 5, count + 1, dtype=np.float32)
    y = np.full(count + 1, -1, np.float32)
    kernel.shared(team, most, parts, count, x, y)
    return np.allclose(y[:-1], 1 / (1 + np.exp(-x[:-1])), atol=1e-6) and y[-1] == -1


@pytest.fixture(params=["asleep", "looking out"])
def waiting(request, monkeypatch):
    """Helpers that sleep when they have nothing to do, and such as first look out for work in compiled code."""
    team = None
    if request.param != "asleep":
        pytest.importorskip("numba")
        from ortlite_numpy.compiled import team
    monkeypatch.setattr(threads, "_waiting", team)


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


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (1, 2), (7, 3), (1000, 1), (1000, 17), (1000, 5000)])
def test_a_compiled_kernel_does_all_its_ranges(kernel, most, count, parts):
    threads.wake(1.0, most)  # so that helpers take part, if they are soon enough
    assert all(computed(kernel, count, most, parts) for _ in range(20))


def meet(at, looks, start, stop):
    """Say that the range has begun, and look whether the other one does; of two ranges."""
    for i in range(start, stop):
        store(at + 8 * i, 1)
        looked = 0
        while looked < looks and load(at + 8 * (1 - i)) == 0:
            looked += 1
            pause()
        store(at + 16 + 8 * i, 1 if looked < looks else 0)


def test_a_helper_that_looks_out_takes_part(monkeypatch):
    """Two ranges wait for each other, which one thread cannot do. The helper here is the test's own."""
    pytest.importorskip("numba")
    from ortlite_numpy.compiled import disk, jit, team

    monkeypatch.setattr(disk, "cache_class", lambda: None)
    rows, found, ended = np.zeros((2, threads.ROW // 8), np.int64), np.zeros(4, np.int64), threading.Event()
    rows[0, threads.HELPERS // 8] = 1
    here = rows.ctypes.data
    both = jit.Loops(meet, jit.EXACT).shared
    both(here, 1, 1, 0, found.ctypes.data, LOOKS)  # compiles it
    team.for_work(here + threads.ROW, 0)

    def serve():
        while not ended.is_set():
            team.for_work(here + threads.ROW, 0)

    helper = threading.Thread(target=serve)
    helper.start()
    try:
        for _ in range(100):  # it may not look just then
            found[:] = 0
            both(here, 2, 2, 2, found.ctypes.data, LOOKS)
            if found[2:].all():
                break
    finally:
        ended.set()
        helper.join()
    assert found.tolist() == [1, 1, 1, 1]
    assert rows[1, threads.STATE // 8] == 0


def test_many_callers_of_compiled_kernels_share_the_helpers(kernel):
    def call(caller):
        threads.wake(1.0, 2)
        return all(computed(kernel, 3000 + caller, 2, 40) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(8)))


def test_helpers_serve_python_and_compiled_kernels_by_turns(kernel):
    done = []
    for turn in range(1, 51):
        threads.split(lambda start, stop: done.append(stop - start), 8, 1.0, 2, finely=True)
        assert sum(done) == 8 * turn
        assert computed(kernel, 3000, 2, 40)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_compiled_kernel_runs_in_a_forked_child(kernel):
    threads.wake(1.0, 2)
    assert computed(kernel, 3000, 2, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        alone = computed(kernel, 3000, 2, 40)
        threads.wake(1.0, 2)
        os._exit(0 if alone and computed(kernel, 3000, 2, 40) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("most", [1, 2])
def test_a_kernel_without_memory_says_so(most):
    pytest.importorskip("numba")
    from ortlite_numpy.compiled.products import multiply_rows

    many = 1 << 40  # rows of a block, for which there is no room
    b, row = np.zeros((1, 8, 16), np.float32), np.zeros(16, np.float32)
    inf = np.float32(-np.inf), np.float32(np.inf)
    with pytest.raises(MemoryError, match="a compiled kernel failed"):
        multiply_rows.shared(
            threads.TEAM, most, 4, 4, row, 1, 1, b, row, row[:0], *inf, row, 1, many, 1, 6, 8, many, True
        )


class Interrupts:
    """A queue that Control-C keeps from the first thing put into it."""

    def __init__(self, queue):
        self.queue, self.left = queue, 1

    def __getattr__(self, name):
        return getattr(self.queue, name)

    def put(self, item):
        left, self.left = self.left, 0
        if left:
            raise KeyboardInterrupt
        self.queue.put(item)


def interrupted(work):
    raise KeyboardInterrupt


def idle(helper):
    """Whether it is, within two seconds."""
    for _ in range(2000):
        if helper in threads._idle and not helper.awake:
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("where", ["before it has work", "before it knows"])
def test_an_interrupt_loses_no_helper(monkeypatch, where):
    monkeypatch.setattr(threads, "limit", lambda: 2)
    monkeypatch.setattr(threads, "_waiting", None)  # helpers sleep when they have nothing to do
    threads.split(lambda start, stop: None, 2, 1.0, 2)
    (helper,) = threads._helpers[:1]
    assert idle(helper)
    with monkeypatch.context() as patch:
        if where == "before it knows":
            patch.setattr(helper, "begun", Interrupts(helper.begun))
        else:
            patch.setattr(helper, "begin", interrupted)
        threads._idle.remove(helper)
        threads._idle.append(helper)  # the next one taken
        with pytest.raises(KeyboardInterrupt):
            threads.split(lambda start, stop: None, 2, 1.0, 2)
    assert idle(helper)
    assert threads._idle.count(helper) == 1
    assert helper.work is None


def test_an_error_holds_no_arrays_for_longer_than_itself():
    array = np.zeros(4)
    gone = weakref.ref(array)

    def fails(start, stop, array=array):
        raise ValueError("on purpose")

    gc.disable()
    try:
        try:
            threads.split(fails, 2, 1.0, 2)
        except ValueError as error:  # pytest.raises keeps it
            assert str(error) == "on purpose"  # noqa: PT017
        assert all(map(idle, threads._helpers))  # no longer about to begin
        del fails, array
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_another_librarys_threads_do_the_work(kernel, parts):
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    calls = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def together(fn, data, count, flags):
        calls.append((count, flags))
        helpers = [threading.Thread(target=kind(fn), args=(data,)) for _ in range(2)]
        for helper in helpers:
            helper.start()
        kind(fn)(data)
        for helper in helpers:
            helper.join()

    team = threads.another_team(ctypes.cast(together, ctypes.c_void_p).value)
    assert computed(kernel, 1000, 3, parts, team)
    assert calls == ([(0, 0)] if parts > 1 else [])


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("pool", ["at once", "beside", "late", "full"])
def test_another_librarys_pool_takes_part(kernel, pool, parts):
    """Tasks run on the calling thread, on others, when the caller has gone on, or not at all."""
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    began, later = [], []

    @ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))
    def schedule(args):
        size, extension, context, fn, block = args[:5]
        began.append((size, extension, context))
        if pool == "at once":
            task(fn)(block)
        elif pool == "late":
            later.append((fn, block))
        elif pool == "beside":
            thread = threading.Thread(target=task(fn), args=(block,))
            later.append(thread)
            thread.start()
        return pool == "full"

    row = threads.pool_team()
    row[threads.SCHEDULE // 8] = ctypes.cast(schedule, ctypes.c_void_p).value
    row[threads.CONTEXT // 8] = 17
    for _ in range(30):  # blocks serve again when their tasks have ended, and no more are offered than there are
        assert computed(kernel, 1000, 3, parts, row.ctypes.data)
    assert set(began) == ({(40, 0, 17)} if parts > 1 else set())
    blocks = (threads.ROW - threads.BLOCKS) // 16
    assert len(began) == (0 if parts == 1 else blocks if pool == "late" else 1 if pool == "full" else len(began))
    for item in later:
        item.join() if pool == "beside" else task(item[0])(item[1])
    assert not row[threads.BLOCKS // 8 :: 2].any()  # all free
    assert computed(kernel, 1000, 3, parts, row.ctypes.data)
    if pool == "late":
        for fn, block in later[blocks:]:
            task(fn)(block)
