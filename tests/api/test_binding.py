"""IOBinding, and runs on OrtValues."""

import importlib

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.api.conftest import W, model

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_run_with_ort_values(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    value = ort.OrtValue.ortvalue_from_numpy(X)
    for names in (["Y"], None, []):
        (out,) = session.run_with_ort_values(names, {"X": value})
        np.testing.assert_array_equal(out.numpy(), X * W)
    with pytest.raises(AttributeError, match="_get_c_value"):
        session.run_with_ort_values(["Y"], {"X": X})
    np.testing.assert_array_equal(session.run(None, {"X": value})[0], X * W)


def test_bind_cpu_input_and_a_fresh_output(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y")
    for _ in range(3):
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X * W)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X * W)
    assert len(binding.get_outputs_as_ortvaluevector()) == 1


def test_raw_memory_is_read_and_written_in_place(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    given, out = X.copy(), np.zeros((3, 2), np.float32)
    binding = session.io_binding()
    binding.bind_input("X", "cpu", 0, np.float32, [3, 2], given.ctypes.data)
    binding.bind_output("Y", "cpu", 0, TensorProto.FLOAT, (3, 2), out.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out, X * W)
    given[...] = 1
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out, W)
    assert binding.get_outputs()[0].data_ptr() == out.ctypes.data


def test_ortvalues_are_bound(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    value = ort.OrtValue.ortvalue_from_numpy(X.copy())
    out = ort.OrtValue.ortvalue_from_shape_and_type([3, 2], np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("X", value)
    binding.bind_ortvalue_output("Y", out)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.numpy(), X * W)
    value.update_inplace(np.zeros_like(X))
    session.run_with_iobinding(binding)
    assert (out.numpy() == 0).all()


def test_an_output_may_be_the_next_input(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    value = ort.OrtValue.ortvalue_from_numpy(X.copy())
    for _ in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", value)
        binding.bind_output("Y")
        session.run_with_iobinding(binding)
        value = binding.get_outputs()[0]
    np.testing.assert_array_equal(value.numpy(), X * W * W)


ERRORS = {
    "unknown input": (lambda b, s: b.bind_cpu_input("nope", X), RuntimeError, "Failed to find NodeArg with name: nope"),
    "a list": (lambda b, s: b.bind_cpu_input("X", [1.0]), RuntimeError, "Unable to create OrtValue"),
    "nothing asked": (
        lambda b, s: (b.bind_cpu_input("X", X), s.run_with_iobinding(b)),
        RuntimeError,
        "At least one output",
    ),
    "unknown output": (
        lambda b, s: (b.bind_cpu_input("X", X), b.bind_output("nope"), s.run_with_iobinding(b)),
        RuntimeError,
        "Error in execution: Invalid output name: nope",
    ),
    "wrong dtype": (
        lambda b, s: (b.bind_cpu_input("X", X.astype(np.float64)), b.bind_output("Y"), s.run_with_iobinding(b)),
        RuntimeError,
        r"Error in execution: Unexpected input data type. Actual: \(tensor\(double\)\)",
    ),
    "no type": (lambda b, s: b.bind_output("Y", "cpu", 0, None, None, 7), ValueError, "`element_type` and `shape` are"),
    "another session's": (lambda b, s: s.run_with_iobinding(None), AttributeError, "_session"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(ort, mul, case):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    act, kind, text = ERRORS[case]
    with pytest.raises(kind, match=text):
        act(session.io_binding(), session)


def test_the_binding_of_another_session_is_refused(ort, mul):
    first, second = (ort.InferenceSession(mul, providers=["CPUExecutionProvider"]) for _ in range(2))
    with pytest.raises(ValueError, match="IOBinding must be used with the session that created it"):
        first.run_with_iobinding(second.io_binding())


def test_memory_of_another_shape_or_type_is_refused(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    for dtype, shape in ((np.float32, [4, 2]), (np.int32, [3, 2])):
        out, binding = np.zeros(shape, dtype), session.io_binding()
        binding.bind_cpu_input("X", X)
        binding.bind_output("Y", "cpu", 0, dtype, shape, out.ctypes.data)
        with pytest.raises(RuntimeError, match=r"^Error in execution: "):
            session.run_with_iobinding(binding)
        assert (out == 0).all()


def test_a_device_that_is_not_here_gives_a_value_on_the_cpu(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y", "cuda")
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].device_name() == "cpu"


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_run_options_count_wherever_outputs_are_bound(tmp_path, where):
    pytest.importorskip("torch")
    import ortlite

    node = helper.make_node("Mul", ["X", "W"], ["Y"])
    ends = [("X", TensorProto.FLOAT, [3, 2]), ("W", TensorProto.FLOAT, [3, 2])], [("Y", TensorProto.FLOAT, [3, 2])]
    session = ortlite.InferenceSession(model([node], *ends, [("W", W)]), providers=["TorchExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y", where)
    adapter, options = ortlite.AdapterFormat(), ortlite.RunOptions()
    adapter.set_parameters({"W": ortlite.OrtValue.ortvalue_from_numpy(W + 1)})
    adapter.export_adapter(str(tmp_path / "a"))
    loaded = ortlite.LoraAdapter()
    loaded.Load(str(tmp_path / "a"))
    options.add_active_adapter(loaded)
    session.run_with_iobinding(binding, options)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X * (W + 1))
    options.terminate = True
    with pytest.raises(RuntimeError, match=r"^Error in execution: Exiting due to terminate flag being set to true"):
        session.run_with_iobinding(binding, options)
    with pytest.raises(RuntimeError, match=r"^Error in execution: The run was ended after its timeout of 0 seconds"):
        session.run_with_iobinding(binding, timeout=0)
    with pytest.raises(TypeError, match="RunOptions"):
        session.run_with_iobinding(binding, {})
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X * W)


def test_the_inner_classes(ort, C, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    device = C.OrtDevice(C.OrtDevice.cpu(), C.OrtDevice.default_memory(), 0)
    value = C.OrtValue.ortvalue_from_numpy(X, device)
    out = session._sess.run_with_ort_values({"X": value}, ["Y"], C.RunOptions())
    np.testing.assert_array_equal(out[0].numpy(), X * W)
    binding = C.SessionIOBinding(session._sess)
    binding.bind_input("X", X)
    binding.bind_output("Y", device)
    session._sess.run_with_iobinding(binding, None)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), X * W)
    fetches = C.OrtValueVector()
    feeds = C.OrtValueVector()
    feeds.push_back(value)
    session.run_with_ortvaluevector(C.RunOptions(), ["X"], feeds, ["Y"], fetches, [device])
    np.testing.assert_array_equal(fetches[0].numpy(), X * W)
    inner = C.InferenceSession(C.SessionOptions(), mul, False, False)
    inner.initialize_session(["CPUExecutionProvider"], [{}], set())
    np.testing.assert_array_equal(inner.run(["Y"], {"X": X}, None)[0], X * W)
    assert [i.name for i in inner.inputs_meta] == ["X"]


def sparse_product(ort, rows, columns):
    """A session that multiplies a sparse matrix [rows, rows] by a dense one [rows, columns]."""
    node = helper.make_node("SparseToDenseMatMul", ["A", "B"], ["Y"], domain="com.microsoft")
    sparse = helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [rows, rows])
    b, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, columns]) for name in "BY")
    graph = helper.make_graph([node], "g", [helper.make_value_info("A", sparse), b], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"])


def test_sparse_values_go_in_and_come_out(ort):
    session = sparse_product(ort, 3, 2)
    assert session.get_inputs()[0].type == "sparse_tensor(float)"
    dense = np.array([[0, 2, 0], [0, 0, 3], [1, 0, 0]], np.float32)
    device = ort.OrtDevice.make("cpu", 0)
    where = np.argwhere(dense)
    sparse = ort.SparseTensor.sparse_coo_from_numpy(np.array([3, 3]), dense[dense != 0], where.reshape(-1), device)
    value = ort.OrtValue.ort_value_from_sparse_tensor(sparse)
    b = np.arange(6, dtype=np.float32).reshape(3, 2)
    (out,) = session.run_with_ort_values(["Y"], {"A": value, "B": ort.OrtValue.ortvalue_from_numpy(b)})
    np.testing.assert_allclose(out.numpy(), dense @ b)


@pytest.mark.parametrize("declared", ["dense", "sparse"])
@pytest.mark.parametrize("held", ["initializer", "Constant"])
def test_what_the_model_holds_sparse_comes_out_sparse(ort, held, declared):
    values = helper.make_tensor("s", TensorProto.FLOAT, [4], [3, 0, 1, 2])
    places = helper.make_tensor("places", TensorProto.INT64, [4], [5, 7, 2, 2])  # one is zero, two are in one place
    sparse = helper.make_sparse_tensor(values, places, [3, 3])
    types = {"dense": helper.make_tensor_type_proto, "sparse": helper.make_sparse_tensor_type_proto}
    nodes = [helper.make_node("Constant", [], ["s"], sparse_value=sparse)] if held == "Constant" else []
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["s"], ["y"])],
        "g",
        [],
        [
            helper.make_value_info("s", types[declared](TensorProto.FLOAT, [3, 3])),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3]),
        ],
        sparse_initializer=[] if nodes else [sparse],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    assert [arg.type for arg in session.get_outputs()] == ["tensor(float)"] * 2
    found, dense = session.run_with_ort_values(None, {})
    tensor, inner = found.as_sparse_tensor(), session.run(None, {})[0]  # onnxruntime's inner class has other names
    for view in (tensor.as_coo_view(), inner.get_coo_data()):
        assert view.indices().tolist() == [2, 5]
    assert tensor.values().tolist() == inner.values().tolist() == [2, 3]
    assert tensor.dense_shape() == [3, 3]
    assert found.element_type() == TensorProto.FLOAT
    np.testing.assert_array_equal(dense.numpy(), [[0, 0, 2], [0, 0, 3], [0, 0, 0]])


def test_sparse_values_in_one_place_are_added(ort):
    session = sparse_product(ort, 2, 2)
    device, values = ort.OrtDevice.make("cpu", 0), np.array([1, 2, 4], np.float32)
    coo = ort.SparseTensor.sparse_coo_from_numpy([2, 2], values, np.array([[0, 1], [0, 1], [1, 0]]), device)
    csr = ort.SparseTensor.sparse_csr_from_numpy([2, 2], values, np.array([1, 1, 0]), np.array([0, 2, 3]), device)
    eye = ort.OrtValue.ortvalue_from_numpy(np.eye(2, dtype=np.float32))
    for tensor in (coo, csr):
        (out,) = session.run_with_ort_values(["Y"], {"A": ort.OrtValue.ort_value_from_sparse_tensor(tensor), "B": eye})
        np.testing.assert_array_equal(out.numpy(), [[0, 3], [4, 0]])


def test_odd_sparse_tensors(ort):
    device, none = ort.OrtDevice.make("cpu", 0), np.array([], np.int64)
    column = ort.SparseTensor.sparse_coo_from_numpy([9], np.ones(2, np.float32), np.array([[0], [3]]), device)
    assert column.as_coo_view().indices().tolist() == [0, 3]
    empty = ort.SparseTensor.sparse_csr_from_numpy([3, 3], np.array([], np.float32), none, none, device)
    assert empty.as_csrc_view().outer().tolist() == []
    text = ort.SparseTensor.sparse_coo_from_numpy([3, 3], np.array(["a", "b"]), np.array([1, 2]), device)
    assert text.values().dtype == object
    with pytest.raises(RuntimeError, match="Numpy_type 15"):
        ort.SparseTensor.sparse_coo_from_numpy([3, 3], np.ones(1, complex), np.array([1]), device)


def test_sequences_come_out(ort):
    nodes = [helper.make_node("SequenceConstruct", ["X", "X"], ["S"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("S", TensorProto.FLOAT, None)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    (out,) = session.run_with_ort_values(["S"], {"X": ort.OrtValue.ortvalue_from_numpy(np.ones(2, np.float32))})
    assert out.is_tensor_sequence()
    assert out.data_type() == "seq(tensor(float))"
    assert out.element_type() == 1
    if ort.__name__ == "ortlite":  # onnxruntime gives them by run() alone
        assert [v.tolist() for v in out.numpy()] == [[1, 1], [1, 1]]


def test_bfloat16_comes_out_of_bound_memory(ort):
    source = model(
        [helper.make_node("Cast", ["X"], ["Y"], to=16)],
        [("X", TensorProto.FLOAT, [2])],
        [("Y", TensorProto.BFLOAT16, [2])],
    )
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    out, binding = np.zeros(2, np.uint16), session.io_binding()
    binding.bind_cpu_input("X", np.array([1, -2], np.float32))
    binding.bind_output("Y", "cpu", 0, TensorProto.BFLOAT16, [2], out.ctypes.data)
    session.run_with_iobinding(binding)
    assert out.tolist() == [0x3F80, 0xC000]
    assert binding.get_outputs()[0].element_type() == 16


def test_copied_outputs_are_copies(ort, mul):
    session = ort.InferenceSession(mul, providers=["CPUExecutionProvider"])
    binding, out = session.io_binding(), np.zeros((3, 2), np.float32)
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y", "cpu", 0, np.float32, [3, 2], out.ctypes.data)
    session.run_with_iobinding(binding)
    (first,) = binding.copy_outputs_to_cpu()
    binding.bind_cpu_input("X", 2 * X)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(first, X * W)
    np.testing.assert_array_equal(out, 2 * X * W)
    first[:] = 0
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], 2 * X * W)


def test_kinds_of_devices_by_name(ort):
    collection = importlib.import_module(f"{ort.__name__}.capi.onnxruntime_inference_collection")
    names = ["cpu", "cuda", "dml", "gpu", "webgpu", "npu", "cann"]
    assert [collection.get_ort_device_type(name) for name in names] == [0, 1, 4, 1, 1, 3, 3]
    vendors = [collection.get_vendor_id_for_device_type(name) for name in names]
    assert vendors == [None, 0x10DE, 0x1414, None, 0, None, 0x19E5]
    with pytest.raises(Exception, match="Unsupported device type: xyz"):
        collection.get_ort_device_type("xyz")
