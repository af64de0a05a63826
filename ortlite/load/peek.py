"""What a file says besides its graph: read without making a model of it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError

from ortlite.errors import InvalidProtobuf
from ortlite.load.order import graphs_of

__all__ = ["all_graphs", "external_places", "metadata"]


def metadata(data: bytes) -> dict[str, str]:
    """The properties that a model has. Raises InvalidProtobuf for what is no model."""
    return {entry.key: entry.value for entry in _parsed(data).metadata_props}


def external_places(data: bytes) -> dict[str, tuple[str, int, int]]:
    """File, offset and length of each initializer that lies outside of the model. Raises InvalidProtobuf."""
    found = {}
    for graph in all_graphs(_parsed(data).graph):
        for tensor in graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if "location" in entries:
                found[tensor.name] = entries["location"], int(entries.get("offset", 0)), int(entries.get("length", 0))
    return found


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for inner in graphs_of(node):
            yield from all_graphs(inner)


def _parsed(data: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise InvalidProtobuf("Protobuf parsing failed.") from None
    return proto
