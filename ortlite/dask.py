"""Models over Dask arrays and xarray's: `map_blocks`. What it needs: `pip install 'ortlite[dask]'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ortlite import dtypes, heap
from ortlite.batches import Job, Source
from ortlite.errors import InvalidArgument
from ortlite.rows import Port

try:
    import dask.array as da
    from dask.delayed import delayed
except ImportError as error:
    raise ImportError("ortlite.dask needs dask: pip install 'ortlite[dask]'") from error

if TYPE_CHECKING:
    from ortlite.api.options import SessionOptions

__all__ = ["map_blocks"]

KEPT = 1 << 26  # bytes that a worker may keep between runs
NANNYS = frozenset({("MALLOC_TRIM_THRESHOLD_", "65536")})  # what a nanny sets for its workers, unless told otherwise
OWN = 1000  # from which on the axes of the first array are numbered that no other has

Sizes: TypeAlias = "tuple[int | float, ...]"  # of the chunks along an axis; NaN is not known


def map_blocks(
    model: Source,
    *arrays: Any,
    outputs: Sequence[str] | None = None,
    constants: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    threads: int = 1,
    dims: Mapping[str, Sequence[str]] | None = None,
    providers: Sequence[Any] | None = None,
    sess_options: SessionOptions | None = None,
) -> Any:
    """Run a model on each block of arrays whose first axis is the batch; nothing is computed yet.

    `model` is a path that every worker can read, bytes, or a session. `arrays` are Dask arrays, or xarray DataArrays of
    them, in the order of the model's inputs, or one mapping from names. The result is an array for a model of one
    output, else a dict of them by name (from xarray, a DataArray or a Dataset). `outputs` names outputs (default: all)
    or other values; `constants` are values for inputs that have no rows.

    Dtypes, chunks and metas come from shape inference; a size that nothing says before a run is NaN. Axes after the
    first may have several chunks where an output has the same axis, as for models of images; each block is then run by
    itself (`dask.array.overlap.overlap` before and `trim_internal` after it give blocks their neighbours' edges).

    A worker process makes one session. `batch_size` rows go into one run at most (default: what the model declares,
    else 64), on `threads` threads: 1, since Dask counts one processor for each of its own.

    From xarray an output keeps the first dimension, and those of an array of as many axes where their sizes agree;
    others are called OUTPUT_1 and so on, or as `dims` says: output -> names of all its axes.

    Raises InvalidArgument for arrays that do not fit the model, and what loading it raises; computing raises what
    `ortlite.batches.Job.run` does.

    Example:
        >>> import dask.array as da
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> x = da.from_array(scans()[0], chunks=(5, 1, 8, 8))
        >>> y = map_blocks(model_bytes(), x)
        >>> y.shape, y.chunks, y.dtype.name
        ((16, 10), ((5, 5, 5, 1), (10,)), 'float32')
        >>> y.argmax(axis=1).compute()[:4].tolist()
        [2, 8, 2, 6]

    """
    options: dict[str, Any] = {"providers": providers, "sess_options": sess_options}
    job = Job.of(model, outputs=outputs, constants=constants, batch_size=batch_size, **options)
    given = _given(job, arrays)
    labelled = {name: array for name, array in given.items() if hasattr(array, "dims")}
    lazy = {name: array.data if name in labelled else array for name, array in given.items()}
    for port in job.inputs:
        _check(job, port, lazy[port.name])
    made = _mapped(job, lazy, threads)
    if labelled:
        return _labelled(job, labelled, made, dims or {})
    if dims:
        raise TypeError("dims are names for the axes of xarray's arrays, and no array is one")
    return made if len(made) > 1 else next(iter(made.values()))


def _given(job: Job, arrays: tuple[Any, ...]) -> dict[str, Any]:
    names = [port.name for port in job.inputs]
    if len(arrays) == 1 and isinstance(arrays[0], Mapping) and not hasattr(arrays[0], "to_dataset"):
        given = dict(arrays[0])
        if given.keys() != set(names):
            raise InvalidArgument(f"{job.called} has the inputs {', '.join(names)}, not {', '.join(map(str, given))}")
        return given
    if len(arrays) != len(names):
        raise InvalidArgument(f"{job.called} has the inputs {', '.join(map(str, job.inputs))}: {len(arrays)} are given")
    return dict(zip(names, arrays, strict=True))


def _check(job: Job, port: Port, array: Any) -> None:
    """Raise for what is no Dask array of the right rank and a dtype that converts."""
    if not isinstance(array, da.Array):
        advice = "chunk it first: .chunk() of xarray, dask.array.from_array of NumPy"
        raise TypeError(f"{job.called}: input {port} is given a {type(array).__name__}, no Dask array; {advice}")
    if not array.ndim or (port.shape is not None and array.ndim != len(port.shape)):
        raise InvalidArgument(f"{job.called}: input {port} is given an array of shape {array.shape}")
    wanted = dtypes.to_numpy(port.dtype)
    text = port.dtype.kind == "S"
    converts = (
        array.dtype.kind in "OUST" if text else array.dtype != object and np.can_cast(array.dtype, wanted, "same_kind")
    )
    integers = array.dtype.kind in "iu" and port.dtype.kind in "iu"  # their values are looked at when they are there
    if not converts and not integers and not port.dtype.narrow:
        raise InvalidArgument(f"{job.called}: input {port} is given an array of {array.dtype}")


def _mapped(job: Job, arrays: Mapping[str, da.Array], threads: int) -> dict[str, da.Array]:
    """One layer that runs the model and makes a dict of each block, and one that takes from it for each output."""
    names = [port.name for port in job.inputs]
    _, unified = da.core.unify_chunks(*_indexed([arrays[name] for name in names]))
    blocks = dict(zip(names, unified, strict=True))
    cut = {(k, a.chunks[k]) for a in unified for k in range(1, a.ndim) if a.numblocks[k] > 1}
    chunks: dict[int, Sizes] = dict(sorted(cut))
    chunks[0] = next(iter(blocks.values())).chunks[0]
    known = _output_chunks(job, blocks, chunks)
    index = tuple(sorted(chunks))
    run = da.blockwise(
        run_model,
        index,
        *_indexed(unified),
        job=delayed(job, name=f"ortlite-model-{job.token}"),
        names=names,
        threads=threads,
        concatenate=True,
        dtype=object,
        meta=np.empty((0,) * len(index), object),
    )
    made = {}
    for port in job.outputs:
        sizes = known[port.name]
        made[port.name] = da.blockwise(
            take_output,
            tuple(range(len(sizes))),
            run,
            index,
            name_=port.name,
            new_axes={k: s for k, s in enumerate(sizes) if k not in index},
            adjust_chunks={k: s for k, s in enumerate(sizes) if k in index},
            dtype=dtypes.to_numpy(port.dtype),
            meta=np.empty((0,) * len(sizes), dtypes.to_numpy(port.dtype)),
        )
    return made


def _indexed(arrays: Sequence[da.Array]) -> list[Any]:
    return [x for place, array in enumerate(arrays) for x in (array, _index(place, array))]


def _index(place: int, array: da.Array) -> tuple[int, ...]:
    """What the axes are called: those that are cut have one number in all arrays, the others each their own."""
    return tuple(k if k == 0 or array.numblocks[k] > 1 else OWN * (place + 1) + k for k in range(array.ndim))


def run_model(*blocks: np.ndarray, job: Job, names: Sequence[str], threads: int) -> dict[str, np.ndarray]:
    """Run the model on one block."""
    heap.keep_freed(KEPT, NANNYS)
    return job.run(dict(zip(names, blocks, strict=True)), threads)


def take_output(made: Mapping[str, np.ndarray], name_: str) -> np.ndarray:
    """Take one of the outputs of a block."""
    return made[name_]


def _output_chunks(job: Job, arrays: Mapping[str, da.Array], chunks: Mapping[int, Sizes]) -> dict[str, list[Sizes]]:
    """The chunks of each output: what shape inference says of a block of each size along each axis that is cut."""
    base = {name: [_known(sizes[0]) for sizes in array.chunks] for name, array in arrays.items()}
    for shape in base.values():
        shape[0] = job.size if job.fixed else shape[0] or 1
    asked: list[dict[str, list[int | None]]] = [base]
    place: dict[tuple[int, int | float], int] = {}
    for k, sizes in chunks.items():
        for size in dict.fromkeys(sizes) if k else ():
            place[k, size] = len(asked)
            cut = {name for name, array in arrays.items() if array.ndim > k and array.numblocks[k] > 1}
            asked.append({n: [*s[:k], _known(size), *s[k + 1 :]] if n in cut else s for n, s in base.items()})
    found = job.shapes(asked)
    made: dict[str, list[Sizes]] = {}
    for port in job.outputs:
        first = found[0][port.name]
        if deep := [k for k in chunks if k >= len(first)]:
            raise InvalidArgument(
                f"{job.called}: output {port} has no axis {deep[0]}, along which an input has several chunks: rechunk "
                f"it to one ({{{deep[0]}: -1}})"
            )
        of_axes: list[Sizes] = [(_size(n),) for n in first]
        of_axes[0] = chunks[0]
        for k in chunks:
            if k == 0:
                continue
            along = []
            for size in chunks[k]:
                there = found[place[k, size]][port.name]
                if there[1:k] + there[k + 1 :] != first[1:k] + first[k + 1 :]:
                    raise InvalidArgument(
                        f"{job.called}: a block's size along axis {k} decides more than that axis of output {port}: "
                        f"rechunk the input to one chunk ({{{k}: -1}})"
                    )
                along.append(np.nan if _known(size) is None else _size(there[k]))
            of_axes[k] = tuple(along)
        made[port.name] = of_axes
    return made


def _known(size: int | float) -> int | None:
    return None if np.isnan(size) else int(size)


def _size(size: int | None) -> int | float:
    return np.nan if size is None else size


def _labelled(
    job: Job, given: Mapping[str, Any], made: Mapping[str, da.Array], dims: Mapping[str, Sequence[str]]
) -> Any:
    """The outputs as arrays of xarray, with the coordinates of the dimensions that they share with an input."""
    import xarray as xr

    if unknown := dims.keys() - made.keys():
        raise InvalidArgument(
            f"dims: {job.called} has no output {', '.join(sorted(unknown))}; it has {', '.join(made)}"
        )
    like = next(iter(given.values()))
    found = {}
    for name, array in made.items():
        names = dims.get(name) or [
            d if k == 0 or (array.ndim == like.ndim and array.shape[k] == like.shape[k]) else f"{name}_{k}"
            for k, d in zip(range(array.ndim), [*like.dims, *[""] * array.ndim], strict=False)
        ]
        if len(names) != array.ndim:
            raise InvalidArgument(f"dims: output {name!r} has {array.ndim} axes, not {list(names)}")
        kept = {d: n for d, n in zip(names, array.shape, strict=True) if d in like.dims and like.sizes[d] == n}
        coords = {c: v for c, v in like.coords.items() if v.dims and set(v.dims) <= kept.keys()}
        found[name] = xr.DataArray(array, dims=names, coords=coords, name=name)
    return next(iter(found.values())) if len(found) == 1 else xr.Dataset(found)
