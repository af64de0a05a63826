"""onnxruntime's inner session, which programs reach through a session's `_sess` or make from onnxruntime.capi."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ortlite.api.options import SessionOptions
from ortlite.api.ortvalue import OrtValue, OrtValueVector
from ortlite.errors import InvalidArgument

if TYPE_CHECKING:
    from ortlite.api.binding import SessionIOBinding
    from ortlite.api.device import OrtDevice, OrtMemoryInfo
    from ortlite.api.session import InferenceSession as Session
    from ortlite.api.values import ModelMetadata, NodeArg

__all__ = ["InferenceSession"]


class InferenceSession:
    """onnxruntime's inner session: `InferenceSession(options, path_or_bytes, is_path, read_config)`, then initialize.

    Programs that reach through a session's `_sess` find its methods here.
    """

    _session: Session
    _outer: ClassVar[type[Session]]  # said by ortlite.capi, where alone programs make an inner session

    def __init__(self, session_options: SessionOptions, source: Any, is_path: bool, read_config: bool = False):
        if not isinstance(session_options, SessionOptions):
            raise TypeError(f"SessionOptions are wanted, not {type(session_options).__name__}")
        self._options, self._source = session_options, os.fspath(source) if is_path else bytes(source)

    @classmethod
    def _of(cls, session: Session) -> InferenceSession:
        made = cls.__new__(cls)
        made._session = session
        return made

    def initialize_session(
        self, providers: Sequence[str], provider_options: Sequence[Mapping[str, str]], disabled_optimizers: Any
    ) -> None:
        """Make the session."""
        pairs = [(name, dict(options)) for name, options in zip(providers, provider_options, strict=False)]
        pairs += [(name, {}) for name in providers[len(pairs) :]]
        self._session = self._outer(
            self._source, self._options, pairs, enable_fallback=0, disabled_optimizers=disabled_optimizers
        )

    def run(self, output_names: Sequence[str], input_feed: Mapping[str, Any], run_options: Any = None) -> list[Any]:
        """As the session's, of named outputs. Raises TypeError for no list, InvalidArgument for an empty one."""
        if not isinstance(output_names, list | tuple):
            raise TypeError(f"output_names is a list of str, not {type(output_names).__name__}")
        if not output_names:
            raise InvalidArgument("At least one output should be requested.")
        return list(self._session.run(output_names, input_feed, run_options))

    def run_with_ort_values(
        self, input_dict: Mapping[str, OrtValue], output_names: Sequence[str], run_options: Any = None
    ) -> OrtValueVector:
        """As the session's, feeds first."""
        return OrtValueVector(self._session.run_with_ort_values(output_names, input_dict, run_options))

    def run_with_iobinding(self, iobinding: SessionIOBinding, run_options: Any = None) -> None:
        """Run on the bindings."""
        iobinding.run(run_options)

    def create_ortvalue_from_shape_and_type(self, shape: Sequence[int], kind: Any, device: OrtDevice) -> OrtValue:
        """A tensor whose values are not set."""
        return OrtValue.ortvalue_from_shape_and_type(shape, kind, device)

    create_ortvalue_from_shape_and_onnx_type = create_ortvalue_from_shape_and_type

    @property
    def inputs_meta(self) -> list[NodeArg]:
        """As get_inputs()."""
        return self._session.get_inputs()

    @property
    def outputs_meta(self) -> list[NodeArg]:
        """As get_outputs()."""
        return self._session.get_outputs()

    @property
    def overridable_initializers(self) -> list[NodeArg]:
        """As get_overridable_initializers()."""
        return self._session.get_overridable_initializers()

    @property
    def model_meta(self) -> ModelMetadata:
        """As get_modelmeta()."""
        return self._session.get_modelmeta()

    @property
    def session_options(self) -> SessionOptions:
        """As get_session_options()."""
        return self._session.get_session_options()

    @property
    def input_meminfos(self) -> list[OrtMemoryInfo]:
        """As get_input_memory_infos()."""
        return self._session.get_input_memory_infos()

    @property
    def output_meminfos(self) -> list[OrtMemoryInfo]:
        """As get_output_memory_infos()."""
        return self._session.get_output_memory_infos()

    @property
    def input_epdevices(self) -> list[Any]:
        """As get_input_epdevices()."""
        return self._session.get_input_epdevices()

    @property
    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, in nanoseconds since 1970; 0 where it did not."""
        return self._session.get_profiling_start_time_ns()

    def __getattr__(self, name: str) -> Any:
        if name in {"_session", "__setstate__"}:
            raise AttributeError(name)
        return getattr(self._session, name)
