"""LoRA adapters, beside onnxruntime's: each reads what the other writes."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest
from onnx import parser

import ortlite

pytest.importorskip("flatbuffers")
from ortlite.api.adapters import AdapterFormat, LoraAdapter
from ortlite.api.ortvalue import OrtValue

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1, -2, 3], np.int64),
    "z": np.zeros((0, 2), np.float16),
    "é": np.array([1, 255], np.uint8),
    "b": np.array([1.5, -2], ml_dtypes.bfloat16),
    "e": np.array([[1, 2, 4]], ml_dtypes.float8_e4m3fn),
    "d": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def adapter(arrays):
    made = AdapterFormat()
    made.set_adapter_version(3)
    made.set_model_version(np.int32(4))
    made.set_parameters({name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()})
    return made


def same(values, arrays):
    assert values.keys() == arrays.keys()
    for name, array in arrays.items():
        got = np.asarray(values[name].numpy())
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        np.testing.assert_array_equal(got.astype(float), array.astype(float))


def test_written_and_read(tmp_path):
    path = tmp_path / "a.onnx_adapter"
    adapter(ARRAYS).export_adapter(path)
    read = AdapterFormat.read_adapter(path)
    assert (read.get_format_version(), read.get_adapter_version(), read.get_model_version()) == (1, 3, 4)
    same(read.get_parameters(), ARRAYS)
    loaded = LoraAdapter()
    assert loaded.parameters == {}
    loaded.Load(str(path))
    same(loaded.parameters, ARRAYS)


def test_parameters_are_views_and_the_file_stays(tmp_path):
    path = tmp_path / "a.onnx_adapter"
    adapter(ARRAYS).export_adapter(path)
    before = path.read_bytes()
    array = AdapterFormat.read_adapter(path).get_parameters()["d"].numpy()
    assert not array.flags.owndata
    assert array.ctypes.data % 8 == 0
    array[:] = 7
    assert path.read_bytes() == before


def test_an_empty_adapter(tmp_path):
    path = tmp_path / "a.onnx_adapter"
    AdapterFormat().export_adapter(path)
    read = AdapterFormat.read_adapter(path)
    assert (read.get_adapter_version(), read.get_model_version(), read.get_parameters()) == (0, 0, {})


def test_beside_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    arrays = {name: array for name, array in ARRAYS.items() if name not in "be"}
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    adapter(ARRAYS).export_adapter(ours)
    read = onnxruntime.AdapterFormat.read_adapter(ours)
    assert (read.get_format_version(), read.get_adapter_version(), read.get_model_version()) == (1, 3, 4)
    parameters = read.get_parameters()
    assert {name: value.element_type() for name, value in parameters.items() if name in "be"} == {"b": 16, "e": 17}
    same({name: value for name, value in parameters.items() if name not in "be"}, arrays)
    onnxruntime.LoraAdapter().Load(ours)

    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(5)
    given = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    bits = np.ascontiguousarray(ARRAYS["b"].view(np.uint16))
    given["b"] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)
    made.set_parameters(given)
    made.export_adapter(theirs)
    read = AdapterFormat.read_adapter(theirs)
    assert (read.get_format_version(), read.get_adapter_version(), read.get_model_version()) == (1, 5, 0)
    same(read.get_parameters(), arrays | {"b": ARRAYS["b"]})


def test_mistakes(tmp_path):
    bad = tmp_path / "bad"
    with pytest.raises(RuntimeError, match="No such file"):
        AdapterFormat.read_adapter(tmp_path / "nope")
    for data in (b"", b"hello world, and more"):
        bad.write_bytes(data)
        with pytest.raises(RuntimeError, match="does not appear to be a valid lora parameter format"):
            LoraAdapter().Load(str(bad))
    with pytest.raises(RuntimeError, match="Failed to open file"):
        AdapterFormat().export_adapter(tmp_path / "no" / "where")
    with pytest.raises(TypeError, match="adapter_version is an int, not str"):
        AdapterFormat().set_adapter_version("1")
    with pytest.raises(AttributeError, match="'w' is an OrtValue, not ndarray"):
        AdapterFormat().set_parameters({"w": np.zeros(3)})


def test_damaged_files(tmp_path):
    good, path = tmp_path / "good", tmp_path / "bad"
    adapter(ARRAYS).export_adapter(good)
    data = good.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(RuntimeError, match="fails lora adapter format verification"):
        AdapterFormat.read_adapter(path)
    for seed in range(300):
        rng = random.Random(seed)
        damaged = bytearray(data)
        place = rng.randrange(8, len(damaged))
        damaged[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0\0\0\0"])
        path.write_bytes(damaged)
        try:
            AdapterFormat.read_adapter(path)
        except RuntimeError as error:
            assert "lora" in str(error).lower() or "format version" in str(error)  # noqa: PT017


MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,2] x, float[2,M] a, float[M,2] b) => (float[N,2] y) <float[2,1] a = {0,0}, float[1,2] b = {0,0}>
{ l = MatMul(x, a) m = MatMul(l, b) y = Add(x, m) }"""


def test_an_adapter_in_a_run(tmp_path):
    path, x = str(tmp_path / "a.onnx_adapter"), np.array([[1, 2]], np.float32)
    a, b = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    adapter({"a": a, "b": b}).export_adapter(path)
    data = parser.parse_model(MODEL).SerializeToString()

    def outputs(library):
        session, options, loaded = library.InferenceSession(data), library.RunOptions(), library.LoraAdapter()
        loaded.Load(path)
        options.add_active_adapter(loaded)
        return [session.run(None, {"x": x}, each)[0] for each in (None, options, None)]

    without, active, again = outputs(ortlite)
    np.testing.assert_array_equal(without, x)
    np.testing.assert_array_equal(active, x + x @ a @ b)
    np.testing.assert_array_equal(again, x)
    for got, wanted in zip((without, active), outputs(pytest.importorskip("onnxruntime")), strict=False):
        np.testing.assert_array_equal(got, wanted)
