"""CUDAExecutionProvider's choice of library, the script for GPU machines on CPU providers, and what needs a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import parser

import ortlite
import ortlite_cuda
import ortlite_cupy
from benchmarks import gpu, gpu_exports, gpu_models
from conformance.cases import Result
from ortlite import dtypes
from ortlite.provider import create, owner
from ortlite.transfer import transfer
from ortlite_cuda import CuPyOnCUDA, TorchOnCUDA

ROOT = Path(__file__).parent.parent
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_GPU = ortlite_cupy.nvidia_driver() and "CUDAExecutionProvider" in ortlite.get_available_providers()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU on this machine")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")

# the choice


@pytest.fixture
def usable(monkeypatch):
    """Say which libraries can use CUDA."""

    def say(*names):
        for name, cls in ortlite_cuda.LIBRARIES.items():
            monkeypatch.setattr(cls, "is_available", classmethod(lambda _, here=name in names: here))

    return say


@pytest.mark.parametrize(
    ("here", "options", "chosen"),
    [
        (("torch", "cupy"), {}, TorchOnCUDA),
        (("torch", "cupy"), {"library": "cupy"}, CuPyOnCUDA),
        (("torch", "cupy"), {"library": "torch", "device_id": "1"}, TorchOnCUDA),
        (("torch",), {}, TorchOnCUDA),
        (("cupy",), {}, CuPyOnCUDA),
        (("cupy",), {"device_id": "1"}, CuPyOnCUDA),
    ],
)
def test_which_library_it_is(usable, here, options, chosen):
    usable(*here)
    provider = ortlite_cuda.CUDAExecutionProvider(options)
    assert type(provider) is chosen
    assert provider.name == "CUDAExecutionProvider"
    assert provider.options == options
    assert ortlite_cuda.CUDAExecutionProvider.is_available()


def test_a_library_that_is_not_there_is_an_error(usable):
    usable("torch")
    with pytest.raises(RuntimeError, match="cannot use cupy on this machine"):
        ortlite_cuda.CUDAExecutionProvider({"library": "cupy"})
    with pytest.raises(ValueError, match="torch or cupy, not 'tinygrad'"):
        ortlite_cuda.CUDAExecutionProvider({"library": "tinygrad"})
    usable()
    assert not ortlite_cuda.CUDAExecutionProvider.is_available()
    with pytest.raises(RuntimeError, match="cannot use torch on this machine"):
        ortlite_cuda.CUDAExecutionProvider()


def test_it_answers_for_the_class_it_would_make(usable):
    usable("cupy")
    assert ortlite_cuda.CUDAExecutionProvider.library == "cupy"
    assert ortlite_cuda.CUDAExecutionProvider.name == "CUDAExecutionProvider"
    assert not ortlite_cuda.CUDAExecutionProvider.holds(np.ndarray)
    usable("torch", "cupy")
    assert ortlite_cuda.CUDAExecutionProvider.library == "torch"
    assert ortlite_cuda.CUDAExecutionProvider.tracer is TorchOnCUDA.tracer


@pytest.mark.parametrize(
    ("visible", "file", "there"),
    [(None, "", True), ("0,1", "", True), ("", "", False), ("-1", "", False), (None, "x", False)],
)
def test_a_driver_and_a_device_are_needed(monkeypatch, tmp_path, visible, file, there):
    monkeypatch.setattr(ortlite_cupy, "DEVICES", (str(tmp_path / file),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ortlite_cupy.nvidia_driver() is there


def test_a_driver_alone_is_no_device(monkeypatch, tmp_path):
    monkeypatch.setattr(ortlite_cupy, "DEVICES", (str(tmp_path / Path(ortlite_cupy.DEVICES[0]).name),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not ortlite_cupy.nvidia_driver()
    (tmp_path / "nvidia0").touch()
    assert ortlite_cupy.nvidia_driver()


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("cuda: Optional[str] = '13.0'\n", True),
        ("cuda: Optional[str] = None\n", False),
        ("__version__ = '2.0'\n", False),
        (None, False),
    ],
)
def test_torchs_version_file_says_whether_it_was_built_for_cuda(monkeypatch, tmp_path, text, built):
    if text is not None:
        (tmp_path / "version.py").write_text(text)
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert ortlite_cuda._built_for_cuda() is built
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not ortlite_cuda._built_for_cuda()


def test_looking_for_a_device_imports_no_library():
    code = "import sys, ortlite; ortlite.get_available_providers(); print({'torch', 'cupy', 'jax'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n"


# memory by its address


def dtype(name):
    return dtypes.by_name(name)


@needs_torch
@pytest.mark.parametrize(
    ("name", "typestr"),
    [("float32", "<f4"), ("bool", "|b1"), ("bfloat16", "<i2"), ("uint16", "<i2"), ("uint64", "<i8"), ("uint8", "|u1")],
)
def test_torch_takes_an_address(monkeypatch, name, typestr):
    import torch

    asked, held = [], object()

    def as_tensor(memory, device):
        asked.append((memory, device))
        return torch.zeros(memory.__cuda_array_interface__["shape"], dtype=getattr(torch, np.dtype(typestr).name))

    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    provider = TorchOnCUDA({"device_id": "1"})
    found = provider.from_pointer(4096, [2, 3], dtype(name), held)
    ((memory, device),) = asked
    expected = {"data": (4096, False), "shape": (2, 3), "typestr": typestr, "strides": None, "version": 3}
    assert memory.__cuda_array_interface__ == expected
    assert (memory.keep, device) == (held, torch.device("cuda", 1))
    assert (found.dtype, found.shape) == (getattr(torch, name), (2, 3))


@needs_torch
def test_torch_waits_for_its_device_alone(monkeypatch):
    import torch

    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    TorchOnCUDA({"device_id": "1"}).synchronize()
    create("TorchExecutionProvider").synchronize()
    assert waited == [torch.device("cuda", 1)]
    with pytest.raises(TypeError, match="TorchExecutionProvider takes no addresses"):
        create("TorchExecutionProvider").from_pointer(4096, [2], dtype("float32"))


@needs_torch
@pytest.mark.parametrize("capturing", [False, True])
def test_torch_waits_for_what_outlives_a_run(capturing, monkeypatch):
    """Weights are copied while Python goes on: a first run may be on another stream than the session's making."""
    import torch

    waited = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: waited.append(device))
    )
    provider = TorchOnCUDA({"device_id": "1"})
    provider.settle([np.ones(2)])
    assert not waited
    provider.settle([np.ones(2), torch.ones(2)])
    create("TorchExecutionProvider").settle([torch.ones(2)])
    assert waited == ([] if capturing else [torch.device("cuda", 1)])  # nobody may wait for a graph that is captured


def test_cupy_takes_an_address(monkeypatch):
    """CuPy's part is played by what says how it was called."""
    log = []

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            log.append(("enter", self.index))

        def __exit__(self, *_):
            log.append(("exit", self.index))

        def synchronize(self):
            log.append(("waited", self.index))

    cuda = SimpleNamespace(
        Device=Device, UnownedMemory=lambda *a: ("memory", *a), MemoryPointer=lambda *a: ("pointer", *a)
    )
    fake = SimpleNamespace(cuda=cuda, ndarray=lambda *a: ("array", *a), empty=lambda *a: ("empty", *a))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    provider = ortlite_cupy.CuPyExecutionProvider({"device_id": "1"})
    found = provider.from_pointer(4096, [2, 3], dtype("float16"), held := object())
    memory = ("pointer", ("memory", 4096, 12, held), 0)
    assert found == ("array", (2, 3), np.dtype(np.float16), memory)
    assert provider.from_pointer(0, [2, 0], dtype("float32")) == ("empty", (2, 0), np.dtype(np.float32))
    provider.synchronize()
    assert log == [("enter", 1), ("exit", 1)] * 2 + [("waited", 1)]


def test_without_a_device_its_memory_cannot_be_bound():
    if HAS_GPU:
        pytest.skip("this machine has one")
    binding = ortlite.InferenceSession(gpu.line()).io_binding()
    with pytest.raises(RuntimeError, match="No provider for 'cuda' is usable here"):
        binding.bind_input("x", "cuda", 0, np.float32, [2, 2], 4096)


def test_without_a_gpu_the_cpu_provider_takes_over():
    if HAS_GPU:
        pytest.skip("this machine has one")
    model = gpu.line()
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available"):
        session = ortlite.InferenceSession(model, providers=["CUDAExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


# the script, on the CPU


def test_a_part_that_dies_is_a_row():
    assert gpu.attempt("a", lambda: "fine") == gpu.Row("a", "fine")
    assert gpu.attempt("a", lambda: ("bad", False)) == gpu.Row("a", "bad", False)
    row = gpu.attempt("a", lambda: 1 / 0)
    assert not row.ok
    assert row.found.startswith("ZeroDivisionError: division by zero (test_cuda.py:")


def test_a_process_that_ends_or_hangs_is_a_row(monkeypatch, tmp_path):
    args = Namespace(device="cpu", jobs=1, rounds=1, pattern="", exports=tmp_path)
    quiet = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys; print('gone', file=sys.stderr, flush=True); os._exit(3)"
    )
    (row,) = gpu.run_part("borders", args, quiet, 60)
    assert not row.ok
    assert "ended with status 3: gone" in row.found
    # what hangs has children, who hold its output open
    (tmp_path / "sitecustomize.py").write_text("import os, time; os.fork(); time.sleep(60)")
    start = monotonic()
    assert gpu.run_part("borders", args, quiet, 1) == [gpu.Row("borders", "did not end within 1 s", False)]
    assert monotonic() - start < 30


def test_the_parts_share_the_time_there_is(monkeypatch, capsys, tmp_path):
    given = []

    def part(name, args, env, seconds):
        given.append((name, seconds))
        return [gpu.Row(name, "fine")]

    monkeypatch.setattr(gpu, "run_part", part)
    report = tmp_path / "GPU.md"
    rehearsal = ["--device", "cpu", "--write", str(report)]
    assert gpu.main(["borders", "speed", *rehearsal, "--within", "100", "--timeout", "40"]) == 0
    assert given == [("borders", 40), ("speed", 40)]
    assert gpu.main(["gains", *rehearsal, "--within", "20"]) == 1
    assert "no time was left for: gains" in capsys.readouterr().err
    assert len(given) == 2
    assert report.read_text().count("| fine |") == 2
    monkeypatch.setattr(gpu, "NEEDED", ("numpy", "no_such_package"))
    assert gpu.main(rehearsal) == 1
    assert "needed: no_such_package" in capsys.readouterr().err


def test_a_control_that_notices_nothing_fails(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    home = create("TorchExecutionProvider", {})
    monkeypatch.setattr(gpu, "_torch_side", lambda *_: "9 right")
    assert gpu._unordered(None, home, 9, 4, 4) == ("9 right: the test notices nothing", False)
    monkeypatch.setattr(gpu, "_torch_side", lambda *_: ("3 of 9 wrong", False))
    assert gpu._unordered(None, home, 9, 4, 4) == ("3 of 9 wrong", True)


def test_the_report_keeps_sections_of_other_parts():
    first = gpu.merged("", [gpu.section("borders", [gpu.Row("a|b", "fine")], "then"), gpu.section("gains", [], "then")])
    assert "| a\\|b | fine |  |" in first
    second = gpu.merged(first, [gpu.section("borders", [gpu.Row("c", "bad", False)], "now")])
    assert second.count("## ") == 2
    assert "a\\|b" not in second
    assert "| c | bad | **FAILED** |" in second
    assert second.index("## Borders") < second.index("## What replacing")
    assert gpu.merged(second, []) == second


def test_a_checkout_is_enough(tmp_path, monkeypatch):
    def gone(name):
        raise gpu.PackageNotFoundError(name)

    monkeypatch.setattr(gpu, "version", gone)
    env = gpu.environment(tmp_path)
    code = "import ortlite; print(*ortlite.get_available_providers())"
    # without site-packages' entry points: -S leaves only the paths of the environment and those given here
    libraries = ortlite.__file__ and os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    path = env["PYTHONPATH"] + os.pathsep + libraries
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={**env, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert "CPUExecutionProvider" in done.stdout
    points = (tmp_path / "ortlite-0.dist-info" / "entry_points.txt").read_text()
    assert "CUDAExecutionProvider = ortlite_cuda:CUDAExecutionProvider" in points
    assert env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "nvidia", lambda: False)
    assert gpu.main(["borders"]) == 1
    assert "no NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["nothing"])


def test_the_suite_part():
    rows = gpu.conformance("StrictExecutionProvider", 1, "^test_(abs|not_2d|bernoulli_seed)$")
    assert [r.found for r in rows] == ["2 of 3", "3 of 3 (100.0%)"]
    assert all(r.ok for r in rows)
    absent = Namespace(device="cuda", jobs=1, pattern="^test_abs$")
    if not HAS_GPU:
        assert gpu._suite("torch", absent) == [gpu.Row("torch on cuda", "skipped: not usable on this machine")]


def test_a_device_that_died_does_not_fill_the_report(monkeypatch):
    dead = [Result(f"case {i:03}", "node", "device-side assert") for i in range(200)]
    monkeypatch.setattr("conformance.__main__.run_suite", lambda *_: dead)
    rows = gpu.conformance("StrictExecutionProvider", 1)
    assert [row.found for row in rows][:2] == ["0 of 200", "200 of 200 (100.0%)"]
    assert [row.what.partition(": ")[2] for row in (rows[2], rows[-1])] == ["case 000", "more cases"]
    assert rows[-1].found == "150"
    assert len(rows) == 53


@needs_torch
def test_borders_between_libraries_on_the_cpu():
    known = gpu.providers("cpu")
    rows = {row.what: row for row in gpu.borders(known, shared=())}
    assert all(row.ok for row in rows.values()), [row for row in rows.values() if not row.ok]
    assert rows["torch → numpy, contiguous"].found == "shared: all"
    assert rows["torch → numpy, backwards"].found == "not had: all"
    assert rows["numpy → torch, backwards"].found == "copied: all"


def test_a_wrong_or_missing_copy_is_noticed():
    class Wrong(type(create("CPUExecutionProvider"))):
        name = "Wrong"

        def from_numpy(self, array):
            return array + np.ones((), array.dtype) if array.dtype == np.float32 else array.copy()

        def from_dlpack(self, array):
            return self.from_numpy(array)

    rows = {row.what: row for row in gpu.borders({"wrong": Wrong()})}
    assert "WRONG: float32" in rows["numpy → wrong, contiguous"].found
    assert not rows["numpy → wrong, contiguous"].ok
    assert "copied: " in rows["numpy → wrong, transposed"].found


@needs_torch
def test_streams_on_the_cpu():
    rows = gpu.streams(gpu.providers("cpu"), rounds=5, size=8, heavy=64)
    assert len(rows) >= 2
    assert all(row.ok and row.found == "5 right" for row in rows), rows
    assert gpu._verdict(2, 5) == ("2 of 5 wrong", False)


@needs_torch
def test_memory_by_its_address_on_the_cpu():
    rows = gpu.binding(gpu.providers("cpu"), "cpu")
    assert {"session on torch, memory of torch", "OrtValue written in place"} <= {row.what for row in rows}
    assert all(row.ok for row in rows), rows


@needs_torch
def test_threads_on_the_cpu():
    rows = gpu.graphs("cpu", rounds=5, small=True)
    assert [row.found for row in rows] == ["0 of 20 wrong, 0 regions captured"] * len(gpu_models.MODELS)
    assert all(row.ok for row in rows)


@needs_torch
def test_gains_and_speed_on_the_cpu(monkeypatch):
    known = {"torch": gpu.providers("cpu")["torch"]}
    few = gpu.samples(known["torch"], small=True)
    monkeypatch.setattr(gpu, "samples", lambda *_: {name: few[name] for name in ("erf", "pad")})
    rows = gpu.gains(known, runs=1, small=True)
    assert [row.what for row in rows] == ["torch erf", "torch pad"]
    assert all(row.ok and "default body" in row.found for row in rows), rows
    rows = gpu.speed(known, runs=1, small=True)
    assert len(rows) == len(gpu_models.MODELS)
    assert all(row.ok and "by hand" in row.found for row in rows), rows


def test_exported_models_without_their_weights(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch, "compile", lambda fn, mode: fn)
    (row,) = gpu.exports("small", "cpu", tmp_path)
    assert row.ok
    assert row.found.startswith("skipped: no ")
    text = """<ir_version: 8, opset_import: ["": 18]> g
    (int64[b, t] input_ids, int64[b, t] attention_mask, float[b, 2, p, 4] past_key_0) => (float[b, 2, t, 8] y)
    { m = Cast <to = 1> (input_ids)  s = ReduceSum <keepdims = 1> (m)  h = ReduceSum <keepdims = 1> (past_key_0)
      z = Add(s, h)  y = MatMul(z, w) }"""
    model = parser.parse_model(text.replace("[b, 2, t, 8] y", "[1, 8] y"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 8), np.float32), "w"))
    onnx.save(model, tmp_path / "small.onnx", save_as_external_data=True, location="gone", size_threshold=0)
    (tmp_path / "gone").unlink()
    rows = gpu.exports("small", "cpu", tmp_path, runs=1)
    assert [row.what.partition(", ")[2].replace("torch.compile, ", "") for row in rows] == [
        f"batch {batch}, {way}"
        for batch in (1, 32)
        for way in ("kernel by kernel", "max-autotune", "onnxruntime", "the best ÷ the faster peer")
    ]
    assert all(row.ok for row in rows), rows
    given = gpu_exports.feeds(ortlite.InferenceSession(gpu_exports.filled(tmp_path / "small.onnx")).get_inputs(), 32)
    assert [x.shape for x in given.values()] == [(32, 1), (32, 129), (32, 2, 128, 4)]
    (row,) = gpu.roofline("cpu", runs=1)
    assert "TFLOP/s" in row.found


# on a GPU


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@needs_gpu
def test_cuda_values_cross_without_a_copy():
    rows = gpu.borders(gpu.providers("cuda"))
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]


@needs_gpu
def test_streams_are_ordered():
    rows = gpu.streams(gpu.providers("cuda"), rounds=1000)
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]


@needs_gpu
def test_memory_by_its_address():
    rows = gpu.binding(gpu.providers("cuda"), "cuda")
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]


@needs_gpu
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_a_session_on_cuda(library):
    if library not in gpu.providers("cuda"):
        pytest.skip(f"{library} cannot use the GPU")
    session = ortlite.InferenceSession(gpu.line(), providers=[("CUDAExecutionProvider", {"library": library})])
    x = np.random.default_rng(0).standard_normal((5, 7), np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(2 * x + 1, 0), rtol=1e-6)
    assert {node.provider for node in session.explain().nodes} == {"CUDAExecutionProvider"}
    assert all(c.nbytes == x.nbytes and c.shared is False for c in session.explain().crossings)


@needs_gpu
def test_values_stay_on_their_device(torch):
    cuda = create("CUDAExecutionProvider", {"library": "torch"})
    value = torch.ones((2, 3), device="cuda")
    assert owner(value) is create("TorchExecutionProvider", {"device": "cuda:0"})
    assert transfer(value, owner(value), cuda).data_ptr() == value.data_ptr()
    y = ortlite.function(gpu.line())(value)
    assert y.device == value.device
    assert y.tolist() == [[3.0] * 3] * 2


@needs_gpu
def test_recurrent_networks_run_without_a_warning(torch):
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 18]> g (float[T,B,4] x) => (float[T,1,B,3] y)
        <float[1,12,4] w = {WEIGHTS}, float[1,12,3] r = {RECURRENT}>
        { y = LSTM <hidden_size = 3> (x, w, r) }""".replace("WEIGHTS", ",".join(["0.1"] * 48))
        .replace("RECURRENT", ",".join(["0.2"] * 36))).SerializeToString()  # fmt: skip
    x = np.random.default_rng(0).standard_normal((5, 2, 4), np.float32)
    (wanted,) = ortlite.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    fn = ortlite.function(model)
    np.testing.assert_allclose(fn(torch.asarray(x, device="cuda")).cpu(), wanted, rtol=1e-4, atol=1e-6)


@needs_gpu
def test_unsigned_integers_move(torch):
    x = np.arange(12, dtype=np.uint16).reshape(3, 4)
    triangle = parser.parse_model("""<ir_version: 8, opset_import: ["": 18]> g (uint16[3,4] x) => (uint16[3,4] y)
        { y = Trilu (x) }""").SerializeToString()
    session = ortlite.InferenceSession(triangle, providers=["CUDAExecutionProvider"], fallback="error")
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.triu(x))


@needs_gpu
def test_a_second_device(torch):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU on this machine")
    y = ortlite.function(gpu.line())(torch.ones((2, 3), device="cuda:1"))
    assert str(y.device) == "cuda:1"
    providers = [("CUDAExecutionProvider", {"device_id": 1})]
    session = ortlite.InferenceSession(gpu.line(), providers=providers)
    assert session.run(None, {"x": np.ones((1, 1), np.float32)})[0].tolist() == [[3.0]]


@needs_gpu
def test_graphs_are_replayed():
    rows = gpu.graphs("cuda", rounds=50)
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
