"""A part of a specialised program as a module, whose buffers are the weights: inductor freezes no others."""

from __future__ import annotations

import builtins
import logging
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch

from ortlite_torch.packing import packed_for_onednn

with warnings.catch_warnings():  # freezing imports it, which says that it is made with what is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch.utils.mkldnn

__all__ = ["Region", "frozen_at_first", "looked_at", "region"]

log = logging.getLogger("ortlite")


class Region(torch.nn.Module):  # type: ignore[misc]  # what torch is made of is not looked into
    """`fn`, its arguments at the positions of `constants` known."""

    def __init__(self, fn: Callable[..., Any], constants: Mapping[int, Any]):
        super().__init__()
        self.fn = fn
        self.places = [""] * fn.__code__.co_argcount
        for index, value in constants.items():
            self.places[index] = f"constant{index}"
            self.register_buffer(self.places[index], value, persistent=False)

    def forward(self, *arrays: Any) -> Any:
        rest = iter(arrays)
        return self.fn(*[getattr(self, name) if name else next(rest) for name in self.places])


def region(fn: Callable[..., Any], constants: Mapping[int, Any]) -> Region:
    """A Region whose `forward` has code and globals of its own.

    Dynamo keeps what it compiled by code, for one no more than eight, and among the globals: `_release` takes it away.
    """
    own = FunctionType(Region.forward.__code__.replace(), {"__name__": __name__, "__builtins__": builtins})
    made: Region = type("Region", (Region,), {"forward": own})(fn, constants)
    return made


def _release(forget: Callable[..., Any], compiled: Any) -> None:
    """Let go of what was compiled of a function, which Dynamo and inductor keep as long as the process lives.

    Inductor lists the modules that it makes, and those that hold weights are none that it would load again.
    """
    forget(compiled)
    inductor: Any = sys.modules.get("torch._inductor.codecache")  # not there, or not whole, before it compiles
    listed: list[ModuleType] = getattr(getattr(inductor, "PyCodeCache", None), "modules", [])
    for module in [m for m in listed if any(isinstance(value, torch.Tensor) for value in vars(m).values())]:
        listed.remove(module)
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]


class Inductor:
    """A backend of torch.compile: inductor, that notes the calls of what it made while there is a list of them."""

    def __init__(self, options: dict[str, Any]):
        self.options = options
        self.calls: list[tuple[Callable[..., Any], Sequence[Any], Sequence[Any]]] | None = []

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        made: Callable[..., Any] = compile_fx(graph, inputs, config_patches=self.options)

        def call(*arrays: Any) -> Any:
            results = made(*arrays)
            if (calls := self.calls) is not None:
                calls.append((made, arrays, results))
            return results

        return call


def past_dynamo(compiled: Callable[..., Any], calls: Any, arrays: Sequence[Any], results: Any) -> Callable[..., Any]:
    """`compiled`, a function of torch.compile, without what Dynamo does around every call: a tenth of a millisecond.

    Dynamo hands on arguments and results as they are, so that they tell what inductor's function takes and gives; where
    one does not come from there, `compiled` itself. So where an array was given twice: Dynamo hands it on once, and
    looks at every call whether they are one again.
    """
    if not calls or type(results) is not tuple:
        return compiled
    made, taken, given = calls[-1]
    places, found = ({id(x): i for i, x in enumerate(values)} for values in (arrays, given))
    if len(places) < len(arrays) or not {*map(id, taken)} <= places.keys() or not {*map(id, results)} <= found.keys():
        return compiled
    takes, gives = [places[id(x)] for x in taken], [found[id(y)] for y in results]
    whole = takes == [*range(len(arrays))] and gives == [*range(len(given))]
    like = [(x.shape, x.stride(), x.dtype, x.device) for x in arrays]

    def call(*arrays: Any) -> Any:
        if torch.is_grad_enabled() or [(x.shape, x.stride(), x.dtype, x.device) for x in arrays] != like:
            return compiled(*arrays)
        if whole:
            return tuple(made(*arrays))
        given = made(*[arrays[i] for i in takes])
        return tuple(given[i] for i in gives)

    return call


def frozen_at_first(compiled: Callable[..., Any], plain: Region, inductor: Inductor) -> Callable[..., Any]:
    """A function of torch.compile that finds the option `freezing` also outside of its options, in its first call.

    Dynamo, which decides whether buffers are constants or arguments, looks there alone. Where it or inductor fails, the
    `plain` function answers from then on, which also tells better of what is wrong with the arguments.
    """
    from torch._dynamo.eval_frame import remove_from_cache
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config

    def first(*arrays: Any) -> Any:
        # the first two are this thread's
        with config.patch(freezing=True), packed_for_onednn(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # array_api_compat's
            return compiled(*arrays)

    answers = first

    def call(*arrays: Any) -> Any:
        nonlocal answers
        if answers is not plain:
            try:
                results = answers(*arrays)
            except TorchDynamoException as error:
                if inductor.options.pop("cpp_wrapper", False):  # not all that Python calls can be called from C++
                    return call(*arrays)
                said = " ".join(str(error).split("\n")[:2])  # of what, and the reason; then its stack
                log.warning("compile: a region runs as it is, for torch.compile says: %s", said)
                answers = plain
            else:
                if answers is first:
                    answers = past_dynamo(compiled, inductor.calls, arrays, results)
                    inductor.calls = None
                return results
        return plain(*arrays)

    weakref.finalize(call, _release, remove_from_cache, plain.forward).atexit = False
    return call


def looked_at(guards: Sequence[Any]) -> list[bool]:
    """Which of Dynamo's guards every call looks at: those of the arguments, and of the state that torch is in.

    The others, hundreds of them, are of the kernels' code and of the weights, which stay as they are.
    """
    return [not guard.orig_guard.name.startswith(("G[", "L['self']")) for guard in guards]
