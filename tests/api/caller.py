"""A caller's program that uses the whole API: it runs, and type checkers have nothing to say about it."""

from __future__ import annotations

import asyncio
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ortlite as ort
from ortlite.backend import prepare
from ortlite.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from ortlite.datasets import get_example

X = np.ones((3, 2), np.float32)
PATH: str = get_example("mul_1.onnx")


def options() -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.intra_op_num_threads = 2
    made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.execution_order = ort.ExecutionOrder.DEFAULT
    made.log_severity_level = 3
    made.limits = ort.Limits(seconds=60.0)
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made.add_free_dimension_override_by_name("batch", 1)
    made.add_initializer("nothing", ort.OrtValue.ortvalue_from_numpy(X))
    entry: str = made.get_session_config_entry("session.intra_op.allow_spinning")
    assert entry == "0"
    assert not made.has_providers()
    return made


def sessions() -> ort.InferenceSession:
    session = ort.InferenceSession(
        Path(PATH), options(), providers=[("StrictExecutionProvider", {}), "CPUExecutionProvider"], fallback="allow"
    )
    names: list[str] = [arg.name for arg in session.get_inputs()]
    shape: list[int | str | None] = session.get_outputs()[0].shape
    version: int = session.get_modelmeta().version
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    providers: list[str] = session.get_providers()
    given: dict[str, dict[str, str]] = session.get_provider_options()
    assert names == ["X"]
    assert shape == [3, 2]
    assert version >= 0
    assert not metadata
    assert [*given] == providers
    assert session.get_session_options().intra_op_num_threads == 2
    again: ort.InferenceSession = pickle.loads(pickle.dumps(session))
    again.disable_fallback()
    again.set_providers(["CPUExecutionProvider"])
    print(again.explain())
    return session


def runs(session: ort.InferenceSession) -> None:
    run = ort.RunOptions()
    run.logid = "a run"
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    outputs: list[np.ndarray] = session.run(None, {"X": X}, run)
    (first,) = session.run(("Y",), {"X": X}, timeout=10.0)
    outs, taps = session.run(["Y"], {"X": X}, taps="Y")
    assert outputs[0].sum() == first.sum() == taps["Y"].sum() == outs[0].sum()
    run.terminate = True
    try:
        session.run(None, {"X": X}, run)
    except Fail as error:
        print(error)
    try:
        session.run(["Z"], {"X": X})
    except (InvalidArgument, ort.RunTimeout, ort.LimitExceeded, ValueError) as error:
        print(error)
    heard: list[str] = []

    def callback(results: list[Any], user_data: Any, error: str) -> None:
        heard.append(error or str(results[0].shape))

    session.run_async(None, {"X": X}, callback, None)

    async def awaited() -> list[Any]:
        return await session.run_async_(None, {"X": X}, timeout=10.0)

    assert len(asyncio.run(awaited())) == 1


def values(session: ort.InferenceSession) -> None:
    value: ort.OrtValue = ort.OrtValue.ortvalue_from_numpy(X)
    empty = ort.OrtValue.ortvalue_from_shape_and_type([3, 2], np.float32, "cpu", 0)
    empty.update_inplace(value)
    shape: list[int] = empty.shape()
    address: int = empty.data_ptr()
    number: int = value.element_type()
    array: np.ndarray = np.asarray(value)
    assert shape == [3, 2]
    assert address
    assert number == 1
    assert array.shape == (3, 2)
    assert value.is_tensor()
    assert ort.OrtValue.from_dlpack(array).data_type() == "tensor(float)"
    results: list[ort.OrtValue] = session.run_with_ort_values(None, {"X": value})
    binding: ort.IOBinding = session.io_binding()
    binding.bind_cpu_input("X", X)
    binding.bind_input("X", "cpu", 0, np.float32, X.shape, X.ctypes.data)
    binding.bind_ortvalue_input("X", value)
    binding.bind_output("Y")
    binding.bind_ortvalue_output("Y", empty)
    session.run_with_iobinding(binding)
    arrays: list[np.ndarray] = binding.copy_outputs_to_cpu()
    bound: list[ort.OrtValue] = binding.get_outputs()
    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    assert arrays[0].sum() == bound[0].numpy().sum() == results[0].numpy().sum()
    device: ort.OrtDevice = ort.OrtDevice.make("cpu", 0)
    sparse = ort.SparseTensor.sparse_coo_from_numpy(
        np.array([3, 3]), np.ones(1, np.float32), np.array([4], np.int64), device
    )
    indices: np.ndarray = sparse.as_coo_view().indices()
    assert indices.tolist() == [4]
    assert sparse.format() == ort.OrtSparseFormat.ORT_SPARSE_COO
    assert ort.OrtValue.ort_value_from_sparse_tensor(sparse).is_sparse_tensor()


def surroundings() -> None:
    names: list[str] = ort.get_available_providers()
    assert "CPUExecutionProvider" in names
    assert set(names) <= set(ort.get_all_providers())
    device: str = ort.get_device()
    print(device, ort.get_build_info(), ort.get_version_string(), ort.__version__)
    ort.set_seed(0)
    ort.set_default_logger_severity(3)

    def log(severity: int, category: str, logid: str, location: str, message: str) -> None:
        print(severity, category, logid, location, message)

    ort.set_default_logger_callback(log, severity=3)
    ort.set_default_logger_callback(None)
    ort.disable_telemetry_events()
    print([found.ep_name for found in ort.get_ep_devices()])


def files() -> None:
    with tempfile.TemporaryDirectory() as folder:
        adapter = ort.AdapterFormat()
        adapter.set_adapter_version(1)
        adapter.set_model_version(1)
        adapter.set_parameters({"a": ort.OrtValue.ortvalue_from_numpy(X)})
        parameters: dict[str, ort.OrtValue] = adapter.get_parameters()
        assert parameters["a"].shape() == [3, 2]
        compiled: bytes = ort.ModelCompiler(ort.SessionOptions(), PATH).compile_to_bytes()
        ort.ModelCompiler(ort.SessionOptions(), compiled).compile_to_file(str(Path(folder) / "again.onnx"))
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        profiled = ort.InferenceSession(compiled, options)
        profiled.run(None, {"X": X})
        written: str = profiled.end_profiling()
        assert Path(written).exists()
        assert profiled.get_profiling_start_time_ns() > 0


@ort.op("tests.callers", "Double", since=1)
def double(xp: Any, X: Any) -> Any:
    return xp.add(X, X)


def beyond() -> None:
    fn = ort.function(PATH)
    both = ort.function(PATH, params=True, provider="CPUExecutionProvider")
    parameters: dict[str, Any] = both[1]
    assert fn(X).shape == both[0](parameters, X).shape
    assert len(prepare(PATH).run([X])) == 1
    ort.check(PATH)
    print(ort.info(PATH), double)


if __name__ == "__main__":
    session = sessions()
    runs(session)
    values(session)
    surroundings()
    files()
    beyond()
