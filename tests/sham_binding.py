"""Memory of a device, by its address and in place: run by test_other_device.py, in a process whose CUDA is a sham."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import ortlite
from ortlite import dtypes, provider
from tests.api.conftest import W, model
from tests.sham import OnSham, Sham

NAME = "CUDAExecutionProvider"
X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


class OnCUDA(OnSham):
    """The sham device, which knows addresses: they are the CPU's."""

    name = NAME
    rank = 10
    option_names = frozenset({"device_id"})
    waited = 0

    @classmethod
    def options_of(cls, array):
        return {"device_id": "0"}

    def pointer(self, array):
        return array.held.data_ptr()

    def from_pointer(self, pointer, shape, dtype, keep=None):
        storage = dtypes.to_numpy(dtype)
        memory = (ctypes.c_byte * (int(np.prod(shape)) * storage.itemsize)).from_address(pointer)
        return Sham(torch.from_numpy(np.frombuffer(memory, storage).reshape(shape)))

    def synchronize(self):
        OnCUDA.waited += 1


@pytest.fixture(autouse=True)
def _a_device(monkeypatch):
    known = provider._provider_class
    monkeypatch.setattr(provider, "_provider_class", lambda name: OnCUDA if name == NAME else known(name))
    monkeypatch.setattr(provider, "usable", lambda: [NAME, provider.CPU])  # tensors are the device's
    monkeypatch.setattr(Sham, "__dlpack_device__", lambda _: (2, 0))
    provider._holder.cache_clear()
    provider._shared.cache_clear()


@pytest.fixture
def session():
    node = helper.make_node("Mul", ["X", "W"], ["Y"])
    source = model([node], [("X", TensorProto.FLOAT, [3, 2])], [("Y", TensorProto.FLOAT, [3, 2])], [("W", W)])
    return ortlite.InferenceSession(source, providers=[(NAME, {"device_id": "0"})], fallback="error")


def test_memory_is_read_and_written_by_its_address(session):
    given, out, binding = torch.from_numpy(X.copy()), torch.zeros(3, 2), session.io_binding()
    binding.bind_input("X", "cuda", 0, np.float32, [3, 2], given.data_ptr())
    binding.bind_output("Y", "cuda", 0, np.float32, [3, 2], out.data_ptr())
    for _ in range(2):
        before = OnCUDA.waited
        session.run_with_iobinding(binding)
        assert OnCUDA.waited == before + 1
        np.testing.assert_array_equal(out.numpy(), given.numpy() * W)
        given += 1
    found = binding.get_outputs()[0]
    assert (found.device_name(), found.data_ptr()) == ("cuda", out.data_ptr())
    options = ortlite.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    session.run_with_iobinding(binding, options)
    assert OnCUDA.waited == before + 1
    binding.synchronize_inputs()
    assert OnCUDA.waited == before + 2


def test_memory_of_another_shape_is_left_alone(session):
    out, binding = torch.zeros(2, 3), session.io_binding()
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y", "cuda", 0, np.float32, [2, 3], out.data_ptr())
    with pytest.raises(RuntimeError, match=r"has shape \[2, 3\] but the computed shape is \[3, 2\]"):
        session.run_with_iobinding(binding)
    assert not out.any()


def test_ortvalues_on_the_device_are_bound(session):
    value = ortlite.OrtValue.ortvalue_from_numpy(X, "cuda", 0)
    out = ortlite.OrtValue.ortvalue_from_shape_and_type([3, 2], np.float32, "cuda", 0)
    where, binding = out.data_ptr(), session.io_binding()
    binding.bind_ortvalue_input("X", value)
    binding.bind_ortvalue_output("Y", out)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.numpy(), X * W)
    assert (out.data_ptr(), out.device_name()) == (where, "cuda")
    binding.bind_ortvalue_input("X", out)  # in and out in one place
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.numpy(), X * W * W)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16"])
def test_update_inplace_writes_into_the_memory(dtype):
    host = X.astype(dtype)
    value = ortlite.OrtValue.ortvalue_from_numpy(np.zeros_like(host), "cuda", 0)
    where = value.data_ptr()
    again = ortlite.OrtValue(value)
    value.update_inplace(host)
    np.testing.assert_array_equal(again.numpy(), host)
    value.update_inplace(ortlite.OrtValue.ortvalue_from_numpy(host[::-1].copy(), "cuda", 0))
    np.testing.assert_array_equal(again.numpy(), host[::-1])
    ortlite.copy_tensors([ortlite.OrtValue.ortvalue_from_numpy(host)], [value])
    np.testing.assert_array_equal(again.numpy(), host)
    value.update_inplace(host.view(np.uint8))  # only the number of bytes counts
    assert (value.data_ptr(), again.data_ptr()) == (where, where)
    with pytest.raises(RuntimeError, match="does not match the size"):
        value.update_inplace(host[:2])


def test_values_of_the_devices_own_arrays_share_their_memory(session):
    there = provider.create(NAME, {"device_id": "0"}).from_numpy(X)
    value = ortlite.OrtValue.from_dlpack(there)
    assert (value.device_name(), value.data_ptr()) == ("cuda", there.held.data_ptr())
    binding = session.io_binding()
    binding.bind_ortvalue_input("X", value)
    binding.bind_output("Y")
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].device_name() == "cpu"
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X * W)


def test_vectors_of_pointers():
    there = provider.create(NAME, {"device_id": "0"}).from_numpy(X)
    vector = ortlite.capi.onnxruntime_pybind11_state.OrtValueVector()
    device = ortlite.OrtDevice.make("cuda", 0)
    vector.push_back_batch([there], [there.held.data_ptr()], [np.float32], [[3, 2]], [device])
    np.testing.assert_array_equal(vector[0].numpy(), X)
    assert vector[0].device_name() == "cuda"


def test_a_run_on_the_device_obeys_its_options(session):
    binding, options = session.io_binding(), ortlite.RunOptions()
    binding.bind_cpu_input("X", X)
    binding.bind_output("Y", "cuda")
    options.terminate = True
    with pytest.raises(RuntimeError, match="terminate flag"):
        session.run_with_iobinding(binding, options)
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].device_name() == "cuda"
