"""OrtValue, vectors of them and sparse tensors."""

import copy
import gc
import pickle

import ml_dtypes
import numpy as np
import pytest

import ortlite
from ortlite.api import dlpack


def test_a_value_shares_memory_with_its_array(ort):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = ort.OrtValue.ortvalue_from_numpy(array)
    assert value.data_ptr() == array.ctypes.data
    assert (value.device_name(), value.shape(), value.data_type(), value.element_type()) == (
        "cpu",
        [2, 3],
        "tensor(float)",
        1,
    )
    assert value.is_tensor()
    assert value.has_value()
    assert not value.is_sparse_tensor()
    assert not value.is_tensor_sequence()
    assert value.tensor_size_in_bytes() == 24
    array[0, 0] = 7
    assert value.numpy()[0, 0] == 7
    value.numpy()[0, 1] = 8
    assert array[0, 1] == 8
    assert np.asarray(value).ctypes.data == array.ctypes.data
    assert value.__array__(np.float64).dtype == np.float64
    assert value.__dlpack_device__() == (1, 0)
    assert np.from_dlpack(value).ctypes.data == array.ctypes.data


def test_update_inplace_looks_at_bytes_alone(ort):
    array = np.zeros((2, 3), np.float32)
    value = ort.OrtValue.ortvalue_from_numpy(array)
    value.update_inplace(np.full(6, 0x3F800000, np.int32))
    assert (array == 1).all()
    with pytest.raises(RuntimeError):
        value.update_inplace(np.zeros(5, np.float32))
    with pytest.raises(TypeError):
        value.update_inplace([1.0])


@pytest.mark.parametrize("bad", [np.array(["a"]), [1.0], 3.0, np.array([1 + 2j]), np.array([None])])
def test_what_is_no_array_of_numbers_is_refused(ort, bad):
    with pytest.raises(RuntimeError):
        ort.OrtValue.ortvalue_from_numpy(bad)


@pytest.mark.parametrize("kind", [np.float32, np.dtype("int64"), "float16", float, 1, 7])
def test_an_element_type_is_given_in_many_ways(ort, kind):
    value = ort.OrtValue.ortvalue_from_shape_and_type([2, 5], kind)
    assert value.shape() == [2, 5]
    wanted = {1: np.float32, 7: np.int64}.get(kind, kind) if isinstance(kind, int) else kind
    assert value.numpy().dtype == np.dtype(wanted)


@pytest.mark.parametrize(("code", "name", "nbytes"), [(16, "bfloat16", 16), (17, "float8e4m3fn", 8), (22, "int4", 4)])
def test_types_that_numpy_lacks_lie_over_plain_ones(ort, code, name, nbytes):
    raw = np.arange(8, dtype=np.uint16 if code == 16 else np.uint8)
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, code)
    assert (value.data_type(), value.element_type(), value.shape()) == (f"tensor({name})", code, [8])
    assert value.tensor_size_in_bytes() == nbytes
    with pytest.raises(RuntimeError):
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw.astype(np.uint32), code)


def test_elements_of_less_than_a_byte_are_unpacked():
    packed = np.array([0x21, 0xF8, 0, 0], np.uint8)
    value = ortlite.OrtValue.ortvalue_from_numpy_with_onnx_type(packed, 22)
    assert value.numpy().astype(int).tolist() == [1, 2, -8, -1]


def test_narrow_arrays_of_ml_dtypes_are_taken():
    array = np.array([1, 2], ml_dtypes.bfloat16)
    value = ortlite.OrtValue.ortvalue_from_numpy(array)
    assert (value.element_type(), value.numpy().dtype) == (16, array.dtype)


def test_narrow_arrays_go_to_other_libraries():
    torch = pytest.importorskip("torch")
    array = np.array([[1, -2, 3], [4, 5, 6]], ml_dtypes.bfloat16)
    value = ortlite.OrtValue.ortvalue_from_numpy(array)
    for _ in range(3):
        value.__dlpack__()  # which nobody takes
        tensor = torch.from_dlpack(value)
        assert tensor.dtype is torch.bfloat16
        assert tensor.float().tolist() == [[1, -2, 3], [4, 5, 6]]
    tensor[0, 0] = 7
    assert array[0, 0] == 7
    del tensor
    gc.collect()
    assert not dlpack._alive
    with pytest.raises(BufferError, match="DLPack has no int4"):
        ortlite.OrtValue.ortvalue_from_numpy(array.astype(ml_dtypes.int4)).__dlpack__()


@pytest.mark.parametrize("name", ["CPU", "xyz"])
def test_unknown_devices_are_refused(ort, name):
    with pytest.raises(Exception, match=f"Unsupported device type: {name}"):
        ort.OrtValue.ortvalue_from_numpy(np.zeros(2), name)


def test_a_device_that_is_not_here_is_refused(ort):
    with pytest.raises(RuntimeError, match=r"^Can't allocate memory on the device using this package of OnnxRuntime"):
        ort.OrtValue.ortvalue_from_numpy(np.zeros(2), "dml", 0)


def test_devices(ort):
    device = ort.OrtDevice.make("cuda", 1)
    assert (device.device_type(), device.device_vendor_id(), device.device_mem_type(), device.device_id()) == (
        1,
        0x10DE,
        0,
        1,
    )


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float64", "int16"])
def test_dlpack_both_ways(ort, dtype):
    array = np.array([[0, 1], [1, 1]], dtype)
    value = ort.OrtValue.from_dlpack(array)
    assert value.data_ptr() == array.ctypes.data
    assert value.numpy().dtype == array.dtype
    capsule = ort.OrtValue.ortvalue_from_numpy(array).__dlpack__()
    assert ort.OrtValue.from_dlpack(capsule).data_type() == value.data_type()


def test_dlpack_of_what_is_not_contiguous_is_refused(ort):
    with pytest.raises(RuntimeError):
        ort.OrtValue.from_dlpack(np.zeros((4, 4))[:, ::2])


def test_capsules_of_bytes_may_be_bools():
    capsule = np.array([0, 1], np.uint8).__dlpack__()
    assert ortlite.OrtValue.from_dlpack(capsule, True).data_type() == "tensor(bool)"


def test_vectors(C):
    vector = C.OrtValueVector()
    device = C.OrtDevice(C.OrtDevice.cpu(), C.OrtDevice.default_memory(), 0)
    vector.push_back(C.OrtValue.ortvalue_from_numpy(np.arange(3.0), device))
    assert len(vector) == 1
    assert vector[0].shape() == [3]
    assert [v.data_type() for v in vector] == ["tensor(double)"]
    assert vector.element_type_at(0) == 11
    arrays = [np.arange(4, dtype=np.int32)]
    vector.push_back_batch(arrays, [a.ctypes.data for a in arrays], [np.int32], [[4]], [device])
    assert vector[1].numpy().tolist() == [0, 1, 2, 3]


def test_sparse_coo(ort):
    device = ort.OrtDevice.make("cpu", 0)
    values, indices = np.array([1, 2, 3], np.float32), np.array([1, 4, 8], np.int64)
    sparse = ort.SparseTensor.sparse_coo_from_numpy(np.array([3, 3], np.int64), values, indices, device)
    assert sparse.format() == ort.OrtSparseFormat.ORT_SPARSE_COO
    assert sparse.dense_shape() == [3, 3]
    assert sparse.data_type() == "sparse_tensor(float)"
    assert sparse.as_coo_view().indices().tolist() == [1, 4, 8]
    assert sparse.values().tolist() == [1, 2, 3]
    assert not sparse.values().flags.writeable
    value = ort.OrtValue.ort_value_from_sparse_tensor(sparse)
    assert value.is_sparse_tensor()
    assert value.data_type() == "sparse_tensor(float)"
    assert value.as_sparse_tensor().values().tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError):
        sparse.to_cuda(ort.OrtDevice.make("cuda", 0))


def test_sparse_csr(ort):
    device = ort.OrtDevice.make("cpu", 0)
    shape, values = np.array([3, 3], np.int64), np.array(["a", "b"])
    inner, outer = np.array([1, 0], np.int64), np.array([0, 1, 1, 2], np.int64)
    sparse = ort.SparseTensor.sparse_csr_from_numpy(shape, values, inner, outer, device)
    assert sparse.as_csrc_view().inner().tolist() == [1, 0]
    assert sparse.as_csrc_view().outer().tolist() == [0, 1, 1, 2]
    assert list(sparse.values()) == ["a", "b"]


def test_sparse_tensors_become_dense_ones():
    make = ortlite.SparseTensor
    values = np.array([5, 6], np.int32)
    linear = make.sparse_coo_from_numpy([2, 3], values, np.array([1, 5]), None)
    pairs = make.sparse_coo_from_numpy([2, 3], values, np.array([[0, 1], [1, 2]]), None)
    rows = make.sparse_csr_from_numpy([2, 3], values, np.array([1, 2]), np.array([0, 1, 2]), None)
    for sparse in (linear, pairs, rows):
        assert sparse.to_dense().tolist() == [[0, 5, 0], [0, 0, 6]]
    with pytest.raises(RuntimeError, match="outside of a tensor"):
        make.sparse_coo_from_numpy([2, 3], values, np.array([1, 6]), None)


def test_values_are_copied_and_pickled():
    value = ortlite.OrtValue.ortvalue_from_numpy(np.arange(3.0))
    for again in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert again.numpy().tolist() == [0, 1, 2]
        assert again.data_type() == "tensor(double)"
        assert again.data_ptr() != value.data_ptr()
