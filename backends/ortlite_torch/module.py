"""A model as a torch.nn.Module, to train, to move and to save as any other."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Any

import torch

from ortlite import load
from ortlite.api import function
from ortlite.api.session import InferenceSession
from ortlite.errors import InvalidArgument
from ortlite.parameters import gathered, parameters, statistics

__all__ = ["Module"]


class Module(torch.nn.Module):  # type: ignore[misc]  # what torch is made of is not looked into
    """`Module(model)` of a path, the bytes of a model or a session; it is called as `ortlite.function(model)` is.

    Its parameters are the float tensors of rank 1 or more of the model and its subgraphs, its buffers the means and
    variances of batch normalisations, both under their ONNX names. Dots in these lead into submodules, as in the torch
    model that was exported: its `state_dict()` loads. (Where torch has a name for itself, such as `type`, ours gets an
    underscore.) The tensors are copies of the model's. It computes what was exported, in `train()` as in `eval()`, and
    in the dtypes of the file: `.half()` and `.bfloat16()` keep tensors in fewer bytes, which every call widens;
    `.double()` would lose digits in each, and is refused with InvalidArgument.

    A copy or a pickle holds the bytes of the model, or the path to its file, which must then still be there. Raises
    what `ortlite.function` raises.
    """

    def __init__(self, model: str | os.PathLike[str] | bytes | InferenceSession):
        super().__init__()
        if isinstance(model, InferenceSession):
            held = model._model_path if model._model_bytes is None else model._model_bytes  # noqa: SLF001
            assert held is not None
            model = held
        self._source = model if isinstance(model, bytes) else str(model)
        self._places: dict[str, tuple[str, ...]] = {}  # ONNX name -> the attributes that lead to the tensor
        trained, tensors = self._build()
        for name, tensor in tensors.items():
            self._register(name, torch.nn.Parameter(tensor) if name in trained else tensor)
        self.register_load_state_dict_pre_hook(_without_counts)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs: the one there is, else a tuple."""
        tensors = {name: self._tensor(place) for name, place in self._places.items()}
        return self._fn(tensors, *args, **kwargs)

    def _build(self) -> tuple[Container[str], dict[str, Any]]:
        """Make the function. Returns the names of the parameters, and the values of parameters and buffers."""
        model = gathered(load.load(self._source))
        trained = parameters(model.graph)
        names = (*trained, *statistics(model.graph))
        self._fn, tensors = function.lifted(model, names, "TorchExecutionProvider")
        self._dtypes = {name: tensor.dtype for name, tensor in tensors.items()}  # which the model computes in
        return trained, tensors

    def _register(self, name: str, tensor: Any) -> None:
        *path, last = name.split(".")
        owner, place = self, []
        for part in path:
            free = part or "_"
            while hasattr(owner, free) and free not in owner._modules:
                free += "_"
            if free not in owner._modules:
                owner.add_module(free, torch.nn.Module())
            owner = owner._modules[free]
            place.append(free)
        last = last or "_"
        while hasattr(owner, last):
            last += "_"
        self._places[name] = (*place, last)
        if isinstance(tensor, torch.nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What `to`, `half` and `double` call: refuses tensors wider than the model computes in, and changes none."""
        for name, place in self._places.items():
            computed, tensor = self._dtypes[name], self._tensor(place)
            asked = fn(torch.empty([0] * tensor.dim(), dtype=tensor.dtype, device=tensor.device)).dtype
            if asked.itemsize > computed.itemsize:
                raise InvalidArgument(
                    f"the model computes {name!r} in {computed}, and not in {asked}: it may be narrower, not wider"
                )
        return super()._apply(fn, recurse)

    def _tensor(self, place: tuple[str, ...]) -> Any:
        found: Any = self
        for name in place:
            found = getattr(found, name)
        return found

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_fn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._build()


def _without_counts(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop how many batches a normalisation has seen, which torch counts and ONNX does not."""
    for key in [k for k in state if k.startswith(prefix) and k.endswith(".num_batches_tracked")]:
        del state[key]
