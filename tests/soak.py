"""Soak: sixteen threads for minutes: changing shapes, sessions made and dropped, errors, cancellations, timeouts.

`python -m tests.soak --minutes 20` (or `nox -s soak -- --minutes 5`). Exit status 1: a wrong answer, an exception that
is none of those that were asked for, memory that grows, or a thread or a file that is left. The process is watched
after a warm-up of a fifth of the time: what is resident at the end of each of the minutes that follow must not grow
by more than `GROWTH`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper, parser

import ortlite
from conformance import run_main
from ortlite.errors import Fail, InvalidArgument

THREADS = 16
GROWTH = 48 * 2**20  # bytes, over the whole time that is watched: caches of an allocator move by some of it
PATIENCE = 1200.0  # seconds by the clock: the process may stand still beside others, while that goes on
LEFT = 2  # threads and files that may be more at the end than after the warm-up
HEAD = '<ir_version: 9, opset_import: ["": 21]> '
MODELS = {
    "mlp": "m (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
    "loop": (
        "m (float[N,8] x) => (float[N,8] y) { n = Constant <value = int64 {5}> () c = Constant <value = bool {1}> () "
        "y = Loop (n, c, x) <body = b (int64 i, bool go, float[N,8] s) => (bool on, float[N,8] t) "
        "{ on = Identity(go) t = Mul(s, k) }> }"
    ),
    "shapes": "m (float[N,8] x) => (float[?,?] y) { s = Shape(x) t = Expand(k, s) u = Add(x, t) y = Transpose(u) }",
    "conv": "m (float[N,8] x) => (float[?,?,?,?] y) { a = Unsqueeze(x, axes) y = Conv <pads = [1,1,1,1]> (a, f) }",
    "choice": "m (float[N,8] x) => (float[?] y) { z = NonZero(x) y = GatherND(x, t) t = Transpose(z) }",
}
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((8, 16)).astype(np.float32),
    "v": RNG.standard_normal((16, 4)).astype(np.float32),
    "k": np.float32([0.5]),
    "f": RNG.standard_normal((2, 1, 3, 3)).astype(np.float32),
    "axes": np.int64([0, 1]),
}


def source(name: str) -> bytes:
    """A model, with those of the weights that it reads."""
    model = parser.parse_model(HEAD + MODELS[name])
    inner = [n for node in model.graph.node for a in node.attribute if a.HasField("g") for n in a.g.node]
    read = {value for node in (*model.graph.node, *inner) for value in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in WEIGHTS.items() if n in read)
    return model.SerializeToString()


def expected(name: str, x: np.ndarray) -> np.ndarray:
    """What a model gives, by NumPy."""
    if name == "mlp":
        return np.maximum(x @ WEIGHTS["w"], 0) @ WEIGHTS["v"]
    if name == "loop":
        return x * np.float32(0.5**5)
    if name == "shapes":
        return (x + np.float32(0.5)).T
    if name == "choice":
        return x[x != 0]
    padded = np.pad(x, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.einsum("hwij,mij->mhw", windows, WEIGHTS["f"][:, 0])[None].astype(np.float32)


class Soak:
    """What all threads share: sessions, counts, and what went wrong."""

    def __init__(self, providers: list[str], folder: Path) -> None:
        self.folder = folder
        self.providers = providers
        self.sources = {name: source(name) for name in MODELS}
        self.paths = {name: self.folder / f"{name}.onnx" for name in MODELS}
        for name, path in self.paths.items():
            path.write_bytes(self.sources[name])
        self.sessions = {(name, p): self.made(name, p) for name in MODELS for p in providers}
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.lock = threading.Lock()
        self.stop = threading.Event()

    def made(self, name: str, provider: str, limits: ortlite.Limits | None = None, from_file: bool = False) -> Any:
        """A new session."""
        options = ortlite.SessionOptions()
        options.limits = limits or ortlite.Limits()
        return ortlite.InferenceSession(
            self.paths[name] if from_file else self.sources[name], options, providers=[provider]
        )

    def one(self, rng: random.Random) -> str:
        """Do one of the things that programs do, and say which."""
        name, provider = rng.choice([*MODELS]), rng.choice(self.providers)
        x = np.random.default_rng(rng.randrange(2**31)).standard_normal(
            (rng.choice([1, 2, 3, rng.randrange(1, 40)]), 8)
        )
        x = x.astype(np.float32)
        what = rng.choices([*WHAT], [weight for weight, _ in WHAT.values()])[0]
        WHAT[what][1](self, name, provider, x, rng)
        return what

    def check(self, session: Any, name: str, x: np.ndarray, *args: Any, **keywords: Any) -> None:
        """Run, and compare."""
        (y,) = session.run(None, {"x": x}, *args, **keywords)
        np.testing.assert_allclose(y, expected(name, x), 1e-4, 1e-4, err_msg=name)

    def work(self, number: int) -> None:
        """What one thread does until the end."""
        rng = random.Random(number)
        while not self.stop.is_set():
            try:
                what = self.one(rng)
            except Exception as error:  # noqa: BLE001  (whatever comes is to be told)
                with self.lock:
                    self.problems.append(f"{type(error).__name__}: {error}"[:500])
                if len(self.problems) > 20:
                    return
                continue
            with self.lock:
                self.counts[what] += 1


def shared(soak: Soak, name: str, provider: str, x: np.ndarray, rng: random.Random) -> None:
    soak.check(soak.sessions[name, provider], name, x)


def own(soak: Soak, name: str, provider: str, x: np.ndarray, rng: random.Random) -> None:
    limits = rng.choice([None, ortlite.Limits.untrusted(seconds=PATIENCE)])
    session = soak.made(name, provider, limits, from_file=rng.random() < 0.5)
    for _ in range(3):
        soak.check(session, name, x)


def wrong(soak: Soak, name: str, provider: str, x: np.ndarray, rng: random.Random) -> None:
    """Inputs that do not fit, models that are none, nodes that fail."""
    session = soak.sessions[name, provider]
    for feed, error in (({"x": x[:, :5]}, InvalidArgument), ({"x": x.astype(np.float64)}, InvalidArgument)):
        _raises(error, lambda feed=feed: session.run(None, feed))
    cut = soak.sources[name][: len(soak.sources[name]) // 2]
    _raises(ortlite.capi._pybind_state.InvalidProtobuf, lambda: ortlite.InferenceSession(cut))
    missing = soak.folder / "nothing.onnx"
    _raises(ortlite.capi._pybind_state.NoSuchFile, lambda: ortlite.InferenceSession(missing))


def bounded(soak: Soak, name: str, provider: str, x: np.ndarray, rng: random.Random) -> None:
    options = ortlite.RunOptions()
    options.limits = ortlite.Limits(elements=3)
    session = soak.sessions[name, provider]
    _raises(ortlite.LimitExceeded, lambda: session.run(None, {"x": x}, options))
    options.limits = ortlite.Limits(elements=10**6, loop_trips=10)
    soak.check(session, name, x, options)


def cancelled(soak: Soak, name: str, provider: str, x: np.ndarray, rng: random.Random) -> None:
    """Runs that are ended: before they begin, by a timeout that has gone by, and while they wait their turn."""
    options = ortlite.RunOptions()
    options.terminate = True
    session = soak.sessions[name, provider]
    _raises(Fail, lambda: session.run(None, {"x": x}, options))
    _raises(ortlite.RunTimeout, lambda: session.run(None, {"x": x}, timeout=0.0))
    done = threading.Event()
    found: list[Any] = []
    session.run_async(None, {"x": x}, lambda *args: (found.append(args), done.set()), None)
    assert done.wait(PATIENCE), "run_async does not call back"
    np.testing.assert_allclose(found[0][0][0], expected(name, x), 1e-4, 1e-4)


def _raises(kind: type[Exception], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


WHAT: dict[str, tuple[int, Callable[..., None]]] = {
    "shared": (60, shared), "own": (12, own), "wrong": (6, wrong), "bounded": (10, bounded),
    "cancelled": (12, cancelled),
}  # fmt: skip


def resident() -> int:
    """Bytes of the process that lie in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files() -> int:
    """Files that are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> int:
    """Soak for some minutes; the exit code says whether anything went wrong."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=20)
    arguments.add_argument("--threads", type=int, default=THREADS)
    args = arguments.parse_args()
    # threads that do not end may still write there
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        return soaked(args, Path(folder))


def soaked(args: argparse.Namespace, folder: Path) -> int:
    torch = ["TorchExecutionProvider"] if importlib.util.find_spec("torch") else []
    soak = Soak(["CPUExecutionProvider", *torch], folder)
    print(f"{args.threads} threads on {', '.join(soak.providers)}", flush=True)
    threads = [threading.Thread(target=soak.work, args=(i,), daemon=True) for i in range(args.threads)]
    for thread in threads:
        thread.start()
    end, start = time.monotonic() + 60 * args.minutes, time.monotonic()
    first: tuple[int, int, int] | None = None
    seen: list[int] = []
    try:
        while time.monotonic() < end and not soak.problems:
            soak.stop.wait(min(max(end - time.monotonic(), 0), 15))
            now = resident(), threading.active_count(), files()
            if first is None and time.monotonic() - start > 12 * args.minutes:
                first = now
            seen.append(now[0])
            print(f"{time.monotonic() - start:5.0f} s: {now[0] / 2**20:.0f} MiB, {now[1]} threads, {now[2]} files, "
                  f"{soak.counts.total()} done", flush=True)  # fmt: skip
        last = resident(), threading.active_count(), files()
    finally:  # at Ctrl-C, too: a thread within torch at the process's end would abort it
        soak.stop.set()
        for thread in threads:
            thread.join(300)
    stuck = sum(thread.is_alive() for thread in threads)
    problems = list(soak.problems)
    problems += [f"{stuck} threads do not end"] * bool(stuck)
    if first is not None:
        for what, before, after, allowed in zip(
            ("bytes", "threads", "files"), first, last, (GROWTH, LEFT, LEFT), strict=True
        ):
            if after - before > allowed:
                problems.append(f"{after - before} more {what} than after the warm-up ({before})")
    print(f"{soak.counts.total()} done: {dict(soak.counts.most_common())}")
    for problem in problems:
        print(problem)
    return bool(problems)


if __name__ == "__main__":
    run_main(main)
