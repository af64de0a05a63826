"""Copies in C order."""

from __future__ import annotations

import numpy as np
import pytest

from ortlite.ordered import LARGE, in_order


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.complex128, object])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (700, 600), (2, 300, 16), (3, 40, 31, 290), (1, 9, 9, 9, 600)])
def test_a_copy_in_order_of_every_layout(shape, dtype):
    x = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    turned = [x, x.T, x[::-1] if shape else x]
    if x.ndim > 2:  # channels last
        turned += [np.moveaxis(x, -1, 1), np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)]
    if x.ndim > 1:  # parts, whose rows lie apart
        turned += [x[..., 2:].T, x[::2].T, x[::-1].T, np.moveaxis(x[..., 1:], -1, 1), np.moveaxis(x[:, ::2], -1, 1)]
    for given in turned:
        made = in_order(given)
        assert made.flags.c_contiguous
        assert made.dtype == given.dtype
        assert not np.shares_memory(made, given)
        np.testing.assert_array_equal(made, given)


def test_large_images_are_copied_block_by_block(monkeypatch):
    monkeypatch.setattr(np, "array", None)  # what NumPy would do in one go
    x = np.zeros((LARGE // 64, 16), np.float32)
    wide = np.zeros((len(x), 20), np.float32)  # of which a part is copied, row by row
    assert in_order(wide[:, 2:18].T).shape == in_order(np.moveaxis(wide[None, :, 2:18], -1, 1))[0].shape
    assert in_order(x.T).shape == in_order(np.moveaxis(x[None], -1, 1))[0].shape == (16, len(x))
