"""ortlite for the ONNX backend test runner: `BackendTest(ortlite.backend, __name__)`."""

from ortlite.backend.backend import is_compatible, prepare, run, run_model, run_node, supports_device

__all__ = ["is_compatible", "prepare", "run", "run_model", "run_node", "supports_device"]
