"""Gather and scatter: negative indices, duplicates, reductions, empty indices, what lies outside."""

from __future__ import annotations

import numpy as np
import pytest
from opcheck import PROVIDERS, check, run_op

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [np.array(1), np.array([[0, -1], [1, 0]]), np.zeros((0, 2), np.int64)])
def test_gather(axis, indices):
    check("Gather", X, indices, axis=axis)


def test_gather_elements_and_nd():
    check("GatherElements", X, np.array([[[0, -1, 1, 0]]]), axis=0)
    check("GatherND", X, np.array([[0, 1], [1, -1]]))
    check("GatherND", X, np.array([[1], [0]]), batch_dims=1)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(reduction):
    indices = np.array([[1, 0, 1, -1], [0, 0, 2, 2]])
    updates = np.arange(8, dtype=np.float32).reshape(2, 4) - 3.5
    data = np.ones((3, 4), np.float32)
    if reduction != "none":  # the order of duplicates is left open without
        check("ScatterElements", data, indices, updates, axis=0, reduction=reduction)
        check("ScatterND", data, np.array([[1], [1]]), updates, reduction=reduction)
    check("ScatterElements", data, indices[:, :1], updates[:, :1], axis=1, reduction=reduction)
    check("ScatterND", data, np.array([[2], [0]]), updates, reduction=reduction)


def test_scatter_below_opset_11():
    data = np.zeros((2, 3), np.float32)
    expected = np.array([[0, 9, 0], [8, 0, 0]], np.float32)
    check("Scatter", data, np.array([[1], [0]]), np.array([[9], [8]], np.float32), axis=1, opset=9, expected=expected)


def test_scattering_nothing():
    check("ScatterND", X, np.zeros((0, 1), np.int64), np.zeros((0, 3, 4), np.float32), expected=X)
    check("ScatterElements", X, np.zeros((0, 3, 4), np.int64), np.zeros((0, 3, 4), np.float32), expected=X)


def test_a_circular_cache_takes_any_index():
    cache, update = X[:, :, :2], -X[:, :2, 2:] - 1
    expected = cache.copy()
    for example, start in enumerate((8, -1)):
        for step in range(2):
            expected[example, (start + step) % 3] = update[example, step]
    check("TensorScatter", cache, update, ints(8, -1), mode="circular", opset=24, expected=expected)


def test_one_hot_and_nonzero_and_where():
    check("OneHot", np.array([[1, -1], [5, 0]]), np.array(4), np.array([2, 9], np.float32), axis=1)
    for index, y in [(2, [2, 2, 9]), (3, [2, 2, 2]), (-4, [2, 2, 2])]:  # a single one, which may be nowhere
        check("OneHot", np.array(index), np.array(3), np.array([2, 9], np.float32), expected=np.array(y, np.float32))
    check("NonZero", np.array([[0, 1, 0], [2, 0, -3]], np.float32))
    check("NonZero", np.float32(3), expected=np.zeros((0, 1), np.int64))
    check("Where", np.array([[True], [False]]), np.float32(1), np.array([5, 6], np.float32))
    check("Compress", X, np.array([False, True, True]), axis=1)
    check("Compress", X, np.array([True, False, True]))


def test_unique():
    x = np.array([[3, 1, 3], [3, 1, 3], [2, 2, 2]], np.float32)
    for axis in (None, 0, 1):
        for is_sorted in (0, 1):
            check("Unique", x, axis=axis, sorted=is_sorted, outputs=4)


@pytest.mark.skipif(
    bool({"JAXExecutionProvider", "CuPyExecutionProvider"} & set(PROVIDERS)), reason="their kernels check no index"
)
def test_an_index_out_of_range_is_an_error():
    with pytest.raises(Exception, match="the_node"):
        run_op("Gather", X, ints(3), axis=1)
