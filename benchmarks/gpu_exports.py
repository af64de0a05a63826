"""Exported models on a GPU: ortlite's ways to run them beside torch.compile and onnxruntime.

The parts `exports-…` of `benchmarks.gpu`. `--exports` is the folder of what `python -m benchmarks.architectures` wrote;
its .onnx files are enough: weights that lie in other files are drawn anew, so 5 MB travel in place of 1.1 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MODELS", "PROVIDERS", "bound", "feeds", "filled", "runs"]

# The provider of a library on a device, as a session's `providers` name it.
PROVIDERS: Mapping[str, Mapping[str, tuple[str, dict[str, str]]]] = {
    "cpu": {"torch": ("TorchExecutionProvider", {}), "jax": ("JAXExecutionProvider", {})},
    "cuda": {
        "torch": ("CUDAExecutionProvider", {"library": "torch"}),
        "cupy": ("CuPyExecutionProvider", {}),
        "jax": ("JAXExecutionProvider", {"device": "gpu:0"}),
    },
}

MODELS = ("resnet50", "bert_base", "vit_base", "gpt2", "qwen2_small_kv")
TOKENS = 128  # of a text, or of a cache
GRAPH = {"enable_cuda_graph": "1"}
WAYS: Mapping[str, Mapping[str, str]] = {
    "kernel by kernel": {},
    "graph": GRAPH,
    "compile": {"compile": "always"},
    "compile, graph": {"compile": "always", **GRAPH},
    "TF32, graph": {"use_tf32": "1", **GRAPH},
    "float16, graph": {"precision": "float16", **GRAPH},
    "float16, compile, graph": {"precision": "float16", "compile": "always", **GRAPH},
}


def filled(path: Path) -> bytes:
    """A model, its weights that lie in other files drawn so that values neither vanish nor grow."""
    model, rng = onnx.load(path, load_external_data=False), np.random.default_rng(0)
    for weight in model.graph.initializer:
        if weight.data_location != TensorProto.EXTERNAL:
            continue
        shape, dtype = tuple(weight.dims), helper.tensor_dtype_to_np_dtype(weight.data_type)
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0] if shape else 1
        values = rng.standard_normal(shape) * fan_in**-0.5 if len(shape) > 1 else rng.uniform(0.5, 1.0, shape)
        weight.CopyFrom(numpy_helper.from_array(values.astype(dtype), weight.name))
    data: bytes = model.SerializeToString()
    return data


def feeds(inputs: Any, batch: int) -> dict[str, np.ndarray]:
    """Images, or so many texts of TOKENS; where the inputs have a cache, of that length, one token of each."""
    rng, found = np.random.default_rng(0), {}
    cached = any(len(value.shape) == 4 and value.name.startswith("past") for value in inputs)
    for value in inputs:
        shape = [batch if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(value.shape)]
        length = TOKENS + cached if value.name == "attention_mask" else 1 if cached and len(shape) == 2 else TOKENS
        shape = [d if isinstance(d, int) else length for d in shape]
        if value.type == "tensor(int64)":
            ones = value.name == "attention_mask"
            found[value.name] = np.ones(shape, np.int64) if ones else rng.integers(3, 1000, shape)
        else:
            found[value.name] = rng.standard_normal(shape, np.float32)
    return found


def runs(
    model: bytes, given: Mapping[str, np.ndarray], device: str, ways: Mapping[str, Mapping[str, str]] = WAYS
) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """The ways by name: what runs the model once, inputs and results on the device, and what gets the first result.

    `given` has the inputs in their order. The first way is kernel by kernel, the last two are torch.compile's own and,
    where it is, onnxruntime's.
    """
    import torch

    import ortlite
    from ortlite.provider import create

    name, where = PROVIDERS[device]["torch"]
    for way, options in ways.items():
        yield way, *bound(ortlite, model, given, device, (name, {**where, **options}))
    there = create(name, where)
    fn = torch.compile(ortlite.function(model), mode="max-autotune" if device == "cuda" else None)
    with there.context():
        tensors = [there.from_numpy(array) for array in given.values()]

    def call() -> Any:
        with torch.no_grad():
            found = fn(*tensors)
        return found[0] if isinstance(found, tuple) else found

    yield "torch.compile, max-autotune", call, lambda: there.to_numpy(call())
    try:
        import onnxruntime
    except ImportError:
        return
    if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        peer = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        yield "onnxruntime", *bound(onnxruntime, model, given, device, (peer, {}))


def bound(
    ort: Any, model: bytes, given: Mapping[str, np.ndarray], device: str, provider: tuple[str, dict[str, str]]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A run of onnxruntime's or ours with inputs and outputs on the device, and what gets its first result."""
    session = ort.InferenceSession(model, providers=[provider])
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for value in session.get_outputs():
        binding.bind_output(value.name, device, 0)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def result() -> Any:
        call()
        return binding.get_outputs()[0].numpy()

    return call, result
