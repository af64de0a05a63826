"""`ortlite.info`: what a model consists of, what it costs, and which provider would run what, without running it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ortlite import dtypes
from ortlite.graph import Graph, Model, Type
from ortlite.tools.flops import Cost, count
from ortlite.tools.shown import Shown, Table, amount

if TYPE_CHECKING:
    from ortlite.partition import Partitions

__all__ = ["ModelInfo", "OperatorInfo", "Placed", "Source", "ValueInfo", "info", "opened", "placed"]

Source: TypeAlias = "str | os.PathLike[str] | bytes | Model"


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output, its type as `float32[batch, 3]`. `optional`: the model has a default for it."""

    name: str
    type: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """All nodes of one operator: how many, their operations and bytes moved, and how many of them are not known."""

    op_type: str
    domain: str
    count: int
    flops: int
    nbytes: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Placed:
    """How many nodes of an operator, as the optimiser leaves the model, a provider runs; `host`: shape arithmetic."""

    provider: str
    op_type: str
    count: int
    host: bool = False


@dataclass(frozen=True)
class ModelInfo(Shown):
    """What `ortlite.info` found out. `dims` are the symbolic dimensions that FLOPs and bytes hold for.

    `dtypes` says how many bytes of parameters each element type has. A multiply-add counts as two operations.
    """

    name: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    operators: tuple[OperatorInfo, ...]
    parameters: int
    parameter_bytes: int
    dtypes: Mapping[str, int]
    dims: Mapping[str, int]
    placement: tuple[Placed, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def flops(self) -> int:
        """Operations of one run."""
        return sum(each.flops for each in self.operators)

    @property
    def nbytes(self) -> int:
        """Bytes that the nodes of one run read and write."""
        return sum(each.nbytes for each in self.operators)

    @property
    def nodes(self) -> int:
        """Nodes, those of subgraphs included, functions written out."""
        return sum(each.count for each in self.operators)

    def heading(self) -> str:
        """Name, origin and opsets."""
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets.items())
        made_by = f", made by {self.producer}" if self.producer else ""
        return f"{self.name}{made_by}, IR version {self.ir_version}, opsets: {opsets}"

    def tables(self) -> list[Table]:
        """Values, parameters, operators and placement."""
        values = [
            (kind, value.name, value.type, "has a default" if value.optional else "")
            for kind, group in (("input", self.inputs), ("output", self.outputs))
            for value in group
        ]
        operators = [
            (_full(each), str(each.count), amount(each.flops), amount(each.nbytes, "B"), _unknown(each))
            for each in self.operators
        ]
        total = ("all", str(self.nodes), amount(self.flops), amount(self.nbytes, "B"), "")
        placement = [
            ("host values" if each.host else each.provider, each.op_type, str(each.count)) for each in self.placement
        ]
        head = ("operator", "nodes", "FLOPs", "bytes moved", "")
        parameters = [(name, amount(size, "B")) for name, size in self.dtypes.items()]
        return [
            Table("values", ("", "name", "type", ""), values, name="name", prose="type"),
            Table("parameters", ("dtype", "bytes"), parameters),
            Table("operators", head, [*operators, total], name="operator"),
            Table("placement, after optimisation", ("provider", "operator", "nodes"), placement, name="operator"),
        ]

    def remarks(self) -> list[str]:
        """Parameters in all, and what the costs assume."""
        said = [f"{self.parameters:,} parameters, {self.parameter_bytes:,} bytes"]
        if self.dims:
            said.append("FLOPs and bytes for " + ", ".join(f"{name}={size}" for name, size in self.dims.items()))
        return [*said, *self.notes]


def _full(each: OperatorInfo) -> str:
    return f"{each.domain}::{each.op_type}" if each.domain else each.op_type


def _unknown(each: OperatorInfo) -> str:
    return f"{each.unknown} not known" if each.unknown else ""


def info(model: Source, *, dims: Mapping[str, int] | None = None, providers: Sequence[Any] = ()) -> ModelInfo:
    """What a model (a path, bytes, or what `ortlite.load.load` read) consists of and costs; nothing is run.

    FLOPs and bytes follow from the shapes of the inputs, symbolic dimensions taken from `dims`, else 1; the result's
    `dims` say which. Placement is that of a session on `providers`. Raises what loading a model raises, NotImplemented
    for an operator that no provider has, ValueError for a name in `dims` that no input has.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> found = ortlite.info(model_bytes(), dims={"batch": 8})
        >>> found.parameters, found.dims, [each.op_type for each in found.operators if each.flops > 1e6]
        (29915, {'batch': 8}, ['Conv'])

    """
    opened_ = opened(model)
    graph = opened_.graph
    counted = count(graph, dims)
    constants = list(_constants(graph))
    sizes: Counter[str] = Counter()
    for array in constants:
        sizes[dtypes.of_numpy(array.dtype).name] += array.nbytes
    unknown = sum(cost.flops is None for cost in counted.costs)
    lost = [f"{unknown} nodes have shapes that are not known before a run: they count as nothing"] if unknown else []
    return ModelInfo(
        name=opened_.graph.name if isinstance(model, bytes | Model) else Path(os.fsdecode(model)).name,
        producer=opened_.producer_name,
        ir_version=opened_.ir_version,
        opsets=dict(opened_.opsets),
        inputs=tuple(_value(n, graph.types.get(n), n in graph.overridable) for n in graph.inputs),
        outputs=tuple(_value(n, graph.types.get(n)) for n in graph.outputs),
        operators=_operators(counted.costs),
        parameters=sum(array.size for array in constants),
        parameter_bytes=sum(array.nbytes for array in constants),
        dtypes=dict(sizes.most_common()),
        dims=dict(counted.dims),
        placement=_placement(opened_, providers),
        notes=(*counted.notes, *lost),
    )


def opened(model: Source) -> Model:
    """The model, loaded if it is not yet."""
    from ortlite import load

    return model if isinstance(model, Model) else load.load(model)


def _constants(graph: Graph) -> list[Any]:
    found = list(graph.constants.values())
    for node in graph.walk():
        for body in node.subgraphs.values():
            found += body.constants.values()
    return found


def _value(name: str, type_: Type | None, optional: bool = False) -> ValueInfo:
    return ValueInfo(name, "?" if type_ is None else str(type_), optional)


def _operators(costs: Sequence[Cost]) -> tuple[OperatorInfo, ...]:
    """One entry an operator, what costs most first."""
    groups: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for cost in costs:
        groups[cost.node.op_type, cost.node.domain].append(cost)
    found = [
        OperatorInfo(
            op_type,
            domain,
            len(group),
            sum((cost.flops or 0) * cost.times for cost in group),
            sum((cost.nbytes or 0) * cost.times for cost in group),
            sum(cost.flops is None for cost in group),
        )
        for (op_type, domain), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.flops, -each.nbytes, each.op_type)))


def _placement(model: Model, providers: Sequence[Any]) -> tuple[Placed, ...]:
    counts: Counter[tuple[str, str, bool]] = Counter()

    def add(parts: Partitions) -> None:
        for node, place in zip(parts.graph.nodes, parts.placements, strict=True):
            counts[parts.providers[place.provider].name, node.op_type, place.host] += 1
        for inner in parts.subgraphs.values():
            add(inner)

    add(placed(model, providers))
    rows = [Placed(provider, op_type, n, host) for (provider, op_type, host), n in counts.items()]
    return tuple(sorted(rows, key=lambda row: (row.host, row.provider, -row.count, row.op_type)))


def placed(model: Model, providers: Sequence[Any]) -> Partitions:
    """The model as a session on `providers` (names, or names with options) would optimise and place it."""
    from ortlite.api.providers import check_and_normalize_provider_args, get_available_providers, resolve
    from ortlite.optimize import optimize
    from ortlite.partition import partition

    names, options = check_and_normalize_provider_args(list(providers), None, get_available_providers())
    return partition(optimize(model.graph), resolve(names, options))
