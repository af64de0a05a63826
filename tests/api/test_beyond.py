"""What sessions do besides onnxruntime's: arrays of any library, pickles, forks, asyncio, time limits, operators."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

import ortlite
from ortlite import errors
from ortlite.api import pickles
from ortlite.stopping import RunTimeout
from tests.api.conftest import W, model
from tests.api.test_session_api import loop

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
CPU = ["CPUExecutionProvider"]


@pytest.fixture
def session(mul):
    return ortlite.InferenceSession(mul, providers=CPU)


def available(name):
    if name not in ortlite.get_available_providers():
        pytest.skip(f"no {name} here")
    return name


def test_arrays_of_torch_are_fed(session):
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(session.run(None, {"X": torch.from_numpy(X)})[0], X * W)
    with pytest.raises(errors.InvalidArgument, match=r"tensor\(double\)"):
        session.run(None, {"X": torch.from_numpy(X).double()})
    binding = session.io_binding()
    binding.bind_cpu_input("X", torch.from_numpy(X))
    out = torch.zeros(3, 2)
    binding.bind_output("Y", "cpu", 0, np.float32, [3, 2], out.data_ptr())
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.numpy(), X * W)
    value = session.run_with_ort_values(None, {"X": ortlite.OrtValue.from_dlpack(torch.from_numpy(X))})[0]
    assert torch.from_dlpack(value).tolist() == (X * W).tolist()


def test_arrays_of_the_providers_library_stay_in_it(mul):
    torch = pytest.importorskip("torch")
    session = ortlite.InferenceSession(mul, providers=[available("TorchExecutionProvider")])
    np.testing.assert_array_equal(session.run(None, {"X": torch.from_numpy(X)})[0], X * W)
    assert [copy_.shared for copy_ in session.explain().copies] == [True, True]
    with pytest.raises(errors.InvalidArgument, match="Got invalid dimensions"):
        session.run(None, {"X": torch.zeros(2, 2)})


def test_arrays_of_jax_are_fed(session):
    jnp = pytest.importorskip("jax.numpy")
    np.testing.assert_array_equal(session.run(None, {"X": jnp.asarray(X)})[0], X * W)
    assert ortlite.OrtValue.from_dlpack(jnp.asarray(X)).shape() == [3, 2]


def test_narrow_types_are_fed_and_come_out():
    info = [("X", TensorProto.BFLOAT16, [2])], [("Y", TensorProto.BFLOAT16, [2])]
    session = ortlite.InferenceSession(model([helper.make_node("Neg", ["X"], ["Y"])], *info), providers=CPU)
    array = np.array([1, -2], ml_dtypes.bfloat16)
    (out,) = session.run(None, {"X": array})
    assert out.dtype == array.dtype
    assert out.astype(float).tolist() == [-1, 2]
    torch = pytest.importorskip("torch")
    (out,) = session.run(None, {"X": torch.tensor([1, -2], dtype=torch.bfloat16)})
    assert out.astype(float).tolist() == [-1, 2]


def test_sessions_are_pickled_small(session, mul, tmp_path, monkeypatch):
    again = pickle.loads(pickle.dumps(session))
    np.testing.assert_array_equal(again.run(None, {"X": X})[0], X * W)
    path = tmp_path / "m.onnx"
    path.write_bytes(mul)
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = 1
    data = pickle.dumps(ortlite.InferenceSession(path, options, providers=CPU))
    assert mul not in data
    assert pickle.loads(data).get_session_options().intra_op_num_threads == 1
    path.unlink()
    with pytest.raises(errors.NoSuchFile):
        pickle.loads(data)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(pickles, "INLINE", 10)
    data = pickle.dumps(session)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).run(None, {"X": X})[0], X * W)
    (kept,) = (tmp_path / "ortlite" / "models").iterdir()
    kept.write_bytes(b"something else")
    with pytest.raises(errors.Fail, match="has changed"):
        pickle.loads(data)


def test_sessions_are_copied(session):
    again = copy.deepcopy(session)
    assert again is not session
    np.testing.assert_array_equal(again.run(None, {"X": X})[0], X * W)


def work(session):
    return session.run(None, {"X": X})[0]


METHODS = [name for name in ("spawn", "forkserver", "fork") if name in multiprocessing.get_all_start_methods()]


FORKED = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning", r"ignore:os\.fork:RuntimeWarning")


@FORKED  # other tests have started threads
@pytest.mark.parametrize("method", METHODS)
def test_sessions_go_to_other_processes(session, method):
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(work, (session,)), X * W)
    with ProcessPoolExecutor(1, context) as pool:
        for name, result in zip((None, ["Y"]), pool.map(session.run, (None, ["Y"]), ({"X": X}, {"X": X})), strict=True):
            np.testing.assert_array_equal(result[0], X * W, err_msg=str(name))


@FORKED
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_sessions_go_through_joblib(session, backend):
    joblib = pytest.importorskip("joblib")
    large = np.random.default_rng(0).random((600, 600)).astype(np.float32)  # joblib maps what is above 1 MB
    relu = model([helper.make_node("Relu", ["x"], ["y"])], [("x", 1, [None, None])], [("y", 1, [None, None])])
    other = ortlite.InferenceSession(relu, providers=CPU)
    calls = [joblib.delayed(work)(session), joblib.delayed(other.run)(None, {"x": large})]
    if backend == "loky":  # it sends functions by value
        calls.append(joblib.delayed(lambda times: session.run(None, {"X": X * times})[0])(2))
    first, second, *third = joblib.Parallel(2, backend=backend)(calls)
    np.testing.assert_array_equal(first, X * W)
    np.testing.assert_array_equal(second[0], large)
    for found in third:
        np.testing.assert_array_equal(found, 2 * X * W)


FORK = """
import os, signal, threading
import numpy as np, ortlite
from ortlite.datasets import get_example
session = ortlite.InferenceSession(get_example("mul_1.onnx"), providers=["CPUExecutionProvider"])
x, stop = np.ones((3, 2), np.float32), threading.Event()
def busy():
    while not stop.is_set():
        session.run(None, {"X": x})
        ortlite.InferenceSession(get_example("mul_1.onnx"), providers=["CPUExecutionProvider"]).run(None, {"X": x})
threads = [threading.Thread(target=busy) for _ in range(3)]
[t.start() for t in threads]
bad = 0
for _ in range(25):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits for threads which it has not
        os._exit(0 if session.run(None, {"X": x})[0].tolist() == [[1, 2], [3, 4], [5, 6]] else 1)
    bad += os.waitpid(child, 0)[1] != 0
stop.set()
[t.join() for t in threads]
raise SystemExit(bad)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_run_while_the_parents_threads_do():
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], timeout=300, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_a_time_limit():
    session = ortlite.InferenceSession(loop(10**9), providers=CPU)
    x = {"x": np.zeros(2, np.float32)}
    with pytest.raises(RunTimeout, match=r"after its timeout of 0.2 seconds"):
        session.run(None, x, timeout=0.2)
    with pytest.raises(TimeoutError):
        session.run(None, x, timeout=0.1)
    assert ortlite.InferenceSession(loop(3), providers=CPU).run(None, x, timeout=60)[0].tolist() == [3, 3]


def test_a_run_ends_soon_after_it_is_told_to():
    session, options = ortlite.InferenceSession(loop(10**9), providers=CPU), ortlite.RunOptions()
    told = []

    def tell():
        told.append(time.monotonic())
        options.terminate = True

    threading.Timer(0.2, tell).start()
    with pytest.raises(errors.Fail):
        session.run(None, {"x": np.zeros(2, np.float32)}, options)
    assert time.monotonic() - told[0] < 5  # milliseconds; other work may be in between


def test_asyncio(session):
    async def both():
        return await asyncio.gather(session.run_async_(None, {"X": X}), session.run_async_(["Y"], {"X": 2 * X}))

    first, second = asyncio.run(both())
    np.testing.assert_array_equal(first[0], X * W)
    np.testing.assert_array_equal(second[0], 2 * X * W)


def test_a_cancelled_task_ends_its_run():
    session = ortlite.InferenceSession(loop(10**9), providers=CPU)

    async def impatient():
        await asyncio.wait_for(session.run_async_(None, {"x": np.zeros(2, np.float32)}), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert idle()


def idle():
    """Whether the thread of asynchronous runs is free for another."""
    done = threading.Event()
    session = ortlite.InferenceSession(loop(1), providers=CPU)
    session.run_async(None, {"x": np.zeros(2, np.float32)}, lambda *result: done.set(), None)
    return done.wait(30)


FOO = helper.make_node("Foo", ["X"], ["Y"], "foo", domain="my.domain", factor=3.0)


def custom():
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "XY"]
    graph = helper.make_graph([FOO], "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets).SerializeToString()


def test_an_operator_of_ones_own_in_one_session_alone():
    def foo(xp, X, *, factor: float = 1.0):
        return X * factor

    options = ortlite.SessionOptions()
    options.register_op("my.domain", "Foo", foo)
    session = ortlite.InferenceSession(custom(), options, providers=CPU)
    assert session.run(None, {"X": np.ones(2, np.float32)})[0].tolist() == [3, 3]
    with pytest.raises(errors.Fail, match=r"my\.domain:Foo"):
        ortlite.InferenceSession(custom(), providers=CPU)


CELLS = """
import numpy as np, ortlite
from tests.api.test_beyond import custom
CELL = '''
@ortlite.op("my.domain", "Foo", since=1)
def foo(xp, X, *, factor: float):
    return X * factor * TIMES
'''
for times in ("1", "2"):
    exec(CELL.replace("TIMES", times))
    session = ortlite.InferenceSession(custom(), providers=["CPUExecutionProvider"])
    print(session.run(None, {"X": np.ones(2, np.float32)})[0].tolist())
"""


def test_a_cell_that_defines_an_operator_may_be_run_again():
    found = subprocess.run([sys.executable, "-c", CELLS], capture_output=True, text=True, check=False)
    assert found.stdout.split("\n")[:2] == ["[3.0, 3.0]", "[6.0, 6.0]"], found.stderr


def test_thread_affinities_are_not_ignored_without_a_word(mul):
    options = ortlite.SessionOptions()
    options.add_session_config_entry("session.intra_op_thread_affinities", "1")
    with pytest.warns(UserWarning, match="sched_setaffinity"):
        ortlite.InferenceSession(mul, options)


def test_a_provider_that_fails_in_a_run_is_told_of(session, capfd, monkeypatch):
    run = session._run

    def fails_once(*arguments):
        monkeypatch.setattr(session, "_run", run)
        raise errors.EPFail("no device")

    monkeypatch.setattr(session, "_run", fails_once)
    assert session.run(["Y"], {"X": X})[0].shape == (3, 2)
    said = capfd.readouterr().err
    assert "no device" in said
    assert "Falling back to ['CPUExecutionProvider']" in said
