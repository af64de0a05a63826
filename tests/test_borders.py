"""How values cross from one library to another: what is shared, what is copied, and that both are counted."""

from __future__ import annotations

import importlib.util
from itertools import permutations

import ml_dtypes
import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import transfer as borders
from ortlite.provider import CPU, create, entered, owner
from ortlite.transfer import TransferStats, transfer

STRICT, TORCH, JAX = (f"{name}ExecutionProvider" for name in ("Strict", "Torch", "JAX"))
LIBRARIES = {TORCH: "torch", JAX: "jax"}
ALIGNMENT = 64  # XLA shares memory with what starts at a multiple of it


def provider(name):
    library = LIBRARIES.get(name)
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    return create(name)


def fresh(shape, dtype, offset=0):
    """An array at a multiple of ALIGNMENT (and `offset` elements): each byte is another small number."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    room = np.zeros((count + offset) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT + offset * dtype.itemsize
    array = room[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
    array[...] = (np.arange(count) % 7).reshape(shape).astype(dtype)
    return array


def read_only(array):
    array.flags.writeable = False
    return array


# what it is -> (the array, who can share its memory with NumPy)
ARRAYS = {
    "plain": (lambda: fresh((3, 4), np.float32), {STRICT, TORCH, JAX}),
    "read-only": (lambda: read_only(fresh((3, 4), np.float32)), {STRICT, TORCH, JAX}),
    "transposed": (lambda: fresh((3, 4), np.float32).T, {STRICT, TORCH}),
    "every other column": (lambda: fresh((3, 4), np.float32)[:, ::2], {STRICT, TORCH}),
    "backwards": (lambda: fresh((3, 4), np.float32)[::-1], {STRICT}),
    "at an odd place": (lambda: fresh((3, 4), np.float32, offset=1), {STRICT, TORCH}),
    "bool": (lambda: fresh((3, 4), np.bool_), {STRICT, TORCH, JAX}),
    "int64": (lambda: fresh((3, 4), np.int64), {STRICT, TORCH, JAX}),
    "uint16": (lambda: fresh((3, 4), np.uint16), {STRICT, TORCH, JAX}),
    "complex64": (lambda: fresh((3, 4), np.complex64), {STRICT, TORCH, JAX}),
    "float16": (lambda: fresh((3, 4), np.float16), {TORCH, JAX}),
    "bfloat16": (lambda: fresh((3, 4), ml_dtypes.bfloat16), {TORCH, JAX}),
    "float8_e4m3fn": (lambda: fresh((3, 4), ml_dtypes.float8_e4m3fn), {TORCH, JAX}),
    "float8_e5m2": (lambda: fresh((3, 4), ml_dtypes.float8_e5m2), {TORCH, JAX}),
    "scalar": (lambda: fresh((), np.float32), {STRICT, TORCH, JAX}),
    "zero-size": (lambda: fresh((0, 4), np.float32), {STRICT, TORCH, JAX}),
}
LACKS = {STRICT: {"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}}


@pytest.mark.parametrize("name", [STRICT, TORCH, JAX])
@pytest.mark.parametrize("kind", ARRAYS)
def test_between_numpy_and_a_library(kind, name):
    if kind in LACKS.get(name, ()):
        pytest.skip(f"{name} holds no {kind}")
    there, cpu = provider(name), create(CPU)
    make, sharing = ARRAYS[kind]
    array = make()
    going, coming = TransferStats(), TransferStats()
    with there.context():
        value = transfer(array, cpu, there, going)
        back = transfer(value, there, cpu, coming)
    assert owner(value) is there
    assert going.nbytes == coming.nbytes == array.nbytes
    assert going.shared == (name in sharing)
    assert coming.shared  # libraries on the host never need a copy to show NumPy what they hold
    if array.size and going.shared:
        assert there.pointer(value) == array.ctypes.data == back.ctypes.data
    elif array.size:
        assert there.pointer(value) != array.ctypes.data
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back.astype(np.complex64), array.astype(np.complex64))


@pytest.mark.parametrize(("source", "target"), [*permutations((STRICT, TORCH, JAX), 2)])
@pytest.mark.parametrize("dtype", ["float32", "bool", "int64", "uint8", "complex64", "bfloat16"])
def test_between_two_libraries(source, target, dtype):
    if dtype == "bfloat16" and STRICT in {source, target}:
        pytest.skip("array-api-strict has no bfloat16")
    here, there, cpu = provider(source), provider(target), create(CPU)
    array = fresh((4, 5), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with here.context(), there.context():
        value = here.from_numpy(array)
        crossing = TransferStats()
        moved = transfer(value, here, there, crossing)
        assert owner(moved) is there
        assert crossing.nbytes == array.nbytes
        assert crossing.shared
        assert there.pointer(moved) == here.pointer(value) == array.ctypes.data
        np.testing.assert_array_equal(there.to_numpy(moved).astype(complex), array.astype(complex))
        assert transfer(moved, there, cpu).ctypes.data == array.ctypes.data


@pytest.mark.parametrize("name", [STRICT, TORCH, JAX])
def test_another_size_is_not_measured_again_and_another_layout_is(name, monkeypatch):
    there, cpu, measured = provider(name), create(CPU), []
    measure = borders._measure
    monkeypatch.setattr(borders, "_measure", lambda *args: (measured.append(None), measure(*args)))
    going = TransferStats()
    for number, rows in enumerate((0, 1, 2, 7, 0, 3)):
        transfer(fresh((rows, 16), np.float32), cpu, there, going)
        assert (going.nbytes, going.shared) == (rows * 64, True)
        assert len(measured) == (1, 2, 2, 2, 3, 4)[number]
    array = fresh((16, 17), np.float32)[1:, ::2]
    transfer(array, cpu, there, going)
    assert going.nbytes == array.nbytes
    assert len(measured) == 5


def test_strided_tensors_are_copied_for_jax_and_that_is_counted():
    torch_, jax_ = provider(TORCH), provider(JAX)
    import torch

    for value, shared in ((torch.arange(12.0).reshape(3, 4)[:, ::2], False), (torch.zeros(4, 4).T, True)):
        crossing = TransferStats()
        moved = transfer(value, torch_, jax_, crossing)
        assert crossing.shared is shared
        assert crossing.nbytes == value.nbytes
        np.testing.assert_array_equal(np.asarray(moved), value.numpy())


def test_what_dlpack_does_not_know_is_copied_and_counted():
    jax_, cpu = provider(JAX), create(CPU)
    import jax.numpy as jnp

    crossing = TransferStats()
    back = transfer(jnp.arange(-8, 8, dtype=jnp.int4), jax_, cpu, crossing)
    assert back.dtype == ml_dtypes.int4
    assert crossing.shared is False
    np.testing.assert_array_equal(back.astype(int), np.arange(-8, 8))


class Producer:
    """An array of a library that writes down how it was asked for its memory."""

    def __init__(self, array):
        self.array, self.asked = array, {}

    def __dlpack__(self, **keywords):
        self.asked = keywords
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_the_versioned_protocol_is_asked_for():
    torch_ = provider(TORCH)
    producer = Producer(read_only(fresh((2, 3), np.float32)))  # only the versioned protocol can say read-only
    tensor = torch_.from_dlpack(producer)
    assert producer.asked["max_version"][0] >= 1
    assert tensor.data_ptr() == producer.array.ctypes.data


def test_torch_is_never_given_negative_strides():
    torch_ = provider(TORCH)
    with pytest.raises(BufferError, match="negative strides"):  # torch.from_dlpack would end the process
        torch_.from_dlpack(fresh((3,), np.float32)[::-1])


def test_what_a_torch_without_cuda_cannot_take_goes_through_the_host():
    torch_ = provider(TORCH)
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA")

    class OnCuda:
        def __dlpack__(self, **keywords):
            raise AssertionError

        def __dlpack_device__(self):
            return 2, 0

    with pytest.raises(BufferError, match="CUDA"):
        torch_.from_dlpack(OnCuda())


MODEL = """<ir_version: 8, opset_import: ["": 18]> g (float[N, 4] x, float[4] w) => (float[N, 4] y)
{ [one] a = Mul(x, w)  [two] b = Tanh(a)  [three] c = Add(b, x)  [four] y = Neg(c) }"""


@pytest.mark.parametrize("name", [STRICT, TORCH, JAX])
def test_a_session_tells_what_crossed(name):
    provider(name)
    session = ortlite.InferenceSession(
        parser.parse_model(MODEL).SerializeToString(), providers=[name], placement={"two": CPU}
    )
    before = {c.value: c for c in session.explain().copies}
    assert before["w"].nbytes == 16  # declared; x and what depends on it are not known before a run
    assert before["x"].nbytes is None
    x, w = fresh((8, 4), np.float32), fresh((4,), np.float32)
    expected = -(np.tanh(x * w) + x)
    for _ in range(3):  # interpreted, specialising, specialised
        np.testing.assert_allclose(session.run(None, {"x": x, "w": w})[0], expected, rtol=1e-6)
    copies = {c.value: c for c in session.explain().copies}
    assert {c.value for c in session.explain().copies} == {"x", "w", "a", "b", "y"}
    assert all(copies[v].nbytes == x.nbytes for v in "xaby")
    assert [copies[v].shared for v in "xway"] == [True] * 4
    session.run(None, {"x": fresh((4, 8), np.float32).T, "w": w})
    x_again = {c.value: c for c in session.explain().copies}["x"]
    assert (x_again.shared, x_again.copied) == ((False, x.nbytes) if name == JAX else (True, 0))
    assert "128" in str(session.explain())


@pytest.mark.parametrize("name", [STRICT, TORCH, JAX])
def test_inputs_of_every_layout_give_the_same(name):
    provider(name)
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[A, B] x) => (float[A, B] y) { y = Exp(x) }'
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[name])
    for kind in "plain|read-only|transposed|every other column|backwards|at an odd place|zero-size".split("|"):
        x = ARRAYS[kind][0]()
        kept = x.copy()
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.exp(kept), rtol=1e-6)
        np.testing.assert_array_equal(x, kept)


OUTPUTS = """<ir_version: 8, opset_import: ["": 18]>
g (float[4, 6] x) => (float[4, 6] y, float[24] view, float[6, 4] turned, float[1, 6] row, float[4, 6] same, float[2] c)
<float[2] c = {1, 2}, int64[1] flat = {24}, int64[1] zero = {0}, int64[1] one = {1}>
{ y = Exp(x)  view = Reshape(y, flat)  e = Neg(x)  turned = Transpose(e)  row = Slice(e, zero, one, zero)
  same = Identity(x) }"""


@pytest.mark.parametrize("name", [TORCH, JAX, STRICT])
def test_no_output_shares_memory_with_anything(name):
    provider(name)
    session = ortlite.InferenceSession(parser.parse_model(OUTPUTS).SerializeToString(), providers=[name])
    x = fresh((4, 6), np.float32)
    before = x.copy()
    expected = [np.exp(x), np.exp(x).reshape(-1), -x.T, -x[:1], x, np.array([1, 2], np.float32)]
    kept = []
    for _ in range(4):
        found = session.run(None, {"x": x})
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-6)
            value[...] = -7
            assert all(not np.shares_memory(value, other) for other in (x, *kept))
            kept.append(value)
    np.testing.assert_array_equal(x, before)


def test_torch_hands_its_own_memory_over():
    provider(TORCH)
    import torch

    text = '<ir_version: 8, opset_import: ["": 18]> g (float[A, B] x) => (float[A, B] y) { y = Exp(x) }'
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[TORCH])
    x = fresh((4, 6), np.float32)
    for _ in range(3):  # the run that specialises has looked at it, and copies
        (y,) = session.run(None, {"x": x})
    assert isinstance(y.base, torch.Tensor)
    assert y.flags.writeable


def test_torch_keeps_what_another_tensor_has():
    torch_ = provider(TORCH)
    import torch

    x = torch.ones(3)
    y = torch_.to_numpy(x)
    assert not torch_.unshared(y.base)
    del x
    assert torch_.unshared(y.base)
    whole = torch.ones(4)
    view = torch_.to_numpy(whole[1:])
    assert not torch_.unshared(view.base)
    assert not torch_.unshared(torch_.to_numpy(torch.from_numpy(np.ones(3))).base)
    assert not torch_.unshared(torch_.to_numpy(torch.from_dlpack(np.ones(3))).base)


def test_several_contexts_are_left_in_turn_whatever_happens():
    cpu = create(CPU)
    seen = []

    class Context:
        def __init__(self, name, fails=""):
            self.name, self.fails = name, fails

        def context(self, *, gradients=False):
            return self

        def __enter__(self):
            seen.append(f"+{self.name}")
            if self.fails == "entering":
                raise ValueError(self.name)

        def __exit__(self, *error):
            seen.append(f"-{self.name}")
            if self.fails == "leaving":
                raise ValueError(self.name)

    with entered([Context("a"), Context("b"), cpu]):
        pass
    with pytest.raises(ValueError, match="b"), entered([Context("a"), Context("b", "leaving"), Context("c")]):
        pass
    with pytest.raises(ValueError, match="b"), entered([Context("a"), Context("b", "entering"), Context("c")]):
        pass
    assert "".join(seen) == "+a+b-b-a" + "+a+b+c-c-b-a" + "+a+b-a"
