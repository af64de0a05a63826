"""NumPy's namespace: what it does not take from NumPy as it is follows the Array API standard, in every dtype."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortlite import dtypes
from ortlite.provider import CPU, create

REAL = [d.name for d in dtypes.ALL if d.kind in "iuf" and not d.name.startswith("float6_")]
INTEGERS = [name for name in REAL if "int" in name]
FLOATS = [name for name in REAL if "float" in name]
SIGNED_FLOATS = [name for name in FLOATS if name != "float8_e8m0fnu"]
NAN = [name for name in FLOATS if name != "float4_e2m1fn"]
XP = create(CPU, {"compiled": "0"}).xp


def array(values, name, shape=None):
    x = np.asarray(values, np.float64 if "float" in name else object).astype(XP.dtype(name))
    return x if shape is None else x.reshape(shape)


def numbers(x):
    """The values as Python numbers, without a library's arithmetic."""
    return [float(v) if "float" in x.dtype.name else int(v) for v in x.ravel()]


def limits(name):
    d = dtypes.by_name(name)
    return (-(2 ** (d.bits - 1)), 2 ** (d.bits - 1) - 1) if d.kind == "i" else (0, 2**d.bits - 1)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("descending", [False, True])
def test_equal_numbers_keep_their_order(name, descending):
    values = [1, 0, 1, 0, 1, 1, 0] if name != "float8_e8m0fnu" else [2, 1, 2, 1, 2, 2, 1]
    x = array(values, name)
    wanted = sorted(range(len(values)), key=lambda i: (-values[i] if descending else values[i], i))
    order = XP.argsort(x, descending=descending)
    assert order.dtype == np.int64
    assert order.tolist() == wanted
    ordered = XP.sort(x, descending=descending)
    assert ordered.dtype == x.dtype
    assert numbers(ordered) == sorted(map(float, values), reverse=descending)


@pytest.mark.parametrize("name", ["float32", "int64", "bfloat16"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("descending", [False, True])
def test_along_any_axis(name, axis, descending):
    x = array([(7 * i) % 5 for i in range(24)], name, (2, 3, 4))
    order = XP.argsort(x, axis=axis, descending=descending)
    ordered = XP.take_along_axis(x, order, axis=axis)
    assert ordered.dtype == x.dtype
    rows, places = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), np.moveaxis(order, axis, -1)
    for row, found in zip(rows, places.reshape(rows.shape), strict=True):
        wanted = sorted(range(len(row)), key=lambda i: (-float(row[i]) if descending else float(row[i]), i))
        assert found.tolist() == wanted
    assert numbers(XP.sort(x, axis=axis, descending=descending)) == numbers(ordered)


def test_the_least_integers_are_ordered_descending():
    """Their negatives are no numbers of their dtype."""
    for name in INTEGERS:
        least, largest = limits(name)
        x = array([least, largest, 0, least], name)
        assert numbers(XP.sort(x, descending=True)) == sorted([least, largest, 0, least], reverse=True)
        assert XP.argsort(x, descending=True).tolist() == sorted(range(4), key=lambda i: (-int(x[i]), i))


@pytest.mark.parametrize("name", NAN)
def test_nan_are_together_and_do_not_mix_up_the_rest(name):
    x = array([4, math.nan, 1, math.nan, 2], name)
    assert XP.argsort(x).tolist() == [2, 4, 0, 1, 3]
    assert XP.argsort(x, descending=True).tolist() == [1, 3, 0, 4, 2]
    assert numbers(XP.sort(x))[:3] == [1, 2, 4]


@pytest.mark.parametrize("name", REAL)
def test_take_along_a_negative_axis(name):
    x = array([1, 2, 4, 1, 4, 2] if name == "float8_e8m0fnu" else [0, 1, 1, 1, 0, 0], name, (2, 3))
    y = XP.take_along_axis(x, np.asarray([[2, 0], [-1, 1]]), axis=-1)
    assert y.dtype == x.dtype
    assert numbers(y) == numbers(x[[0, 0, 1, 1], [2, 0, 2, 1]])
    y = XP.take_along_axis(x, np.asarray([[1, 0, 1]]), axis=-2)
    assert numbers(y) == numbers(x[[1, 0, 1], [0, 1, 2]])
    assert numbers(XP.take_along_axis(x, np.asarray([[0], [2]]))) == numbers(x[[0, 1], [0, 2]])  # the last by default


@pytest.mark.parametrize("name", SIGNED_FLOATS)
@pytest.mark.parametrize("kind", [None, "own", "float64", "int64"])
def test_clip_of_floats(name, kind):
    values = [-4.0, -1.0, -0.5, 0.0, 1.0, 3.0] + ([math.nan] if name in NAN else [])
    x = array(values, name)
    bounds = [(None, None), (-1, None), (None, 2), (-1, 2)]
    if kind != "int64":
        bounds.append((-0.5, 0.5))
    if kind is None or kind == "float64":
        bounds.append((-math.inf, 1.0))
    for low, high in bounds:
        given = [b if b is None or kind is None else array(b, name if kind == "own" else kind) for b in (low, high)]
        y = XP.clip(x, *given)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(numbers(y), np.clip(numbers(x), low, high))


@pytest.mark.parametrize("name", sorted({*SIGNED_FLOATS} & {*NAN}))
def test_a_bound_that_is_nan_gives_nan(name):
    x = array([-1, 0, 1], name)
    for low, high in ((math.nan, None), (None, math.nan), (math.nan, 1.0), (-1.0, math.nan)):
        assert np.isnan(numbers(XP.clip(x, low, high))).all()
    some = XP.clip(x, array([0, math.nan, 0], name), 2)
    np.testing.assert_array_equal(numbers(some), [0, math.nan, 1])


def exact(x, low, high):
    values = [max(v, low) if low is not None else v for v in x]
    return [min(v, high) if high is not None else v for v in values]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("kind", [None, "own", "int8", "uint8", "int16", "int64", "uint64"])
def test_clip_of_integers(name, kind):
    """Bounds beyond what the dtype holds do not wrap around, whatever dtype they come in."""
    least, largest = limits(name)
    values = sorted({least, least + 1, 0, 1, largest - 1, largest})
    x = array(values, name)
    ends = limits(name if kind in {None, "own"} else kind)
    bounds = [None, *(b for b in (ends[0], -1, 0, 1, 100, ends[1]) if ends[0] <= b <= ends[1])]
    if kind is None:
        bounds += [-(10**30), 10**30]
    for low in bounds:
        for high in bounds:
            if low is not None and high is not None and low > high:
                continue
            given = [b if b is None or kind is None else array(b, name if kind == "own" else kind) for b in (low, high)]
            y = XP.clip(x, *given)
            assert y.dtype == x.dtype
            wanted = [min(max(v, least), largest) for v in exact(values, low, high)]
            assert numbers(y) == wanted, (low, high)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_between_floats(name):
    least, largest = limits(name)
    x = array([least, 0, 1, largest], name)
    for low, high in ((-0.5, 0.5), (-math.inf, math.inf), (-1e30, 1e30), (0.5, 1.5), (None, 0.5), (0.5, None)):
        bottom = least if low is None or low < least else math.ceil(low)
        top = largest if high is None or high > largest else math.floor(high)
        wanted = exact(numbers(x), bottom, top)
        assert numbers(XP.clip(x, low, high)) == wanted
        given = [None if b is None else np.asarray([b], np.float64) for b in (low, high)]
        if top == largest and high is not None and largest > 2**53:
            wanted[-1] = numbers(XP.clip(x, *given))[-1]  # no float64 says where the dtype ends
            assert wanted[-1] >= largest - 2**11
        y = XP.clip(x, *given)
        assert y.dtype == x.dtype
        assert numbers(y) == wanted
    with pytest.raises(ValueError, match="NaN"):
        XP.clip(x, math.nan, 1)


def test_bounds_are_not_written_to():
    low, high = np.asarray([-1000, 0], np.int64), np.asarray([1000, 3], np.int64)
    assert XP.clip(np.asarray([[-128], [127]], np.int8), low, high).tolist() == [[-128, 0], [127, 3]]
    assert (low.tolist(), high.tolist()) == ([-1000, 0], [1000, 3])


@pytest.mark.parametrize("name", ["float32", "int32", "bfloat16"])
def test_clip_broadcasts(name):
    x = array([[-5], [0], [5]], name)
    low, high = array([-1, 2], name), array([[[3]], [[4]]], name)
    y = XP.clip(x, low, high)
    assert y.shape == (2, 3, 2)
    assert y.dtype == x.dtype
    assert numbers(y) == [-1, 2, 0, 2, 3, 3, -1, 2, 0, 2, 4, 4]
    assert numbers(XP.clip(x, None, array([1, 7], name))) == [-5, -5, 0, 0, 1, 5]
    assert XP.clip(array([], name), 0, 1).shape == (0,)


def test_a_clip_without_bounds_is_a_copy():
    x = np.asarray([1.0, 2.0])
    y = XP.clip(x)
    assert y is not x
    assert not np.shares_memory(x, y)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(), st.integers())
def test_any_integers(values, low, high):
    low, high = sorted((low, high))
    x = np.asarray(values, np.int64)
    ends = limits("int64")
    assert XP.clip(x, low, high).tolist() == [min(max(v, ends[0]), ends[1]) for v in exact(values, low, high)]


def test_the_rest_of_what_was_not_numpys_own():
    x = np.asarray([[3, 1], [3, 3]])
    assert XP.count_nonzero(x - 1).dtype == np.int64
    assert XP.count_nonzero(x - 1, axis=0, keepdims=True).tolist() == [[2, 1]]
    found = XP.unique_all(x)
    assert found.inverse_indices.shape == x.shape
    assert found.values[found.inverse_indices].tolist() == x.tolist()
    assert XP.unique_inverse(x).inverse_indices.shape == x.shape
    assert XP.unique_values(np.asarray([math.nan, math.nan])).size == 2
    assert XP.asarray(x, copy=False) is x
    assert not np.shares_memory(XP.asarray(x, copy=True), x)
    assert XP.from_dlpack(x).tolist() == x.tolist()


def test_the_namespace_has_the_standards_names():
    compat, strict = map(pytest.importorskip, ("array_api_compat.numpy", "array_api_strict"))

    wanted = {name for name in dir(strict) if not name.startswith("_") and hasattr(compat, name)}
    wanted -= {"Device", "get_array_api_strict_flags", "set_array_api_strict_flags", "reset_array_api_strict_flags"}
    assert sorted(wanted - vars(XP).keys()) == []


FIRST = """
import sys
import numpy as np
from onnx import parser
import ortlite
model = parser.parse_model('''<ir_version: 10, opset_import: ["" : 21]>
g (float[4, 3] x, int64[4, 3] places, float low) => (float[4, 3] a, float[4, 3] b, int64[4, 3] order, int64[n] first) {
    a = Clip (x, low)
    b = GatherElements <axis = -1> (a, places)
    values, order = TopK <largest = 1> (b, three)
    all, first, inverse, counts = Unique (x)
}''')
import onnx
model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([3]), "three"))
session = ortlite.InferenceSession(
    model.SerializeToString(), providers=[("CPUExecutionProvider", {"compiled": "0"})]
)
x = np.arange(12, dtype=np.float32).reshape(4, 3)
for _ in range(3):
    session.run(None, {"x": x, "places": np.full((4, 3), 1), "low": np.asarray(2, np.float32)})
print(*sorted({"array_api_compat", "numpy.f2py", "numpy.testing"} & {*sys.modules}))
"""


def test_neither_a_session_nor_its_runs_import_the_compatibility_layer():
    result = subprocess.run(
        [sys.executable, "-c", FIRST], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert result.stdout.split() == []


@np.errstate(invalid="ignore")
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_powers_of_a_half(name):
    """An infinite base gives inf, a zero 0, however the exponents lie in memory."""
    x = array([-math.inf, math.inf, -0.0, 0.0, 4, -1, math.nan, 9], name)
    wanted = [math.inf, math.inf, 0, 0, 2, math.nan, math.nan, 3]
    for exponent in (array(0.5, name), array([0.5], name), array([0.5] * 8, name)):
        y = XP.pow(x, exponent)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, wanted)
        assert not np.signbit(y[~np.isnan(y)]).any()
    rows = XP.pow(array([-math.inf] * 3, name), array([0.5, 3, 2], name, (3, 1)))
    assert rows.tolist() == [[math.inf] * 3, [-math.inf] * 3, [math.inf] * 3]


@given(st.data())
def test_sums_of_many_equal_numbers(data):
    """All roundings go the same way: 65,536 times 0.1, added one by one, is 6e-4 off, and a million times 1 %."""
    shape = data.draw(st.sampled_from([(20_000, 3), (3, 20_011), (140, 150, 4), (2, 5, 4100), (12_345,), (0, 5000)]))
    order = data.draw(st.permutations(range(len(shape))))
    axes = tuple(data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True, min_size=1)))
    step = data.draw(st.sampled_from([1, 2, -1]))
    x = np.full(shape, np.float32(0.1)).transpose(order)[..., ::step]
    keepdims, axis = data.draw(st.booleans()), data.draw(st.sampled_from([axes, None, axes[0] - x.ndim]))
    for name in ("sum", "mean"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the mean of nothing
            wanted = getattr(np, name)(x.astype(np.float64), axis=axis, keepdims=keepdims)
            said = {} if name == "mean" else data.draw(st.sampled_from([{}, {"dtype": np.float32}, {"dtype": x.dtype}]))
            got = getattr(XP, name)(x, axis=axis, keepdims=keepdims, **said)
        assert got.dtype == x.dtype
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=3e-6)
