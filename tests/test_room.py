"""Room for weights: whole lines of the cache, apart from one another, in blocks that go with the last of them."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

from ortlite import room
from ortlite.derived import Derived
from ortlite.room import BLOCK, LEAST, LINE, aligned, laid

SHAPES = [(LEAST // 4,), (100, 333), (7, 11, 500), (BLOCK // 16,), (BLOCK // 8 - LINE,)]


@pytest.fixture(autouse=True)
def nothing_yet(monkeypatch):
    monkeypatch.setattr(room, "_last", None)


def extent(array):
    start = array.__array_interface__["data"][0]
    return start, start + array.nbytes


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_arrays_lie_apart_from_a_line_of_the_cache_on(dtype):
    given = [np.full(shape, value, dtype) for value, shape in enumerate(SHAPES * 3)]
    given[3].flags.writeable = False
    made = [laid(array) for array in given]
    for array, before in zip(made, given, strict=True):
        assert array is not before
        assert (array.shape, array.dtype, array.flags.writeable) == (before.shape, before.dtype, before.flags.writeable)
        assert array.flags.c_contiguous
        assert extent(array)[0] % LINE == 0
        assert (array == before).all()  # all have been written
    assert all(before[1] <= after[0] for before, after in pairwise(sorted(map(extent, made))))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(LEAST - 1, np.uint8),
        np.zeros(BLOCK, np.uint8),
        np.zeros(2 * LEAST, np.uint8)[1:],  # another's memory
        np.zeros((LEAST, 2), np.uint8, order="F"),
        np.full(LEAST, "text", object),
        (1, None, "text"),
        None,
    ],
)
def test_other_values_stay(value):
    found = laid(value)
    assert found is value or (type(value) is tuple and found == value)


def test_what_begins_at_a_line_already_lies_there_too():
    made = aligned((LEAST // 4,), np.int32, LEAST)
    made[...] = 7
    assert extent(made)[0] % LINE == 0
    found = laid(made)
    assert found.base.nbytes == BLOCK
    assert (found == 7).all()


def test_a_block_lives_as_long_as_its_arrays():
    one, other = laid((np.ones(LEAST, np.uint8), np.ones(LEAST, np.uint8)))
    assert one.base is other.base
    block = weakref.ref(one.base)
    del one
    gc.collect()
    assert block() is other.base
    del other
    gc.collect()
    assert block() is None
    assert laid(np.ones(LEAST, np.uint8)).base is not None


def test_a_full_block_is_followed_by_another():
    made = [laid(np.ones(BLOCK // 3, np.uint8)) for _ in range(4)]
    assert [a.base is b.base for a, b in pairwise(made)] == [True, False, True]
    assert {a.base.nbytes for a in made} == {BLOCK}


def test_what_is_derived_lies_there_but_a_constant_stays():
    weights = np.ones((LEAST, 2), np.float32)
    derived = Derived([weights])
    turned = derived(np.transpose, weights)
    assert turned.base is weights
    doubled = derived(np.add, weights, weights)
    assert (doubled == 2).all()
    assert doubled.base.nbytes == BLOCK
    assert derived(np.asarray, weights) is weights
    assert derived(np.add, weights, weights) is doubled
