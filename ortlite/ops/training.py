"""Losses, and the optimiser steps of ai.onnx.preview.training."""

from __future__ import annotations

from math import prod, sqrt

from ortlite.namespace import Namespace
from ortlite.ops.activation import log_softmax
from ortlite.ops.annotations import Array, Float, Graph, Int, Text, Texts
from ortlite.ops.helpers import one_of, require_shape
from ortlite.ops.registry import op

TRAINING = "ai.onnx.preview.training"


@op("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(
    xp: Namespace,
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: Int | None = None,
    reduction: Text = "mean",
) -> Array:
    """Minus the log-probability (batch, classes, ...) of each `target` (batch, ...), weighted by class.

    `reduction` none keeps every loss; sum adds them up; mean divides that by the sum of the weights. Targets equal to
    `ignore_index` count nothing. Raises ValueError for shapes that do not fit or an unknown reduction.
    """
    one_of("reduction", reduction, "none", "sum", "mean")
    if input.shape[:1] + input.shape[2:] != target.shape:
        raise ValueError(f"target {tuple(target.shape)} does not fit input {tuple(input.shape)}")
    classes = input.shape[1]
    require_shape("weight", weight, classes)
    if prod(target.shape) and xp.readable(target):
        counts = (target >= 0) & (target < classes)
        if not bool(xp.all(counts if ignore_index is None else counts | (target == ignore_index))):
            raise ValueError(f"targets must lie from 0 to {classes - 1}, or be ignore_index ({ignore_index})")
    index = xp.astype(xp.clip(target, 0, max(classes - 1, 0)), xp.int64)
    picked = xp.squeeze(xp.take_along_axis(input, xp.expand_dims(index, axis=1), axis=1), axis=1)
    if weight is None:
        share = xp.ones_like(picked)
    else:
        share = xp.reshape(xp.take(weight, xp.reshape(index, (-1,))), index.shape)
    if ignore_index is not None:
        counted = target != ignore_index
        picked = xp.where(counted, picked, xp.zeros_like(picked))
        share = xp.where(counted, share, xp.zeros_like(share))
    loss = -picked * share
    if reduction == "none":
        return loss
    total = xp.sum(loss, dtype=loss.dtype)
    return total if reduction == "sum" else total / xp.sum(share, dtype=share.dtype)


@op("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    xp: Namespace,
    scores: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    ignore_index: Int | None = None,
    reduction: Text = "mean",
) -> tuple[Array, Array]:
    """The negative log-likelihood loss of softmax(`scores`) over the classes (axis 1), and the log-probabilities."""
    log_prob = log_softmax(xp, scores, axis=1)
    loss = negative_log_likelihood_loss(xp, log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return loss, log_prob


def _groups(inputs: tuple[Array, ...], kinds: int) -> list[tuple[Array, ...]]:
    """Inputs that are all tensors, then all gradients, and so on, as one tuple a tensor. Raises ValueError."""
    count, rest = divmod(len(inputs), kinds)
    if rest:
        raise ValueError(f"{len(inputs)} tensors are no multiple of {kinds}")
    return list(zip(*(inputs[i * count : (i + 1) * count] for i in range(kinds)), strict=True))


def _in_order(rows: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """The inverse of `_groups`."""
    return tuple(value for column in zip(*rows, strict=True) for value in column)


@op("Adagrad", domain=TRAINING)
def adagrad(
    xp: Namespace,
    R: Float,
    T: Int,
    *inputs: Array,
    decay_factor: Float = 0.0,
    epsilon: Float = 1e-6,
    norm_coefficient: Float = 0.0,
) -> tuple[Array, ...]:
    """One step of Adagrad for tensors, their gradients and their sums of squared gradients."""
    rate = R / (1 + T * decay_factor)
    rows = []
    for x, gradient, squares in _groups(inputs, 3):
        g = x * norm_coefficient + gradient
        total = squares + g * g
        rows.append((x - g * rate / (xp.root(total) + epsilon), total))
    return _in_order(rows)


@op("Adam", domain=TRAINING)
def adam(
    xp: Namespace,
    R: Float,
    T: Int,
    *inputs: Array,
    alpha: Float = 0.9,
    beta: Float = 0.999,
    epsilon: Float = 1e-6,
    norm_coefficient: Float = 0.0,
    norm_coefficient_post: Float = 0.0,
) -> tuple[Array, ...]:
    """One step of Adam for tensors, their gradients and both moving averages."""
    rate = R * sqrt(1 - beta**T) / (1 - alpha**T) if T > 0 else R
    rows = []
    for x, gradient, mean, square in _groups(inputs, 4):
        g = x * norm_coefficient + gradient
        v = mean * alpha + g * (1 - alpha)
        h = square * beta + g * g * (1 - beta)
        rows.append(((x - v * rate / (xp.root(h) + epsilon)) * (1 - norm_coefficient_post), v, h))
    return _in_order(rows)


@op("Momentum", domain=TRAINING)
def momentum(
    xp: Namespace, R: Float, T: Int, *inputs: Array, alpha: Float, beta: Float, mode: Text, norm_coefficient: Float
) -> tuple[Array, ...]:
    """One step along the momentum of tensors' gradients; `mode` standard or nesterov. Raises ValueError for another."""
    one_of("mode", mode, "standard", "nesterov")
    rows = []
    for x, gradient, velocity in _groups(inputs, 3):
        g = x * norm_coefficient + gradient
        v = velocity * alpha + g * (beta if T > 0 else 1.0)
        rows.append((x - (g + v * alpha if mode == "nesterov" else v) * R, v))
    return _in_order(rows)


@op("Gradient", domain=TRAINING, types=lambda node, inputs: list(inputs[: len(node.outputs)]))
def gradient(xp: Namespace, *Inputs: Array, body: Graph, xs: Texts, y: Text, zs: Texts = ()) -> tuple[Array, ...]:
    """The gradients of `y` to the values `xs`, at `Inputs`, the values of `xs` and `zs`.

    `body` computes `y` from these: the loader finds it in the graph around the node. Of a `y` with several elements
    it is the gradient of their sum. Raises ValueError where one of `xs` holds no floats.
    """
    for name, x in zip(xs, Inputs, strict=False):
        if not xp.isdtype(x.dtype, "real floating"):
            raise ValueError(f"{name!r} in xs is {xp.dtype_name(x.dtype)}: gradients go to floats alone; name it in zs")
    return tuple(xp.gradient(body, Inputs, len(xs)))
