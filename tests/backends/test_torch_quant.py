"""Products of integers on torch: exact whatever the numbers, with weights that are made floats once."""

from __future__ import annotations

import numpy as np
import pytest

from ortlite.derived import Derived
from ortlite.provider import create

torch = pytest.importorskip("torch")
quant = pytest.importorskip("ortlite_torch.quant")
OWN = "TorchExecutionProvider", {"loops": "0"}
TORCH = create(*OWN)
MS = "com.microsoft"


def integers(draw, dtype, shape, spread="all"):
    """All values, or only the extreme ones."""
    limits = np.iinfo(dtype)
    ends = draw.choice([limits.min, limits.max], shape)
    return (ends if spread == "ends" else draw.integers(limits.min, limits.max, shape, endpoint=True)).astype(dtype)


def run(domain, name, since, given, derived):
    with TORCH.context():
        return TORCH.overrides[domain, name, since](TORCH.xp, *given, derived=derived)


@pytest.mark.parametrize("a_type", [np.uint8, np.int8])
@pytest.mark.parametrize("b_type", [np.uint8, np.int8])
@pytest.mark.parametrize(("depth", "columns"), [(1, 5), (40, 5), (700, 400), (3000, 100)])
@pytest.mark.parametrize("spread", ["all", "ends"])
@pytest.mark.parametrize("zeros", ["none", "single", "each"])
def test_products(a_type, b_type, depth, columns, spread, zeros):
    draw = np.random.default_rng(depth)
    a, b = integers(draw, a_type, (2, 3, depth), spread), integers(draw, b_type, (depth, columns), spread)
    a_zero = b_zero = None
    wide = [x.astype(np.int64) for x in (a, b)]
    if zeros != "none":
        a_zero = integers(draw, a_type, (3,) if zeros == "each" else ())
        b_zero = integers(draw, b_type, (columns,) if zeros == "each" else (1,))
        wide[0] -= a_zero.astype(np.int64).reshape(-1, 1) if zeros == "each" else a_zero.astype(np.int64)
        wide[1] -= b_zero
    given = [None if v is None else TORCH.from_numpy(v) for v in (a, b, a_zero, b_zero)]
    derived = Derived([v for v in (given[1], given[3]) if v is not None])
    for _ in range(2):
        y = run("", "MatMulInteger", 10, given, derived)
        assert y.dtype == torch.int32
        np.testing.assert_array_equal(y.numpy(), wide[0] @ wide[1])
    assert len(derived._made) == 1
    turned = quant.integer_product(TORCH.xp, given[0], given[2], given[1].T, given[3], Derived([given[1]]), 1)
    assert turned is NotImplemented  # another view is not the constant
    scale = [TORCH.from_numpy(np.float32(v)) for v in (0.02, 0.03)]
    y = run(MS, "MatMulIntegerToFloat", 1, (given[0], given[1], *scale, given[2], given[3]), derived)
    np.testing.assert_array_equal(
        y.numpy(), (wide[0] @ wide[1]).astype(np.float32) * (np.float32(0.02) * np.float32(0.03))
    )


def test_weights_that_are_no_constants():
    draw = np.random.default_rng(0)
    a, b = integers(draw, np.uint8, (4, 300)), integers(draw, np.int8, (300, 7))
    y = run("", "MatMulInteger", 10, [TORCH.from_numpy(a), TORCH.from_numpy(b)], Derived())
    np.testing.assert_array_equal(y.numpy(), a.astype(np.int64) @ b.astype(np.int64))


def test_a_session_makes_floats_of_its_weights_once(monkeypatch):
    from onnx import numpy_helper, parser

    import ortlite

    text = '<ir_version: 8, opset_import: ["": 17]> g (uint8[N, 600] A) => (int32[N, 500] Y) {Y = MatMulInteger(A, B)}'
    draw = np.random.default_rng(1)
    b = integers(draw, np.int8, (600, 500), "ends")
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(b, "B"))
    session = ortlite.InferenceSession(model.SerializeToString(), providers=[OWN])
    made, parts = [], quant.parts
    monkeypatch.setattr(quant, "parts", lambda *args: made.append(1) or parts(*args))
    for rows in (1, 2, 2, 2, 3, 1):
        a = integers(draw, np.uint8, (rows, 600), "ends")
        np.testing.assert_array_equal(session.run(None, {"A": a})[0], a.astype(np.int64) @ b.astype(np.int64))
    assert made == [1]
