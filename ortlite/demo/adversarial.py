"""Scans of digits, changed a little so that the model reads other digits: gradients through it by torch or by JAX.

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

__all__ = ["LIBRARIES", "adversarial", "examples", "picture", "with_jax", "with_torch"]

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]

STEPS, RATE = 30, 1.0
SHOWN = (0, 1, 2, 3, 5, 7)
ZOOM, GAP, LINE = 9, 10, 16  # pixels: side of a pixel of a scan, space between scans, height of a line of text


def with_torch() -> Gradient:
    """The gradient of the logarithm of the probabilities of `digits` to the scans, by torch.autograd."""
    import torch

    read = ortlite.function(model_bytes())

    def gradient(x: np.ndarray, digits: np.ndarray) -> np.ndarray:
        scan = torch.tensor(x, requires_grad=True)
        probability = read(scan)[range(len(x)), digits]
        (found,) = torch.autograd.grad(probability.log().sum(), scan)
        return np.asarray(found)

    return gradient


def with_jax() -> Gradient:
    """The same by jax.grad, compiled."""
    import jax
    import jax.numpy as jnp

    read = ortlite.function(model_bytes())

    def score(scan: Any, digits: Any) -> Any:
        probability = read(scan)[jnp.arange(len(digits)), digits]
        return jnp.log(probability).sum()

    gradient = jax.jit(jax.grad(score))
    return lambda x, digits: np.asarray(gradient(x, digits))


LIBRARIES: dict[str, Callable[[], Gradient]] = {"torch": with_torch, "jax": with_jax}


def adversarial(gradient: Gradient, x: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Scans (n, 1, 8, 8) near `x` that the model takes for `digits`: uphill, with ink from 0 to 16."""
    for _ in range(STEPS):
        x = np.clip(x + RATE * gradient(x, digits), 0, 16).astype(np.float32)
    return x


def examples(library: str) -> tuple[np.ndarray, np.ndarray]:
    """Some held-out scans, and what becomes of them on the way to the digit that the model finds next most probable."""
    x = scans()[0][list(SHOWN)]
    second = np.argsort(ortlite.function(model_bytes())(x), axis=1)[:, -2]
    return x, adversarial(LIBRARIES[library](), x, second)


def picture(before: np.ndarray, after: np.ndarray) -> Image:
    """A row of scans, one of the changes (blue: less ink, red: more) and one of the results, each with what is read."""
    from PIL import Image, ImageDraw, ImageFont

    read = ortlite.function(model_bytes())
    side, (top, bottom) = 8 * ZOOM, (_readings(read(x)) for x in (before, after))
    rows = [(_grey(before), top), (_signed(after - before), [""] * len(before)), (_grey(after), bottom)]
    width, heights = GAP + len(before) * (side + GAP), [side + LINE + GAP, side + GAP, side + LINE]
    image = Image.new("RGB", (width, GAP + sum(heights) + GAP), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    y = GAP
    for (tiles, texts), height in zip(rows, heights, strict=True):
        for index, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
            x = GAP + index * (side + GAP)
            image.paste(Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST), (x, y))
            draw.text((x + side / 2, y + side + LINE / 2), text, "black", font, anchor="mm")
        y += height
    return image


def _readings(probabilities: np.ndarray) -> list[str]:
    return [f"{p.argmax()}   {p.max():.1%}" for p in probabilities]


def _grey(x: np.ndarray) -> np.ndarray:
    """Scans in RGB, ink black."""
    shade = np.round(255 - x[:, 0] * 255 / 16).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=-1)


def _signed(x: np.ndarray) -> np.ndarray:
    """Changes in RGB: white where there are none, full colour at 8."""
    more, less = (np.clip(sign * x[:, 0] / 8, 0, 1) for sign in (1, -1))
    return np.round(255 * np.stack([1 - less, 1 - more - less, 1 - more], axis=-1)).clip(0, 255).astype(np.uint8)


@click.command(help="Change scans of digits so that the model reads others.")
@click.option("--library", type=click.Choice(list(LIBRARIES)), required=True, help="What differentiates.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw them, as a PNG file.")
def main(library: str, out: Path | None) -> None:
    """See the module."""
    try:
        before, after = examples(library)
        if out is not None:
            picture(before, after).save(out, optimize=True)
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "jax", "PIL"}:
            raise
        extra = {"PIL": "image"}.get(error.name, error.name)
        raise click.ClickException(f"this needs {error.name}: pip install 'ortlite[{extra}]'") from error
    read = ortlite.function(model_bytes())
    for old, new, change in zip(*(_readings(read(x)) for x in (before, after)), after - before, strict=True):
        click.echo(f"{old:>10} -> {new:>10}   no pixel changed by more than {np.abs(change).max():4.1f} of 16")


if __name__ == "__main__":
    main()
