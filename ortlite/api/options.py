"""SessionOptions, RunOptions and their enumerations, with onnxruntime's names and defaults."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

__all__ = ["ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "RunOptions", "SessionOptions"]

MAX_KEY = 1024  # characters of a config entry's key, as in onnxruntime


class GraphOptimizationLevel(IntEnum):
    """Which optimiser passes run; each level includes those below it."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """Kept for compatibility: ortlite runs a graph's nodes one after the other."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(IntEnum):
    """Kept for compatibility: nodes run in the file's topological order."""

    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class _Options:
    """Typed fields with defaults. An unknown name is an AttributeError, a wrong type a TypeError."""

    FIELDS: ClassVar[dict[str, Any]]
    KIND: ClassVar[str]

    def __init__(self) -> None:
        self.__dict__.update(self.FIELDS)
        self.__dict__["_entries"] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        wanted = type(self.FIELDS[name])
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise TypeError(f"{type(self).__name__}.{name} takes {wanted.__name__}, not {type(value).__name__}")
        self.__dict__[name] = value

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def __repr__(self) -> str:
        changed = {n: v for n, v in self.__dict__.items() if n in self.FIELDS and v != self.FIELDS[n]}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"

    def _add(self, key: str, value: str) -> None:
        for text in (key, value):
            if not isinstance(text, str):
                raise TypeError(f"a config entry is a pair of str, not {type(text).__name__}")
        if not key or len(key) > MAX_KEY:
            raise RuntimeError(f"Config key is empty or longer than maximum length {MAX_KEY}")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        try:
            return str(self._entries[key])
        except KeyError:
            raise RuntimeError(f"{self.KIND} does not have configuration with key: {key}") from None

    _entries: dict[str, str]


class SessionOptions(_Options):
    """How a session is made.

    Config entries that ortlite reads; any other is kept, and has no effect:
    `session.disable_cpu_ep_fallback` ("1": as onnxruntime, no node may run on the CPU provider),
    `session.model_external_initializers_file_folder_path`, `optimization.disable_specified_optimizers` (names of
    `ortlite.optimize.PASSES`, commas between) and `ortlite.check_types` ("1": every output's dtype is checked).

    Example:
        >>> options = SessionOptions()
        >>> options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        >>> options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        >>> options.get_session_config_entry("session.disable_cpu_ep_fallback")
        '1'

    """

    KIND = "SessionOptions"
    FIELDS: ClassVar[dict[str, Any]] = {
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "enable_mem_reuse": True,
        "enable_profiling": False,
        "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
        "execution_order": ExecutionOrder.DEFAULT,
        "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
        "inter_op_num_threads": 0,
        "intra_op_num_threads": 0,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "optimized_model_filepath": "",
        "profile_file_prefix": "onnxruntime_profile_",
        "use_deterministic_compute": False,
        "use_per_session_threads": True,
    }

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_free_dimensions"] = {}

    _free_dimensions: dict[str, int]

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Set a config entry. Raises RuntimeError for an empty or overlong key."""
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The value of a config entry. Raises RuntimeError when it was not set."""
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Fix the symbolic dimension `name` of every input to `value`."""
        if not isinstance(value, int):
            raise TypeError(f"a dimension is an int, not {type(value).__name__}")
        self._free_dimensions[name] = value


class RunOptions(_Options):
    """Options of one run."""

    KIND = "RunOptions"
    FIELDS: ClassVar[dict[str, Any]] = {
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "only_execute_path_to_fetches": False,
        "terminate": False,
    }

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Set a config entry. Raises RuntimeError for an empty or overlong key."""
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The value of a config entry. Raises RuntimeError when it was not set."""
        return self._get(key)
