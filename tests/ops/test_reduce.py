"""Reductions, arg-extremes and cumulative sums: axes, empty axes, ties, NaN, integers."""

from __future__ import annotations

import numpy as np
import pytest
from opcheck import PROVIDERS, check, run_op

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
REDUCE = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare".split()


@pytest.mark.parametrize("op", [*REDUCE, "ReduceLogSum"])
@pytest.mark.parametrize("axes", [None, [1], [0, -1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes(op, axes, keepdims):
    x = np.abs(X) if op == "ReduceLogSum" else X
    check(op, x, None if axes is None else np.array(axes), keepdims=keepdims, opset=18)
    check(op, x, axes=axes, keepdims=keepdims, opset=11)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"])
@pytest.mark.parametrize(("shape", "axes"), [((60_000, 3), [0]), ((2, 300, 300, 2), [1, 2]), ((3, 1700, 40), [0, 1])])
@pytest.mark.parametrize("provider", [name for name in PROVIDERS if not name.startswith("Strict")])
def test_many_equal_numbers_do_not_add_up_their_roundings(op, shape, axes, provider):
    x = np.full(shape, np.float32(0.1))
    (y,) = run_op(op, x, np.array(axes), opset=18, provider=provider)
    count, wide = np.prod([shape[axis] for axis in axes]), float(x.flat[0])
    wanted = {
        "ReduceSum": count * wide, "ReduceMean": wide, "ReduceL2": wide * np.sqrt(count),
        "ReduceSumSquare": count * wide**2, "ReduceLogSumExp": np.log(count) + wide,
    }[op]  # fmt: skip
    np.testing.assert_allclose(y, np.full_like(y, wanted), rtol=1e-5)


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers(op, dtype):
    if op in {"ReduceLogSumExp", "ReduceMean", "ReduceL2"}:
        pytest.skip("rounding is left open")
    check(op, np.array([[1, -2, 3], [4, 5, -6]], dtype), np.array([1]), opset=18)


@pytest.mark.parametrize(
    ("op", "neutral"),
    [
        ("ReduceSum", 0.0),
        ("ReduceProd", 1.0),
        ("ReduceMax", -np.inf),
        ("ReduceMin", np.inf),
        ("ReduceL1", 0.0),
        ("ReduceL2", 0.0),
        ("ReduceSumSquare", 0.0),
        ("ReduceLogSum", -np.inf),
        ("ReduceLogSumExp", -np.inf),
        ("ReduceMean", np.nan),
    ],
)
def test_an_empty_axis_gives_the_neutral_element(op, neutral):
    x = np.zeros((2, 0, 3), np.float32)
    check(op, x, np.array([1]), keepdims=0, opset=20, expected=np.full((2, 3), neutral, np.float32))
    check(op, np.zeros((0, 2), np.float32), np.array([1]), keepdims=0, opset=20, expected=np.zeros(0, np.float32))


def test_no_axes_may_mean_nothing_to_do():
    check("ReduceSum", X, np.array([], np.int64), noop_with_empty_axes=1, expected=X)
    check("ReduceSumSquare", X, np.array([], np.int64), noop_with_empty_axes=1, opset=18, expected=X * X)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_ties(op):
    x = np.array([[3, 1, 3, 1]], np.float32)
    first = {"ArgMax": 0, "ArgMin": 1}[op]
    check(op, x, axis=1, keepdims=0, expected=np.array([first]))
    check(op, x, axis=1, keepdims=0, select_last_index=1, expected=np.array([first + 2]))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive, reverse):
    check("CumSum", X, np.array(1), exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest):
    x = np.array([[1, 5, 5, 2], [7, 7, 7, 0]], np.float32)
    check("TopK", x, np.array([3]), largest=largest, outputs=2)
    check("TopK", x, np.array([0]), largest=largest, outputs=2)
    check("TopK", x, np.array([2]), axis=0, largest=largest, outputs=2)
    check(
        "TopK",
        x,
        opset=1,
        k=2,
        outputs=2,
        expected=[np.array([[5, 5], [7, 7]], np.float32), np.array([[1, 2], [0, 1]])],
    )


def test_wrong_axis():
    with pytest.raises(Exception, match=r"the_node.*axis 5 is not an axis of a tensor of rank 3"):
        run_op("ArgMax", X, axis=5)


REDUCTIONS = "Sum Mean Prod Max Min L1 L2 SumSquare LogSum LogSumExp".split()


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_scalar_is_reduced_along_0_and_minus_1(op, axis, keepdims):
    """What PyTorch exports of `x.amax(0)` relies on it. onnxruntime takes any axis of a scalar, and so 1."""
    check(f"Reduce{op}", np.float32(2.5), np.array([axis]), keepdims=keepdims)
    check(f"Reduce{op}", np.float32(2.5), axes=[axis], keepdims=keepdims, opset=12)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_the_place_of_a_scalar_is_0(op, last):
    for axis in (0, -1):
        for keepdims in (0, 1):
            check(op, np.float32(2.5), axis=axis, keepdims=keepdims, select_last_index=last, expected=np.array(0))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((0, 0), 0), ((0, 0), -1), ((2, 0, 0), 1), ((3, 0), 0)])
def test_no_places_of_nothing(op, last, shape, axis):
    """As in onnxruntime: an axis of no elements matters only to a result that has some."""
    for keepdims in (0, 1):
        left = np.sum(np.zeros(shape), axis=axis, keepdims=bool(keepdims)).astype(np.int64)
        check(op, np.zeros(shape, np.float32), axis=axis, keepdims=keepdims, select_last_index=last, expected=left)
    with pytest.raises(Exception, match="the_node"):
        run_op(op, np.zeros((0, 3), np.float32), axis=0, select_last_index=last)
