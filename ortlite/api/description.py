"""What a session says of its model and of itself: inputs and outputs, metadata, providers, placement, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ortlite.errors import Fail
from ortlite.provider import CPU

if TYPE_CHECKING:
    from ortlite.api.device import OrtMemoryInfo
    from ortlite.api.ep_devices import OrtEpAssignedSubgraph, OrtEpDevice
    from ortlite.api.explain import Explanation
    from ortlite.api.feed import Prepared
    from ortlite.api.options import SessionOptions
    from ortlite.api.values import ModelMetadata, NodeArg
    from ortlite.graph import Graph, Model, Type
    from ortlite.memory import MemoryPlan
    from ortlite.pipeline import Stages

__all__ = ["Described", "declared", "output_types"]

OF_CPU = {"compiled", "intra_op_num_threads"}  # onnxruntime tells none of those that it has itself
RECORD = "session.record_ep_graph_assignment_info"


class Described:
    """The part of an InferenceSession that answers questions and computes nothing."""

    model: Model
    _whole: Prepared
    _options: SessionOptions
    _providers: list[str]
    _provider_options: dict[str, dict[str, str]]
    _metadata: ModelMetadata | None
    _descriptions: dict[str, list[NodeArg]]  # by kind; the same lists in every call, as onnxruntime's

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that must be fed, in the file's order."""
        return self._described("inputs", lambda: declared(self._whole.graph)[0])

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the file's order: their shapes are what the file declares and what follows from the nodes."""
        graph = self.model.graph
        return self._described("outputs", lambda: _args(graph.outputs, output_types(graph)))

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs with a default value, which may be fed."""
        return self._described("overridable", lambda: declared(self._whole.graph)[1])

    def _described(self, kind: str, make: Callable[[], list[NodeArg]]) -> list[NodeArg]:
        if kind not in self._descriptions:
            self._descriptions[kind] = make()
        return self._descriptions[kind]

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself; the same object in every call."""
        from ortlite.api.values import ModelMetadata

        m = self._whole.stages.model
        if self._metadata is None:
            self._metadata = ModelMetadata(
                m.producer_name, m.graph.name, m.domain, m.description, m.graph_description, m.version, dict(m.metadata)
            )
        return self._metadata

    def get_session_options(self) -> SessionOptions:
        """A copy of the options the session was made with."""
        return copy(self._options)

    def get_providers(self) -> list[str]:
        """Names of the session's providers, in order."""
        return list(self._providers)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """Options of each provider; of the CPU provider's, those that it has in ortlite alone."""
        given = {name: dict(options) for name, options in self._provider_options.items()}
        return {**given, CPU: {name: value for name, value in given[CPU].items() if name in OF_CPU}}

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each input is expected: in the CPU's memory, from which it goes on by itself."""
        return [_cpu_memory() for _ in self.get_inputs()]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each output arrives: in the CPU's memory."""
        return [_cpu_memory() for _ in self.get_outputs()]

    def get_input_epdevices(self) -> list[OrtEpDevice | None]:
        """The device of each input."""
        from ortlite.api.ep_devices import get_ep_devices

        cpu = next((device for device in get_ep_devices() if device.ep_name == CPU), None)
        return [cpu for _ in self.get_inputs()]

    def get_provider_graph_assignment_info(self) -> list[OrtEpAssignedSubgraph]:
        """Which provider runs which nodes, one subgraph a node. `explain()` says why, too.

        Raises Fail unless the config entry session.record_ep_graph_assignment_info is "1".
        """
        from ortlite.api.ep_devices import OrtEpAssignedNode, OrtEpAssignedSubgraph

        if self._options._entries.get(RECORD) != "1":
            raise Fail(
                f"Session configuration entry '{RECORD}' must be set to \"1\" to retrieve EP graph assignment "
                "information."
            )
        parts = self._whole.stages.partitions
        found = []
        for node, place in zip(parts.graph.nodes, parts.placements, strict=True):
            assigned = OrtEpAssignedNode(node.name, node.domain, node.op_type)
            found.append(OrtEpAssignedSubgraph(parts.providers[place.provider].name, [assigned]))
        return found

    def get_tuning_results(self) -> list[Any]:
        """[]: kernels are not tuned."""
        return []

    def set_tuning_results(self, results: Sequence[Any], *, error_on_invalid: bool = False) -> None:
        """Accepted: kernels are not tuned.

        Raises TypeError for what is no list of dicts, KeyError for one without "ep", and with `error_on_invalid`
        RuntimeError for any: no provider has anything to tune.
        """
        if not isinstance(results, Sequence):
            raise TypeError(f"results is a list of dicts, not {type(results).__name__}")
        for index, result in enumerate(results):
            name = dict(result)["ep"]
            if error_on_invalid:
                problem = (
                    "does not support TunableOp." if name in self._providers else "is no provider of this session."
                )
                raise RuntimeError(f"Error in execution: Invalid TuningResults (index={index}). {name} {problem}")

    @property
    def stages(self) -> Stages:
        """What every stage of the pipeline made of the model; each prints."""
        return self._whole.stages

    def explain(self) -> Explanation:
        """Per node the provider that runs it and why not an earlier one; every crossing. Prints as a table.

        What crossings cost is that of the last run of the whole model.

        Example:
            >>> from ortlite import InferenceSession
            >>> from ortlite.cli.digits import model_bytes
            >>> explanation = InferenceSession(model_bytes()).explain()
            >>> explanation.nodes[1].op_type, explanation.nodes[1].provider, explanation.copies
            ('FusedConv', 'CPUExecutionProvider', ())

        """
        from ortlite.api.explain import explain

        return explain(self._whole.stages.partitions, self._whole.stages.program, self._whole.input_transfers)

    def memory_plan(self, input_feed: Mapping[str, Any] | None = None) -> MemoryPlan:
        """What memory a run on inputs like these, or like those of the last runs, takes: tensors over time, the peak.

        Print it, or draw it by `svg()`. Runs the model, step by step. Raises InvalidArgument without `input_feed` where
        no shapes were run twice, and what `run` raises for the feed.

        Example:
            >>> from ortlite import InferenceSession
            >>> from ortlite.cli.digits import model_bytes, scans
            >>> plan = InferenceSession(model_bytes()).memory_plan({"scan": scans()[0][:2]})
            >>> sorted(tensor.name for tensor in plan.at_peak())
            ['a_on', 'b_on']

        """
        from ortlite import memory
        from ortlite.api.values import to_outside
        from ortlite.provider import entered

        whole, program = self._whole, self._whole.stages.program
        with entered(whole.stages.plan.providers):
            inputs = program.zeros() if input_feed is None else whole.carried(whole.feed.values(input_feed))
            return memory.of(program, inputs, whole.graph.inputs, to_outside)

    _inputs_meta = property(get_inputs)
    _outputs_meta = property(get_outputs)
    _overridable_initializers = property(get_overridable_initializers)
    _model_meta = property(get_modelmeta)
    _input_meminfos = property(get_input_memory_infos)
    _output_meminfos = property(get_output_memory_infos)
    _input_epdevices = property(get_input_epdevices)


def declared(graph: Graph) -> tuple[list[NodeArg], list[NodeArg]]:
    """The inputs of a graph that have no default, and those that have one."""
    needed = [name for name in graph.inputs if name not in graph.overridable]
    return _args(needed, graph.types), _args(graph.overridable, graph.types)


def output_types(graph: Graph) -> dict[str, Type | None]:
    """The types of a graph's outputs, in whose shapes what the file declares and what follows from its nodes meet."""
    from ortlite.graph import TensorType
    from ortlite.optimize.shapes import learn

    constants = {name: value for name, value in graph.constants.items() if name not in graph.overridable}
    facts, names = learn(graph, constants), _names(graph)
    found: dict[str, Type | None] = {}
    for name in graph.outputs:
        type_, shape = graph.types.get(name), facts.shape(name)
        if type(type_) is TensorType and shape is not None and name not in graph.inputs:
            inferred = [names.get(d) if isinstance(d, str) else d for d in shape]
            type_ = replace(type_, shape=_merged(type_.shape, inferred))
        found[name] = type_
    return found


def _names(graph: Graph) -> dict[str, str | None]:
    """What the file calls the dimensions of inputs, by what `learn` calls them; other dimensions have no name."""
    from ortlite.graph import TensorType

    types = {name: graph.types.get(name) for name in graph.inputs}
    shapes = {name: type_.shape or () for name, type_ in types.items() if isinstance(type_, TensorType)}
    return {f"{n}:{i}": d for n, shape in shapes.items() for i, d in enumerate(shape) if isinstance(d, str)}


def _merged(
    declared: tuple[int | str | None, ...] | None, inferred: list[int | str | None]
) -> tuple[int | str | None, ...] | None:
    """A number goes before a name, a declared name before an inferred one; of two numbers that differ none counts."""
    if declared is None:
        return tuple(inferred)
    if len(declared) != len(inferred):
        return None
    merged: list[int | str | None] = []
    for said, found in zip(declared, inferred, strict=True):
        if isinstance(said, int) and isinstance(found, int):
            merged.append(said if said == found else None)
        else:
            merged.append(next((d for d in (said, found) if isinstance(d, int)), said or found))
    return tuple(merged)


def _args(names: Sequence[str], types: Mapping[str, Type | None]) -> list[NodeArg]:
    from ortlite.api.values import NodeArg

    return [NodeArg.of(name, types.get(name)) for name in names]


def _cpu_memory() -> OrtMemoryInfo:
    from ortlite.api.device import OrtMemoryInfo
    from ortlite.api.enums import OrtAllocatorType, OrtMemType

    return OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
