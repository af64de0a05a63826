"""Inputs of a model from files, or made up."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ortlite import dtypes, provider
from ortlite.api.values import NodeArg
from ortlite.dtypes import DType

__all__ = [
    "gather",
    "made_up_dimensions",
    "make_up",
    "parse_shapes",
    "picture",
    "provider_and_options",
    "provider_name",
    "read",
    "size_of",
    "terms_of",
    "unreadable",
]

# What exporters for onnxruntime call the sum of two others, which their models take for granted.
SUMS = {"total_sequence_length": "past_sequence_length + sequence_length"}


def provider_and_options(given: str) -> tuple[str, dict[str, str]]:
    """A usable provider, and behind a colon its options: `Torch:precision=bfloat16,compile=1`.

    Raises ValueError as `provider_name` does, and for what is no NAME=VALUE.
    """
    name, _, rest = given.partition(":")
    options = {}
    for item in filter(None, rest.split(",")):
        option, equals, options[option] = item.partition("=")
        if not equals or not option:
            raise ValueError(f"{given}: behind the colon stand options such as compile=1, not {item!r}")
    return provider_name(name), options


def provider_name(given: str) -> str:
    """The usable provider of that name, "ExecutionProvider" at its end or not. Raises ValueError where none is."""
    available = provider.usable()
    for name in (given, f"{given}ExecutionProvider"):
        if name in available:
            return name
    if ":" in given:
        raise ValueError(f"{given}: options of a provider count where a model runs; here its name is enough")
    listed = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    raise ValueError(f"no provider {given!r} is available here; there are {listed}")


def gather(
    args: Sequence[NodeArg], overridable: Sequence[NodeArg], files: Mapping[str, str], shapes: Mapping[str, str]
) -> dict[str, Any]:
    """A value for every input in `args`, from its file or made up; for those with a default, only from a file.

    What is made up has the dimensions that `shapes` says, and those of given inputs that are called the same. Raises
    ValueError for inputs that the model does not have, and as `read` and `make_up` do.
    """
    known = {a.name: a for a in (*args, *overridable)}
    if unknown := files.keys() - known.keys():
        raise ValueError(f"the model has no input {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    dimensions = parse_shapes(shapes, args)
    rng = np.random.default_rng(0)
    feed = {name: read(known[name], Path(file)) for name, file in files.items()}
    shaped = {
        **{name: dims for name, dims in dimensions.items() if name in known},
        **{n: a.shape for n, a in feed.items()},
    }
    for name, shape in shaped.items():
        for dim, size in zip(known[name].shape, shape, strict=False):
            if isinstance(dim, str):
                dimensions.setdefault(dim, (size,))
    return feed | {a.name: make_up(a, dimensions, rng) for a in args if a.name not in feed}


def parse_shapes(given: Mapping[str, str], args: Sequence[NodeArg]) -> dict[str, tuple[int, ...]]:
    """NAME -> dimensions; a name is an input's or that of an open dimension (then with one number).

    Raises ValueError for a name that is neither and for what is not a list of numbers.
    """
    inputs = {a.name for a in args}
    open_names = {name for a in args for d in a.shape if isinstance(d, str) for name in (d, *terms_of(d))}
    found = {}
    for name, text in given.items():
        if name not in inputs | open_names:
            known = ", ".join([*sorted(inputs), *sorted(open_names)])
            raise ValueError(f"--shape {name}: the model has no input or open dimension of that name; it has {known}")
        try:
            dims = tuple(int(d) for d in text.split(","))
        except ValueError:
            raise ValueError(f"--shape {name}: {text!r} is not a list of numbers such as 1,3,224,224") from None
        if min(dims) < 0 or (name not in inputs and len(dims) != 1):
            raise ValueError(f"--shape {name}: {text!r} has a negative number, or several for one dimension")
        found[name] = dims
    return found


def terms_of(dim: str) -> set[str]:
    """The dimensions whose sum, or sum of products, a dimension's name says: past and seq of `past + 2*seq`."""
    words = re.split(r" *[+*] *", SUMS.get(dim, dim))
    if not all(re.fullmatch(r"[\w.]+", word) for word in words):  # floor(s / 2) + 1 is a name like any other
        return {dim}
    return {word for word in words if not word.isdecimal()}


def made_up_dimensions(args: Sequence[NodeArg], files: Collection[str], shapes: Collection[str]) -> list[str]:
    """The names of open dimensions that nothing gives: `make_up` takes 1."""
    found = (d for a in args if a.name not in files and a.name not in shapes for d in a.shape if isinstance(d, str))
    said = {d for a in args if a.name in files or a.name in shapes for d in a.shape}
    return [d for d in dict.fromkeys(found) if d not in shapes and d not in said and terms_of(d) == {d}]


def size_of(dim: Any, known: Mapping[str, tuple[int, ...]]) -> int:
    """The size of a dimension, where those of some names are known: of others 1 each."""
    if not isinstance(dim, str):
        return 1 if dim is None else int(dim)
    if dim in known or terms_of(dim) == {dim}:
        return known.get(dim, (1,))[0]
    terms = (term.split("*") for term in SUMS.get(dim, dim).replace(" ", "").split("+"))
    return sum(prod(int(f) if f.isdecimal() else known.get(f, (1,))[0] for f in term) for term in terms)


def make_up(arg: NodeArg, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Any:
    """A value for an input: normal floats, ones for integers, True, "text"; open dimensions are 1.

    A dimension called like a sum of others (`past + seq`) is that. A sequence has one such element. Raises ValueError
    for a type it cannot make up (maps) or a shape that the input cannot have.
    """
    kind, dtype = _type_of(arg)
    if kind == "optional":
        return None
    if kind not in {"tensor", "seq"} or dtype is None:
        raise ValueError(f"input {arg.name!r} is a {arg.type}: give it with --input")
    shape = shapes.get(arg.name)
    if shape is None:
        shape = tuple(size_of(d, shapes) for d in arg.shape)
    elif arg.shape and (
        len(shape) != len(arg.shape)
        or any(isinstance(d, int) and d != n for d, n in zip(arg.shape, shape, strict=True))
    ):
        raise ValueError(f"--shape {arg.name}: {','.join(map(str, shape))} given, the model wants {arg.shape}")
    if dtype.kind == "S":
        value = np.full(shape, "text", object)
    elif dtype.kind in "fc":
        value = rng.standard_normal(shape).astype(dtypes.to_numpy(dtype))
    else:
        value = np.ones(shape, dtypes.to_numpy(dtype))
    return [value] if kind == "seq" else value


def _type_of(arg: NodeArg) -> tuple[str, DType | None]:
    """Which kind of value (tensor, seq, map, optional), and the dtype of its tensors."""
    kind, _, rest = arg.type.partition("(")
    inner = rest.rstrip(")").rpartition("(")[2]
    known = {d.ort: d for d in dtypes.ALL}
    return kind, known.get(inner)


def read(arg: NodeArg, path: Path) -> np.ndarray:
    """The array in a .npy, .npz (the one called like the input, or the only one) or .png file, in the input's dtype.

    Pictures are scaled to the input's height and width; in a floating input their values run from 0 to 1.
    Raises ValueError for another kind of file or a dtype that does not convert without loss of meaning.
    """
    _, dtype = _type_of(arg)
    if dtype is None or not arg.type.startswith("tensor"):
        raise ValueError(f"input {arg.name!r} is a {arg.type}; files hold tensors only")
    suffix = path.suffix.lower()
    if suffix in {".npy", ".npz"}:
        array = _loaded(path, arg.name)
    elif suffix == ".png":
        array = picture(arg.name, arg.shape, path, dtype)
    else:
        raise ValueError(f"{path} is no .npy, .npz or .png file")
    native = dtypes.to_numpy(dtype)
    array = np.asarray(array)
    kinds = "US" if dtype.kind == "S" else "biuV" if dtype.kind in "iu" else "biufcV" if dtype.kind == "c" else "biufV"
    if array.dtype.kind not in kinds:
        raise ValueError(f"{path} holds {array.dtype}, input {arg.name!r} is {arg.type}")
    return array if array.dtype == native or dtype.kind == "S" else array.astype(native)


def _loaded(path: Path, name: str) -> np.ndarray:
    """The array of a file; of several the one called `name`."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if name not in found.files and len(found.files) != 1:
                raise ValueError(f"of its arrays ({', '.join(found.files) or 'none'}) none is called {name!r}")
            array: np.ndarray = found[name if name in found.files else found.files[0]]
            return array
    except (ValueError, EOFError, BadZipFile) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: Exception) -> ValueError:
    """What to raise where NumPy cannot read a file: what is none of its own, it takes for a pickle."""
    why = "NumPy knows no numbers or text in it" if "pickle" in str(error) else error
    return ValueError(f"{path} cannot be read: {why}")


def picture(name: str, shape: Sequence[Any], path: Path, dtype: DType) -> np.ndarray:
    """A picture as (1, channels, height, width) or (1, height, width, channels), whichever the input's shape says.

    Without the 1 where the shape has three dimensions, and without channels where it has two.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ValueError("reading pictures needs Pillow: pip install 'ortlite[image]'") from None

    if len(shape) not in {2, 3, 4}:
        raise ValueError(f"input {name!r} of shape {shape} is not a picture")
    bare = shape[1:] if len(shape) == 4 else shape
    last = len(bare) == 3 and bare[2] in {1, 3, 4} and bare[0] not in {1, 3, 4}
    height, width, channels = (*bare, 1) if len(bare) == 2 else bare if last else (*bare[1:], bare[0])
    mode = {1: "L", 4: "RGBA"}.get(channels if isinstance(channels, int) else 3, "RGB")
    try:
        image = Image.open(path).convert(mode)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture") from None
    wanted = (width if isinstance(width, int) else image.width, height if isinstance(height, int) else image.height)
    pixels = np.asarray(image if image.size == wanted else image.resize(wanted))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels if last else pixels.transpose(2, 0, 1)
    pixels = pixels[..., 0] if len(bare) == 2 and last else pixels[0] if len(bare) == 2 else pixels
    pixels = pixels[None] if len(shape) == 4 else pixels
    return pixels / np.float32(255) if dtype.kind == "f" else pixels
