"""Gradients of what the optimiser makes of a model are those of the model."""

from __future__ import annotations

import numpy as np
import pytest

import ortlite
from ortlite import optimize
from tests.optimize.models import operators
from tests.optimize.test_activations import (
    Writer,
    gelu_divides_by_two,
    gelu_halves_first,
    tanh_factored,
    tanh_pow,
    values,
)  # fmt: skip
from tests.optimize.test_attention import attended, feed_of, repeated, turned
from tests.optimize.test_norms import layer_norm, mean, scaled, square, sum_and_norm
from tests.optimize.test_weights import convolved, normalised

torch = pytest.importorskip("torch")


def biased(write, w, x):
    w.constants["bias"] = values((3,), seed=7)
    return write(w, w("Add", x, "bias"))


def normed(w):
    return scaled(w, layer_norm(w, "x", [-1], 20), (3,))


def by_root(w):
    x = w("Div", "x", w("Sqrt", w("Add", mean(w, square(w, "x", "Mul"), [-1], 20), 1e-5)))
    return scaled(w, x, (3,), shift=False)


ACTIVATIONS = {
    "Gelu": lambda w: gelu_divides_by_two(w, "x"),
    "tanh Gelu": lambda w: tanh_factored(w, "x"),
    "BiasGelu": lambda w: biased(gelu_halves_first, w, "x"),
    "FastGelu": lambda w: biased(tanh_pow, w, "x"),
    "QuickGelu": lambda w: w("Mul", "x", w("Sigmoid", w("Mul", "x", 1.5))),
    "Mish": lambda w: w("Mul", "x", w("Tanh", w("Softplus", "x"))),
    "HardSwish": lambda w: w("Mul", "x", w("HardSigmoid", "x", alpha=1 / 6, beta=0.5)),
    "LayerNormalization": normed,
    "SimplifiedLayerNormalization": by_root,
}


def agree(proto, feed):
    """Gradients of a weighted sum of the first output to every float that is fed; the operators of the model."""
    found = []
    for passes in ((), optimize.PASSES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimize, "PASSES", passes)
            fn = ortlite.function(proto.SerializeToString())
            fed = {name: torch.from_numpy(np.array(v)) for name, v in feed.items()}
            for v in fed.values():
                v.requires_grad_(v.is_floating_point())
            y = fn(**fed)
        (y * torch.from_numpy(values(y.shape, seed=11))).sum().backward()
        found.append({name: v.grad.numpy() for name, v in fed.items() if v.grad is not None})
    assert found[0].keys() == found[1].keys() == {name for name, v in feed.items() if v.dtype.kind == "f"}
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, 1e-4, 1e-5, err_msg=name)
    return operators(proto)


@pytest.mark.parametrize("op", [*ACTIVATIONS])
def test_activations_and_norms(op):
    w = Writer()
    feed = {"x": values((2, 4, 3))}
    found = agree(w.model(feed, ACTIVATIONS[op](w)), feed)
    assert found == {op.removeprefix("tanh "): 1}


@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_sums_and_their_norms(kind):
    w = Writer()
    feed = {"x": values((2, 4, 8)), "z": values((2, 4, 8), seed=1)}
    found = agree(w.model(feed, sum_and_norm(w, w("Add", "x", "z"), kind)), feed)
    assert set(found) < {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Clip"])
def test_convolutions(activation):
    w = Writer()
    feed = {"x": values((2, 4, 5, 5)), "z": values((2, 4, 4, 4), seed=5)}
    y = w("Add", normalised(w, convolved(w), 4), "z")
    y = w("Clip", y, 0.0, 6.0) if activation == "Clip" else w(activation, y)
    assert agree(w.model(feed, y), feed) == {"FusedConv": 1}


def test_products_of_matrices():
    w = Writer()
    feed = {"a": values((2, 3, 4)), "b": values((2, 5, 4), seed=1)}
    y = w("Mul", w("MatMul", "a", w("Transpose", "b", perm=[0, 2, 1])), 0.3)
    assert agree(w.model(feed, y), feed) == {"FusedMatMul": 1}


@pytest.mark.parametrize("case", ["plain", "masked", "guarded", "shared"])
def test_attention(case):
    w = Writer()
    feed = feed_of(heads=4)
    k, v, mask = "k", "v", None
    if case in {"masked", "guarded"}:
        feed["m"] = values((2, 1, 4, 5), seed=3) > 0
        mask = w("Where", "m", 0.0, -1e4)
    if case == "shared":
        feed |= {"k": values((2, 2, 5, 8), seed=1), "v": values((2, 2, 5, 8), seed=2)}
        k, v = repeated(w, "k", "k", 2, 2, 5, 8), repeated(w, "v", "v", 2, 2, 5, 8)
    y = attended(w, "q", turned(w, k, "swap", None), v, mask, guard=case == "guarded")
    assert agree(w.model(feed, y), feed)["Attention"] == 1
