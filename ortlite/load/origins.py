"""Where in the exporter's source the nodes of a file come from, as far as the file says.

The pipeline does not carry this along: a profile asks for it, and the file is read once more, without its weights.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError

__all__ = ["Origin", "origins"]

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*(?:\n\s*(?!File ")(?P<code>[^\n]+))?')
OLD_FRAME = re.compile(r"^(?P<file>\S+\.py)\((?P<line>\d+)\): ", re.MULTILINE)  # doc_string of PyTorch's first exporter
LIBRARY = re.compile(r"(^|[\\/])torch[\\/]")  # frames in which nobody looks for what a model does
STANDS_FOR = 64  # nodes of the file that one node may be made of: more, and the walk has gone astray


@dataclass(frozen=True, slots=True)
class Origin:
    """`scope`: the modules that the node stands in, outermost first; `sources`: lines as "file:12: y = f(x)".

    Where the optimiser made one node of several, the sources are those of all, the last one's first, `nodes` names
    them, and the scope is that of the last.
    """

    scope: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


def origins(
    source: str | os.PathLike[str] | bytes, calls: Sequence[tuple[Sequence[str], Collection[str]]]
) -> list[Origin]:
    """The origins of `calls`: pairs of the values that a node computes and of those that it reads.

    Nothing is known of what is in ORT format, of a file that is gone, and of values that the file does not name.
    """
    try:
        proto = (
            onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source, load_external_data=False)
        )
    except (DecodeError, OSError, ValueError):
        return [Origin()] * len(calls)
    nodes = list(_walk(proto.graph))
    makers = {name: node for node in nodes for name in node.output if name}
    # values inside of a function are called "node/first output/value" (ortlite.load.graph)
    functions = (
        {f"{n.name or n.op_type}/{next(filter(None, n.output), '')}": n for n in nodes} if proto.functions else {}
    )
    return [_origin(_between(makers, outputs, reads) or _caller(functions, outputs)) for outputs, reads in calls]


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _walk(body)


def _between(
    makers: Mapping[str, onnx.NodeProto], outputs: Sequence[str], reads: Collection[str]
) -> list[onnx.NodeProto]:
    """The nodes of the file that compute `outputs` from `reads`, the last first; if that fails, only the last."""
    found: dict[int, onnx.NodeProto] = {}
    waiting, seen = [name for name in outputs if name], set(reads)
    for name in waiting:
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        found.setdefault(id(node), node)
        waiting += node.input
    last = list(found.values())
    return last if len(last) <= STANDS_FOR else last[:1]


def _caller(functions: Mapping[str, onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The call of the function that computes the first output."""
    parts = next(filter(None, outputs), "").split("/")
    prefixes = ("/".join(parts[:end]) for end in range(len(parts) - 1, 1, -1))
    return [functions[prefix] for prefix in prefixes if prefix in functions][:1]


def _origin(nodes: Sequence[onnx.NodeProto]) -> Origin:
    if not nodes:
        return Origin()
    metadata = [{entry.key: entry.value for entry in node.metadata_props} for node in nodes]
    sources = [_source(node, known) for node, known in zip(nodes, metadata, strict=True)]
    names = [node.name or next(filter(None, node.output), "") for node in nodes]
    return Origin(_scope(nodes[0], metadata[0]), tuple(dict.fromkeys(filter(None, sources))), tuple(names))


def _source(node: onnx.NodeProto, metadata: Mapping[str, str]) -> str:
    """The innermost line outside of PyTorch itself, else the innermost."""
    frames = list(FRAME.finditer(metadata.get("pkg.torch.onnx.stack_trace", "")))
    frames = frames or list(OLD_FRAME.finditer(node.doc_string))[::-1]
    ours = [frame for frame in frames if not LIBRARY.search(frame["file"])] or frames
    if not ours:
        return ""
    parts = ours[-1].groupdict()
    code = (parts.get("code") or "").strip()
    return f"{parts['file']}:{parts['line']}{': ' if code else ''}{code}"


def _scope(node: onnx.NodeProto, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The modules around a node: from the exporter's metadata, else from a name such as /encoder/layer.0/MatMul."""
    try:
        listed = [str(name) for name in ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", ""))]
    except (SyntaxError, ValueError, TypeError):
        listed = [part.partition(":")[0].strip() for part in metadata.get("namespace", "").split("/")]
    if len(listed) > 1:
        return tuple(_relative([name for name in listed[:-1] if name]))  # the last is the operator's own
    return tuple(filter(None, node.name.split("/")[:-1])) if node.name.startswith("/") else ()


def _relative(names: Sequence[str]) -> Iterator[str]:
    """m, m.encoder, m.encoder.layer.0 as m, encoder, layer.0."""
    before = ""
    for name in names:
        yield name.removeprefix(f"{before}.") if before else name
        before = name
