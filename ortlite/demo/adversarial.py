"""Scans of digits, changed a little so that the model reads others: gradients through a model, by torch or by JAX.

    python -m ortlite.demo.adversarial --library torch|jax [--out FILE.png]

README.md beside this file walks through it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import ortlite
from ortlite.cli.digits import model_bytes, scans

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LIBRARIES", "attack", "picture", "with_jax", "with_torch"]

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]

STEPS = 24
RADIUS = 14.0  # how far a scan may move in all: the root of the summed squares of its pixels' changes; ink is 0 to 16
FULL_INK = 16.0


def with_torch() -> Gradient:
    """The gradient of log(probability of `targets`) to the scans, by torch.autograd."""
    import torch

    read = ortlite.function(model_bytes())

    def gradient(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
        scan = torch.tensor(x, requires_grad=True)
        wanted = read(scan)[torch.arange(len(x)), torch.from_numpy(targets)]
        (found,) = torch.autograd.grad(wanted.log().sum(), scan)
        values: np.ndarray = found.numpy()
        return values

    return gradient


def with_jax() -> Gradient:
    """The same by jax.grad, compiled."""
    import jax
    import jax.numpy as jnp

    read = ortlite.function(model_bytes())

    def score(scan: Any, targets: Any) -> Any:
        return jnp.log(read(scan)[jnp.arange(len(targets)), targets]).sum()

    gradient = jax.jit(jax.grad(score))
    return lambda x, targets: np.asarray(gradient(x, targets))


LIBRARIES: dict[str, Callable[[], Gradient]] = {"torch": with_torch, "jax": with_jax}


def attack(gradient: Gradient, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scans (n, 1, 8, 8) near `x` that look more like `targets`: uphill, no further than RADIUS, from no ink to full."""
    start = x
    for _ in range(STEPS):
        x = x + 4 * RADIUS / STEPS * _unit(gradient(x, targets))
        change = x - start
        change = change * np.minimum(1, RADIUS / np.maximum(_length(change), 1e-9))
        x = np.clip(start + change, 0, FULL_INK).astype(np.float32)
    return x


def _length(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=(1, 2, 3), keepdims=True))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(_length(x), 1e-30)
