"""The table of onnxruntime's public names and what ortlite makes of them, read off both modules.

python -m conformance.compat [--write]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import warnings
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import ortlite
from conformance import run_main

PAGE = Path(__file__).parents[1] / "docs" / "onnxruntime-compat.md"
SAME, BETTER, IGNORED, NOT = "same", "more", "accepted, no effect", "not possible"
MODULES = ("", "backend", "capi.onnxruntime_pybind11_state", "capi.onnxruntime_inference_collection", "datasets")

# What is not simply the same: name -> status, why. A class stands for its members that are not listed themselves.
STATUS = {
    "InferenceSession": (BETTER, "also pickled, copied, awaited; any value asked for or fed; time limits; placement"),
    "InferenceSession.enable_fallback": (SAME, "that a provider failed is logged as a warning, not printed on stdout"),
    "InferenceSession.run": (BETTER, "taps, timeout, arrays of any library with DLPack"),
    "InferenceSession.run_async": (SAME, "`run_async_` is the same for asyncio"),
    "InferenceSession.release_captured_graph": (SAME, "graphs have no ids: all of them go"),
    "InferenceSession.set_ep_dynamic_options": (IGNORED, "with a warning"),
    "InferenceSession.get_tuning_results": (IGNORED, "always []"),
    "InferenceSession.set_tuning_results": (IGNORED, "kernels are not tuned"),
    "InferenceSession.is_webgpu_graph_capture_enabled": (NOT, "there is no WebGPU provider"),
    "InferenceSession.webgpu_context_id": (NOT, "there is no WebGPU provider"),
    "SessionOptions.enable_cpu_mem_arena": (IGNORED, "memory is the array library's"),
    "SessionOptions.enable_mem_pattern": (IGNORED, "memory is the array library's"),
    "SessionOptions.enable_mem_reuse": (IGNORED, "memory is the array library's"),
    "SessionOptions.execution_mode": (IGNORED, "nodes run one after the other"),
    "SessionOptions.execution_order": (IGNORED, "nodes run in the order of the file"),
    "SessionOptions.inter_op_num_threads": (IGNORED, "nodes run one after the other"),
    "SessionOptions.log_verbosity_level": (IGNORED, "messages have no degrees below 0"),
    "SessionOptions.use_deterministic_compute": (IGNORED, "runs repeat anyway"),
    "SessionOptions.use_per_session_threads": (SAME, "both values are taken, whatever the process has"),
    "SessionOptions.register_custom_ops_library": (NOT, "Fail: write the operator in Python, `@ortlite.op`"),
    "SessionOptions.set_provider_selection_policy": (SAME, "every policy selects the CPU provider: name others"),
    "SessionOptions.add_provider": (SAME, "`provider_options` of sessions take more: any values"),
    "SessionOptions.set_ep_context_data_read_func": (IGNORED, "no provider keeps compiled contexts"),
    "SessionOptions.clear_ep_context_data_read_func": (IGNORED, "no provider keeps compiled contexts"),
    "RunOptions.add_active_adapter": (SAME, "None is refused at once: there the run crashes"),
    "IOBinding.bind_input": (SAME, "the address 0 is refused at once: there the run crashes"),
    "InferenceSession.run_with_iobinding": (BETTER, "active LoRA adapters count, which onnxruntime leaves out there"),
    "InferenceSession.end_profiling": (SAME, "without the counters of onnxruntime's arenas, `mem_…`"),
    "RunOptions.log_severity_level": (IGNORED, "the session's counts"),
    "RunOptions.log_verbosity_level": (IGNORED, "the session's counts"),
    "RunOptions.logid": (IGNORED, "the session's counts"),
    "RunOptions.only_execute_path_to_fetches": (SAME, "always so"),
    "RunOptions.terminate": (BETTER, "also in the middle of loops, within a step's time"),
    "OrtValue": (BETTER, "pickled; DLPack of any library"),
    "OrtValue.numpy": (BETTER, "bfloat16 and float8 as ml_dtypes' arrays, sequences as lists"),
    "SparseTensor.to_cuda": (NOT, "RuntimeError: sparse tensors stay on the CPU"),
    "OrtArenaCfg": (IGNORED, "values are read back"),
    "ModelCompiler": (SAME, "writes the model after its passes: no provider compiles nodes"),
    "ModelPackage": (NOT, "RuntimeError: give the path of the variant's model"),
    "ModelPackageContext": (NOT, "RuntimeError: give the path of the variant's model"),
    "ModelPackageComponentContext": (NOT, "RuntimeError: give the path of the variant's model"),
    "ModelPackageOptions": (NOT, "RuntimeError: give the path of the variant's model"),
    "OrtSyncStream": (NOT, "streams are the array libraries'"),
    "copy_tensors": (BETTER, "from the CPU to the CPU, too"),
    "create_and_register_allocator": (IGNORED, "with a warning"),
    "create_and_register_allocator_v2": (IGNORED, "with a warning"),
    "register_execution_provider_library": (NOT, "Fail: providers are Python packages"),
    "unregister_execution_provider_library": (NOT, "Fail: none can be registered"),
    "preload_dlls": (IGNORED, "the array libraries load theirs"),
    "enable_telemetry_events": (IGNORED, "nothing is sent"),
    "disable_telemetry_events": (IGNORED, "nothing is sent"),
    "set_default_logger_callback": (SAME, "the five arguments are of the same kinds; fewer messages, of other texts"),
    "set_default_logger_verbosity": (IGNORED, "messages have no degrees below 0"),
    "get_version_string": (SAME, "of the API; ortlite's own is `ortlite.__version__`"),
}
# Names that only onnxruntime's own package and tools have a use for.
INTERNAL = set(
    "SessionObjectInitializer get_registered_ep_kernel_defs opkernel schemadef contextlib onnxruntime_validation "
    "import_capi_exception package_name version cuda_version "
    "make_get_initializer_location_func_wrapper".split()
)
PACKING = "weights are packed by onnxruntime's tools: use its own package for that"
CONFIG = {
    "session.disable_cpu_ep_fallback": SAME,
    "session.load_model_format": SAME,
    "session.model_external_initializers_file_folder_path": SAME,
    "session.optimized_model_external_initializers_file_name": SAME,
    "session.optimized_model_external_initializers_min_size_in_bytes": SAME,
    "session.record_ep_graph_assignment_info": SAME,
    "session.disable_quant_qdq": SAME,
    "session.disable_double_qdq_remover": SAME,
    "session.save_model_format": "ORT is refused: such models are read, not written",
    "optimization.disable_specified_optimizers": SAME,
    "ortlite.check_types": "ortlite's own: every output's dtype is checked",
    "session.intra_op_thread_affinities": "no effect, with a warning: say it of the process",
    "any other": IGNORED,
}
# What is refused on one side alone, on purpose: what, what onnxruntime does, what ortlite does.
ELSEWHERE = (
    ("two nodes of one name", "Fail", "loads: names of nodes mean nothing"),
    ("`value_info` that contradicts what an operator gives", "Fail", "loads: stale after many converters"),
    ("a value of the graph, or an initializer that is no input, as a feed", "InvalidArgument", "is used"),
    ("lists, or OrtValues, as the elements of a sequence", "RuntimeError", "are taken"),
    ("external data of a model in bytes", "Fail without a folder", "looked for in the working directory"),
    ("a session, options, an OrtValue in pickle, copy, multiprocessing", "TypeError", "work"),
    ("arrays of bfloat16, StringDType, other byte orders", "refused, or read wrong", "are taken as what they are"),
    ("`S` arrays without a closing zero", "read past the end", "are decoded exactly"),
    ("operators and dtypes without a kernel there (Trilu of text, OneHot of floats …)", "NotImplemented", "run"),
    ("attributes of an ai.onnx.ml operator that do not fit, while a session is made", "Fail", "Fail in the run"),
    ("a GPU's memory in `memory.enable_memory_arena_shrinkage`", "InvalidArgument on a CPU", "is taken"),
    ("`update_inplace` with as many elements of another size", "takes bytes for numbers", "RuntimeError"),
    ("indices of a SparseTensor outside of it", "are kept", "RuntimeError"),
    ("names that are not UTF-8", "UnicodeDecodeError, or none", "InvalidGraph"),
    ("errors of kernels, unused initializers", "are logged, too", "are not logged: exceptions say the first"),
)
HEAD = """# onnxruntime's Python names

What a program finds that says `import ortlite as onnxruntime`, or `import onnxruntime` under
`ortlite.install_as_onnxruntime()` or `python -m ortlite.as_onnxruntime`. This page is generated from onnxruntime
{version} and ortlite by `python -m conformance.compat --write`. Enumerations have the same members and numbers.
"""


def theirs() -> Iterator[tuple[str, str, object]]:
    """Public names of onnxruntime: module, name (`Class.member`), what it is."""
    seen = set()
    for place in MODULES:
        with warnings.catch_warnings(action="ignore"):  # of what onnxruntime imports
            module = importlib.import_module(f"onnxruntime.{place}".rstrip("."))
        for name in sorted(vars(module)):
            value = getattr(module, name)
            if name.startswith("_") or isinstance(value, ModuleType) or name in INTERNAL or name in seen:
                continue
            if getattr(value, "__module__", "onnxruntime").partition(".")[0] not in {"onnxruntime", "builtins"}:
                continue
            seen.add(name)
            yield place, name, value
            if isinstance(value, type) and not _is_enumeration(value) and not issubclass(value, BaseException):
                for member in dir(value):
                    if not member.startswith("_"):
                        yield place, f"{name}.{member}", getattr(value, member)


def _is_enumeration(kind: type) -> bool:
    return hasattr(kind, "__members__") or issubclass(kind, IntEnum)


def status(place: str, name: str) -> tuple[str, str]:
    """What ortlite makes of a name: a status, and why."""
    outer, _, member = name.partition(".")
    if name in STATUS or outer in STATUS:
        found, why = STATUS.get(name) or STATUS[outer]
        if name not in STATUS and found is not NOT and found is not IGNORED:
            found, why = SAME, ""
        return found, why
    module = importlib.import_module(f"ortlite.{place}".rstrip("."))
    owner = getattr(module, outer, getattr(ortlite, outer, None))
    if owner is None and name.startswith(("quantize_", "pack_")):
        return NOT, PACKING
    if owner is None or (member and not hasattr(owner, member) and member not in _attributes(owner)):
        return "missing", ""
    return SAME, ""


def _attributes(owner: type) -> set[str]:
    """Names that only the objects of a class have: fields of options, annotations, what __init__ sets."""
    annotated = {name for kind in inspect.getmro(owner) for name in inspect.get_annotations(kind)}
    set_there = getattr(owner.__init__, "__code__", None)
    delegated = vars(ortlite.InferenceSession) if "__getattr__" in vars(owner) else ()
    return {*getattr(owner, "_FIELDS", ()), *annotated, *(set_there.co_names if set_there else ()), *delegated}


def page() -> str:
    """The page."""
    import onnxruntime

    lines = [HEAD.format(version=onnxruntime.__version__)]
    rows: dict[str, list[str]] = {}
    for place, name, _ in theirs():
        found, why = status(place, name)
        rows.setdefault(place, []).append(f"| `{name}` | {found} | {why} |")
    for place, listed in rows.items():
        title = f"onnxruntime.{place}".rstrip(".")
        lines += [f"## {title}", "", "| name | in ortlite | |", "|---|---|---|", *listed, ""]
    lines += ["## Config entries of SessionOptions", "", "| entry | in ortlite |", "|---|---|"]
    lines += [f"| `{entry}` | {what} |" for entry, what in CONFIG.items()]
    lines += ["", "## Where one refuses and the other does not", ""]
    lines += ["| what | onnxruntime | ortlite |", "|---|---|---|"]
    lines += [f"| {what} | {there} | {here} |" for what, there, here in ELSEWHERE]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    run_main(main)
