"""The models of `benchmarks.gpu`, and the same models written by hand in each library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.models import _model, _Net

__all__ = ["MODELS", "by_hand"]

HEADS = 12


def convolutions(small: bool = False) -> tuple[bytes, np.ndarray]:
    """Eight 3×3 convolutions in four residual blocks, as in a ResNet's first stage; and an input."""
    net, width, side = _Net(), 8 if small else 64, 14 if small else 56
    x = "x"
    for _ in range(4):
        y = x
        for _ in range(2):
            w = net.weight(width, width, 3, 3, scale=(1 / (9 * width)) ** 0.5)
            y = net.op("Relu", net.op("Conv", y, w, kernel_shape=[3, 3], pads=[1] * 4))
        x = net.op("Add", x, y)
    return _finished(net, "convolutions", [1 if small else 16, width, side, side], x)


def transformer(small: bool = False) -> tuple[bytes, np.ndarray]:
    """One block of attention and an MLP, as in BERT-base; and an input."""
    net = _Net()
    batch, tokens, width = (1, 16, 48) if small else (8, 128, 768)

    def constant(values: object) -> str:
        name = f"c{len(net.weights)}"
        net.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def dense(x: str, cin: int, cout: int) -> str:
        return net.op("Add", net.op("MatMul", x, net.weight(cin, cout, scale=cin**-0.5)), net.weight(cout, scale=0.1))

    def norm(x: str) -> str:
        return net.op("LayerNormalization", x, net.weight(width, scale=0.1, shift=1), net.weight(width, scale=0.1))

    h = norm("x")
    split = constant([batch, tokens, HEADS, width // HEADS])
    q, k, v = [net.op("Reshape", dense(h, width, width), split) for _ in range(3)]
    q, v = [net.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v)]
    k = net.op("Transpose", k, perm=[0, 2, 3, 1])
    scores = net.op("Mul", net.op("MatMul", q, k), constant(np.float32((width // HEADS) ** -0.5)))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    x = net.op("Add", "x", dense(net.op("Reshape", mixed, constant([batch, tokens, width])), width, width))
    h = dense(norm(x), width, 4 * width)
    bell = net.op("Add", net.op("Erf", net.op("Mul", h, constant(np.float32(0.5**0.5)))), constant(np.float32(1)))
    gelu = net.op("Mul", net.op("Mul", h, constant(np.float32(0.5))), bell)
    x = net.op("Add", x, dense(gelu, 4 * width, width))
    return _finished(net, "transformer", [batch, tokens, width], x)


def elementwise(small: bool = False) -> tuple[bytes, np.ndarray]:
    """Thirty-two elementwise nodes in a row; and an input."""
    net = _Net()
    x = "x"
    for _ in range(8):
        x = net.op("Sigmoid", net.op("Add", net.op("Tanh", net.op("Add", x, "x")), "x"))
    return _finished(net, "elementwise", [1 << (10 if small else 20)], x)


def _finished(net: _Net, name: str, shape: list[int], output: str) -> tuple[bytes, np.ndarray]:
    x = net.rng.standard_normal(shape, np.float32)
    return _model(net, name, shape, output, shape).SerializeToString(), x


MODELS = {"residual convolutions": convolutions, "transformer block": transformer, "32 elementwise nodes": elementwise}


def by_hand(name: str, library: str, model: bytes, provider) -> Callable:
    """The model as one would write it in `library`: on arrays of the provider's, with the model's weights."""
    tensors = map(numpy_helper.to_array, onnx.load_from_string(model).graph.initializer)
    weights = [provider.from_numpy(t) for t in tensors if t.ndim and t.dtype == np.float32]
    fn = HAND[name](LIBRARIES[library](), weights)
    if library == "jax":
        import jax

        return jax.jit(fn)
    if library == "torch":
        import torch

        return torch.no_grad()(fn)
    return fn


def _convolutions(o: SimpleNamespace, w: Sequence) -> Callable:
    def fn(x):
        for i in range(0, len(w), 2):
            x = x + o.relu(o.conv(o.relu(o.conv(x, w[i])), w[i + 1]))
        return x

    return fn


def _transformer(o: SimpleNamespace, w: Sequence) -> Callable:
    g1, b1, wq, bq, wk, bk, wv, bv, wo, bo, g2, b2, wi, bi, wt, bt = w

    def fn(x):
        batch, tokens, width = x.shape
        shape = (batch, tokens, HEADS, width // HEADS)
        h = o.norm(x, g1, b1)
        q, k, v = [(h @ m + b).reshape(shape).swapaxes(1, 2) for m, b in ((wq, bq), (wk, bk), (wv, bv))]
        mixed = o.softmax((q @ k.swapaxes(2, 3)) * (width // HEADS) ** -0.5) @ v
        x = x + mixed.swapaxes(1, 2).reshape(batch, tokens, width) @ wo + bo
        return x + o.gelu(o.norm(x, g2, b2) @ wi + bi) @ wt + bt

    return fn


def _elementwise(o: SimpleNamespace, w: Sequence) -> Callable:
    def fn(x):
        y = x
        for _ in range(8):
            y = o.sigmoid(o.tanh(y + x) + x)
        return y

    return fn


HAND = {
    "residual convolutions": _convolutions,
    "transformer block": _transformer,
    "32 elementwise nodes": _elementwise,
}


def _torch() -> SimpleNamespace:
    import torch
    import torch.nn.functional as F  # noqa: N812

    return SimpleNamespace(
        relu=torch.relu,
        tanh=torch.tanh,
        sigmoid=torch.sigmoid,
        gelu=F.gelu,
        softmax=lambda x: torch.softmax(x, -1),
        norm=lambda x, g, b: F.layer_norm(x, g.shape, g, b),
        conv=lambda x, w: F.conv2d(x, w, padding=1),
    )


def _jax() -> SimpleNamespace:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def norm(x, g, b):
        return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * g + b

    return SimpleNamespace(
        relu=jax.nn.relu,
        tanh=jnp.tanh,
        sigmoid=jax.nn.sigmoid,
        gelu=lambda x: jax.nn.gelu(x, approximate=False),
        softmax=jax.nn.softmax,
        norm=norm,
        conv=lambda x, w: lax.conv(x, w, (1, 1), "SAME"),
    )


def _cupy() -> SimpleNamespace:
    import cupy
    from cupy.lib.stride_tricks import sliding_window_view
    from cupyx.scipy import special

    def norm(x, g, b):
        return (x - x.mean(-1, keepdims=True)) * cupy.reciprocal(cupy.sqrt(x.var(-1, keepdims=True) + 1e-5)) * g + b

    def conv(x, w):
        windows = sliding_window_view(cupy.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
        return cupy.tensordot(windows, w, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)

    return SimpleNamespace(
        relu=lambda x: cupy.maximum(x, 0),
        tanh=cupy.tanh,
        sigmoid=special.expit,
        gelu=lambda x: 0.5 * x * (1 + special.erf(x * 0.5**0.5)),
        softmax=lambda x: special.softmax(x, axis=-1),
        norm=norm,
        conv=conv,
    )


LIBRARIES = {"torch": _torch, "jax": _jax, "cupy": _cupy}
