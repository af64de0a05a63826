"""Devices of providers, and what compiled models say of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, parser

import ortlite
from ortlite.api import enums
from ortlite.api import ep_devices as ep
from ortlite.errors import InvalidArgument

CPU = "CPUExecutionProvider"
TEXT = '<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }'


@pytest.fixture
def compiled():
    model = parser.parse_model(TEXT)
    helper.set_model_props(model, {f"ep_compatibility_info.{CPU}": "abc"})
    return model.SerializeToString()


def test_devices():
    devices = ep.get_ep_devices()
    first = devices[0]
    assert (first.ep_name, first.ep_vendor, first.ep_options) == (CPU, "Microsoft", {})
    assert first.ep_metadata == {"version": ortlite.__version__}
    assert [device.ep_name for device in devices] == ortlite.get_available_providers()[::-1]
    assert first.device in ep.get_hardware_devices()
    assert first.device.type == enums.OrtHardwareDeviceType.CPU
    assert first.device.vendor
    assert first.device.vendor_id in range(2**16)
    assert first == ep.get_ep_devices()[0]
    assert first.memory_info(enums.OrtDeviceMemoryType.DEFAULT) is None
    with pytest.raises(RuntimeError, match=r"torch\.cuda\.stream"):
        first.create_sync_stream()


def test_assigned_nodes():
    node = ep.OrtEpAssignedNode("n", "", "Relu")
    assert ep.OrtEpAssignedSubgraph(CPU, [node]).get_nodes() == [node]


def test_what_a_model_says_of_a_provider(compiled, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(compiled)
    assert ep.get_compatibility_info_from_model(str(path), CPU) == "abc"
    for data in (compiled, bytearray(compiled), np.frombuffer(compiled, np.uint8)):
        assert ep.get_compatibility_info_from_model_bytes(data, CPU) == "abc"
    assert ep.get_compatibility_info_from_model_bytes(compiled, "Other") is None
    path.write_bytes(b"\xff" * 9)
    for call in (
        lambda: ep.get_compatibility_info_from_model(str(path), CPU),
        lambda: ep.get_compatibility_info_from_model(str(tmp_path / "nope"), CPU),
        lambda: ep.get_compatibility_info_from_model("", CPU),
        lambda: ep.get_compatibility_info_from_model_bytes(b"abc", CPU),
        lambda: ep.get_compatibility_info_from_model_bytes(b"", CPU),
        lambda: ep.get_compatibility_info_from_model_bytes(compiled, ""),
    ):
        with pytest.raises(RuntimeError):
            call()
    for wrong in (None, "text", 3):
        with pytest.raises(TypeError):
            ep.get_compatibility_info_from_model_bytes(wrong, CPU)
    with pytest.raises(TypeError):
        ep.get_compatibility_info_from_model(None, CPU)


def test_whether_a_compiled_model_fits():
    devices = ep.get_ep_devices()
    fits = ep.get_model_compatibility_for_ep_devices
    assert fits(devices[:1], "abc") == enums.OrtCompiledModelCompatibility.EP_NOT_APPLICABLE
    for wrong in ([], [None]):
        with pytest.raises(RuntimeError):
            fits(wrong, "abc")
    for given in ((None, "abc"), ([3], "abc"), (devices, None)):
        with pytest.raises(TypeError):
            fits(*given)
    details = ep.get_hardware_device_ep_incompatibility_details
    assert details(CPU, devices[0].device) == {"reasons_bitmask": 0, "notes": None, "error_code": 0}
    with pytest.raises(InvalidArgument, match="No valid factory found for execution provider 'Nope'"):
        details("Nope", devices[0].device)
    with pytest.raises(TypeError):
        details(CPU, "cpu")


def test_contexts_in_pieces():
    data = ep.OrtEpContextData(b"abcdef")
    assert (data.size, data.read(), data.read(2), data.read(1, 3), data.read(6)) == (6, b"abcdef", b"cdef", b"bcd", b"")
    for offset, length in ((7, None), (4, 3), (-1, 2), (3, -1)):
        with pytest.raises(RuntimeError):
            data.read(offset, length)
    buffer = ep.OrtEpContextDataBuffer(4)
    assert (buffer.is_allocated, buffer.size, buffer.max_size) == (False, 0, 4)
    for wrong in (lambda: buffer.write(b"a"), lambda: buffer.allocate(5), lambda: buffer.allocate(-1)):
        with pytest.raises(RuntimeError):
            wrong()
    buffer.allocate(3)
    buffer.write(b"ab", 1)
    with pytest.raises(RuntimeError):
        buffer.write(b"ab", 2)
    with pytest.raises(RuntimeError):
        buffer.allocate(3)


def test_model_packages_are_refused_with_what_to_use_instead():
    assert ep.ModelPackageOptions("options").sess_options == "options"
    for call in (ep.ModelPackage, lambda: ep.ModelPackage.open("p"), lambda: ep.ModelPackageContext("p")):
        with pytest.raises(RuntimeError, match="give InferenceSession the path"):
            call()
    with pytest.raises(TypeError, match="No constructor"):
        ep.ModelPackageComponentContext()


def test_beside_onnxruntime(compiled):
    theirs = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    (device,), (hardware,) = theirs.get_ep_devices(), theirs.get_hardware_devices()
    ours = ep.get_ep_devices()[0]
    assert (ours.ep_name, ours.ep_vendor, ours.ep_options) == (device.ep_name, device.ep_vendor, device.ep_options)
    assert (ours.device.vendor_id, ours.device.device_id) == (hardware.vendor_id, hardware.device_id)
    assert int(ours.device.type) == int(hardware.type)
