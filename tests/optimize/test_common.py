"""What is computed twice is computed once, unless it is not the same twice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.optimize.models import agree, node, operators
from tests.optimize.test_activations import Writer, values


def test_the_same_node_twice():
    w = Writer()
    x = values((2, 3))
    y = w("Sub", w("Exp", "x"), w("Sqrt", w("Exp", "x")))
    assert agree(w.model({"x": x}, y), {"x": x}) == {"Exp": 1, "Sqrt": 1, "Sub": 1}


def test_chains_of_them():
    w = Writer()
    x = values((2, 3))
    y = w("Sub", w("Sin", w("Exp", w("Abs", "x"))), w("Sqrt", w("Exp", w("Abs", "x"))))
    assert agree(w.model({"x": x}, y), {"x": x}) == {"Abs": 1, "Exp": 1, "Sin": 1, "Sqrt": 1, "Sub": 1}


def test_equal_small_constants_are_one():
    w = Writer()
    x = values((2, 3))
    y = w("Sub", w("Exp", w("Mul", "x", 2.0)), w("Sqrt", w("Mul", "x", 2.0)))
    assert operators(w.model({"x": x}, y))["Mul"] == 1
    w = Writer()
    y = w("Sub", w("Exp", w("Div", "x", 0.0)), w("Sqrt", w("Div", "x", -0.0)))
    assert operators(w.model({"x": x}, y))["Div"] == 2


@pytest.mark.parametrize("case", ["attribute", "input order", "constant that may be fed", "random"])
def test_what_is_not_the_same_stays(case):
    w = Writer()
    feed = {"x": values((3, 3)), "u": values((3, 3), seed=1)}
    if case == "attribute":
        pair = w("Softmax", "x", axis=0), w("Softmax", "x", axis=1)
    elif case == "input order":
        pair = w("Sub", "x", "u"), w("Sub", "u", "x")
    elif case == "constant that may be fed":
        w.constants |= {"p": np.float32(2), "q": np.float32(2)}
        feed["p"] = np.array(2, np.float32)
        pair = w("Mul", "x", "p"), w("Mul", "x", "q")
    else:
        pair = w("RandomNormalLike", "x"), w("RandomNormalLike", "x")
    y = w("Concat", *pair, axis=0)
    assert operators(w.model(feed, y)).total() == 3


def test_outputs_keep_their_names():
    w = Writer()
    one, other = w("Exp", "x"), w("Exp", "x")
    x = values((2, 3))
    found = agree(w.model({"x": x}, one, [other]), {"x": x})
    assert found == {"Exp": 1, "Identity": 1}


def test_more_outputs_than_the_first_has_stay():
    w = Writer()
    x = values((2, 6))
    w.nodes.append(node("TopK", ["x", "k"], ["a"]))
    w.nodes.append(node("TopK", ["x", "k"], ["b", "i"]))
    w.constants["k"] = np.array([2])
    y = w("Sub", "a", "b")
    assert agree(w.model({"x": x}, y, ["i"]), {"x": x})["TopK"] == 2


def test_it_has_a_name():
    w = Writer()
    x = values((2, 3))
    proto = w.model({"x": x}, w("Sub", w("Exp", "x"), w("Sqrt", w("Exp", "x"))))
    assert operators(proto, disabled=["CommonSubexpressionElimination"])["Exp"] == 2
