"""TorchExecutionProvider: PyTorch on the CPU or on a CUDA device; and `Module`, a model as a torch.nn.Module."""

from __future__ import annotations

import builtins
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ortlite.dtypes import DType
from ortlite.namespace import Namespace, build
from ortlite.provider import CPU, Compiler, ExecutionProvider, Tracer, create

if TYPE_CHECKING:
    from ortlite_torch.module import Module

__all__ = ["Module", "TorchExecutionProvider"]


def __getattr__(name: str) -> Any:
    if name == "Module":  # importing Module imports torch; listing providers must not
        from ortlite_torch.module import Module

        return Module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128"
).split()
NARROW_FLOATS = "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz".split()
SIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}  # views that every torch knows how to make
log = logging.getLogger("ortlite")
PYTHONS = (builtins, "max", max), (builtins, "min", min), (math, "pow", math.pow)  # torch.export puts its own there
CREATION = "arange asarray empty eye full linspace ones zeros".split()


@cache
def _borders() -> Any:
    """What every run does at its borders: a module, which imports torch."""
    from ortlite_torch import borders

    return borders


@cache
def _threads() -> Any:
    """How many threads a run has: a module, which imports torch."""
    from ortlite_torch import threads

    return threads


class _Tracer(Tracer):
    """torch.compile and torch.export, which run a function on fake tensors, and vmap, grad and jvp."""

    def traced(self, array: Any) -> bool:
        found: bool = _borders().traced(array)
        return found

    def outside_trace(self) -> AbstractContextManager[Any]:
        from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
        from torch.utils._python_dispatch import _disable_current_modes

        stack = ExitStack()  # leaves torch.compile, and vmap, grad and jvp
        stack.enter_context(_disable_current_modes())
        stack.enter_context(temporarily_clear_interpreter_stack())
        for module, name, own in PYTHONS:  # which numba, where it first compiles, looks for
            if (found := getattr(module, name)) is not own:
                setattr(module, name, own)
                stack.callback(setattr, module, name, found)
        return stack

    def traceable(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        opaque: Callable[..., Any] = torch.compiler.allow_in_graph(fn)  # Dynamo sees one call, AOTAutograd into it
        return opaque


class _Memory:
    """Memory of a CUDA device that somebody else owns, as libraries tell each other of it."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype, keep: Any):
        self.keep = keep
        self.__cuda_array_interface__ = {
            "data": (pointer, False),
            "shape": shape,
            "typestr": dtype.str,
            "strides": None,
            "version": 3,
        }


class _Inductor(Compiler):
    """torch.compile, which packs the weights that it knows. It keeps what it compiled on disk, as torch is set up.

    What it compiles has the number of threads in it; 0 for those that torch has then.
    """

    freezes: ClassVar[bool] = True
    eager: ClassVar[bool] = True

    def __init__(self, device: Any, threads: int = 0, races: bool = False, stands_in: bool = False):
        self.device = device
        self.threads = threads
        self.races = races
        self.stands_in = stands_in

    def takes(self, op_type: str) -> bool:
        return op_type != "Det"  # of which inductor's C++ has no call, and warns

    def frozen(self, fn: Callable[..., Any], constants: Mapping[int, Any]) -> Callable[..., Any]:
        import torch

        from ortlite_torch.epilogues import Apart
        from ortlite_torch.region import Inductor, frozen_at_first, looked_at, region

        # what sizes the arguments have is looked at before the call
        options: dict[str, Any] = {"freezing": True, "size_asserts": False}
        if self.device.type == "cpu":
            options["cpp_wrapper"] = True  # calls of the kernels from Python take up to a fifth of small models' time
        options["post_grad_custom_pre_pass"] = Apart(constants.values())
        if self.threads:
            options["cpp.threads"] = self.threads
        inductor, plain = Inductor(options), region(fn, constants)
        # older ones have no such option
        guards = {"guard_filter_fn": looked_at} if hasattr(torch.compiler, "skip_all_guards_unsafe") else None
        compiled = torch.compile(plain, dynamic=False, backend=inductor, options=guards)
        return frozen_at_first(compiled, plain, inductor)


def _require_compiler() -> None:
    """Raises RuntimeError where inductor has no C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise RuntimeError(
            "the option compile=1 of TorchExecutionProvider needs a C++ compiler on the CPU: install g++ or clang++, "
            "or name one by the environment variable CXX; compile=0 needs none"
        ) from error


class TorchExecutionProvider(ExecutionProvider):
    """PyTorch, on the current stream of a CUDA device. Inputs produced on another stream: synchronise the two first.
    There an index out of range ends in an assertion of the device, after which the process can use it no more.

    Options: `device`, "cpu" (default), "cuda" or "cuda:1"; `compile`, "1" for torch.compile (default "0"), on the CPU
    for shapes with which that is faster than torch's own calls and NumPy's loops, as the second run with them finds
    out, or "always";
    `enable_cuda_graph`, "1" for CUDA graphs of shapes, captured when they come up again (default "0");
    `use_tf32`, "1" for the short products of recent GPUs (default "0": float32 means float32, unlike in onnxruntime);
    `cudnn_conv_algo_search`, "EXHAUSTIVE" for the fastest of cuDNN's algorithms on every new shape, "HEURISTIC" or
    "DEFAULT" for the one that it guesses (default: as torch is set up);
    `precision`, "bfloat16", and on CUDA "float16", for products, convolutions and attention of float32 in that type
    (default "float32"). Weights are converted once a session; sums, norms, softmax, biases, inputs and outputs stay in
    float32.
    A product then errs by up to 2^-7 of the sum of its terms' sizes (float16: 2^-10, and it overflows above 65504):
    `ortlite compare MODEL --providers CPU Torch:precision=bfloat16` tells what that means for a model. On
    processors without bfloat16 (AVX512-BF16, AMX) the option rounds and gains nothing; a warning says so.
    `loops`, "0" for torch's own operators alone: where `ortlite[fast]` is installed, its compiled loops run
    convolutions, recurrent networks and quantised operators on the CPU, on torch's threads;
    `stand_in`, "0" for torch's own calls where `compile` has compiled nothing for a shape, or what it compiled is slow:
    with the loops, NumPy's kernels answer there;
    `intra_op_num_threads` of a session on the CPU, which is the default of the option of that name, is the number of
    OpenMP's threads for what a run calls; without it they are torch's. The caller's own setting is left alone.
    """

    name = "TorchExecutionProvider"
    library = "torch"
    storage = frozenset(DTYPES + NARROW_FLOATS)
    rank: ClassVar[int | None] = 50  # benchmarks/PROVIDERS.md
    option_names: ClassVar[frozenset[str] | None] = frozenset(
        {"device", "compile", "cudnn_conv_algo_search", "enable_cuda_graph", "use_tf32", "precision"}
        | {"intra_op_num_threads", "loops", "stand_in"}
    )
    tracer: ClassVar[Tracer | None] = _Tracer()
    recorded_elements: ClassVar[int] = 1 << 24
    # Of the unsigned types torch computes in uint8 alone; half precision is summed in float32, as elsewhere.
    widen: ClassVar[dict[str, str]] = {
        "uint16": "int32",
        "uint32": "int64",
        "float16": "float32",
        "bfloat16": "float32",
    } | dict.fromkeys(NARROW_FLOATS, "float32")

    @classmethod
    def options_of(cls, array: Any) -> dict[str, str]:
        return {} if array.device.type == "cpu" else {"device": str(array.device)}

    @cached_property
    def device(self) -> Any:
        """The torch.device."""
        import torch

        return torch.device(self.options.get("device", "cpu"))

    @cached_property
    def threads(self) -> int:
        """How many threads a run has, 0 for torch's own setting."""
        given = self.options.get("intra_op_num_threads", "0")
        if not given.isdecimal():
            raise ValueError(f"the option intra_op_num_threads is a number, 0 or more, not {given!r}")
        count = int(given) if self.device.type == "cpu" else 0
        if count and _threads().SETTERS is None:
            log.warning("intra_op_num_threads has no effect: this torch has no OpenMP; see torch.set_num_threads")
        return count

    @cached_property
    def xp(self) -> Namespace:
        import array_api_compat.torch as library
        import torch

        from ortlite import heap
        from ortlite_torch import primitives

        if self.device.type == "cpu":
            heap.keep_large()
        names: dict[str, Any] = dict(primitives.NAMES)
        if self.device.type != "cpu":
            from ortlite_torch.cuda import asarray

            names |= {"asarray": asarray}
            names |= {name: partial(names.get(name, getattr(library, name)), device=self.device) for name in CREATION}
        native = {name: getattr(torch, name) for name in DTYPES + NARROW_FLOATS}
        return build(library, native, primitives.PRIMITIVES, names)

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        return self._overrides

    @property
    def rewrites(self) -> frozenset[str]:
        return frozenset({"MatMulAddFusion"})

    @cached_property
    def _overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        from ortlite_torch import loops, ops

        loop = self.device.type == "cpu" and self._has("loops", "1")
        return {**(loops.before(ops.OVERRIDES) if loop else ops.OVERRIDES), **self._short}

    @cached_property
    def _short(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        """The operators in a short type, where the option precision asks for one."""
        given = self.options.get("precision", "float32")
        if given == "float32":
            return {}
        import torch

        from ortlite_torch import precision

        if (problem := precision.reason(given, self.device)) is not None:
            raise ValueError(problem)
        dtype = getattr(torch, given)
        if not precision.computes(dtype, self.device):
            log.warning("this processor does not multiply in %s: values are rounded, and nothing is faster", given)
        return precision.overrides(dtype, self.device)

    def _has(self, option: str, default: str = "0") -> bool:
        """Whether an option says yes, in onnxruntime's ways."""
        return self.options.get(option, default).lower() not in {"0", "false"}

    @property
    def _races(self) -> bool:
        """Whether what is compiled is kept only where it is faster."""
        return self.device.type == "cpu" and self.options.get("compile", "0") not in {"0", "always"}

    @property
    def _stands_in(self) -> bool:
        """Whether NumPy's kernels answer where nothing is compiled: a token takes its loops two thirds of the time."""
        same = self.options.get("precision", "float32") == "float32" and self._has("loops", "1")
        return self._races and same and self._has("stand_in", "1") and create(CPU).compiles_ahead

    @cached_property
    def recorder(self) -> Any:
        if self.options.get("compile", "0") != "0" and not self._races:  # inductor chooses for itself what it calls
            return None
        from ortlite_torch import record

        return record.recorded

    def supports(self, kernel: Any, dtypes: Sequence[DType | None]) -> str | None:
        names = {d.name for d in dtypes if d is not None}
        if "uint64" in names:
            return "torch does not compute in uint64"
        if kernel.op_type in {"Resize", "GridSample"} and names & {"uint16", "uint32"}:
            return "what lies between or beyond is clamped to the type's own limits, and torch computes in a wider one"
        return super().supports(kernel, dtypes)

    def defers(self, kernel: Any, dtypes: Sequence[DType | None]) -> str | None:
        single = any(d is not None and d.name == "float32" for d in dtypes)
        if kernel.op_type == "DFT" and single and self.device.type == "cpu":
            return "ONNX's expected values are rounded as NumPy rounds in single precision, torch does it otherwise"
        return None

    def from_numpy(self, array: np.ndarray) -> Any:
        return _borders().from_numpy(array, self.device)

    def to_numpy(self, array: Any) -> np.ndarray:
        found: np.ndarray = _borders().to_numpy(array)
        return found

    def from_dlpack(self, array: Any) -> Any:
        import torch

        if min(getattr(array, "strides", None) or (0,)) < 0:
            raise BufferError("torch has no negative strides")  # torch.from_dlpack would end the process
        try:
            return torch.from_dlpack(array).to(self.device)
        except AssertionError as error:  # the array is on a GPU, and this torch is built without CUDA
            raise BufferError(str(error)) from error

    def from_pointer(self, pointer: int, shape: Sequence[int], dtype: DType, keep: Any = None) -> Any:
        import torch

        if self.device.type != "cuda":
            return super().from_pointer(pointer, shape, dtype, keep)
        there = getattr(torch, dtype.name)
        if 0 in shape:
            return torch.empty(tuple(shape), dtype=there, device=self.device)
        bits = (_borders().AS_BITS | SIGNED).get(dtype.name, dtype.name)
        found = torch.as_tensor(_Memory(pointer, tuple(shape), np.dtype(bits), keep), device=self.device)
        return found if bits == dtype.name else found.view(there)

    def synchronize(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def settle(self, arrays: Sequence[Any]) -> None:
        """Wait for a GPU's current stream, which copies and computes them: others may read them on theirs."""
        import torch

        if self.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return
        if any(isinstance(array, torch.Tensor) for array in arrays):
            torch.cuda.current_stream(self.device).synchronize()

    def pointer(self, array: Any) -> int:
        address: int = array.data_ptr()
        return address

    def memory(self, array: Any) -> tuple[int, int] | None:
        if _borders().symbolic(array):  # has none, and torch warns who asks
            return None
        try:
            storage = array.untyped_storage()
            start: int = storage.data_ptr()
        except RuntimeError:  # what vmap and its like look with has none
            return None
        return (start, start + storage.nbytes()) if start else None

    @classmethod
    def unshared(cls, array: Any) -> bool:
        found: bool = _borders().unshared(array)
        return found

    def copy(self, array: Any) -> Any:
        import torch
        from torch._guards import detect_fake_mode

        if detect_fake_mode() is None:
            return array.clone()
        # inductor drops a clone of what it holds as a constant, and would hand out the constant itself
        return torch.where(torch.ones((), dtype=torch.bool, device=array.device), array, array)

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        if not gradients and self.device.type == "cpu":  # as in most runs
            count = self.threads
            alone: AbstractContextManager[Any] = _borders().NoGradientOn(count) if count else _borders().NoGradient()
            return alone
        import torch
        from torch._guards import detect_fake_mode

        stack = ExitStack()
        if self.threads:
            stack.enter_context(_threads().On(self.threads))
        if not gradients:
            stack.enter_context(torch.no_grad())
        elif (mode := detect_fake_mode()) is not None:
            mode.allow_non_fake_inputs = True  # the model's constants are real; they become constants of the graph
        if self.device.type == "cuda":
            from ortlite_torch import cuda

            given = self.options.get("cudnn_conv_algo_search")
            search = None if given is None else given == "EXHAUSTIVE"
            stack.enter_context(cuda.settings(self.device, short=self._has("use_tf32"), search=search))
        return stack

    @cached_property
    def compiler(self) -> Compiler | None:
        compiles, graphs = self.options.get("compile", "0") != "0", self._has("enable_cuda_graph")
        if self.device.type == "cpu":
            if graphs:
                raise ValueError("the option enable_cuda_graph of TorchExecutionProvider is for device='cuda'")
            if compiles:
                _require_compiler()
        inductor = _Inductor(self.device, self.threads, self._races, self._stands_in) if compiles else None
        if not graphs:
            return inductor
        from ortlite_torch.graphs import Graphs

        return Graphs(self.device, inductor)
