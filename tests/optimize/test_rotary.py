"""Rotary embedding is recovered from products with cosines and sines, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tests.optimize.models import agree, node, operators
from tests.optimize.test_activations import PROVIDERS, Writer, values
from tests.optimize.test_save import peer, write


def tables(w, angles="f", scale=None, apart=False):
    """Cosines and sines (batch, 1, sequence, size) of angles (batch, sequence, half)."""
    other = w("Neg", angles) if apart else angles
    both = w("Concat", angles, other, axis=-1)
    found = []
    w.constants["one"] = np.array([1])
    for function in ("Cos", "Sin"):
        y = w(function, both)
        y = w("Mul", y, scale) if scale is not None else y
        found.append(w("Unsqueeze", y, "one"))
    return found


def halves(w, x, size, split, which=None):
    half = size // 2
    if split:
        name = f"s{len(w.nodes)}"
        w.nodes.append(node("Split", [x], [f"{name}a", f"{name}b"], axis=-1, num_outputs=2))
        return f"{name}a", f"{name}b"
    w.constants |= {"start": np.array([0]), "half": np.array([half if which is None else which]), "axis": np.array([3]),
                    "far": np.array([2**63 - 1]), "step": np.array([1])}  # fmt: skip
    return w("Slice", x, "start", "half", "axis", "step"), w("Slice", x, "half", "far", "axis", "step")


def turned(w, x, cos, sin, size=8, split=False, order=0, negated=1, which=None):
    first, second = halves(w, x, size, split, which)
    parts = [w("Neg", second), first] if negated else [second, w("Neg", first)]
    straight = w("Mul", *((x, cos) if order % 2 else (cos, x)))
    crossed = w("Mul", *((w("Concat", *parts, axis=-1), sin)[:: 1 if order < 2 else -1]))
    return w("Add", *((straight, crossed) if order % 3 else (crossed, straight)))


def feed_of(batch=2, tables=2):
    return {"x": values((batch, 3, 5, 8)), "u": values((batch, 2, 5, 8), seed=1), "f": values((tables, 5, 4), seed=2)}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("order", range(4))
def test_in_any_spelling(order, split, provider):
    w = Writer()
    feed = feed_of()
    cos, sin = tables(w, scale=0.5 if order else None)
    y = turned(w, "x", cos, sin, order=order, split=split)
    del feed["u"]
    found = agree(w.model(feed, y), feed, providers=[provider])
    assert found["RotaryEmbedding"] == 1
    assert "Neg" not in found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tables_are_halved_once(provider, tmp_path):
    """One table for an open batch: it is expanded as the model's input says, and onnxruntime takes it."""
    w = Writer()
    feed = feed_of(batch=3, tables=1)
    cos, sin = tables(w)
    y = turned(w, w("Exp", turned(w, "x", cos, sin)), cos, sin, order=1)
    del feed["u"]
    proto = w.model(feed, y, dims={"x": ["b", 3, 5, 8]})
    found = agree(proto, feed, providers=[provider])
    assert (found["RotaryEmbedding"], found["Slice"], found["Expand"]) == (2, 2, 2)
    write(proto, tmp_path / "o.onnx")
    np.testing.assert_allclose(
        peer(str(tmp_path / "o.onnx"), feed)[0], peer(proto.SerializeToString(), feed)[0], 1e-4, 1e-4
    )


@pytest.mark.parametrize("case", ["other halves", "negated first", "uneven", "another value", "three axes"])
def test_near_misses_stay(case):
    w = Writer()
    feed = feed_of()
    cos, sin = tables(w, apart=case == "other halves")
    if case == "another value":
        feed["u"] = values((2, 3, 5, 8), seed=5)
        y = w("Add", w("Mul", "u", cos), w("Mul", turned(w, "x", cos, sin), sin))
    elif case == "three axes":
        feed["x"] = feed["x"][0]
        w.constants |= {"zero": np.array([0]), "four": np.array([4]), "last": np.array([2]), "far": np.array([99])}
        first, second = w("Slice", "x", "zero", "four", "last"), w("Slice", "x", "four", "far", "last")
        y = w(
            "Add", w("Mul", "x", w("Cos", "x")), w("Mul", w("Concat", w("Neg", second), first, axis=-1), w("Sin", "x"))
        )
    else:
        y = turned(w, "x", cos, sin, negated=case != "negated first", which=3 if case == "uneven" else None)
    if case == "uneven":
        proto = w.model(feed, y)
        assert "RotaryEmbedding" not in operators(proto)
        return
    found = agree(w.model(feed, y), feed)
    assert found["RotaryEmbedding"] == (1 if case == "another value" else 0)


def test_it_has_a_name():
    w = Writer()
    feed = feed_of()
    cos, sin = tables(w)
    proto = w.model(feed, turned(w, "x", cos, sin))
    assert "RotaryEmbedding" not in operators(proto, disabled=["RotaryEmbeddingFusion"])
    assert "RotaryEmbedding" not in operators(proto, level=1)
