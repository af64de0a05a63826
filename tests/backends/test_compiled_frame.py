"""How compiled kernels come to a session: lazily, from a cache of ours, the same in every run, on any thread."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba")

import onnx
from click.testing import CliRunner
from onnx import helper

import ortlite
from ortlite import cache, provider
from ortlite.cli import main
from ortlite_numpy import compiled, threads
from ortlite_numpy.compiled import disk, elementwise, jit
from ortlite_numpy.compiled.team import load, pause, store

OFF = [("CPUExecutionProvider", {"compiled": "0"})]
ON = ["CPUExecutionProvider"]


def model(op="Sigmoid", **attributes):
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


def alone(code, **env):
    """Run code in a process of its own; `model` is there, and a fresh directory as the cache only if asked for."""
    text = textwrap.dedent(code)
    data = f"model, relu = {model()!r}, {model('Relu')!r}\n"
    head = "import sys, numpy as np, ortlite\n" + data
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", head + text],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_numba_is_imported_by_who_needs_it():
    alone("""
        assert "numba" not in sys.modules
        plain = ortlite.InferenceSession(relu, providers=["CPUExecutionProvider"])
        plain.run(None, {"x": np.ones((1, 8), np.float32)})
        off = ortlite.InferenceSession(model, providers=[("CPUExecutionProvider", {"compiled": "0"})])
        off.run(None, {"x": np.ones((1, 8), np.float32)})
        assert "numba" not in sys.modules
        ortlite.InferenceSession(model, providers=["CPUExecutionProvider"])
        assert "numba" in sys.modules  # at creation, not in the first run
    """)


def test_the_environment_says_no():
    alone(
        """
        ortlite.InferenceSession(model).run(None, {"x": np.ones((1, 8), np.float32)})
        assert "numba" not in sys.modules
        """,
        ORTLITE_COMPILED="0",
    )


def test_a_numba_that_is_told_to_compile_nothing_is_left_alone():
    alone(
        """
        ortlite.InferenceSession(model).run(None, {"x": np.ones((1, 8), np.float32)})
        assert "numba" not in sys.modules
        """,
        NUMBA_DISABLE_JIT="1",
    )


def test_without_numba_everything_is_as_before():
    alone("""
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "numba" else find(name, *more)
        sys.modules["numba"] = None
        ortlite.InferenceSession(model).run(None, {"x": np.ones((1, 8), np.float32)})
    """)


def test_a_numba_that_cannot_be_imported_is_told_of(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.26 or less')")
    out = alone(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        try:
            ortlite.InferenceSession(model)
        except Exception as error:
            print(error)
    """)
    assert "NumPy 1.26 or less" in out
    assert "compiled=0" in out


def test_what_is_compiled_is_kept_where_the_user_keeps_such_things(tmp_path):
    code = """
        from ortlite_numpy.compiled import elementwise
        session = ortlite.InferenceSession(model, providers=["CPUExecutionProvider"])
        print(session.run(None, {"x": np.ones((1, 8), np.float32)})[0][0, 0])
        print(sum(elementwise.EACH["sigmoid"].shared.run.stats.cache_hits.values()))
    """
    first = alone(code, XDG_CACHE_HOME=str(tmp_path)).split()
    second = alone(code, XDG_CACHE_HOME=str(tmp_path)).split()
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("0", "1"), "the second process finds what the first compiled"
    (folder,) = (tmp_path / "ortlite").iterdir()
    assert folder.stat().st_mode & 0o077 == 0, "what is loaded from there is code"


def test_damaged_files_are_made_anew(tmp_path):
    code = "print(ortlite.InferenceSession(model).run(None, {'x': np.ones((1, 8), np.float32)})[0][0, 0])"
    alone(code, XDG_CACHE_HOME=str(tmp_path))
    for path in (tmp_path / "ortlite").rglob("*.nb*"):
        path.write_bytes(b"damaged")
    alone(code, XDG_CACHE_HOME=str(tmp_path))


@pytest.mark.parametrize("home", ["/proc/nowhere", "file"])
def test_a_home_that_cannot_be_written_is_no_error(tmp_path, home):
    if home == "file":
        home = tmp_path / "file"
        home.write_text("")
    alone("ortlite.InferenceSession(model).run(None, {'x': np.ones((1, 8), np.float32)})", XDG_CACHE_HOME=str(home))


def test_arrays_that_must_not_be_written_compile_nothing_more():
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(3, 8)
    kernel = elementwise.EACH["sigmoid"]
    want = elementwise.sigmoid(None, x)
    known = list(kernel.run.signatures)
    owner = x.copy()
    owner.flags.writeable = False
    for given in (owner, owner.view(), np.frombuffer(x.tobytes(), np.float32).reshape(3, 8), x[:, ::2], x.T, owner.T):
        got = elementwise.sigmoid(None, given)
        assert np.array_equal(got, elementwise.sigmoid(None, given.copy()))
        assert got.flags.writeable
    assert np.array_equal(elementwise.sigmoid(None, owner), want)
    assert list(kernel.run.signatures) == known
    assert not owner.flags.writeable


def test_explain_says_which_kernel_runs():
    assert "ortlite_numpy.compiled.elementwise" in str(ortlite.InferenceSession(model(), providers=ON).explain())
    told = ortlite.InferenceSession(model(), providers=OFF).explain()
    assert "ortlite_numpy.compiled" not in str(told)
    assert told.nodes[0].kernel == ""


def test_sessions_agree_and_answers_do_not_change_between_runs():
    x = np.linspace(-9, 9, 80, dtype=np.float32).reshape(10, 8)
    session = ortlite.InferenceSession(model("Gelu"), providers=ON)
    first = session.run(None, {"x": x})[0]
    for _ in range(4):
        assert np.array_equal(session.run(None, {"x": x})[0], first)
    plain = ortlite.InferenceSession(model("Gelu"), providers=OFF).run(None, {"x": x})[0]
    np.testing.assert_allclose(first, plain, rtol=1e-6, atol=1e-6)


def test_many_threads_at_once():
    """Large enough that every call shares its work with the pool."""
    x = np.linspace(-9, 9, 3_000_000, dtype=np.float32)
    want = elementwise.gelu(None, x)
    wrong = []

    def work():
        for _ in range(3):
            if not np.array_equal(elementwise.gelu(None, x), want):
                wrong.append(1)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@jit.loops()
def wait_for_the_other(place, start, stop):
    """The first range waits, a second or so at most, until the second has said that it is done."""
    if start > 0:
        store(place, 1)
        return
    for _ in range(1 << 25):
        if load(place) != 0:
            store(place + 8, 1)
            return
        pause()


@pytest.mark.skipif(threads.limit() < 2, reason="this process may use one processor alone")
def test_a_helper_that_wakes_up_late_takes_part():
    """However long the first range takes. Beside other work it may come too early, and be asleep again: not always."""
    flags = np.ones(2, np.int64)
    given = (SimpleNamespace(threads=2), wait_for_the_other, (flags.ctypes.data,), 2, 1.0)
    jit.share(*given)  # compiles, and makes a helper
    for _ in range(40):
        flags[:] = 0
        deadline = time.monotonic() + 60
        while any(helper.awake for helper in threads._helpers) and time.monotonic() < deadline:
            time.sleep(0.01)
        jit.share(*given)
        if flags.all():
            return
    pytest.fail("no helper took part")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_computes():
    alone("""
        import os
        from ortlite_numpy.compiled import elementwise
        x = np.linspace(-9, 9, 3_000_000, dtype=np.float32)
        want = elementwise.gelu(None, x)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(elementwise.gelu(None, x), want) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """)


def test_what_a_compiled_kernel_leaves_goes_to_the_next_and_then_to_the_kernel():
    double = np.linspace(-3, 3, 8)
    both = provider.create("CPUExecutionProvider").overrides
    assert elementwise.sigmoid(None, double) is NotImplemented
    x = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [8])
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", [x], [y])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    got = ortlite.InferenceSession(data, providers=ON).run(None, {"x": double})[0]
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-double)), rtol=1e-12)
    assert set(compiled.OVERRIDES) <= set(both)


def test_chains_hand_derived_to_who_wants_it():
    from ortlite_numpy.compiled import table

    def first(xp, x, *, derived=None):
        return NotImplemented if derived is None or x < 0 else ("first", x)

    def second(xp, x):
        return ("second", x)

    chain = table.both(first, second)
    assert chain(None, 1, derived=1) == ("first", 1)
    assert chain(None, -1, derived=1) == ("second", -1)
    chain = table.both(second, first)
    assert chain(None, 1, derived=1) == ("second", 1)


def test_what_warms_convolutions_makes_all_that_they_need():
    """Of every kind, with weights that stay or change: no run compiles anything."""
    alone("""
        from numba.core import event
        from ortlite.derived import Derived
        from ortlite_numpy import compiled
        from ortlite_numpy.compiled import table, team

        team.warm()
        conv = compiled.OVERRIDES["", "Conv", 1]
        table.warm(conv, ("float32",), {"group": 1}), table.warm(conv, ("float32",), {"group": 4})
        with event.install_recorder("numba:compile") as compiled_late:
            for c, m, k, group in (  # 48 channels go by tiles
                (3, 8, 3, 1), (48, 40, 3, 1), (40, 40, 1, 1), (64, 16, 5, 1), (64, 64, 3, 4), (8, 8, 3, 8),
                (12, 24, 3, 6),
            ):
                for size, rank in ((20, 2), (3, 2), (300, 1), (5, 1)):
                    w = np.ones((m, c // group, *[min(k, size)] * rank), np.float32)
                    x = np.ones((1, *[size] * rank, c), np.float32)
                    for layout in (np.moveaxis(x, -1, 1), np.ascontiguousarray(np.moveaxis(x, -1, 1))):
                        for derived in (Derived([w]), Derived([])):
                            for gap in (1, 2):
                                dilations = [gap if size > 5 else 1] * rank
                                conv(None, layout, w, group=group, dilations=dilations, derived=derived)
        late = [str(made.data["dispatcher"]) for _, made in compiled_late.buffer]
        assert not late, late
    """)


def test_what_is_read_from_the_disk_is_compiled_into_others(tmp_path):
    """A function that another kernel calls is read as machine code; the next kernel is compiled from the rest of it."""
    (tmp_path / "kernels.py").write_text(
        textwrap.dedent("""
            from ortlite_numpy.compiled.jit import loops

            @loops()
            def add(x, by, start, stop):
                if start > stop:
                    raise ValueError("backwards")  # which needs what numba keeps of Python's beside the code
                for i in range(start, stop):
                    x[i] += by

            @loops()
            def twice(x, by, start, stop):
                add(x, by, start, stop)
                add(x, by, start, stop)

            @loops()
            def thrice(x, by, start, stop):
                twice(x, by, start, stop)
                add(x, by, start, stop)
        """)
    )
    code = """
        import os
        sys.path.insert(0, os.environ["KERNELS"])
        import kernels
        from numba.core import event
        with event.install_recorder("numba:compile") as made:
            for name, by in (pair.split("=") for pair in os.environ["CALLS"].split()):
                x = np.zeros(9, np.float32)
                getattr(kernels, name)(x, np.float32(by), 1, 8)
                assert x[0] == x[8] == 0 and (x[1:8] == 6).all(), (name, x)
                try:
                    getattr(kernels, name)(x, np.float32(by), 8, 1)
                except ValueError as error:
                    assert str(error) == "backwards"
                else:
                    raise AssertionError(name)
        print(*{what.data["dispatcher"].py_func.__name__ for _, what in made.buffer})
    """
    for made, calls in (
        ("add", "add=6"), ("twice", "twice=3 add=6"), ("thrice", "add=6 thrice=2 twice=3"), ("", "thrice=2 add=6"),
    ):  # fmt: skip
        given = {"KERNELS": str(tmp_path), "CALLS": calls, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        assert alone(code, **given).strip() == made


def test_a_folder_of_kernels_says_when_it_was_last_used(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "directory", lambda: tmp_path)
    monkeypatch.setattr(disk._Locator, "folder", disk._Locator.folder)
    os.utime(tmp_path, (0, 0))
    assert disk.cache_class.__wrapped__() is not None
    assert abs(tmp_path.stat().st_mtime - time.time()) < 1000


def test_warm_compiles_and_says_where(monkeypatch):
    monkeypatch.setattr(compiled, "warm_all", lambda processes: 3)
    monkeypatch.setattr(cache, "remove_unused", lambda _: [])  # this is the user's
    result = CliRunner().invoke(main, ["warm"])
    assert result.exit_code == 0, result.output
    assert "3 operators" in result.output
    assert str(disk.directory()) in result.output


def test_warm_without_numba_says_what_to_install(monkeypatch):
    monkeypatch.setattr(provider.create("CPUExecutionProvider"), "compiles_ahead", False)
    result = CliRunner().invoke(main, ["warm"])
    assert result.exit_code == 1
    assert "ortlite[fast]" in result.output
