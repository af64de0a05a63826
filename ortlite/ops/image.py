"""Pictures in files. Pillow decodes them, on the host, into NumPy's arrays: no other library reads them."""

from __future__ import annotations

import io

import numpy as np

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Text
from ortlite.ops.helpers import one_of
from ortlite.ops.registry import op

MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


@op("ImageDecoder", since=20, python_objects=True, data_dependent_shape=True)
def image_decoder(xp: Namespace, encoded_stream: Array, *, pixel_format: Text = "RGB") -> Array:
    """The picture in the bytes of a file, uint8 (height, width, channels); empty for data that cannot be decoded.

    Raises ValueError for an unknown `pixel_format`.
    """
    one_of("pixel_format", pixel_format, *MODES)
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("ImageDecoder needs Pillow: pip install 'ortlite[image]'") from None
    try:
        image = Image.open(io.BytesIO(encoded_stream.tobytes())).convert(MODES[pixel_format])
    except (OSError, SyntaxError, ValueError):  # what Pillow's readers raise for files that are none
        return np.zeros((0, 0, 1 if pixel_format == "Grayscale" else 3), np.uint8)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels[..., ::-1] if pixel_format == "BGR" else pixels
