"""Stage 1: an ONNX file becomes a Graph. Later stages see no protobuf, and import no onnx.

`tensors` reads weights and types; `order` brings nodes into topological order; `functions` says what calls become;
`graph` reads nodes: functions are inlined, Constant nodes become constants, old spellings are normalised
(`schema.DROPPED`), and every value gets the type that its producer's schema gives it. `gradient` finds what Gradient
nodes differentiate; `shapes` refuses constants that do not fit together.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ortlite import dtypes
from ortlite.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OrtError
from ortlite.graph import Model
from ortlite.limits import Limits, beyond, both, current
from ortlite.load import files, functions, graph, nchwc, ort_format, shapes, wire
from ortlite.load.order import graphs_of
from ortlite.load.peek import all_graphs
from ortlite.load.tensors import HERE, Given, Tensors, text

__all__ = ["Given", "load"]

log = logging.getLogger("ortlite")
if log.level == logging.NOTSET:
    log.setLevel(logging.WARNING)  # a program that counts what is logged at DEBUG asks for its own, not for ours
IR_VERSION = 14  # the highest that onnxruntime 1.32 reads


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    external_data: str | None = None,
    given: Given | None = None,
    format_: str = "",
    limits: Limits | None = None,
) -> Model:
    """Read a model from a path or from bytes.

    External data is looked for beside the file (where the file is a link, as in the cache of Hugging Face, links beside
    it may lead to files beside what it leads to); `external_data` names the folder for bytes (default: the
    working directory). `given` goes in the place of what the file says. `format_` is "ORT" or "ONNX"; without it, files
    called .ort, and what begins as such a file, are in ORT format. The model may take what `limits` and
    `ortlite.limits.current()` allow. Raises NoSuchFile, InvalidProtobuf, InvalidArgument, InvalidGraph, Fail
    (LimitExceeded) or NotImplemented, each naming what is wrong, and TypeError for a source of another type.
    """
    limits = current() if limits is None else both(limits, current())
    data: bytes | memoryview
    linked = None
    if isinstance(source, bytes):
        name, data, folder = "", source, Path(external_data or ".")
        if limits.model_bytes is not None and len(data) > limits.model_bytes:
            raise beyond("model_bytes", limits.model_bytes, len(data), "bytes of the model")
    elif not isinstance(source, str | os.PathLike):
        raise TypeError(f"Unable to load from type '{type(source)}': a model is a path, or bytes (SerializeToString())")
    else:
        path = Path(os.fsdecode(source))
        name, data, folder = str(path), _read(path, limits), Path(external_data or path.parent)
        linked = path.resolve().parent if external_data is None and path.is_symlink() else None
    room = None if limits.model_bytes is None else limits.model_bytes - len(data)
    tensors = Tensors(folder, given or Given(), limits=limits, room=room, linked=linked)
    if format_ == "ORT" or (not format_ and (name.endswith(".ort") or data[4:8] == ort_format.IDENTIFIER)):
        proto, tensors.copies = ort_format.read(data), False
    else:
        proto = _parse(wire.without_large_tensors(data), name)
    tensors.files[HERE] = np.frombuffer(data, np.uint8)
    _check_nodes(proto, limits)
    file = graph.File(tensors)
    try:
        return _model(proto, file)
    except OrtError:
        raise
    except MemoryError as error:
        raise Fail(f"{_failed(name)}There is not enough memory for it. ({file.about})") from error
    except Exception as error:  # unforeseen: whatever it is, the model is the reason
        problem = f"{type(error).__name__}: {error}"
        raise InvalidGraph(f"{_failed(name)}This is an invalid model. {file.about}: {problem}") from error


def _failed(name: str) -> str:
    return f"Load model from {name} failed:" if name else ""


def _model(proto: onnx.ModelProto, file: graph.File) -> Model:
    opsets = _opsets(proto)
    _check_border(proto.graph)
    file.define(proto)
    held = {tensor.name for each in all_graphs(proto.graph) for tensor in each.initializer}
    if unknown := file.tensors.given.external.keys() - held:
        raise Fail(f"Failed to find existing initializer with name {min(unknown)}.")
    nchwc.rewrite(proto, file.tensors)
    model = Model(
        graph=graph.read_model_graph(proto, opsets, file),
        opsets=opsets,
        ir_version=proto.ir_version,
        producer_name=_prose(proto.producer_name),
        domain=_prose(proto.domain),
        description=_prose(proto.doc_string),
        graph_description=_prose(proto.graph.doc_string),
        version=proto.model_version if proto.HasField("model_version") else 2**63 - 1,
        metadata={_prose(p.key): _prose(p.value) for p in proto.metadata_props},
        denotations={value.name: _denotations(value) for value in proto.graph.input},
        sparse=_sparse_outputs(proto.graph),
    )
    file.reading = "shapes"
    shapes.check(proto, model.graph)
    shapes.check_reshapes(model.graph)
    log.debug("loaded %s: %d nodes", model.graph.name, len(model.graph.nodes))
    return model


def _check_border(proto: onnx.GraphProto) -> None:
    """Raise Fail for an input without a type, InvalidArgument for a tensor among inputs and outputs without a dtype."""
    for value in proto.input:
        if value.type.WhichOneof("value") is None:
            raise Fail(f"This is an invalid model. Model input ({value.name}) does not have type information.")
    for value in (*proto.input, *proto.output):
        kind = value.type.WhichOneof("value")
        code = getattr(value.type, kind).elem_type if kind in {"tensor_type", "sparse_tensor_type"} else None
        if code is not None and code not in dtypes.CODES:
            raise InvalidArgument(f"Failed to load model with error: Invalid tensor data type {code} ({value.name!r}).")


def _sparse_outputs(proto: onnx.GraphProto) -> frozenset[str]:
    """Outputs that no operator computes, and that the graph holds as sparse tensors."""
    held = {tensor.values.name for tensor in proto.sparse_initializer}
    constants = (node for node in proto.node if node.op_type == "Constant" and node.output)
    held |= {node.output[0] for node in constants if any(a.name == "sparse_value" for a in node.attribute)}
    return frozenset(held & {value.name for value in proto.output})


def _denotations(value: onnx.ValueInfoProto) -> tuple[str, ...]:
    return tuple(_prose(dimension.denotation) for dimension in value.type.tensor_type.shape.dim)


def _prose(value: str | bytes) -> str:
    """Text that nothing depends on; protobuf hands on as bytes what is not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _read(path: Path, limits: Limits) -> bytes | memoryview:
    """A file's bytes, mapped: each tensor is copied from there, so that a copy before would double the memory."""
    failed = _failed(str(path))
    try:
        with files.opened(path) as descriptor:
            return files.contents(descriptor, limits, limits.model_bytes, f"the model {path}")
    except IsADirectoryError:
        raise InvalidProtobuf(f"{failed}Protobuf parsing failed: it is a folder.") from None
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchFile(f"{failed}Load model {path} failed. File doesn't exist") from None
    except ValueError as error:
        if "\0" in str(path):  # no file has that in its name
            raise NoSuchFile(f"{failed}Load model {path} failed. File doesn't exist") from None
        raise Fail(f"{failed}It is {error}.") from None
    except OSError as error:
        raise Fail(f"{failed}{error.strerror or error}") from error


def _check_nodes(proto: onnx.ModelProto, limits: Limits) -> None:
    """Raise LimitExceeded for more nodes than are allowed, before any is read."""
    if limits.nodes is None:
        return
    count, waiting = 0, [proto.graph.node, *(function.node for function in proto.functions)]
    while waiting:
        nodes = waiting.pop()
        count += len(nodes)
        if count > limits.nodes:
            raise beyond("nodes", limits.nodes, f"{count} or more", "nodes of the model")
        waiting.extend(graph.node for node in nodes for graph in graphs_of(node))


def _parse(data: bytes | memoryview, path: str) -> onnx.ModelProto:
    failed = _failed(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        problem = "Protobuf parsing failed." if path else "Failed to load model because protobuf parsing failed."
        raise InvalidProtobuf(failed + problem) from None
    if not proto.HasField("graph"):
        raise InvalidArgument(f"{failed}No graph was found in the protobuf.")
    if not proto.HasField("ir_version"):
        raise Fail(f"{failed}Missing model IR version: every ModelProto has ir_version.")
    highest = max(onnx.IR_VERSION, IR_VERSION)
    if proto.ir_version > highest:
        raise Fail(f"{failed}Unsupported model IR version: {proto.ir_version}, max supported IR version: {highest}")
    if proto.ir_version > onnx.IR_VERSION:
        log.warning("model IR version %d is newer than the %d known here", proto.ir_version, onnx.IR_VERSION)
    return proto


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """Domain -> version. A missing one means 1 before IR 3 and is an error from then on, as in onnxruntime."""
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = functions.domain_of(text(entry.domain, "an opset import"))
        opsets[domain] = max(entry.version, opsets.get(domain, entry.version))
    if not opsets:
        if proto.ir_version >= 3:
            raise Fail("Missing opset in the model. All ModelProtos MUST have at least one entry of opset_import.")
        opsets[""] = 1
    for domain, newest in _newest().items():
        if newest < opsets.get(domain, 0) < 2**31:  # beyond, no node finds its operator
            raise Fail(
                f"ONNX Runtime only *guarantees* support for models stamped with official released onnx opset "
                f"versions. Opset {opsets[domain]} is under development and support for this is limited. "
                f"Current official support for domain {domain or 'ai.onnx'} is till opset {newest}."
            )
    return opsets


@cache
def _newest() -> dict[str, int]:
    """The last version of each domain that others than its owner define."""
    return {
        "": onnx.defs.onnx_opset_version(),
        "ai.onnx.ml": onnx.defs.onnx_ml_opset_version(),
        "com.microsoft": 1,
    }
