"""Where a session's model comes from, what its options change in it, and how it is written after the passes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from ortlite import errors
from ortlite.api.options import SessionOptions
from ortlite.errors import Fail, InvalidArgument, typed

if TYPE_CHECKING:
    from ortlite.graph import Graph, Model

__all__ = ["configured", "external_folder", "loaded", "optimized", "plain", "switched_off", "write_optimized"]

FIELDS = {"intra_op_num_threads", "inter_op_num_threads", "execution_mode", "graph_optimization_level"}
FIELDS |= {"enable_profiling"}  # what the model's own configuration may set

# Config entries that turn passes off.
SWITCHES = {
    "session.disable_quant_qdq": {"QDQSelectorActionTransformer", "ReluQuantRewrite", "DoubleQDQPairsRemover"},
    "session.disable_double_qdq_remover": {"DoubleQDQPairsRemover"},
}


def loaded(source: str | bytes, options: SessionOptions) -> Model:
    """The model of a path, or of bytes, with what the options put in the place of what it says."""
    from ortlite import load  # onnx and the kernels are imported with the first session
    from ortlite.ops import registry

    given = load.Given(
        {name: value.numpy() for name, value in options._initializers.items()},
        {name: value.numpy() for name, value in options._external.items()},
        options._files,
    )
    folder = external_folder(options)
    called = "bytes" if isinstance(source, bytes) else source
    with typed(f"Load model from {called} failed"), registry.local(options._operators):
        format_ = options._entries.get("session.load_model_format", "")
        model = load.load(source, external_data=folder, given=given, format_=format_)
    return replace(model, graph=_with_dimensions(model, options))


def external_folder(options: SessionOptions | None) -> str | None:
    """Where the options say that weights lie which are not in the model's file."""
    entries = {} if options is None else options._entries
    return entries.get("session.model_external_initializers_file_folder_path")


def plain(options: SessionOptions | None) -> bool:
    """Whether a model is read as its file says: with no entries, and no files or values in the place of its own."""
    return options is None or not (options._entries or options._files or options._initializers or options._external)


def _with_dimensions(model: Model, options: SessionOptions) -> Graph:
    """The graph with the dimensions of its inputs fixed that the options name."""
    from ortlite.graph import TensorType

    # negative numbers are taken, and fix nothing
    names, denotations = (
        {name: size for name, size in sizes.items() if size >= 0}
        for sizes in (options._dimensions_by_name, options._dimensions_by_denotation)
    )
    graph = model.graph
    if not names and not denotations:
        return graph
    types = dict(graph.types)
    for name in graph.inputs:
        type_ = types.get(name)
        if isinstance(type_, TensorType) and type_.shape is not None:
            called = [*model.denotations.get(name, ()), *[""] * len(type_.shape)]
            fixed = tuple(
                d if isinstance(d, int) else denotations.get(word, d if d is None else names.get(d, d))
                for d, word in zip(type_.shape, called, strict=False)
            )
            types[name] = replace(type_, shape=fixed)
    return replace(graph, types=types)


def configured(options: SessionOptions, model: Model) -> SessionOptions:
    """The options, with what the model's own configuration says where ORT_LOAD_CONFIG_FROM_MODEL=1 asks for it."""
    options = copy(options)
    if os.environ.get("ORT_LOAD_CONFIG_FROM_MODEL") != "1" or "ort_config" not in model.metadata:
        return options
    with typed("reading the model's ort_config"):
        wanted = json.loads(model.metadata["ort_config"]).get("session_options", {})
    for name in wanted.keys() & FIELDS:
        if type(wanted[name]) is not int:
            raise RuntimeError(f"{name} option in the model file must be an integer, not {wanted[name]!r}")
        setattr(options, name, type(SessionOptions._FIELDS[name])(wanted[name]))
    return options


def switched_off(options: SessionOptions) -> set[str]:
    """Names of the passes that config entries turn off."""
    entries = options._entries
    listed = entries.get("optimization.disable_specified_optimizers", "").split(",")
    return set(filter(None, listed)).union(*(names for key, names in SWITCHES.items() if entries.get(key) == "1"))


def optimized(model: Model, level: int, disabled: Collection[str] = (), pinned: Collection[str] = ()) -> Model:
    """A model after the passes, for a file; without operators newer than its own where they do not go together.

    Passes for this runtime alone are left out: the file is for others, too.
    """
    from ortlite import save
    from ortlite.optimize import HERE, NEWER, optimize

    def made(without: Collection[str]) -> Model:
        return save.unified(replace(model, graph=optimize(model.graph, level, {*disabled, *without}, pinned)))

    try:
        return made(HERE)
    except ValueError:
        return made(HERE | NEWER)


def write_optimized(options: SessionOptions, model: Model, disabled: Collection[str], pinned: Collection[str]) -> None:
    """Write a model after the passes to where the options say. Raises InvalidArgument where that is not possible."""
    from ortlite import save

    entries, path = options._entries, options.optimized_model_filepath
    if entries.get("session.save_model_format", "ORT" if path.endswith(".ort") else "") == "ORT":
        raise errors.NotImplemented(f"{path}: ortlite reads models in ORT format and writes ONNX; call it .onnx")
    external = entries.get("session.optimized_model_external_initializers_file_name", "")
    least = entries.get("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    if not least.isdecimal():
        raise Fail(f"{least!r} is no number of bytes (session.optimized_model_external_initializers_min_size_in_bytes)")
    with typed(f"writing the optimized model to {path}"):
        made = optimized(model, int(options.graph_optimization_level), disabled, pinned)
        try:
            save.write(made, path, external, int(least))
        except OSError as error:
            raise InvalidArgument(
                f"SystemError : {error.errno} ({error.strerror}: {error.filename or path})"
            ) from error
