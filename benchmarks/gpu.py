"""What only a machine with an NVIDIA GPU can tell: conformance, borders, streams, and what the libraries gain there.

    python -m benchmarks.gpu [PART ...] [--within S] [--jobs N] [--write [FILE]]

Runs from a checkout, installed or not, and without a network: it needs numpy, ml-dtypes, onnx, rich and
array-api-compat, and whichever of torch, CuPy and JAX are to be looked at. A machine that has those three has the
others, but for the last one: carry it as a wheel (pure Python, 0.1 MB) and put it on the path:

    pip download --no-deps -d .whl array-api-compat                                           # here
    python3 -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl                 # there
    PYTHONPATH=/tmp/site python3 -m benchmarks.gpu --within 560 --write "$OUT/GPU.md"

The parts `exports-…` want the .onnx files of `python -m benchmarks.architectures` in the folder that `--exports` names.
Every part has a process of its own, since a device that has failed once fails in everything after it, and so many
seconds at most (`--timeout`); with `--within` all parts together have so many, and those that are left over are named:
ask for them in the next call. `--write` replaces the sections of the parts that ran, in benchmarks/GPU.md or another
file. The exit status is 1 when something failed. `--device cpu` rehearses it all without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np

from benchmarks.architectures import FOLDER
from benchmarks.gpu_exports import MODELS as EXPORTS
from benchmarks.gpu_exports import PROVIDERS
from conformance import run_main

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "benchmarks" / "GPU.md"
NEEDED = ("numpy", "ml_dtypes", "onnx", "rich", "array_api_compat")
LIBRARIES = ("torch", "cupy", "jax", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at, what came of it, and whether that is as it must be."""

    what: str
    found: str
    ok: bool = True


Found = str | tuple[str, bool]


def attempt(what: str, fn: Callable[[], Found]) -> Row:
    """The row of what `fn` finds, or of what it dies of."""
    try:
        found = fn()
    except Exception as error:  # noqa: BLE001  (a row, whatever it is)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Row(what, f"{type(error).__name__}: {' '.join(str(error).split())[:400]} ({where})", False)
    return Row(what, *found) if isinstance(found, tuple) else Row(what, found)


def provider_of(library: str, device: str):
    """The library's provider on the device, which this does not start; None where it cannot be used."""
    from ortlite.provider import create

    if library not in PROVIDERS[device] or (library == "jax" and device == "cuda" and not jax_has_gpu()):
        return None
    with suppress(RuntimeError):
        return create(*PROVIDERS[device][library])
    return None


def providers(device: str) -> dict[str, object]:
    """Library -> its provider on the device, of those that are here."""
    found = {library: provider_of(library, device) for library in PROVIDERS[device]}
    return {library: provider for library, provider in found.items() if provider is not None}


def jax_has_gpu() -> bool:
    """Whether JAX's CUDA plug-in is installed; asking JAX would start the device, which no fork survives."""
    return any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13))


# conformance

SHOWN = 50  # failures of the suite; after one that the device does not survive, all that follow fail too
LEAST = {"JAXExecutionProvider": 0.92}  # of the numeric cases; elsewhere 0.95


def conformance(name: str, jobs: int, pattern: str = "") -> list[Row]:
    """The ONNX backend suite on one provider: passes, and how many numeric cases no other provider helped with."""
    from conformance.__main__ import expected_failures, run_suite

    results = run_suite(name, pattern, jobs)
    expected = expected_failures(name)
    failed = {r.name: r.error for r in results if r.error}
    surprises = {n: e for n, e in failed.items() if n not in expected}
    numeric = [r for r in results if r.numeric]
    pure = sum(not r.fallbacks for r in numeric)
    passes = sorted(r.name for r in results if not r.error and r.name in expected)
    return [
        Row(f"{name}: cases that pass", f"{len(results) - len(failed)} of {len(results)}", not surprises),
        Row(
            f"{name}: numeric cases on it alone",
            f"{pure} of {len(numeric)} ({pure / max(len(numeric), 1):.1%})",
            bool(pattern) or pure >= LEAST.get(name, 0.95) * len(numeric),
        ),
        *(Row(f"{name}: {case}", " ".join(e.split())[:300], False) for case, e in [*surprises.items()][:SHOWN]),
        *([Row(f"{name}: more cases", str(len(surprises) - SHOWN), False)] if len(surprises) > SHOWN else []),
        *(Row(f"{name}: {case}", "passes, though expected to fail", False) for case in passes),
    ]


# borders

LAYOUTS = {
    "contiguous": lambda x: x,
    "empty": lambda x: x[:0],
    "one element": lambda x: x[1, 2],
    "transposed": lambda x: x.T,
    "every other column": lambda x: x[:, ::2],
    "backwards": lambda x: x[::-1],
}
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
SHARED = ("contiguous", "empty")  # must cross without a copy, in every dtype that both sides hold


def borders(known: Mapping[str, object], shared: Sequence[str] = SHARED) -> list[Row]:
    """Every dtype and layout across every border: equal values always, and the same memory where it can be."""
    from ortlite.provider import CPU, create

    sides = {**known, "numpy": create(CPU)}
    rows = []
    for (source, a), (target, b) in permutations(sides.items(), 2):
        host = "numpy" in {source, target}
        for layout in LAYOUTS:
            outcomes: dict[str, list[str]] = defaultdict(list)
            for dtype in [*sorted(a.storage & b.storage - {"string", *FLOAT8}), *FLOAT8]:
                outcomes[_border(a, b, dtype, layout)].append(dtype)
            bad = [o for o in outcomes if o.startswith(("WRONG", "DIED"))]
            copied = [d for d in outcomes.get("copied", []) if d not in FLOAT8]
            ok = not bad and (host or layout not in shared or not copied)
            listed = "; ".join(f"{o}: {_dtypes(d, outcomes)}" for o, d in sorted(outcomes.items(), reverse=True))
            rows.append(Row(f"{source} → {target}, {layout}", listed, ok))
    return rows


def _dtypes(names: Sequence[str], outcomes: Mapping[str, Sequence[str]]) -> str:
    return "all" if len(outcomes) == 1 else ", ".join(names)


def _border(a, b, dtype: str, layout: str) -> str:
    """shared, copied, "not held" or "not had" (the library lacks that dtype or layout), WRONG, or DIED and of what."""
    from ortlite import dtypes
    from ortlite.transfer import TransferStats, transfer

    native = dtypes.to_numpy(dtypes.by_name(dtype))
    host = (np.arange(24).reshape(4, 6) % 2 if dtype == "bool" else np.arange(24).reshape(4, 6) % 13).astype(native)
    held = dtype in a.storage and dtype in b.storage
    try:
        with a.context():
            value = a.from_numpy(host)
    except Exception as error:  # noqa: BLE001
        return f"DIED in from_numpy of {type(error).__name__}" if held else "not held"
    try:
        with a.context():
            value = LAYOUTS[layout](value)
    except Exception:  # noqa: BLE001
        return "not had"
    crossing = TransferStats()
    try:
        moved = transfer(value, a, b, crossing)
        equal = np.array_equal(np.asarray(b.to_numpy(moved)), np.asarray(LAYOUTS[layout](host)))
    except Exception as error:  # noqa: BLE001
        return f"DIED of {type(error).__name__}: {str(error)[:80]}" if held else "not held"
    return ("shared" if crossing.shared else "copied") if equal else "WRONG"


# streams

LINE = """<ir_version: 8, opset_import: ["": 18]> g (float[N,M] x) => (float[N,M] y)
<float two = {2.0}, float one = {1.0}>
{ a = Mul(x, two)  b = Add(a, one)  c = Neg(b)  d = Neg(c)  y = Relu(d) }"""


def line() -> bytes:
    """Y = 2 x + 1, in five nodes."""
    from onnx import parser

    return parser.parse_model(LINE).SerializeToString()


def streams(known: Mapping[str, object], rounds: int, size: int = 512, heavy: int = 4096) -> list[Row]:
    """Inputs that a device is still filling when the model is called: all answers must be of the finished input.

    They are filled behind a product of `heavy` × `heavy` matrices. DLPack orders what crosses to another library. In
    its own, a function computes on the current stream, as the library does, and the caller orders the rest: the
    control breaks that order, and must give wrong answers, or right ones prove nothing.
    """
    import ortlite

    model = line()
    looked: dict[str, Callable[[], Found]] = {}
    if home := known.get("torch"):
        if home.device.type == "cuda":
            looked["control: torch, filled on a side stream, called on another"] = lambda: _unordered(
                ortlite.function(model), home, min(rounds, 50), size, heavy
            )
        looked["torch, filled on a side stream and called there"] = lambda: _torch_side(
            ortlite.function(model), home, rounds, size, heavy
        )
        for name, middle in known.items():
            for where, stream in _streams(name):
                there = _through(middle, home, stream)
                what = f"torch on a side stream → {name} on {where} → torch, by DLPack"
                looked[what] = lambda fn=there: _torch_side(fn, home, rounds, size, heavy)
    if "cupy" in known:
        looked["cupy, filled on a side stream and called there"] = lambda: _cupy_side(
            ortlite.function(model), rounds, size, heavy
        )
    if "jax" in known:
        looked["jax, called while the input is computed"] = lambda: _jax_async(
            ortlite.function(model), rounds, size, heavy
        )
    for listed in _lists(known):
        names = ", ".join(name for name, _ in listed)
        looked[f"session on {names}, NumPy in and out"] = lambda chosen=listed: _session(model, chosen, rounds, size)
    return [attempt(what, fn) for what, fn in looked.items()]


def _streams(library: str) -> Iterator[tuple[str, object]]:
    """Streams another library than torch can compute on, as contexts."""
    if library != "torch":
        yield "its default stream", nullcontext()
    if library == "cupy":
        import cupy

        yield "a stream of its own", cupy.cuda.Stream(non_blocking=True)


def _lists(known: Mapping[str, object]) -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Each provider alone, and every two of them taking turns."""
    ways = {library: (p.name, p.options) for library, p in known.items()}
    yield from ([way] for way in ways.values())
    yield from ([ways[a], ways[b]] for a, b in permutations(ways, 2) if a < b)


def _verdict(wrong: int, rounds: int) -> Found:
    return (f"{wrong} of {rounds} wrong", False) if wrong else f"{rounds} right"


def _unordered(fn: Callable, provider, rounds: int, size: int, heavy: int) -> Found:
    """As `_torch_side`, but on a stream that does not wait for the input's."""
    import torch

    other = torch.cuda.Stream(provider.device)

    def elsewhere(x):
        with torch.cuda.stream(other):
            y = fn(x)
            x.record_stream(other)  # the memory is safe; its contents are what is not
        torch.cuda.current_stream().wait_stream(other)
        return y

    found, ordered = _torch_side(elsewhere, provider, rounds, size, heavy), f"{rounds} right"
    return (f"{ordered}: the test notices nothing", False) if found == ordered else (found[0], True)


def _through(middle, home, stream) -> Callable:
    """2 x + 1 in another library: there and back by DLPack, both while its stream is current."""

    def fn(x):
        with middle.context(), stream:
            return home.from_dlpack(middle.from_dlpack(x) * 2.0 + 1.0)

    return fn


def _torch_side(fn: Callable, provider, rounds: int, size: int, heavy: int) -> Found:
    """Each round: a long product, then the input, both on the side stream; the check waits for nothing either."""
    import torch

    device = provider.device
    cuda = device.type == "cuda"
    side = torch.cuda.stream(torch.cuda.Stream(device)) if cuda else nullcontext()
    matrix = torch.ones((heavy, heavy), device=device) / heavy
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    if cuda:
        torch.cuda.synchronize(device)
    with side:
        for i in range(rounds):
            late = matrix @ matrix  # nothing reads it: it only takes its time
            x = torch.full((size, size), float(i), device=device)
            wrong += (fn(x) != 2.0 * i + 1.0).any()
            del late
        count = int(wrong)
    return _verdict(count, rounds)


def _cupy_side(fn: Callable, rounds: int, size: int, heavy: int) -> Found:
    import cupy

    matrix = cupy.ones((heavy, heavy), dtype=cupy.float32) / heavy
    wrong = cupy.zeros((), dtype=cupy.int64)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True):
        for i in range(rounds):
            late = matrix @ matrix
            x = cupy.full((size, size), float(i), dtype=cupy.float32)
            wrong += (fn(x) != 2.0 * i + 1.0).any()
            del late
        count = int(wrong)
    return _verdict(count, rounds)


def _jax_async(fn: Callable, rounds: int, size: int, heavy: int) -> Found:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def fill(matrix, i):
        return jnp.full((size, size), i) + 0.0 * (matrix @ matrix)[0, 0]

    matrix = jnp.ones((heavy, heavy), jnp.float32)
    found = [(fn(fill(matrix, jnp.float32(i))) != 2.0 * i + 1.0).any() for i in range(rounds)]
    return _verdict(sum(map(bool, found)), rounds)


def _session(model: bytes, chosen: list[tuple[str, dict[str, str]]], rounds: int, size: int) -> Found:
    import ortlite

    names = [name for name, _ in chosen]
    placement = {value: names[i % len(names)] for i, value in enumerate("abcdy")} if len(names) > 1 else None
    session = ortlite.InferenceSession(model, providers=chosen, placement=placement, enable_fallback=0)
    wrong = 0
    for i in range(rounds):
        (y,) = session.run(None, {"x": np.full((size, size), i, np.float32)})
        wrong += bool((y != 2.0 * i + 1.0).any())
    return _verdict(wrong, rounds)


# memory that a session is given by its address

ADDRESSED = "bool uint8 uint16 int64 float16 bfloat16 complex64 float8_e4m3fn".split()


def binding(known: Mapping[str, object], device: str) -> list[Row]:
    """Inputs and outputs bound to memory of torch's and CuPy's by its address; OrtValues written in place."""
    looked: dict[str, Callable[[], Found]] = {}
    for owner in known.keys() - {"jax"}:  # nobody may write to JAX's arrays
        for library, provider in known.items():
            way = (provider.name, provider.options)
            looked[f"session on {library}, memory of {owner}"] = lambda o=owner, w=way: _bound(known[o], w, device)
    looked["OrtValue written in place"] = lambda: _in_place(device)
    for name in ADDRESSED if device != "cpu" else ():
        looked[f"address of {name}"] = lambda n=name: _addressed(known, n)
    return [attempt(what, fn) for what, fn in sorted(looked.items())]


def _bound(home, way: tuple[str, dict[str, str]], device: str, rounds: int = 20) -> Found:
    """The input is overwritten between runs, on the current stream; the output is read where it was asked for."""
    import ortlite

    session = ortlite.InferenceSession(line(), providers=[way], fallback="error")
    with home.context():
        x, y = (home.from_numpy(np.zeros((256, 256), np.float32)) for _ in range(2))
    bound = session.io_binding()
    bound.bind_input("x", device, 0, np.float32, [256, 256], home.pointer(x))
    bound.bind_output("y", device, 0, np.float32, [256, 256], home.pointer(y))
    wrong = 0
    for i in range(rounds):
        with home.context():
            x[...] = float(i)
        bound.synchronize_inputs()
        session.run_with_iobinding(bound)
        wrong += bool((np.asarray(home.to_numpy(y)) != 2.0 * i + 1.0).any())
    (value,) = bound.get_outputs()
    if (value.device_name(), value.data_ptr()) != (device, home.pointer(y)):
        return f"on {value.device_name()}, not in the memory that was given", False
    options = ortlite.RunOptions()
    options.terminate = True
    try:
        session.run_with_iobinding(bound, options)
    except RuntimeError:
        return _verdict(wrong, rounds)
    return "terminate did not end the run", False


def _in_place(device: str) -> Found:
    import ortlite

    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    value = ortlite.OrtValue.ortvalue_from_shape_and_type([3, 4], np.float32, device, 0)
    other = ortlite.OrtValue.ortvalue_from_numpy(host + 1, device, 0)
    where, seen = value.data_ptr(), []
    for source in (host, other, (host + 2).view(np.int32)):
        value.update_inplace(source)
        seen.append(value.numpy().copy())
    equal = all(np.array_equal(found, host + i) for i, found in enumerate(seen))
    return ("in place", True) if equal and value.data_ptr() == where else ("WRONG or moved", False)


def _addressed(known: Mapping[str, object], name: str) -> Found:
    """Which libraries see an array of that dtype through its address."""
    from ortlite import dtypes

    dtype, found, wrong = dtypes.by_name(name), [], []
    host = (np.arange(24).reshape(4, 6) % 2).astype(dtypes.to_numpy(dtype))
    for library, provider in known.items():
        if library == "jax" or name not in provider.storage:
            continue
        array = provider.from_numpy(host)
        seen = provider.from_pointer(provider.pointer(array), [4, 6], dtype, array)
        same = provider.pointer(seen) == provider.pointer(array) and np.array_equal(provider.to_numpy(seen), host)
        (found if same else wrong).append(library)
    return f"{', '.join(found) or 'nobody'}{'; WRONG: ' if wrong else ''}{', '.join(wrong)}", not wrong


# graphs that are replayed

THREADS, INPUTS = 4, 8


def graphs(device: str, rounds: int, small: bool = False) -> list[Row]:
    """Models as CUDA graphs, called by several threads on streams of their own, on other inputs in every call."""
    from benchmarks import gpu_exports, gpu_models

    options = gpu_exports.GRAPH if device == "cuda" else {}
    looked = {name: build(small) for name, build in gpu_models.MODELS.items()}
    ways = {"": options, ", compiled": {**options, "compile": "always"}} if device == "cuda" else {"": options}
    return [
        attempt(f"{name}{way}", lambda m=model, x=x, o=given: _replayed(m, x, device, o, rounds))
        for name, (model, x) in looked.items()
        for way, given in ways.items()
    ]


def _replayed(model: bytes, x: np.ndarray, device: str, options: Mapping[str, str], rounds: int) -> Found:
    import torch

    import ortlite

    name, where = PROVIDERS[device]["torch"]
    inputs = [x * (1 + i / INPUTS) for i in range(INPUTS)]
    plain = ortlite.InferenceSession(model, providers=[(name, where)])
    wanted = [plain.run(None, {"x": value})[0] for value in inputs]
    session, wrong = ortlite.InferenceSession(model, providers=[(name, {**where, **options})]), []

    def work(number: int) -> None:
        stream = torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext()
        with stream:
            for i in range(rounds):
                which = (number + i) % INPUTS
                (y,) = session.run(None, {"x": inputs[which]})
                if not np.allclose(y, wanted[which], rtol=1e-2, atol=1e-3 * np.abs(wanted[which]).max()):
                    wrong.append(which)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    captured = len(session.explain().compilations)
    found = f"{len(wrong)} of {rounds * THREADS} wrong, {captured} regions captured"
    return found, not wrong and (captured > 0 or not options)


# what replacing a default body gains


def samples(provider, small: bool = False) -> dict[str, Callable[[Callable], object]]:
    """Primitive -> a call of it (or of the default body) on arrays of a size that models have."""
    rng = np.random.default_rng(0)
    k = 8 if small else 1

    def floats(*shape: int):
        return provider.from_numpy(rng.standard_normal(shape).astype(np.float32))

    def ints(high: int, *shape: int, dtype: type = np.int64):
        return provider.from_numpy(rng.integers(0, high, shape).astype(dtype))

    x, image, tokens = floats(1024 // k, 4096 // k), floats(16, 64 // k, 56, 56), floats(8, 512 // k, 512 // k)
    data, rows = floats(4096 // k, 512), ints(4096 // k, 8192 // k, 1)
    spread, many = ints(4096 // k, 8192 // k, 512), floats(8192 // k, 512)
    w, up = floats(64 // k, 64 // k, 3, 3), floats(64 // k, 64 // k, 4, 4)
    a8, b8 = ints(127, 512 // k, 1024 // k, dtype=np.int8), ints(127, 1024 // k, 512 // k, dtype=np.int8)
    int32 = provider.xp.int32
    one = {"strides": (1, 1), "dilations": (1, 1), "pads": ((1, 1), (1, 1))}
    two = {**one, "strides": (2, 2)}
    return {
        "erf": lambda f: f(x),
        "sigmoid": lambda f: f(x),
        "softmax": lambda f: f(x, 1),
        "fmod": lambda f: f(x, x + 3.0),
        "pad": lambda f: f(image, ((0, 0), (0, 0), (1, 1), (1, 1))),
        "conv": lambda f: f(image, w, groups=1, **one),
        "conv_transpose": lambda f: f(image, up, groups=1, **two),
        "max_pool": lambda f: f(image, (3, 3), **two)[0],
        "sum_pool": lambda f: f(image, (3, 3), **two),
        "gather_nd": lambda f: f(data, rows),
        "one_hot": lambda f: f(rows[:, 0], 512, 1, x[0, 0], x[0, 1]),
        "scatter": lambda f: f(data, spread, many, 0, "add"),
        "scatter_nd": lambda f: f(data, rows, many, "add"),
        "scatter_flat": lambda f: f(data[:, 0], rows[:, 0], many[:, 0], "add"),
        "integer_matmul": lambda f: f(a8, b8, int32),
        "einsum": lambda f: f("bij,bjk->bik", tokens, tokens),
        "top_k": lambda f: f(x, 16, 1, True, True)[0],
    }


def gains(known: Mapping[str, object], runs: int = 30, small: bool = False) -> list[Row]:
    """Every primitive that a provider replaces, beside the default body on the same library and device."""
    from ortlite.primitives import DEFAULTS

    rows = []
    for library, provider in known.items():
        wait = waiter(library, provider)

        def one(name: str, call: Callable, p=provider, wait=wait) -> Found:
            own, default = getattr(p.xp, name), partial(DEFAULTS[name], p.xp)
            with p.context():
                mine, theirs = (np.asarray(p.to_numpy(call(f))) for f in (own, default))
                ours, body = (milliseconds(lambda f=f: call(f), wait, runs) for f in (own, default))
            same = np.allclose(mine, theirs, rtol=1e-3, atol=1e-3 * max(float(np.abs(theirs).max(initial=0)), 1e-3))
            return f"{ours:.3f} ms, default body {body:.3f} ms: {body / ours:.1f} ×", bool(same)

        with provider.context():
            calls = samples(provider, small)
        for name, call in calls.items():
            if getattr(provider.xp, name).func is not DEFAULTS[name]:
                rows.append(attempt(f"{library} {name}", lambda n=name, c=call: one(n, c)))
    return rows


# speed


def waiter(library: str, provider) -> Callable[[object], None]:
    """Waits until a result is there."""
    if library == "torch" and provider.device.type == "cuda":
        import torch

        return lambda _: torch.cuda.synchronize()
    if library == "cupy":
        import cupy

        return lambda _: cupy.cuda.get_current_stream().synchronize()
    if library == "jax":
        import jax

        return jax.block_until_ready
    return lambda _: None


def milliseconds(call: Callable[[], object], wait: Callable[[object], None], runs: int) -> float:
    """The median time of a call and of waiting for its result, warm."""
    for _ in range(min(runs, 5)):
        wait(call())
    times = []
    for _ in range(runs):
        start = perf_counter()
        wait(call())
        times.append(perf_counter() - start)
    return statistics.median(times) * 1e3


def speed(known: Mapping[str, object], runs: int = 30, small: bool = False) -> list[Row]:
    """Whole models as functions, beside the same library written by hand; onnxruntime on CUDA too, where it is."""
    from benchmarks import gpu_models

    rows = []
    for name, build in gpu_models.MODELS.items():
        model, x = build(small)
        for library, provider in known.items():
            what = f"{name}, {library}"
            rows.append(attempt(what, lambda a=(name, model, x, library, provider): _beside(*a, runs)))
        if "CUDAExecutionProvider" in _peer_providers():
            what = f"{name}, onnxruntime on CUDA"
            rows.append(attempt(what, lambda m=model, v=x: f"{_peer(m, v, runs):.3f} ms"))
    return rows


def _beside(name: str, model: bytes, x: np.ndarray, library: str, provider, runs: int) -> Found:
    import ortlite
    from benchmarks import gpu_models

    wait = waiter(library, provider)
    fn, hand = ortlite.function(model), gpu_models.by_hand(name, library, model, provider)
    with provider.context():
        value = provider.from_numpy(x)
        mine, theirs = (np.asarray(provider.to_numpy(f(value))) for f in (fn, hand))
        ours, peer = (milliseconds(lambda f=f: f(value), wait, runs) for f in (fn, hand))
    same = np.allclose(mine, theirs, rtol=1e-2, atol=1e-2 * float(np.abs(theirs).max()))
    return f"{ours:.3f} ms, by hand {peer:.3f} ms: {ours / peer:.2f} ×", same


def _peer_providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return onnxruntime.get_available_providers()


def _peer(model: bytes, x: np.ndarray, runs: int) -> float:
    """Onnxruntime with input and output on the device."""
    import onnxruntime

    from benchmarks import gpu_exports

    call, _ = gpu_exports.bound(onnxruntime, model, {"x": x}, "cuda", ("CUDAExecutionProvider", {}))
    return milliseconds(call, lambda _: None, runs)


# exported models

ROOF = 8192  # rows and columns of the product in float16 that no model can beat


def exports(name: str, device: str, folder: Path, runs: int = 50) -> list[Row]:
    """An exported model in all ways, at batch 1 and 32: times, beside the faster of torch.compile and onnxruntime."""
    from benchmarks import gpu_exports

    path = folder / f"{name}.onnx"
    if not path.exists():
        return [Row(name, f"skipped: no {path}; `python -m benchmarks.architectures {name} --folder {folder}`")]
    import ortlite

    model = gpu_exports.filled(path)
    inputs = ortlite.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()
    rows, seen = [], set()
    for batch in (1, 32):
        given = gpu_exports.feeds(inputs, batch)
        if (shapes := str([x.shape for x in given.values()])) not in seen:  # some have one batch alone
            seen.add(shapes)
            rows += _ways(f"{name}, batch {batch}", model, given, device, runs)
    return rows


def _ways(what: str, model: bytes, given: Mapping[str, np.ndarray], device: str, runs: int) -> list[Row]:
    from benchmarks import gpu_exports

    ways = gpu_exports.WAYS if device == "cuda" else {"kernel by kernel": {}}
    times, rows, wanted = {}, [], None
    for way, call, result in gpu_exports.runs(model, given, device, ways):
        try:
            found = np.asarray(result())
            times[way] = milliseconds(call, lambda _: None, runs)
        except Exception as error:  # noqa: BLE001  (a row, whatever it is)
            rows.append(Row(f"{what}, {way}", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False))
            continue
        wanted = found if wanted is None else wanted
        error = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-9))
        short = "float16" in way or "TF32" in way or "torch" in way or way == "onnxruntime"
        rows.append(Row(f"{what}, {way}", f"{times[way]:.3f} ms, error {error:.1e}", error < (0.05 if short else 1e-3)))
    peers = [times[way] for way in ("torch.compile, max-autotune", "onnxruntime") if way in times]
    best = min((t for way, t in times.items() if way in ways), default=None)
    if peers and best:
        rows.append(Row(f"{what}, the best ÷ the faster peer", f"{best / min(peers):.2f}"))
    return rows


def roofline(device: str, runs: int = 30) -> list[Row]:
    """A product in float16 by ortlite beside torch's own: TFLOP/s."""
    import torch

    from benchmarks import gpu_exports

    size = ROOF if device == "cuda" else 256
    text = f"""<ir_version: 8, opset_import: ["": 18]> g (float[{size}, {size}] x, float[{size}, {size}] w) =>
    (float[{size}, {size}] y) {{ y = MatMul(x, w) }}"""
    from onnx import parser

    x = np.random.default_rng(0).standard_normal((size, size), np.float32)
    dtype = "float16" if device == "cuda" else "bfloat16"
    way = {f"{dtype}": {"precision": dtype} | (gpu_exports.GRAPH if device == "cuda" else {})}
    model = parser.parse_model(text).SerializeToString()
    (_, call, _), *_ = gpu_exports.runs(model, {"x": x, "w": x}, device, way)
    a = torch.from_numpy(x).to(device, getattr(torch, dtype))
    wait = (lambda _: torch.cuda.synchronize()) if device == "cuda" else (lambda _: None)
    ours, peer = milliseconds(call, lambda _: None, runs), milliseconds(lambda: a @ a, wait, runs)
    flops = 2 * size**3 / 1e9
    found = f"{flops / ours:.1f} TFLOP/s, torch's own product {flops / peer:.1f}: {peer / ours:.0%}"
    return [Row(f"MatMul of {size}², {dtype}, casts from and to float32 included", found)]


# the report

PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "borders": lambda a: borders(providers(a.device), SHARED if a.device == "cuda" else ()),
    "streams": lambda a: streams(providers(a.device), a.rounds, heavy=4096 if a.device == "cuda" else 64),
    "binding": lambda a: binding(providers(a.device), a.device),
    "graphs": lambda a: graphs(a.device, min(a.rounds, 200), small=a.device == "cpu"),
    "gains": lambda a: gains(providers(a.device), small=a.device == "cpu"),
    "speed": lambda a: speed(providers(a.device), small=a.device == "cpu"),
    "roofline": lambda a: roofline(a.device),
    **{f"exports-{name}": partial(lambda name, a: exports(name, a.device, a.exports), name) for name in EXPORTS},
    "conformance-torch": lambda a: _suite("torch", a),
    "conformance-cupy": lambda a: _suite("cupy", a),
    "conformance-jax": lambda a: _suite("jax", a),
}
TITLES = {
    "borders": "Borders: what crosses without a copy",
    "streams": "Streams: inputs that are still being written",
    "binding": "Memory by its address",
    "graphs": "CUDA graphs: threads and streams",
    "gains": "What replacing a primitive's default body gains",
    "speed": "Whole models",
    "roofline": "Products in a short type",
    **{f"exports-{name}": f"Exported: {name}" for name in EXPORTS},
}


LEAST_SECONDS = 30  # no part is begun for less


def _suite(library: str, a: argparse.Namespace) -> list[Row]:
    """The suite on a library's provider; one row where it is not here."""
    provider = provider_of(library, a.device)
    if provider is None:
        return [Row(f"{library} on {a.device}", "skipped: not usable on this machine")]
    return conformance(provider.name, a.jobs, a.pattern)


def environment(folder: Path) -> dict[str, str]:
    """What the parts run in. Where ortlite is not installed, `folder` stands in for what an installation would say."""
    paths = [str(ROOT), str(ROOT / "backends")]
    try:
        version("ortlite")
    except PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        info = folder / "ortlite-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ortlite\nVersion: 0\n")
        points = project["entry-points"]["ortlite.providers"]
        lines = ["[ortlite.providers]", *(f"{name} = {where}" for name, where in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        paths.append(str(folder))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    # JAX would take three quarters of the memory for itself
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run_part(part: str, args: argparse.Namespace, env: Mapping[str, str], seconds: float) -> list[Row]:
    """One part in a process of its own, for so many seconds at most; what ends that process is a row."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        part,
        "--child",
        "--device",
        args.device,
        "--jobs",
        str(args.jobs),
    ]
    command += ["--rounds", str(args.rounds), "-k", args.pattern, "--exports", str(args.exports)]
    # a session of its own: what the part has started ends with it
    child = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return [Row(part, f"did not end within {seconds:.0f} s", False)]
    try:
        return [Row(**row) for row in json.loads(out.splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        return [Row(part, f"ended with status {child.returncode}: {' '.join(said.split())[-600:]}", False)]


def machine() -> str:
    """Date, device, driver, and versions."""
    device = "no NVIDIA GPU"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
        device = found[0].replace(", ", ", driver ") if found else device
    versions = []
    for name in LIBRARIES:
        for distribution in (name, f"{name}-cuda13x", f"{name}-cuda12x"):
            try:
                versions.append(f"{name} {version(distribution)}")
                break
            except PackageNotFoundError:
                continue
    return f"{datetime.now(UTC):%Y-%m-%d}, {device}, Python {platform.python_version()}, {', '.join(versions)}."


def section(part: str, rows: Sequence[Row], where: str) -> str:
    """A part's rows as Markdown."""
    title = TITLES.get(part, f"Conformance: {part.removeprefix('conformance-')}")
    lines = [f"## {title}", "", where, "", "| what | found | |", "|---|---|---|"]
    cells = ((row.what, row.found, "" if row.ok else "**FAILED**") for row in rows)
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def merged(old: str, sections: Sequence[str]) -> str:
    """The report with its sections of the same titles replaced, the others kept."""
    found = {text.partition("\n")[0]: text for text in ("## " + part for part in old.split("\n## ")[1:])}
    found |= {text.partition("\n")[0]: text for text in sections}
    head = "# On an NVIDIA GPU\n\nMade by `python -m benchmarks.gpu --write` on a machine that has one.\n"
    return "\n".join([head, *(text.rstrip("\n") + "\n" for text in found.values())])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--write", nargs="?", type=Path, const=REPORT, help="put the tables into this file")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8), help="processes of the suite")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a part may take")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds all parts together may take")
    parser.add_argument("--rounds", type=int, default=1000, help="how often the stream tests call a model")
    parser.add_argument("-k", dest="pattern", default="", help="regular expression: only cases whose name it finds")
    parser.add_argument("--exports", type=Path, default=FOLDER, help="where exported models are")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal without a GPU")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if args.child:
        print(json.dumps([asdict(row) for row in PARTS[args.parts[0]](args)]))
        return 0
    if args.device == "cuda" and not nvidia():
        print("no NVIDIA GPU on this machine (see nvidia_driver in backends/ortlite_cupy)", file=sys.stderr)
        return 1
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"not installed here, and needed: {', '.join(missing)}", file=sys.stderr)
        return 1
    failed, left_over, where, end = False, [], machine(), monotonic() + args.within
    with tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder))
        for part in args.parts or PARTS:
            seconds = min(args.timeout, end - monotonic())
            if seconds < LEAST_SECONDS:
                left_over.append(part)
                continue
            rows = run_part(part, args, env, seconds)
            failed |= not all(row.ok for row in rows)
            text = section(part, rows, where)
            print(text, flush=True)
            if args.write:  # at once: what comes later may not come at all
                old = args.write.read_text() if args.write.exists() else ""
                args.write.write_text(merged(old, [text]))
    if left_over:
        print(f"no time was left for: {' '.join(left_over)}", file=sys.stderr)
    return int(failed or bool(left_over))


def nvidia() -> bool:
    """Whether there is an NVIDIA GPU."""
    sys.path.append(str(ROOT / "backends"))
    from ortlite_cupy import nvidia_driver

    return nvidia_driver()


if __name__ == "__main__":
    run_main(main)
