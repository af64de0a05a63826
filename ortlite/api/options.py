"""SessionOptions, RunOptions and their enumerations, with onnxruntime's names and defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ortlite.api import logs
from ortlite.api.enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtExecutionProviderDevicePolicy,
)
from ortlite.api.providers import get_all_providers
from ortlite.errors import Fail, InvalidArgument
from ortlite.limits import DEFAULTS, Limits
from ortlite.provider import usable

if TYPE_CHECKING:
    from ortlite.api.adapters import LoraAdapter
    from ortlite.api.ep_devices import OrtEpDevice, Select
    from ortlite.api.ortvalue import OrtValue

__all__ = [
    "ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "RunOptions", "SessionOptions", "adapted", "checked",
]  # fmt: skip

MAX_KEY = 1024  # characters of a config entry's key, as in onnxruntime


class _Options:
    """Typed fields with defaults. An unknown name is an AttributeError, a wrong type a TypeError."""

    _FIELDS: ClassVar[dict[str, Any]]
    _KIND: ClassVar[str]

    def __init__(self) -> None:
        self.__dict__.update(self._FIELDS)
        self.__dict__["_entries"] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        wanted = type(self._FIELDS[name])
        self.__dict__[name] = _converted(value, wanted, f"{type(self).__name__}.{name}")

    def __reduce__(self) -> Any:
        fields = {n: v for n, v in self.__dict__.items() if n not in self._FIELDS or v != self._FIELDS[n]}
        return _again, (type(self), fields)

    def __repr__(self) -> str:
        changed = {n: v for n, v in self.__dict__.items() if n in self._FIELDS and v != self._FIELDS[n]}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"

    def _add(self, key: Any, value: Any) -> None:
        key, value = (_converted(text, str, "a config entry") for text in (key, value))
        if not key or len(key) > MAX_KEY:
            raise RuntimeError(f"Config key is empty or longer than maximum length {MAX_KEY}")
        if key in self._entries:
            logs.emit(
                logs.WARNING,
                f"Config with key [{key}] had the value [{self._entries[key]}], which is overwritten.",
            )
        self._entries[key] = value

    def _get(self, key: str) -> str:
        key = _name(key)
        try:
            return str(self._entries[key])
        except KeyError:
            raise RuntimeError(f"{self._KIND} does not have configuration with key: {key}") from None

    _entries: dict[str, str]


class SessionOptions(_Options):
    """How a session is made.

    Fields and defaults are onnxruntime's. Those that ortlite reads: enable_profiling, profile_file_prefix,
    graph_optimization_level, optimized_model_filepath, intra_op_num_threads and use_per_session_threads (threads that
    share one operator; 0: all that the process may use), log_severity_level (0 all to 4 fatal; -1: as set for the
    process) and logid; and beyond onnxruntime's `limits` (`ortlite.Limits`), what the model and each run may take. The
    others tune onnxruntime's arenas, thread pools and order of execution; they are kept, and have no effect. Config
    entries: docs/onnxruntime-compat.md lists which are read. Raises TypeError for a value of the wrong type,
    AttributeError for an unknown name.

    Example:
        >>> options = SessionOptions()
        >>> options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        >>> options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        >>> options.get_session_config_entry("session.disable_cpu_ep_fallback")
        '1'

    """

    _KIND = "SessionOptions"
    _FIELDS: ClassVar[dict[str, Any]] = {
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "enable_mem_reuse": True,
        "enable_profiling": False,
        "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
        "execution_order": ExecutionOrder.DEFAULT,
        "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
        "inter_op_num_threads": 0,
        "intra_op_num_threads": 0,
        "limits": DEFAULTS,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "optimized_model_filepath": "",
        "profile_file_prefix": "onnxruntime_profile_",
        "use_deterministic_compute": False,
        "use_per_session_threads": True,
    }
    if TYPE_CHECKING:
        enable_cpu_mem_arena: bool
        enable_mem_pattern: bool
        enable_mem_reuse: bool
        enable_profiling: bool
        execution_mode: ExecutionMode
        execution_order: ExecutionOrder
        graph_optimization_level: GraphOptimizationLevel
        inter_op_num_threads: int
        intra_op_num_threads: int
        limits: Limits
        log_severity_level: int
        log_verbosity_level: int
        logid: str
        optimized_model_filepath: str
        profile_file_prefix: str
        use_deterministic_compute: bool
        use_per_session_threads: bool

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.update(
            _dimensions_by_name={},
            _dimensions_by_denotation={},
            _initializers={},
            _external={},
            _files={},
            _providers=[],
            _operators=[],
            _select=None,
            _cancelled=False,
        )

    _dimensions_by_name: dict[str, int]
    _dimensions_by_denotation: dict[str, int]
    _initializers: dict[str, OrtValue]  # in the place of any initializer
    _external: dict[str, OrtValue]  # in the place of initializers outside the model
    _files: dict[str, Any]  # the bytes of files of external data
    _providers: list[tuple[str, dict[str, str]]]
    _operators: list[tuple[str, str, int, Callable[..., Any], dict[str, Any]]]
    _select: Select | None
    _cancelled: bool

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Set a config entry. Raises RuntimeError for an empty or overlong key."""
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The value of a config entry. Raises RuntimeError when it was not set."""
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Fix the symbolic dimension `name` of every input to `value`; the first that is given holds."""
        self._dimensions_by_name.setdefault(_name(name), _dimension(value))

    def add_free_dimension_override_by_denotation(self, denotation: str, value: int) -> None:
        """Fix every dimension of inputs whose denotation in the file is `denotation`, e.g. "DATA_BATCH", as well."""
        self._dimensions_by_denotation.setdefault(_name(denotation), _dimension(value))

    def add_initializer(self, name: str, ort_value: OrtValue) -> None:
        """Use a tensor in the place of the initializer `name`; without effect where the model has none of that name.

        The session shares the tensor's memory. Raises RuntimeError for a name that was added before.
        """
        if _name(name) in self._initializers:
            raise RuntimeError(f"An OrtValue for this name has already been added: {name}")
        self._initializers[name] = _ort_value(ort_value)

    def add_external_initializers(self, names: Sequence[str], ort_values: Sequence[OrtValue]) -> None:
        """Use tensors in the place of initializers whose data lie outside the model. Their memory is shared.

        Raises RuntimeError where there are not as many names as tensors, or a name was added before, TypeError for
        what are no lists, AttributeError for what is no OrtValue.
        """
        if not isinstance(names, list) or not isinstance(ort_values, list):
            raise TypeError("names and ort_values are lists")
        if len(names) != len(ort_values):
            raise RuntimeError("Expecting names and ort_values lists to have equal length")
        for name, value in zip(names, ort_values, strict=True):
            if _name(name) in self._external:
                raise RuntimeError(f"An OrtValue for this name has already been added: {name}")
            self._external[name] = value._get_c_value()

    def add_external_initializers_from_files_in_memory(
        self, names: Sequence[str], buffers: Sequence[Any], lengths: Sequence[int]
    ) -> None:
        """Read external data from bytes, as if files called `names` held them, `lengths` bytes each.

        Raises RuntimeError where there are not as many of each, or a name comes twice, TypeError for names that are no
        str and lengths that are no sizes.
        """
        if not len(names) == len(buffers) == len(lengths):
            raise RuntimeError("Expecting names, buffers and lengths to have equal length")
        for name, buffer, length in zip(names, buffers, lengths, strict=True):
            if not isinstance(length, int) or length < 0:
                raise TypeError(f"a length is a number of bytes, not {length!r}")
            if _name(name) in self._files:
                raise RuntimeError(f"A buffer for this name has already been added: {name}")
            self._files[name] = memoryview(buffer).cast("B")[:length]

    def register_custom_ops_library(self, library: str) -> None:
        """Not possible: such a library holds kernels compiled against onnxruntime. Raises Fail; TypeError for no str.

        Write the operator in Python: `@ortlite.op("domain", "Name")`, or `register_op` for one session.
        """
        if not isinstance(library, str):
            raise TypeError(f"a path is a str, not {type(library).__name__}")
        raise Fail(
            f"Failed to load library {library} with error: its kernels are compiled against onnxruntime, and ortlite "
            'runs kernels in Python: write them with @ortlite.op("domain", "Name")'
        )

    def register_op(self, domain: str, op_type: str, kernel: Callable[..., Any], since: int = 1, **flags: Any) -> None:
        """Use a kernel in the sessions made with these options alone; `ortlite.op` says what a kernel is.

        Example:
            >>> options = SessionOptions()
            >>> options.register_op("my.domain", "Twice", lambda xp, X: X + X)

        """
        self._operators.append((domain, op_type, since, kernel, flags))

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """Add a provider behind those added before. The argument `providers` of a session goes before these.

        Raises RuntimeError for a name that nobody has, TypeError where the options are no dict from str to str,
        InvalidArgument for a provider that cannot be used here.
        """
        if not isinstance(options, Mapping):
            raise TypeError(f"the options of a provider are a dict from str to str, not {type(options).__name__}")
        given = {_name(key): _name(value) for key, value in options.items()}
        if _name(name) not in get_all_providers():
            raise RuntimeError(f"Unknown Provider Type: {name}")
        if name not in usable():
            raise InvalidArgument(f"Failed to add provider of type '{name}' to SessionOptions: it cannot be used here.")
        self._providers.append((name, given))

    def add_provider_for_devices(self, devices: Sequence[OrtEpDevice], options: Mapping[str, str]) -> None:
        """Add the provider of devices that `get_ep_devices` lists.

        Raises InvalidArgument for devices of several providers, or none, TypeError for what are no devices or options.
        """
        from ortlite.api.ep_devices import OrtEpDevice

        if not isinstance(devices, Sequence) or not all(isinstance(device, OrtEpDevice) for device in devices):
            raise TypeError("the devices are a list of OrtEpDevice")
        names = {device.ep_name for device in devices}
        if isinstance(options, Mapping) and len(names) != 1:
            raise InvalidArgument(f"the devices are those of one provider, not of {sorted(names) or 'none'}")
        self.add_provider(names.pop() if names else "", options)

    def has_providers(self) -> bool:
        """Whether providers were added, or are to be selected."""
        return bool(self._providers) or self._select is not None

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Select by a policy. The CPU provider is what every policy selects here: name others in `providers`.

        Raises TypeError for what is no OrtExecutionProviderDevicePolicy.
        """
        if not isinstance(policy, OrtExecutionProviderDevicePolicy):
            raise TypeError(f"a policy is an OrtExecutionProviderDevicePolicy, not {type(policy).__name__}")
        self.__dict__["_select"] = _first

    def set_provider_selection_policy_delegate(self, delegate: Select | None) -> None:
        """Let a function select the providers of a session that names none.

        It is called as `delegate(devices, model_metadata, runtime_metadata, most)`: a list of OrtEpDevice, two dicts of
        str, and how many devices it may select, and it returns a list of devices. What it raises, and a selection of
        none, is Fail where the session is made. None: no selection. Raises TypeError for what is no function.
        """
        if delegate is not None and not callable(delegate):
            raise TypeError(f"the delegate is a function, not {type(delegate).__name__}")
        self.__dict__["_select"] = delegate

    def set_load_cancellation_flag(self, cancelled: bool) -> None:
        """While it is set, sessions that are made with these options raise ModelLoadCanceled."""
        self.__dict__["_cancelled"] = _converted(cancelled, bool, "set_load_cancellation_flag")

    def set_ep_context_data_read_func(self, read_func: Callable[..., Any], max_data_size: int) -> None:
        """Accepted, and never called: no provider here keeps compiled contexts. Raises TypeError for no function."""
        if not callable(read_func):
            raise TypeError(f"read_func is a function, not {type(read_func).__name__}")

    def clear_ep_context_data_read_func(self) -> None:
        """Accepted."""


class RunOptions(_Options):
    """Options of one run. Setting `terminate`, also while it runs, ends it between two steps.

    `limits` (`ortlite.Limits`) hold beside those of the session: of each bound the tighter one counts.
    `add_active_adapter` feeds a LoRA adapter. The other fields are kept, and have no effect.

    Example:
        >>> from ortlite import InferenceSession
        >>> from ortlite.cli.digits import model_bytes, scans
        >>> session, options = InferenceSession(model_bytes()), RunOptions()
        >>> options.terminate = True  # before the run here; another thread may do so while it goes on
        >>> try:
        ...     session.run(None, {"scan": scans()[0]}, options)
        ... except Fail:
        ...     print("ended")
        ended

    """

    _KIND = "RunOptions"
    _FIELDS: ClassVar[dict[str, Any]] = {
        "limits": DEFAULTS,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "only_execute_path_to_fetches": False,
        "terminate": False,
    }
    if TYPE_CHECKING:
        limits: Limits
        log_severity_level: int
        log_verbosity_level: int
        logid: str
        only_execute_path_to_fetches: bool
        terminate: bool

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_adapters"] = []

    _adapters: list[LoraAdapter]

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Set a config entry. Raises RuntimeError for an empty or overlong key."""
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The value of a config entry. Raises RuntimeError when it was not set."""
        return self._get(key)

    def add_active_adapter(self, adapter: LoraAdapter) -> None:
        """Feed an adapter's parameters to the inputs of their names, besides what `run` is given.

        Raises TypeError for what is no LoraAdapter.
        """
        if not hasattr(adapter, "parameters"):
            raise TypeError(f"a LoraAdapter is wanted, not {type(adapter).__name__}")
        self._adapters.append(adapter)


def _converted(value: Any, wanted: type, field: str) -> Any:
    """A value as the field holds it: what has a truth, is a whole number, or is bytes of text, as in onnxruntime."""
    if wanted is bool and (value is None or any("__bool__" in vars(kind) for kind in type(value).__mro__)):
        return bool(value)
    if wanted is int and not isinstance(value, float) and hasattr(type(value), "__int__"):
        return int(value)
    if wanted is str and isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, wanted):
        raise TypeError(f"{field} takes {wanted.__name__}, not {type(value).__name__}")
    return value


def _first(devices: list[OrtEpDevice], model: dict[str, str], runtime: dict[str, str], most: int) -> list[OrtEpDevice]:
    """What a policy selects: the CPU provider's device, which is the first."""
    return devices[:1]


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name is a str, not {type(value).__name__}")
    return value


def _dimension(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a dimension is an int, not {type(value).__name__}")
    return value


def _ort_value(value: Any) -> OrtValue:
    from ortlite.api.ortvalue import OrtValue

    if not isinstance(value, OrtValue):
        raise RuntimeError(f"an OrtValue is wanted, not {type(value).__name__}")
    return value


def _again(kind: type[_Options], fields: dict[str, Any]) -> _Options:
    """Options that were copied or pickled."""
    made = kind()
    copies = {key: value.copy() if isinstance(value, dict | list) else value for key, value in fields.items()}
    made.__dict__.update(copies)
    return made


def checked(run_options: Any) -> RunOptions | None:
    """The options of a run. Raises TypeError for what are none, Fail for a severity that there is not."""
    if not isinstance(run_options, RunOptions | None):
        raise TypeError(f"run_options is an ortlite.RunOptions, not {type(run_options)}")
    if run_options is None:
        return None
    if not -1 <= run_options.log_severity_level <= logs.FATAL:
        raise Fail(f"Invalid run log severity level: {run_options.log_severity_level} is none of -1 to {logs.FATAL}")
    if run_options._entries:
        _check_entries(run_options._entries)
    return run_options


def _check_entries(entries: Mapping[str, str]) -> None:
    """Raise InvalidArgument for entries of run options that onnxruntime reads, and cannot."""
    if not re.fullmatch(r"[+-]?\d+", entries.get("gpu_graph_id", "0").strip()):
        raise InvalidArgument(f"Failed to parse the cuda graph annotation id: {entries['gpu_graph_id']}")
    for device in filter(None, entries.get("memory.enable_memory_arena_shrinkage", "").split(";")):
        if not re.fullmatch(r"(cpu|gpu)(:\d+)?", device):
            raise InvalidArgument(f"Unsupported device specified in the memory arena shrink list: {device}")


def adapted(feed: Mapping[str, Any], run_options: RunOptions | None) -> Mapping[str, Any]:
    """The feed, with the parameters of the adapters that the options name: these win over what is fed."""
    if run_options is None or not run_options._adapters:
        return feed
    fed = dict(feed)
    for adapter in run_options._adapters:
        fed |= adapter.parameters
    return fed
