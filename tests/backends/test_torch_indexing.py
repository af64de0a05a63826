"""Gather, GatherND and Concat on torch by one call of its own, with the kernels' answers and errors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.capi.onnxruntime_pybind11_state import InvalidArgument
from ortlite.ops import registry
from ortlite.provider import create

torch = pytest.importorskip("torch")
TORCH = create("TorchExecutionProvider")
KEY = ("", "Gather", 1)
DTYPES = [torch.float32, torch.float64, torch.int32, torch.int64, torch.bool]


def both(data, indices, axis):
    """What the override gives, and the kernel."""
    with TORCH.context():
        given = TORCH.overrides[KEY](TORCH.xp, data, indices, axis=axis)
        return given, registry.lookup(*KEY).fn(TORCH.xp, data, indices, axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [2, [1], [2, 0, 2], [[0, 1], [1, 0]], [-1, 0], [[-3], [2]]])
def test_the_kernel_s_answer(dtype, kind, axis, indices):
    data = torch.arange(3 * 4 * 5).reshape(3, 4, 5).permute(2, 1, 0)[:3, :, :].to(dtype)  # of strides
    given, wanted = both(data, torch.tensor(indices, dtype=kind), axis)
    assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
    assert torch.equal(given, wanted)


@pytest.mark.parametrize("indices", [3, [0, 3], [-4, 0]])
def test_out_of_range(indices):
    with TORCH.context(), pytest.raises(ValueError, match="must lie from"):
        TORCH.overrides[KEY](TORCH.xp, torch.zeros(3, 2), torch.tensor(indices))


def test_what_is_left_to_the_kernel():
    with TORCH.context():
        call = TORCH.overrides[KEY]
        assert call(TORCH.xp, torch.zeros(3, 0), torch.tensor([0])) is NotImplemented
        assert call(TORCH.xp, torch.zeros(3), torch.zeros(0, dtype=torch.int64)) is NotImplemented
        assert call(TORCH.xp, torch.zeros(3, dtype=torch.float16), torch.tensor([0])) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("indices", [[2], [[0], [-1]], [[0, 1], [-3, 3]], [[[0, 1, 2]], [[2, -4, -5]]]])
def test_tuples_as_the_kernel_takes_them(dtype, indices):
    data = torch.arange(3 * 4 * 5).reshape(5, 4, 3).permute(2, 1, 0).to(dtype)
    key = ("", "GatherND", 11)
    with TORCH.context():
        given = TORCH.overrides[key](TORCH.xp, data, torch.tensor(indices))
        wanted = registry.lookup("", "GatherND", 13).fn(TORCH.xp, data, torch.tensor(indices))
    assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape)
    assert torch.equal(given, wanted)


def test_tuples_that_are_refused():
    with TORCH.context():
        call = TORCH.overrides["", "GatherND", 11]
        for indices in ([[3, 0]], [[0, -3]]):
            with pytest.raises(ValueError, match="must lie from"):
                call(TORCH.xp, torch.zeros(3, 2), torch.tensor(indices))
        assert call(TORCH.xp, torch.zeros(3), torch.tensor([[0, 0]])) is NotImplemented
        assert call(TORCH.xp, torch.zeros(3, 2), torch.tensor([[0]]), batch_dims=1) is NotImplemented


def test_concat_leaves_what_does_not_fit_to_the_kernel():
    with TORCH.context():
        call = TORCH.overrides["", "Concat", 4]
        assert call(TORCH.xp, torch.zeros(2, 0), torch.ones(2, 3), axis=-1).tolist() == [[1] * 3] * 2
        assert call(TORCH.xp, torch.zeros(0), torch.ones(2, 3), axis=0) is NotImplemented  # torch would leave it out
        assert call(TORCH.xp, torch.zeros(2, 2), torch.ones(3, 3), axis=0) is NotImplemented
        assert call(TORCH.xp, torch.zeros(2, 2), torch.ones(2, 2), axis=2) is NotImplemented


MODEL = """<ir_version: 8, opset_import: ["": 18]> g (float[N, 4] x, int64[M] i) => (float[M, 4] y, float[N] z)
<int64 last = {-1}, int64 far = {FAR}>
{ y = Gather(x, i)  z = Gather<axis = 1>(x, INDEX) }"""


def session(index="last", far=9):
    text = MODEL.replace("INDEX", index).replace("FAR", str(far))
    return ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=["TorchExecutionProvider"])


def test_in_sessions_run_after_run():
    s = session()
    for n, indices in [(3, [0, -1]), (3, [2, 1]), (3, [2, 1]), (5, [4, -5]), (3, [2, 1])]:
        x = np.arange(4.0 * n, dtype=np.float32).reshape(n, 4)
        y, z = s.run(None, {"x": x, "i": np.array(indices)})
        np.testing.assert_array_equal(y, x[indices])
        np.testing.assert_array_equal(z, x[:, -1])
        with pytest.raises(InvalidArgument, match="Gather"):
            s.run(None, {"x": x, "i": np.array([0, n])})


def test_a_constant_out_of_range_is_told():
    with pytest.raises(InvalidArgument, match="Gather"):
        session("far").run(None, {"x": np.zeros((3, 4), np.float32), "i": np.array([0])})
