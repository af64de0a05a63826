"""What onnxruntime keeps for the whole process: its version, seeds, thread pools, libraries of providers."""

from __future__ import annotations

import platform
import sys

from ortlite import provider
from ortlite.api.names import expect
from ortlite.errors import Fail
from ortlite.version import __version__

__all__ = [
    "API_VERSION", "disable_telemetry_events", "enable_telemetry_events", "get_build_info", "get_device",
    "get_version_string", "global_threads", "has_collective_ops", "preload_dlls", "print_debug_info",
    "register_execution_provider_library", "seed", "set_global_thread_pool_sizes", "set_seed",
    "unregister_execution_provider_library",
]  # fmt: skip

API_VERSION = "1.32.0"  # of onnxruntime, whose Python API this is

_process: dict[str, int | None] = {"seed": None, "threads": None}


def get_version_string() -> str:
    """The version of onnxruntime whose Python API this is; ortlite's own is `ortlite.__version__`."""
    return API_VERSION


def get_build_info() -> str:
    """One line on what runs here."""
    return f"ORT Build Info: ortlite {__version__}, Python {platform.python_version()}, no build of onnxruntime"


def get_device() -> str:
    """The device that can be used here: "GPU" where there is a provider for CUDA, else "CPU"."""
    return "GPU" if "CUDAExecutionProvider" in provider.usable() else "CPU"


def has_collective_ops() -> bool:
    """False: there are no collective operators."""
    return False


def set_seed(seed: int) -> None:
    """Make random operators without a seed attribute repeat in every session made from now on.

    Raises TypeError for what is no int.
    """
    expect(int, seed=seed)
    _process["seed"] = int(seed)


def seed() -> int | None:
    """What `set_seed` was given."""
    return _process["seed"]


def set_global_thread_pool_sizes(intra_op_num_threads: int = 0, inter_op_num_threads: int = 0) -> None:
    """Set the threads of sessions with `use_per_session_threads=False` (0: all that this process may use).

    `inter_op_num_threads` has no effect: nodes run one after the other. Raises TypeError for what is no int.
    """
    expect(int, intra_op_num_threads=intra_op_num_threads, inter_op_num_threads=inter_op_num_threads)
    _process["threads"] = int(intra_op_num_threads)


def global_threads() -> int:
    """What `set_global_thread_pool_sizes` was given, else 0."""
    return _process["threads"] or 0


def enable_telemetry_events() -> None:
    """Nothing: ortlite sends nothing to anybody."""


def disable_telemetry_events() -> None:
    """Nothing: ortlite sends nothing to anybody."""


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Nothing: the array libraries load theirs."""


def print_debug_info() -> None:
    """Print versions, the platform and the providers."""
    lines = [
        f"ortlite version: {__version__} (API of onnxruntime {API_VERSION})",
        f"platform: {platform.platform()}",
        f"Python: {platform.python_version()} at {sys.executable}",
        f"providers: {', '.join(provider.usable())}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def register_execution_provider_library(registration_name: str, library_path: str) -> None:
    """Not possible: such a library is compiled against onnxruntime. Raises Fail, TypeError for names that are no str.

    Providers for ortlite are Python packages with an entry point: see backends/README.md.
    """
    expect(str, registration_name=registration_name, library_path=library_path)
    raise Fail(
        f"Failed to load library {library_path} with error: it is compiled against onnxruntime; ortlite's providers "
        "are Python packages with an entry point in 'ortlite.providers'"
    )


def unregister_execution_provider_library(registration_name: str) -> None:
    """Raises Fail: none can be registered."""
    expect(str, registration_name=registration_name)
    raise Fail(f"Execution provider library: {registration_name} was not registered.")
