"""Attention is recovered from every spelling, with masks, caches and shared heads, and from nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.optimize.models import agree, operators
from tests.optimize.test_activations import PROVIDERS, Writer, values

LOW = float(np.finfo(np.float32).min)
GUARD = Counter(IsNaN=1, Mul=1, ReduceSum=1, Where=1)  # of the result, in the place of one of the weights


def turned(w, k, form, shape):
    """K (batch, heads, keys, size) with its last axes swapped."""
    if form == "swap":
        return w("Transpose", k, perm=[0, 1, 3, 2])
    batch, heads, keys, size = shape
    w.constants["three"], w.constants["four"] = (
        np.array([batch * heads, keys, size]),
        np.array([batch, heads, size, keys]),
    )
    return w("Reshape", w("Transpose", w("Reshape", k, "three"), perm=[0, 2, 1]), "four")


def attended(w, q, kt, v, mask=None, scale=0.25, scaling="scores", guard=False, last=-1):
    root = scale**0.5
    if scaling == "both":
        q, kt = w("Mul", q, root), w("Mul", kt, root)
    elif scaling == "queries":
        q = w("Div", q, 1 / scale)
    scores = w("MatMul", q, kt)
    if scaling == "scores":
        scores = w("Mul", scores, scale)
    if mask is not None:
        scores = w("Add", *mask(scores) if callable(mask) else (scores, mask))
    weights = w("Softmax", scores, axis=last)
    if guard:
        weights = w("Where", w("IsNaN", weights), 0.0, weights)
    return w("MatMul", weights, v)


def feed_of(batch=2, heads=3, queries=4, keys=5, size=8):
    return {
        "q": values((batch, heads, queries, size)),
        "k": values((batch, heads, keys, size), seed=1),
        "v": values((batch, heads, keys, 6), seed=2),
    }


MASKS = {
    "none": None,
    "all": (2, 3, 4, 5),
    "heads": (1, 3, 4, 5),
    "keys": (2, 1, 1, 5),
    "plane": (4, 5),
    "one": (1, 1, 1, 1),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*MASKS]),
    st.sampled_from(["scores", "both", "queries", "none"]),
    st.sampled_from(["swap", "folded"]),
    st.booleans(),
    st.sampled_from([13, 17, 20, 23]),
    st.sampled_from([-1, 3]),
    st.booleans(),
)
def test_attention_in_any_spelling(mask, scaling, form, guard, opset, last, mask_first):
    w = Writer()
    feed = feed_of()
    if MASKS[mask]:
        feed["m"] = np.where(values(MASKS[mask], seed=3) > 1, LOW, 0).astype(np.float32)
        bools = feed["m"] != 0
        feed["m"] = bools
        name = w("Where", "m", LOW, 0.0)
    given_mask = None if not MASKS[mask] else (lambda s: (name, s)) if mask_first else name
    kt = turned(w, "k", form, feed["k"].shape)
    y = attended(w, "q", kt, "v", given_mask, 0.25 if scaling != "none" else 1.0, scaling, guard, last)
    found = agree(w.model(feed, y, opset=opset), feed)
    assert found == Counter(Attention=1) + (Counter(Where=1) if mask != "none" else Counter()) + (
        GUARD if guard else Counter()
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_open_sizes_and_queries_that_see_nothing(provider):
    w = Writer()
    feed = feed_of()
    feed["m"] = values((2, 1, 4, 5), seed=3) > 0
    feed["m"][0, 0, 1, :] = False
    kt = turned(w, "k", "swap", None)
    y = attended(w, "q", kt, "v", w("Where", "m", 0.0, -np.inf), guard=True)
    dims = {"q": ["b", 3, "s", 8], "k": ["b", 3, "t", 8], "v": ["b", 3, "t", 6], "m": ["b", 1, "s", "t"]}
    proto = w.model(feed, y, dims=dims)
    assert "Softmax" in agree(proto, feed)  # nobody knows that the batches are the same
    dims |= {name: [2, *rest[1:]] for name, rest in dims.items()}
    found = agree(w.model(feed, y, dims=dims), feed, providers=[provider])
    assert found == Counter(Attention=1, Where=1) + GUARD


def drawn(draw, shape, numbers):
    """Mostly an array of ordinary numbers, here and there a row or an element of `numbers`."""
    x = values(shape, seed=draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(0, 2))):
        at = tuple(draw(st.integers(0, n - 1)) for n in shape)
        x[at if draw(st.booleans()) else at[:-1]] = draw(st.sampled_from(numbers))
    return x


EXTREME = [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e20, -1e20]


@pytest.mark.parametrize("provider", PROVIDERS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_infinities_and_nan_are_what_the_small_operators_give(provider, data):
    """Rows of scores that overflow, hidden rows with and without the guard, minima added, NaN: in any of the inputs."""
    w = Writer()
    queries, keys, size = data.draw(st.sampled_from([(4, 5, 8), (1, 3, 8), (2, 1, 8)]))
    shapes = {"q": (2, 2, queries, size), "k": (2, 2, keys, size), "v": (2, 2, keys, 3)}
    feed = {name: drawn(data.draw, shape, EXTREME) for name, shape in shapes.items()}
    kind = data.draw(st.sampled_from(["none", "fed", "chosen", "two", "shared"]))
    hiding = [LOW, -np.inf, np.nan, np.inf, 1e30]
    small = data.draw(st.sampled_from([(2, 2, queries, keys), (1, 1, queries, keys), (2, 1, 1, keys), (queries, keys)]))
    name = None
    if kind in {"fed", "two"}:
        feed["m"] = drawn(data.draw, small, hiding)
        name = "m"
    if kind in {"chosen", "two"}:
        feed["b"] = drawn(data.draw, small, [-9.0, 9.0]) > 1
        name = w("Where", "b", data.draw(st.sampled_from(hiding)), 0.0)
    if kind == "two":
        name = w("Add", "m", name)
    k, v = "k", "v"
    if kind == "shared":
        feed["q"] = np.repeat(feed["q"], 2, axis=1)
        k, v = repeated(w, "k", "k", 2, 2, keys, size), repeated(w, "v", "v", 2, 2, keys, 3)
    scaling = data.draw(st.sampled_from(["scores", "both", "queries"]))
    y = attended(w, "q", turned(w, k, "swap", None), v, name, scaling=scaling, guard=data.draw(st.booleans()))
    assert agree(w.model(feed, y), feed, providers=[provider])["Attention"] == 1


def test_a_mask_that_may_hide_all_is_poisoned_once():
    """A query from which all is hidden has NaN without the guard, and keeps it; layers share what that takes."""
    w = Writer()
    feed = feed_of(size=6, keys=4)
    feed["m"] = np.ones((2, 1, 4, 4), bool)
    feed["m"][1, 0, 2] = False
    mask = w("Where", "m", 0.0, -np.inf)
    kt = turned(w, "k", "swap", None)
    y = attended(w, attended(w, "q", kt, "v", mask), kt, "v", mask)
    found = agree(w.model(feed, y), feed)
    assert found == {"Transpose": 3, "Attention": 2, "Where": 1, "Softmax": 1, "Mul": 1, "Add": 1}


@pytest.mark.parametrize("case", ["once", "twice", "constant", "some", "with a bias"])
def test_a_mask_that_cannot_hide_all_is_not_poisoned(case):
    w = Writer()
    feed = feed_of()
    feed["m"] = np.zeros((2, 1, 4, 5), bool)
    mask = w("Where", "m", 0.0, LOW)
    if case == "twice":
        mask = w("Add", mask, mask)  # what is hidden twice is infinitely far
    if case in {"constant", "some"}:
        mask = "given"
        w.constants["given"] = np.full((1, 1, 4, 5), LOW if case == "constant" else -np.inf, np.float32)
        w.constants["given"][..., 0] = 0
    if case == "with a bias":
        w.constants["bias"] = values((1, 3, 4, 5), seed=4)
        mask = w("Add", mask, "bias")
    y = attended(w, "q", turned(w, "k", "swap", None), "v", mask)
    assert agree(w.model(feed, y), feed)["Softmax"] == (case == "twice")


def test_a_mask_of_zeros_goes():
    w = Writer()
    feed = feed_of()
    w.constants |= {"yes": np.ones((1, 1, 4, 5), bool), "to": np.array([2, 1, 4, 5])}
    mask = w("Where", w("Expand", "yes", "to"), 0.0, -np.inf)
    y = attended(w, "q", turned(w, "k", "swap", None), "v", mask)
    assert agree(w.model(feed, y), feed) == {"Attention": 1}


@pytest.mark.parametrize("case", ["axis", "values", "transposed", "wanted", "three axes", "old softmax", "guard"])
def test_near_misses_stay(case):
    w = Writer()
    feed = feed_of(keys=4, size=6)
    wanted = []
    if case == "three axes":
        feed = {name: value[0] for name, value in feed.items()}
        kt = w("Transpose", "k", perm=[0, 2, 1])
    else:
        kt = w("Transpose", "k", perm=[0, 1, 3, 2]) if case != "transposed" else w("Transpose", "k", perm=[1, 0, 3, 2])
    if case == "transposed":
        feed["k"] = feed["k"].transpose(1, 0, 2, 3).copy()
        feed["q"], feed["v"] = feed["q"][:, :1], feed["v"]
    y = attended(w, "q", kt, "v", last={"axis": 2, "old softmax": 1}.get(case, -1), guard=case == "guard")
    if case == "wanted":
        wanted = [next(n.output[0] for n in w.nodes if n.op_type == "Softmax")]
    if case == "values":
        feed["v"] = feed["v"][:1]
    if case == "guard":  # NaN becomes something else
        guard = next(n for n in w.nodes if n.op_type == "Where")
        guard.input[1] = w.number(1.0)
    opset = 11 if case == "old softmax" else 20
    assert "Softmax" in agree(w.model(feed, y, wanted, opset=opset), feed)


def repeated(w, x, name, heads, times, keys, size, batch=2):
    w.constants |= {f"{name}2": np.array([2]), f"{name}5": np.array([batch, heads, times, keys, size]),
                    f"{name}4": np.array([batch, heads * times, keys, size])}  # fmt: skip
    wide = w("Expand", w("Unsqueeze", x, f"{name}2"), f"{name}5")
    return w("Reshape", wide, f"{name}4")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_heads_that_share_keys_and_values(times, provider):
    w = Writer()
    feed = feed_of(heads=2 * times) | {"k": values((2, 2, 5, 8), seed=1), "v": values((2, 2, 5, 8), seed=2)}
    k, v = repeated(w, "k", "k", 2, times, 5, 8), repeated(w, "v", "v", 2, times, 5, 8)
    y = attended(w, "q", turned(w, k, "swap", None), v)
    found = agree(w.model(feed, y), feed, providers=[provider])
    assert (found["Attention"], found["Reshape"], found["Expand"]) == (1, 0, 0)  # they are as long as that already


def test_heads_shared_as_the_older_exporter_writes_it():
    """Expand reads Where(shape == -1, 1, shape), the shape from what the model is fed."""
    w = Writer()
    feed = feed_of(heads=4) | {"k": values((2, 2, 5, 8), seed=1), "v": values((2, 2, 5, 8), seed=2)}
    w.constants |= {"two": np.array([2]), "zero": np.array([0]), "minus": np.array(-1), "rest": np.array([2, 2, 5, 8]),
                    "five": np.array([5]), "out": np.array([4, 5, 8])}  # fmt: skip
    batch = w("Gather", w("Shape", "q"), "zero")
    shape = w("Concat", batch, "rest", axis=0)
    ones = w("ConstantOfShape", "five", value=numpy_helper.from_array(np.array([1])))
    target = w("Where", w("Equal", shape, w("Mul", ones, "minus")), ones, shape)
    after = w("Concat", batch, "out", axis=0)
    k, v = (w("Reshape", w("Expand", w("Unsqueeze", x, "two"), target), after) for x in "kv")
    y = attended(w, "q", turned(w, k, "swap", None), v)
    dims = {"q": ["b", 4, "s", 8], "k": ["b", 2, 5, 8], "v": ["b", 2, 5, 8]}
    found = agree(w.model(feed, y, dims=dims), feed)
    assert (found["Attention"], found["Softmax"]) == (1, 0)


def test_repeats_that_broadcast_the_keys_too():
    """One key for all queries: the expansion along the keys stays."""
    w = Writer()
    feed = feed_of(heads=4) | {"k": values((2, 2, 1, 8), seed=1), "v": values((2, 2, 1, 8), seed=2)}
    k, v = repeated(w, "k", "k", 2, 2, 5, 8), repeated(w, "v", "v", 2, 2, 5, 8)
    y = attended(w, "q", turned(w, k, "swap", None), v)
    found = agree(w.model(feed, y), feed)
    assert (found["Attention"], found["Expand"]) == (1, 2)


def test_repeats_in_another_order_stay():
    """Expanded in front of the heads, not behind: head i belongs to keys i modulo 2."""
    w = Writer()
    feed = feed_of(heads=4) | {"k": values((2, 2, 5, 8), seed=1), "v": values((2, 2, 5, 8), seed=2)}

    def tiled(x):
        w.constants |= {"one": np.array([1]), "five": np.array([2, 2, 2, 5, 8]), "four": np.array([2, 4, 5, 8])}
        return w("Reshape", w("Expand", w("Unsqueeze", x, "one"), "five"), "four")

    y = attended(w, "q", turned(w, tiled("k"), "swap", None), tiled("v"))
    found = agree(w.model(feed, y), feed)
    assert found["Reshape"] == 2


def test_keys_with_a_past():
    w = Writer()
    feed = feed_of() | {"pk": values((2, 3, 2, 8), seed=5), "pv": values((2, 3, 2, 6), seed=6)}
    k, v = w("Concat", "pk", "k", axis=2), w("Concat", "pv", "v", axis=-2)
    y = attended(w, "q", turned(w, k, "swap", None), v)
    assert agree(w.model(feed, y, [k, v]), feed) == {"Attention": 1, "Concat": 2}


def test_the_whole_way_from_projections():
    w = Writer()
    x = values((2, 5, 12))
    w.constants |= {"split": np.array([0, 0, 3, 4]), "merge": np.array([0, 0, 12])}
    parts = []
    for i, name in enumerate("qkv"):
        w.constants[name] = values((12, 12), seed=i)
        parts.append(w("Reshape", w("MatMul", "x", name), "split"))
    q, v = (w("Transpose", part, perm=[0, 2, 1, 3]) for part in (parts[0], parts[2]))
    kt = w("Transpose", parts[1], perm=[0, 2, 3, 1])
    y = w("Reshape", w("Transpose", attended(w, q, kt, v), perm=[0, 2, 1, 3]), "merge")
    found = agree(w.model({"x": x}, y, dims={"x": ["b", "s", 12]}), {"x": x})
    assert found == {"MatMul": 3, "Reshape": 4, "Transpose": 4, "Attention": 1}


@pytest.mark.parametrize("last", [1, "m"])
def test_a_mask_of_one_key_is_for_all_keys_in_every_opset(last):
    w = Writer()
    feed = feed_of() | {"mask": values((2, 1, 4, 1), seed=3)}
    y = attended(w, "q", turned(w, "k", "swap", None), "v", "mask")
    dims = {"mask": [2, 1, 4, last]} | ({} if last == 1 else {"k": [2, 3, "n", 8], "v": [2, 3, "n", 6]})
    found = agree(w.model(feed, y, opset=25, dims=dims), feed)
    assert found["Attention"] == 1


def test_names_of_passes():
    w = Writer()
    feed = feed_of()
    proto = w.model(feed, attended(w, "q", turned(w, "k", "swap", None), "v"))
    assert operators(proto, level=2) == {"Attention": 1}
    assert "Softmax" in operators(proto, level=1)
    assert "Softmax" in operators(proto, disabled=["AttentionFusion"])
