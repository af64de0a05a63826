"""What changes nothing goes, chains become one, and near misses stay."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from ortlite import dtypes
from tests.optimize.models import OFF, agree, node, operators, outputs
from tests.optimize.test_activations import Writer, values

SHAPES = st.lists(st.integers(0, 3), min_size=1, max_size=4)
ENDS = {"Neg": 1}  # what stands behind, so that the rest is not an output


def ends(w, y):
    return w("Neg", y)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.data(), st.sampled_from([9, 13, 21]))
def test_transposes(shape, data, opset):
    w = Writer()
    rank = len(shape)
    perms = [data.draw(st.one_of(st.none(), st.permutations(range(rank)))) for _ in range(3)]
    axes = tuple(range(rank))
    y = "x"
    for perm in perms:
        y = w("Transpose", y, **({} if perm is None else {"perm": perm}))
        axes = tuple(axes[i] for i in (perm or range(rank)[::-1]))
    x = values(shape)
    found = agree(w.model({"x": x}, ends(w, y), opset=opset), {"x": x}, 0, 0)
    assert found == (ENDS if axes == tuple(range(rank)) else {"Transpose": 1, **ENDS})


def test_a_transpose_that_others_read_is_still_short_cut():
    w = Writer()
    t = w("Transpose", "x", perm=[1, 2, 0])
    y = ends(w, w("Transpose", t, perm=[2, 0, 1]))
    x = values((2, 3, 4))
    assert agree(w.model({"x": x}, y, [t]), {"x": x}, 0, 0) == {"Transpose": 1, **ENDS}


def target_of(data, shape):
    """A shape with as many elements, with 0 and -1 in it perhaps."""
    order = data.draw(st.permutations(shape))
    cut = data.draw(st.integers(0, len(order)))
    dims = [*order[:cut], prod(order[cut:])]
    if prod(dims) and data.draw(st.booleans()):
        dims[data.draw(st.integers(0, len(dims) - 1))] = -1
    return dims


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data(), st.sampled_from([9, 13, 21]), st.booleans())
def test_reshapes(shape, data, opset, is_open):
    w = Writer()
    for name in ("one", "two"):
        w.constants[name] = np.array(target_of(data, shape), np.int64)
    y = ends(w, w("Reshape", w("Reshape", "x", "one"), "two"))
    x = values(shape)
    dims = {"x": [f"d{i}" for i in range(len(shape))]} if is_open else None
    found = agree(w.model({"x": x}, y, opset=opset, dims=dims), {"x": x}, 0, 0)
    if not is_open:
        assert found["Reshape"] <= 1


def test_a_zero_copies_a_dimension_of_the_value_before_it():
    w = Writer()
    w.constants |= {"one": np.array([4, 6]), "two": np.array([0, 2, 3])}
    y = ends(w, w("Reshape", w("Reshape", "x", "one"), "two"))
    x = values((2, 3, 4))
    assert agree(w.model({"x": x}, y), {"x": x}, 0, 0) == {"Reshape": 2, **ENDS}


def test_a_reshape_that_may_fail_stays():
    """7 elements are no (2, n), whatever comes behind."""
    w = Writer()
    w.constants |= {"one": np.array([2, -1]), "two": np.array([-1])}
    y = ends(w, w("Reshape", w("Reshape", "x", "one"), "two"))
    proto = w.model({"x": values(8)}, y, dims={"x": ["n"]})
    assert agree(proto, {"x": values(8)}, 0, 0)["Reshape"] == 2
    with pytest.raises(Exception, match="Reshape"):
        outputs(proto, {"x": values(7)})


def test_a_reshape_to_the_shape_of_a_value():
    w = Writer()
    y = ends(w, w("Reshape", "x", w("Shape", "x")))
    x = values((2, 3))
    assert agree(w.model({"x": x}, y, dims={"x": ["a", "b"]}), {"x": x}, 0, 0) == ENDS


def test_names_of_open_dimensions_prove_nothing():
    """Both are called n, and are not the same."""
    w = Writer()
    feed = {"x": values((2, 3)), "u": values((3, 2))}
    y = ends(w, w("Reshape", "x", w("Shape", "u")))
    proto = w.model(feed, y, dims={"x": ["n", "m"], "u": ["n", "m"]})
    assert agree(proto, feed, 0, 0) == {"Shape": 1, "Reshape": 1, **ENDS}


def test_a_computed_target_becomes_a_constant():
    w = Writer()
    w.constants |= {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([3, 4])}
    shape = w("Shape", "x")
    target = w("Concat", w("Gather", shape, "zero"), w("Gather", shape, "one"), "rest", axis=0)
    y = ends(w, w("Reshape", "x", target))
    proto = w.model({"x": values((2, 5, 12))}, y, dims={"x": ["b", "s", 12]})
    for dims in ((2, 5, 12), (0, 5, 12), (3, 0, 12)):
        x = values(dims)
        assert agree(proto, {"x": x}, 0, 0) == {"Reshape": 1, **ENDS}


def test_a_squeeze_undoes_an_unsqueeze():
    w = Writer()
    w.constants |= {"one": np.array([1]), "two": np.array([2])}
    x = values((2, 3))
    y = ends(w, w("Squeeze", w("Unsqueeze", "x", "one"), "one"))
    assert agree(w.model({"x": x}, y), {"x": x}, 0, 0) == ENDS
    w = Writer()
    w.constants |= {"one": np.array([1]), "two": np.array([2])}
    x = values((2, 1))
    y = ends(w, w("Squeeze", w("Unsqueeze", "x", "one"), "two"))
    assert agree(w.model({"x": x}, y), {"x": x}, 0, 0) == ENDS  # (2, 1) again
    w = Writer()
    w.constants |= {"zero": np.array([0]), "two": np.array([2])}
    y = ends(w, w("Squeeze", w("Unsqueeze", "x", "zero"), "two"))
    assert agree(w.model({"x": x}, y), {"x": x}, 0, 0) == {"Unsqueeze": 1, "Squeeze": 1, **ENDS}


NAMES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_casts(source, between, target):
    """Whatever goes, no value changes."""
    kinds = {name: dtypes.to_numpy(dtypes.by_name(name)) for name in NAMES}
    raw = np.array([0, 1, 2, 3, 100, 127, -1, -128, 300, 40000, 2**24 + 1, -(2**31)], np.float64)
    if kinds[source].kind in "iu":
        raw = raw[(raw >= np.iinfo(kinds[source]).min) & (raw <= np.iinfo(kinds[source]).max)]
    assume(not (kinds[between].kind == "u" or kinds[target].kind == "u") or source in {"bool", "uint8"})
    lowest = [np.iinfo(kinds[n]) for n in (between, target) if kinds[n].kind in "iu"]
    for limits in lowest:  # beyond it, what comes out is left open
        raw = raw[(raw >= limits.min) & (raw <= limits.max)]
    with np.errstate(over="ignore"):
        x = raw.astype(kinds[source])
    w = Writer()
    middle = w("Cast", "x", to=dtypes.by_name(between).code)
    y = w("Identity", w("Cast", middle, to=dtypes.by_name(target).code))
    proto = w.model({"x": x}, y)
    with np.errstate(all="ignore"):
        before, after = (outputs(proto, {"x": x}, level)[0] for level in (OFF, None))
    assert before.dtype == after.dtype
    np.testing.assert_array_equal(before.astype(np.float64), after.astype(np.float64))


@pytest.mark.parametrize(
    ("source", "between", "target", "left"),
    [
        ("float16", "float32", "float16", 0),
        ("bfloat16", "float64", "bfloat16", 0),
        ("int8", "float16", "int8", 0),
        ("bool", "int64", "bool", 0),
        ("float32", "float32", "float32", 0),
        ("int8", "int32", "int64", 1),
        ("float16", "float32", "float64", 1),
        ("float32", "float16", "float32", 2),
        ("int32", "float32", "int32", 2),
        ("int64", "float64", "int64", 2),
        ("float16", "float32", "int32", 2),
        ("float16", "bfloat16", "float16", 2),
        ("uint8", "int8", "uint8", 2),
    ],
)
def test_which_casts_stay(source, between, target, left):
    w = Writer()
    x = np.zeros(3, dtypes.to_numpy(dtypes.by_name(source)))
    codes = [dtypes.by_name(name).code for name in (between, target)]
    y = w("Concat", w("Cast", w("Cast", "x", to=codes[0]), to=codes[1]), w("Cast", "u", to=codes[1]), axis=0)
    proto = w.model({"x": x, "u": np.zeros(1, bool if target != "bool" else np.float32)}, y)
    assert operators(proto)["Cast"] == left + 1


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.data(), st.sampled_from([9, 13, 21]))
def test_slices(shape, data, opset):
    w = Writer()
    whole = True
    cut = []
    for size in shape:
        start = data.draw(st.sampled_from([0, 0, 1]))
        end = data.draw(st.sampled_from([size, 2**31 - 1, 2**63 - 1, size - 1 if size else 0]))
        step = data.draw(st.sampled_from([1, 1, -1])) if opset > 9 else 1
        cut.append((start, end, step))
        whole &= (start == 0 or size == 0) and end >= size and step == 1
    starts, ends_, steps = zip(*cut, strict=True)
    if opset < 10:
        y = w("Slice", "x", starts=starts, ends=ends_)
    else:
        w.constants |= {"a": np.array(starts), "b": np.array(ends_), "s": np.array(steps), "d": np.arange(len(shape))}
        y = w("Slice", "x", "a", "b", "d", "s")
    x = values(shape)
    found = agree(w.model({"x": x}, ends(w, y), opset=opset), {"x": x}, 0, 0)
    assert "Slice" not in found or not whole


def test_a_slice_whose_axes_nobody_knows_stays():
    """As in the body of a loop, where the shapes of the starts are not known."""
    w = Writer()
    feed = {"x": values(5), "a": np.array([1]), "b": np.array([3]), "n": np.array([1])}
    start, end = w("Reshape", "a", "n"), w("Reshape", "b", "n")
    proto = w.model(feed, ends(w, w("Slice", "x", start, end)), dims={"n": ["r"]})
    assert agree(proto, feed, 0, 0)["Slice"] == 1


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.integers(-1, 1), st.sampled_from([9, 13, 21]), st.sampled_from(["constant", "edge"]))
def test_pads(shape, pad, opset, mode):
    assume(0 not in shape)
    w = Writer()
    pads = [0] * (2 * len(shape))
    pads[0] = max(pad, 0)
    if opset < 11:
        y = w("Pad", "x", pads=pads, mode=mode)
    else:
        w.constants["p"] = np.array(pads)
        y = w("Pad", "x", "p", mode=mode)
    x = values(shape)
    found = agree(w.model({"x": x}, ends(w, y), opset=opset), {"x": x}, 0, 0)
    assert found == (ENDS if pad <= 0 else {"Pad": 1, **ENDS})


@settings(max_examples=30, deadline=None)
@given(SHAPES, SHAPES)
def test_expands(shape, other):
    try:
        result = np.broadcast_shapes(shape, other)
    except ValueError:
        assume(False)
    w = Writer()
    w.constants["to"] = np.array(other)
    y = ends(w, w("Expand", "x", "to"))
    x = values(shape)
    found = agree(w.model({"x": x}, y), {"x": x}, 0, 0)
    assert found == (ENDS if result == tuple(shape) else {"Expand": 1, **ENDS})


ZEROS = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize(
    ("op_type", "number", "first", "goes"),
    [
        ("Add", -0.0, False, True),
        ("Add", -0.0, True, True),
        ("Add", 0.0, False, False),
        ("Sub", 0.0, False, True),
        ("Sub", -0.0, False, False),
        ("Sub", 0.0, True, False),
        ("Mul", 1.0, False, True),
        ("Mul", 1.0, True, True),
        ("Mul", -1.0, False, False),
        ("Div", 1.0, False, True),
        ("Div", 1.0, True, False),
    ],
)
def test_neutral_numbers(op_type, number, first, goes):
    w = Writer()
    y = w(op_type, *((number, "x") if first else ("x", number)))
    y = w("Identity", y)
    proto = w.model({"x": ZEROS}, y)
    found = agree(proto, {"x": ZEROS}, 0, 0)
    assert (op_type not in found) == goes
    signs = [np.signbit(outputs(proto, {"x": ZEROS}, level)[0]) for level in (None, OFF)]
    np.testing.assert_array_equal(signs[0][:5], signs[1][:5])


@pytest.mark.parametrize("form", [(1, 1, 1), (3,), (1,)])
def test_a_neutral_constant_that_broadcasts_the_value_stays(form):
    w = Writer(form=form)
    x = np.array(2, np.float32) if form == (1,) else values((2, 1))
    found = agree(w.model({"x": x}, ends(w, w("Mul", "x", 1.0))), {"x": x}, 0, 0)
    assert found == {"Mul": 1, **ENDS}


def test_integers_have_one_zero():
    w = Writer(np.int32)
    x = np.array([1, -5], np.int32)
    assert agree(w.model({"x": x}, ends(w, w("Add", 0, "x"))), {"x": x}) == ENDS


@pytest.mark.parametrize("op_type", ["Concat", "Sum", "Max", "Min", "Mean"])
def test_one_of_them(op_type):
    w = Writer()
    x = values((2, 3))
    y = ends(w, w(op_type, "x", **({"axis": 0} if op_type == "Concat" else {})))
    assert agree(w.model({"x": x}, y), {"x": x}, 0, 0) == ENDS


@pytest.mark.parametrize(("training", "mask", "goes"), [(None, False, True), (False, False, True), (None, True, False)])
def test_dropout(training, mask, goes):
    w = Writer()
    x = values((2, 3))
    w.constants |= {"ratio": np.float32(0.5), "training": np.array(bool(training))}
    inputs = ["x", "ratio", *(["training"] if training is not None else [])]
    w.nodes.append(node("Dropout", inputs, ["d", "mask"]))
    proto = w.model({"x": x}, ends(w, "d"), ["mask"] if mask else [])
    assert ("Dropout" not in agree(proto, {"x": x}, 0, 0)) == goes


def test_dropout_in_training_stays():
    w = Writer()
    x = values((2, 3))
    w.constants |= {"ratio": np.float32(0.5), "training": np.array(True)}
    w.nodes.append(node("Dropout", ["x", "ratio", "training"], ["d"], seed=3))
    assert operators(w.model({"x": x}, ends(w, "d"))) == {"Dropout": 1, **ENDS}


@pytest.mark.parametrize(("condition", "goes"), [(True, True), (False, True), ("mixed", False)])
def test_where(condition, goes):
    w = Writer()
    feed = {"x": values((2, 3)), "u": values((2, 3), seed=1)}
    w.constants["c"] = np.full((1, 3), condition) if condition != "mixed" else np.array([[True, False, True]])
    found = agree(w.model(feed, ends(w, w("Where", "c", "x", "u"))), feed, 0, 0)
    assert ("Where" not in found) == goes
    w = Writer()
    feed["x"] = values((1, 3))
    w.constants["c"] = np.full((1, 3), True)
    assert "Where" in agree(w.model(feed, ends(w, w("Where", "c", "x", "u"))), feed, 0, 0)


def test_shapes_that_are_certain_are_constants():
    w = Writer()
    w.constants |= {"one": np.array([1]), "w": values((4, 3, 3, 3))}
    c = w("Conv", "x", "w", strides=[2, 2])
    y = w("Gather", w("Shape", c), "one")
    proto = w.model({"x": values((2, 3, 9, 9))}, y, dims={"x": ["n", 3, 9, 9]})
    assert operators(proto) == {}
    assert outputs(proto, {"x": values((2, 3, 9, 9))})[0].tolist() == [4]
    w.constants["one"] = np.array([0])
    proto = w.model({"x": values((2, 3, 9, 9))}, y, dims={"x": ["n", 3, 9, 9]})
    assert operators(proto)["Shape"] == 1


def test_subgraphs_are_tidied_too():
    from onnx import helper

    inner = helper.make_graph(
        [node("Transpose", ["x"], ["p"], perm=[1, 0]), node("Transpose", ["p"], ["q"], perm=[1, 0]),
         node("Mul", ["q", "one"], ["r"]), node("Neg", ["r"], ["y"])],
        "then", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Abs", ["x"], ["z"])], "else", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    w = Writer()
    w.constants["one"] = np.float32(1)
    w.nodes.append(node("If", ["c"], ["o"], then_branch=inner, else_branch=other))
    feed = {"x": values((2, 3)), "c": np.array(True)}
    assert agree(w.model(feed, "o"), feed, 0, 0) == {"If": 1, "Neg": 1, "Abs": 1}
