"""Models as functions of Spark's columns: `udf`. What it needs: `pip install 'ortlite[spark]'` and Java."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite.batches import Job, Source
from ortlite.dtypes import DType
from ortlite.errors import InvalidArgument
from ortlite.rows import Port
from ortlite.tools.tables import writable

try:
    import pandas as pd
    import pyarrow as pa  # noqa: F401  (what pandas UDFs travel in)
    from pyspark import TaskContext
    from pyspark.sql import types
    from pyspark.sql.functions import pandas_udf
except ImportError as error:
    raise ImportError("ortlite.spark needs pyspark, pandas and pyarrow: pip install 'ortlite[spark]'") from error

if TYPE_CHECKING:
    from ortlite.api.options import SessionOptions

__all__ = ["udf"]

# Spark has no unsigned integers, and no floats of less than 32 bits.
TYPES = {
    "float32": types.FloatType,
    "float64": types.DoubleType,
    "int8": types.ByteType,
    "int16": types.ShortType,
    "int32": types.IntegerType,
    "int64": types.LongType,
    "uint8": types.ShortType,
    "uint16": types.IntegerType,
    "uint32": types.LongType,
    "bool": types.BooleanType,
    "string": types.StringType,
}
STORED = {"uint8": "int16", "uint16": "int32", "uint32": "int64"}


def udf(
    model: Source,
    *,
    outputs: Sequence[str] | None = None,
    constants: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    sess_options: SessionOptions | None = None,
) -> Any:
    """A pandas UDF, in the form that takes an iterator of batches, that runs a model on columns.

    `model` is a path that every executor can read, bytes, or a session. The function takes a column for each of the
    model's inputs, in their order: numbers, or arrays with the elements of a row (nested, or flat in C order). It gives
    a column of numbers or of (nested) arrays, or for several outputs a struct with a field for each. `outputs` names
    outputs (default: all) or other values; `constants` are values for inputs that have no rows. `batch_size` rows go
    into one run at most (default: what the model declares, else 64), on `threads` threads (default: as many as
    `spark.task.cpus` says). A worker process makes one session.

    Raises what loading a model raises, InvalidArgument for an output that Spark has no type for.

    Example:
        digit = ortlite.spark.udf("digits.onnx")
        frame.select(digit("scan"))

    """
    options: dict[str, Any] = {"providers": providers, "sess_options": sess_options}
    job = Job.of(model, outputs=outputs, constants=constants, batch_size=batch_size, **options)
    found = {port.name: _type(job.called, port) for port in job.outputs}
    several = len(found) > 1
    returned = (
        types.StructType([types.StructField(*field) for field in found.items()])
        if several
        else found[job.outputs[0].name]
    )
    names = [port.name for port in job.inputs]

    def columns(batches: Any) -> Any:
        number = _share() if threads is None else threads
        for batch in batches:
            given = batch if isinstance(batch, tuple) else (batch,)
            feed = {name: series.to_numpy() for name, series in zip(names, given, strict=True)}
            made = {name: _series(array) for name, array in job.run(feed, number).items()}
            yield pd.DataFrame(made) if several else next(iter(made.values()))

    # The hints choose the iterator form; as text they would be looked for in Spark's modules.
    taken = Iterator[pd.Series] if len(names) == 1 else Iterator[tuple[pd.Series, ...]]
    given_back = Iterator[pd.DataFrame] if several else Iterator[pd.Series]
    columns.__annotations__ = {"batches": taken, "return": given_back}
    columns.__name__ = columns.__qualname__ = "ortlite"
    wrap: Callable[..., Any] = pandas_udf
    return wrap(columns, returnType=returned)


def _type(called: str, port: Port) -> types.DataType:
    if port.shape is None:
        raise InvalidArgument(f"{called}: the rank of output {port} is not known before a run, as Spark wants it")
    element = _element(port.dtype)
    if element is None:
        raise InvalidArgument(f"{called}: Spark has no type for output {port}")
    for _ in port.shape[1:]:
        element = types.ArrayType(element)
    return element


def _element(dtype: DType) -> types.DataType | None:
    found = TYPES.get(dtype.name)
    if found is None and dtype.kind in "fiu" and dtype.bits < 32:
        found = TYPES[{"f": "float32", "i": "int8", "u": "uint8"}[dtype.kind]]
    return None if found is None else found()


def _series(array: np.ndarray) -> pd.Series:
    array = writable(array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    array = array.astype(STORED.get(array.dtype.name, array.dtype), copy=False)
    if array.ndim == 1:
        return pd.Series(array)
    return pd.Series(list(array) if array.ndim == 2 else array.tolist(), dtype=object)


def _share() -> int:
    """How many processors Spark gives a task; each task has a process."""
    context = TaskContext.get()
    return 1 if context is None else max(1, context.cpus())
