"""InferenceSession and its options: what onnxruntime does, and the same of ortlite."""

import json
import os
import pickle
import re
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.api.conftest import W, model

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
CPU = ["CPUExecutionProvider"]
MAPS = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))


def make(ort, source, options=None, **keywords):
    return ort.InferenceSession(source, options, providers=CPU, **keywords)


def test_a_profile(ort, mul, tmp_path):
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "prof")
    session = make(ort, mul, options)
    assert abs(session.get_profiling_start_time_ns() - time.time_ns()) < 60e9
    session.run(None, {"X": X})
    path = session.end_profiling()
    assert path.startswith(str(tmp_path / "prof_20"))
    assert path.endswith(".json")
    assert session.end_profiling() == ""
    lines = Path(path).read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert all(key in line for line in lines[1:-1] for key in ("pid", "dur", "ts", "ph", "X", "name", "args"))
    events = json.loads("".join(lines))
    names = [event["name"] for event in events]
    assert {"model_loading_array", "session_initialization", "model_run", "SequentialExecutor::Execute"} <= set(names)
    (node,) = [event for event in events if event["cat"] == "Node"]
    assert node["name"] == "mul_1_kernel_time"
    args = node["args"]
    assert (args["op_name"], args["provider"], args["node_index"]) == ("Mul", "CPUExecutionProvider", "0")
    assert args["input_type_shape"] == [{"float": [3, 2]}, {"float": [3, 2]}]
    assert args["output_type_shape"] == [{"float": [3, 2]}]
    assert (args["output_size"], args["activation_size"], args["parameter_size"]) == ("24", "24", "24")


def test_without_profiling_there_is_no_profile(ort, mul):
    session = make(ort, mul)
    assert session.end_profiling() == ""
    assert session.get_profiling_start_time_ns() == 0


def test_run_async(ort, mul):
    session, done, seen = make(ort, mul), threading.Event(), []

    def callback(results, user_data, error):
        seen.append((results, user_data, error))
        done.set()

    session.run_async(["Y"], {"X": X}, callback, 7)
    assert done.wait(30)
    results, user_data, error = seen.pop()
    np.testing.assert_array_equal(results[0], X * W)
    assert (user_data, error) == (7, "")
    done.clear()
    session.run_async(None, {"X": X.astype(np.int64)}, callback, None)
    assert done.wait(30)
    results, _, error = seen.pop()
    assert results == []
    assert error.startswith("Unexpected input data type")
    with pytest.raises(ValueError, match="Required inputs"):
        session.run_async(None, {}, callback, None)


def test_run_async_wants_threads(ort, mul):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    with pytest.raises(Exception, match="intra op thread pool must have at least one thread for RunAsync"):
        make(ort, mul, options).run_async(None, {"X": X}, print, None)


def test_terminate_before_a_run(ort, mul):
    options = ort.RunOptions()
    options.terminate = True
    with pytest.raises(Exception, match="Exiting due to terminate flag being set to true"):
        make(ort, mul).run(None, {"X": X}, options)


def loop(trips):
    """A model: y is x + trips, one step at a time."""
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "one"], ["w"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]),
        ],
    )
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)]
    weights = [("n", np.array(trips)), ("one", np.array(1, np.float32))]
    return model(nodes, [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])], weights)


def test_terminate_ends_a_loop(ort):
    session, options = make(ort, loop(10**9)), ort.RunOptions()
    threading.Timer(0.3, lambda: setattr(options, "terminate", True)).start()
    with pytest.raises(Exception, match="terminate flag being set"):
        session.run(None, {"x": np.zeros(2, np.float32)}, options)


def test_initializers_from_the_caller(ort, mul):
    options, value = ort.SessionOptions(), ort.OrtValue.ortvalue_from_numpy(np.full((3, 2), 5, np.float32))
    options.add_initializer("W", value)
    options.add_initializer("nobody's", value)
    with pytest.raises(RuntimeError, match="already been added: W"):
        options.add_initializer("W", value)
    np.testing.assert_array_equal(make(ort, mul, options).run(None, {"X": X})[0], X * 5)


@pytest.fixture
def outside(tmp_path):
    """The model with W in a file."""
    tensor = numpy_helper.from_array(W, "W")
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(len(raw)))):
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["X", "W"], ["Y"])],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [3, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [3, 2])],
        [tensor],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, raw


def test_external_initializers_from_the_caller(ort, outside):
    path, raw = outside
    value = ort.OrtValue.ortvalue_from_numpy(W + 1)
    options = ort.SessionOptions()
    options.add_external_initializers(["W"], [value])
    np.testing.assert_array_equal(make(ort, str(path), options).run(None, {"X": X})[0], X * (W + 1))
    options = ort.SessionOptions()
    options.add_external_initializers_from_files_in_memory(["w.bin"], [raw], [len(raw)])
    np.testing.assert_array_equal(make(ort, str(path), options).run(None, {"X": X})[0], X * W)
    with pytest.raises(Exception, match=r"External data path|External initializer"):
        make(ort, str(path))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("W", W[:2], "float32|dimensions"),
        ("W", W.astype(np.float64), "float64|type"),
        ("Q", W, "Failed to find existing initializer"),
    ],
)
def test_external_initializers_that_do_not_fit(ort, C, outside, name, value, text):
    options, value = ort.SessionOptions(), ort.OrtValue.ortvalue_from_numpy(value)
    options.add_external_initializers([name], [value])
    with pytest.raises(C.Fail, match=text):
        make(ort, str(outside[0]), options)


def test_only_what_is_outside_is_replaced_as_external(ort, mul):
    options, value = ort.SessionOptions(), ort.OrtValue.ortvalue_from_numpy(W)
    options.add_external_initializers(["W"], [value])
    with pytest.raises(Exception, match="Trying to replace non-external initializer with external data"):
        make(ort, mul, options)


def test_free_dimensions(ort):
    def named(name, denotation):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])
        info.type.tensor_type.shape.dim[0].denotation = denotation
        return info

    graph = helper.make_graph(
        [helper.make_node("Add", ["A", "B"], ["C"])],
        "g",
        [named("A", "DATA_BATCH"), named("B", "")],
        [helper.make_tensor_value_info("C", TensorProto.FLOAT, None)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("N", 3)
    assert [i.shape for i in make(ort, source, options).get_inputs()] == [[3, 2], [3, 2]]
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_denotation("DATA_BATCH", 3)
    assert make(ort, source, options).get_inputs()[0].shape == [3, 2]


def test_the_optimized_model_is_written(ort, tmp_path):
    nodes = [
        helper.make_node("Identity", ["X"], ["I"]),
        helper.make_node("Mul", ["W", "W"], ["V"]),
        helper.make_node("Mul", ["I", "V"], ["Y"]),
    ]
    source = model(nodes, [("X", TensorProto.FLOAT, [3, 2])], [("Y", TensorProto.FLOAT, [3, 2])], [("W", W)])
    levels = ort.GraphOptimizationLevel
    for level, count in ((levels.ORT_ENABLE_ALL, 1), (levels.ORT_DISABLE_ALL, 3)):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(tmp_path / f"{count}.onnx")
        make(ort, source, options)
        assert len(onnx.load(options.optimized_model_filepath).graph.node) == count
    options.optimized_model_filepath = str(tmp_path / "no" / "where.onnx")
    with pytest.raises(Exception, match="SystemError : 2"):
        make(ort, source, options)


def test_a_logger(ort, mul):
    messages = []
    ort.set_default_logger_callback(lambda *record: messages.append(record), severity=0)
    try:
        make(ort, mul).run(None, {"X": X})
        assert messages
        for record in messages:
            assert [type(part) for part in record] == [int, str, str, str, str]
            severity, category, logid, location, message = record
            assert severity in {0, 1}
            assert category == "onnxruntime"
            assert logid in {"", "Default"}
            assert re.fullmatch(r"[\w./]+:\d+ .+", location)
            assert message
        messages.clear()
        options = ort.SessionOptions()
        options.logid = "mine"
        make(ort, mul, options)
        assert "mine" in {record[2] for record in messages}
        options.log_severity_level = 2
        messages.clear()
        make(ort, mul, options)
        assert "mine" not in {record[2] for record in messages}
        messages.clear()
        options.add_session_config_entry("key", "a")
        options.add_session_config_entry("key", "b")
        assert [record[:3] for record in messages] == [(2, "onnxruntime", "Default")]
        for severity in (0, 4):
            ort.set_default_logger_callback(lambda *record: None, severity=severity)
        for bad in (5, -1):
            with pytest.raises(RuntimeError):
                ort.set_default_logger_callback(print, severity=bad)
        with pytest.raises(RuntimeError):
            ort.set_default_logger_callback("no function")
    finally:
        ort.set_default_logger_callback(None)
        ort.set_default_logger_severity(2)
    with pytest.raises(RuntimeError):
        ort.set_default_logger_severity(7)
    with pytest.raises(TypeError):
        ort.set_default_logger_severity("a")


def test_a_severity_that_is_none_shows_when_a_session_is_made(ort, mul):
    options = ort.SessionOptions()
    options.log_severity_level = 9
    with pytest.raises(RuntimeError, match="severity level"):
        make(ort, mul, options)


def test_seeds(ort):
    source = model([helper.make_node("RandomNormal", [], ["Y"], shape=[4])], [], [("Y", TensorProto.FLOAT, [4])])
    drawn = []
    for _ in range(2):
        ort.set_seed(42)
        session = make(ort, source)
        drawn.append([session.run(None, {})[0] for _ in range(2)])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0][0] != drawn[0][1]).any()


def test_which_provider_runs_what(ort, mul):
    with pytest.raises(Exception, match=r'record_ep_graph_assignment_info\' must be set to "1"'):
        make(ort, mul).get_provider_graph_assignment_info()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    (part,) = make(ort, mul, options).get_provider_graph_assignment_info()
    assert part.ep_name == "CPUExecutionProvider"
    (node,) = part.get_nodes()
    assert (node.name, node.domain, node.op_type) == ("mul_1", "", "Mul")


def test_what_a_session_tells(ort, mul):
    session = make(ort, mul)
    (info,) = session.get_input_memory_infos()
    assert (info.name, info.device_id, info.allocator_type) == ("Cpu", 0, ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR)
    assert len(session.get_output_memory_infos()) == len(session.get_input_epdevices()) == 1
    assert session.get_tuning_results() == []
    session.set_tuning_results([])
    assert session.get_session_options().intra_op_num_threads == 0
    value = session.create_ortvalue_from_shape_and_type([2], np.float32, "cpu")
    assert value.shape() == [2]
    assert session._model_path is None
    assert session._providers == CPU
    assert str(session.get_inputs()[0]) == "NodeArg(name='X', type='tensor(float)', shape=[3, 2])"


def test_the_models_own_configuration(ort, monkeypatch, mul):
    proto = onnx.load_from_string(mul)
    config = {"session_options": {"intra_op_num_threads": 5, "graph_optimization_level": 1, "enable_profiling": 0}}
    proto.metadata_props.add(key="ort_config", value=json.dumps(config))
    source = proto.SerializeToString()
    assert make(ort, source).get_session_options().intra_op_num_threads == 0
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    options = make(ort, source).get_session_options()
    assert (options.intra_op_num_threads, int(options.graph_optimization_level)) == (5, 1)
    assert options.inter_op_num_threads == 0


def test_cancelling(ort, mul, C):
    options = ort.SessionOptions()
    options.set_load_cancellation_flag(True)
    with pytest.raises(C.ModelLoadCanceled):
        make(ort, mul, options)
    options.set_load_cancellation_flag(False)
    make(ort, mul, options)


def test_libraries_of_compiled_kernels(ort, C, tmp_path):
    with pytest.raises(C.Fail, match=r"Failed to load library ./nope.so with error: "):
        ort.SessionOptions().register_custom_ops_library("./nope.so")
    with pytest.raises(C.Fail, match="Failed to load library"):
        ort.register_execution_provider_library("mine", str(tmp_path / "nope.so"))


def test_options_have_fields_of_a_type(ort):
    options = ort.SessionOptions()
    for name, value in {"graph_optimization_level": 99, "optimized_model_filepath": os, "logid": 3}.items():
        with pytest.raises(TypeError):
            setattr(options, name, value)
    with pytest.raises(AttributeError):
        options.nothing_of_that_name = 1
    with pytest.raises(RuntimeError, match="SessionOptions does not have configuration with key: k"):
        options.get_session_config_entry("k")
    for key in ("", "k" * 1025):
        with pytest.raises(RuntimeError, match="Config key is empty or longer than maximum length 1024"):
            options.add_session_config_entry(key, "v")
    run = ort.RunOptions()
    run.add_run_config_entry("k", "v")
    assert run.get_run_config_entry("k") == "v"
    with pytest.raises(RuntimeError, match="RunOptions does not have configuration with key: q"):
        run.get_run_config_entry("q")


def test_fields_take_what_has_a_truth_or_an_index(ort):
    options, run_options = ort.SessionOptions(), ort.RunOptions()
    for value in (1, 0, None, 1.5, np.True_, np.int64(0)):
        options.enable_profiling = run_options.terminate = value
        assert options.enable_profiling is run_options.terminate is bool(value)
    for value in (True, np.int64(3)):
        options.intra_op_num_threads = run_options.log_severity_level = value
        assert type(options.intra_op_num_threads) is int
        assert options.intra_op_num_threads == run_options.log_severity_level == int(value)
    options.logid = b"text"
    assert options.logid == "text"
    for name, value in (("enable_profiling", "yes"), ("intra_op_num_threads", 1.5), ("logid", 1), ("logid", None)):
        with pytest.raises(TypeError):
            setattr(options, name, value)


BAD_OPTIONS = {
    "no OrtValue": (lambda o, ort: o.add_initializer("W", 1), RuntimeError),
    "unknown provider": (lambda o, ort: o.add_provider("Nope", {}), RuntimeError),
    "no devices": (lambda o, ort: o.add_provider_for_devices([], {}), "InvalidArgument"),
    "no policy": (lambda o, ort: o.set_provider_selection_policy(1), TypeError),
    "string tensor": (lambda o, ort: ort.OrtValue.ortvalue_from_shape_and_type([2], str), RuntimeError),
    "negative dimension": (lambda o, ort: ort.OrtValue.ortvalue_from_shape_and_type([-1], np.float32), RuntimeError),
    "no code": (lambda o, ort: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(W, "a"), TypeError),
    "no array": (lambda o, ort: ort.OrtValue.from_dlpack(None), TypeError),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_what_options_and_values_refuse(ort, C, case):
    act, kind = BAD_OPTIONS[case]
    with pytest.raises(kind if isinstance(kind, type) else getattr(C, kind)):
        act(ort.SessionOptions(), ort)
    ort.SessionOptions().set_ep_context_data_read_func(lambda *_: None, 10)


def test_descriptions_of_memory(ort):
    arena, default = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    for name, vendor, reads in (
        ("Cpu", 0, "DEFAULT"),
        ("Cuda", 0x10DE, "DEFAULT"),
        ("HipPinned", 0x1002, "HOST_ACCESSIBLE"),
    ):
        info = ort.OrtMemoryInfo(name, arena, 1, default)
        found = info.name, info.device_id, info.device_vendor_id, info.device_mem_type.name, info.mem_type
        assert found == (name, int(name != "Cpu"), vendor, reads, default)
    with pytest.raises(RuntimeError, match="Specified device is not supported"):
        ort.OrtMemoryInfo("mine", arena, 0, default)
    kind, reads = ort.OrtMemoryInfoDeviceType.GPU, ort.OrtDeviceMemoryType.HOST_ACCESSIBLE
    info = ort.OrtMemoryInfo.create_v2("mine", kind, 0x10DE, 2, reads, 64, arena)
    assert (info.name, info.device_id, info.mem_type) == ("mine", 2, ort.OrtMemType.CPU_OUTPUT)


@pytest.mark.parametrize("given", [[2, 3], ["N", 3], [None, 3], None, ["N", "M"]], ids=str)
def test_shapes_of_outputs_are_what_is_declared_and_what_follows(given):
    onnxruntime = pytest.importorskip("onnxruntime")
    import ortlite

    for declared in (None, [], [2, 3], [7, 3], ["A", 3], ["N", "M"], [None, None], [2, "M"], [2, 3, 4]):
        relu = [helper.make_node("Relu", ["x"], ["y"])]
        source = model(relu, [("x", TensorProto.FLOAT, given)], [("y", TensorProto.FLOAT, declared)])
        both = (m.InferenceSession(source, providers=["CPUExecutionProvider"]) for m in (ortlite, onnxruntime))
        ours, theirs = (session.get_outputs()[0] for session in both)
        assert (ours.shape, ours.type) == (theirs.shape, theirs.type), declared


def test_inferred_shapes_have_the_names_of_inputs(ort):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Concat", ["x", "x"], ["b"], axis=0),
        helper.make_node("NonZero", ["x"], ["c"]),
    ]
    outs = [("a", TensorProto.FLOAT, None), ("b", TensorProto.FLOAT, None), ("c", TensorProto.INT64, None)]
    source = model(nodes, [("x", TensorProto.FLOAT, ["N", 3])], outs, [("w", np.ones((3, 5), np.float32))])
    options = ort.SessionOptions()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    assert [out.shape for out in session.get_outputs()] == [["N", 5], [None, 3], [2, None]]
    options.add_free_dimension_override_by_name("N", 4)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    assert [out.shape for out in session.get_outputs()] == [[4, 5], [8, 3], [2, None]]


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "OrtAllocatorType", "OrtSparseFormat"])
def test_enumerations(ort, name):
    kind = getattr(ort, name)
    for label, member in kind.__members__.items():
        assert (member.name, str(member)) == (label, f"{name}.{label}")
        assert member == member.value == int(member)
        assert kind(int(member)) == member
        assert repr(member) == f"<{name}.{label}: {member.value}>"
        assert hash(member) == hash(int(member))
        assert member  # also the one of number 0
        assert not isinstance(member, int)
        assert ["a", "b"][kind(1)] == "b"
        with pytest.raises(TypeError):
            member + 1
        with pytest.raises(TypeError):
            _ = member < 100
    assert int(kind(77)) == 77
    assert hash(kind(77)) == hash(77)
    assert pickle.loads(pickle.dumps(kind(1))) == 1
    for wrong in ("a", None):
        with pytest.raises(TypeError):
            kind(wrong)


def test_flags(ort, C):
    for kind in (ort.OrtCompileApiFlags, C.OrtDeviceEpIncompatibilityReason):
        one, two = kind(1), kind(2)
        assert (one | two, 4 | one, one & 3, one ^ two, ~one, one < two, one < 5) == (3, 5, 1, 3, -2, True, True)
        assert type(one | two) is int


def test_process_wide_functions(ort):
    assert "Build Info" in ort.get_build_info()
    assert ort.get_version_string()[0].isdigit()
    assert ort.get_device() in {"CPU", "GPU"}
    assert ort.get_all_providers()[-1] == "CPUExecutionProvider"
    assert not ort.has_collective_ops()
    ort.disable_telemetry_events()
    ort.enable_telemetry_events()
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    assert (info.name, info.device_id, info.mem_type) == ("Cpu", 0, ort.OrtMemType.DEFAULT)
    config = ort.OrtArenaCfg({"max_mem": 16, "arena_extend_strategy": 1, "initial_chunk_size_bytes": 8})
    assert (config.max_mem, config.arena_extend_strategy, config.initial_chunk_size_bytes) == (16, 1, 8)


@pytest.mark.parametrize("source", [bytearray(b"x"), None, 3, "", np.zeros(8, np.uint8)])
def test_what_is_no_model(ort, source):
    with pytest.raises(TypeError):
        ort.InferenceSession(source, providers=CPU)


def test_what_options_take(ort):
    options = ort.SessionOptions()
    options.intra_op_num_threads = np.bool_(True)
    assert options.intra_op_num_threads == 1
    options.intra_op_num_threads = np.float32(2)
    assert options.intra_op_num_threads == 2
    with pytest.raises(TypeError):
        options.intra_op_num_threads = 2.0
    with pytest.raises(TypeError):
        options.enable_profiling = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    with pytest.raises(TypeError):
        options.add_free_dimension_override_by_name(1, 2)


def test_a_negative_size_fixes_no_dimension(ort):
    source = model([helper.make_node("Neg", ["x"], ["y"])], [("x", 1, ["N", 2])], [("y", 1, ["N", 2])])
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("N", -1)
    (y,) = make(ort, source, options).run(None, {"x": X})
    np.testing.assert_array_equal(y, -X)


def test_falsy_names_mean_all_outputs(ort, mul):
    session = make(ort, mul)
    for names in (None, [], (), ""):
        assert len(session.run(names, {"X": X})) == 1


def test_a_feed_of_none_is_not_looked_at(ort, mul):
    (y,) = make(ort, mul).run(None, {"X": X, "nothing": None})
    np.testing.assert_array_equal(y, X * W)


def test_options_of_the_cpu_provider_are_not_told(ort, mul):
    session = ort.InferenceSession(
        mul, providers=[("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
    )
    assert session.get_provider_options() == {"CPUExecutionProvider": {}}


def test_arguments_that_no_session_takes(ort, mul):
    with pytest.raises(TypeError):
        ort.InferenceSession(mul, providers=5)
    with pytest.raises(ValueError, match="'x'"):
        ort.InferenceSession(mul, providers=CPU, enable_fallback="x")


def test_what_a_session_says_is_hashed_and_written_to(ort, mul):
    session = make(ort, mul)
    assert len({*session.get_inputs(), *session.get_outputs()}) == 2
    with pytest.raises(AttributeError):
        session.get_inputs()[0].name = "other"
    meta = session.get_modelmeta()
    meta.version = 7
    assert (meta.version, hash(meta)) == (7, hash(meta))


def test_descriptions_are_the_same_objects_in_every_call_and_their_shapes_new_lists(ort, mul):
    session = make(ort, mul)
    assert session.get_inputs() is session.get_inputs()
    assert session.get_outputs() is session.get_outputs()
    (given,) = session.get_inputs()
    shape = given.shape
    shape[0] = "changed"
    assert given.shape == [3, 2]


def test_objects_are_text_by_str(ort):
    source = model([helper.make_node("Identity", ["x"], ["y"])], [("x", 8, [None])], [("y", 8, [None])])
    (y,) = make(ort, source).run(None, {"x": np.array(["a", b"b", 1, None, 2.5, True], object)})
    assert y.tolist() == ["a", "b'b'", "1", "None", "2.5", "True"]


def test_exceptions_are_made_without_a_text(C):
    assert isinstance(C.Fail(), C.Fail)
    assert "why" in str(C.Fail("why"))


def test_a_callback_is_a_function(ort, mul):
    with pytest.raises(TypeError):
        make(ort, mul).run_async(None, {"X": X}, "callback", None)


@pytest.mark.parametrize("kind", ["SessionOptions", "RunOptions"])
def test_programs_copy_options_name_by_name(ort, kind):
    given, copied = getattr(ort, kind)(), getattr(ort, kind)()
    given.logid = "first"
    for name in dir(given):
        if not name.startswith("_") and not callable(getattr(given, name)):
            setattr(copied, name, getattr(given, name))
    assert copied.logid == "first"


def test_maps_are_the_callers_own(ort):
    labels = helper.make_node("ZipMap", ["X"], ["Y"], classlabels_strings=["a", "b"], domain="ai.onnx.ml")
    scores = np.array([[0.25, 0.75], [1, 0]], np.float32)
    constant = helper.make_graph(
        [labels],
        "g",
        [],
        [helper.make_value_info("Y", helper.make_sequence_type_proto(MAPS))],
        [numpy_helper.from_array(scores, "X")],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 17)]
    session = make(ort, helper.make_model(constant, opset_imports=opsets, ir_version=8).SerializeToString())
    for _ in range(4):  # also once it is specialised
        (maps,) = session.run(None, {})
        assert maps == [{"a": 0.25, "b": 0.75}, {"a": 1.0, "b": 0.0}]
        assert {type(m) for m in maps} == {dict}
        assert {type(score) for m in maps for score in m.values()} == {float}
        maps[0]["a"] = 7.0
        maps.clear()
