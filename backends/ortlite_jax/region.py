"""A part of a specialised program as XLA gets it: what follows from the weights alone is computed once, beforehand.

The weights stay arguments. As constants in the program XLA would fold them, which takes long, and keep each once more,
on disk too. But what kernels make of weights alone, transposed and put together, need not be made in every run: these
equations of the traced function become a program of their own, whose results are arguments of the other one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import jax
import numpy as np
from jax.extend import core

from ortlite.forks import renewed_after_fork
from ortlite_jax import calls, layout
from ortlite_jax.joined import Joined, joined
from ortlite_jax.layout import bound

__all__ = ["Region"]

log = logging.getLogger("ortlite")

# Those that are worth their memory: as many elements as before, or fewer, and nothing that XLA would fuse as well.
PREPARED = frozenset(
    "transpose reshape squeeze broadcast_in_dim slice concatenate rev convert_element_type pad copy "
    "add sub mul div neg sqrt rsqrt integer_pow square stop_gradient".split()
)
LARGE = 1 << 14  # elements of a part of weights that is worth an argument of its own
MOST = 64  # signatures of which a region keeps the program

# What was made of weights, by how and of which arrays (their ids): the programs of all signatures share it.
_made: WeakValueDictionary[Any, Any] = WeakValueDictionary()


class Region:
    """`fn`, a pure function of arrays to a tuple of them, its arguments at the positions of `constants` known.

    A sequence of arrays, or None, may stand for one: given such, all is compiled as it is.
    """

    _lock: threading.RLock

    def __init__(self, fn: Callable[..., Any], constants: Mapping[int, Any]):
        self.fn = fn
        self.constants = dict(constants)
        self.programs: dict[Any, tuple[Callable[..., Any], list[Any], Any]] = {}
        renewed_after_fork(self, "_lock", threading.RLock)

    def __call__(self, *arrays: Any) -> Any:
        try:
            form = tuple([(array.shape, array.dtype) for array in arrays])
        except AttributeError:
            return self.whole(*self._given(arrays))
        found = self.programs.get(form)
        if found is None:
            with self._lock:  # XLA compiles it once, at its first call: other threads wait for that
                found = self.programs.get(form) or self._program(arrays)
                program, weights, _ = found
                outputs = _run(program, arrays, weights)
                while len(self.programs) >= MOST:
                    self.programs.pop(next(iter(tuple(self.programs))), None)
                self.programs[form] = found
                return outputs
        program, weights, _ = found
        return _run(program, arrays, weights)

    def _program(self, arrays: Sequence[Any]) -> tuple[Callable[..., Any], list[Any], Any]:
        """The compiled function of the other arguments, then of what is made of the constants: and this.

        Last comes what must live as long: arrays whose ids must stay theirs, and the functions that it calls.
        """
        given = self._given(arrays)
        functions = calls.Functions() if jax.default_backend() == "cpu" else None

        def fn(*values: Any) -> Any:
            constants = {id(values[i]): array for i, array in self.constants.items()}
            with layout.lays_out(constants), calls.gathers(functions):
                return self.fn(*values)

        traced, results = jax.make_jaxpr(fn, return_shape=True)(
            *[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in given]
        )
        if functions is not None:
            functions.made.clear()
        structure = jax.tree.structure(results)
        flat = jax.make_jaxpr(lambda *values: layout.evaluated(traced.jaxpr, traced.consts, values, self.constants))(
            *given
        )
        jaxpr = flat.jaxpr
        known = dict(zip(jaxpr.constvars, flat.consts, strict=True))
        known |= {jaxpr.invars[i]: array for i, array in self.constants.items()}
        origins: dict[Any, tuple[Any, ...]] = {var: ("array", id(value)) for var, value in known.items()}
        early: list[Any] = []
        late: list[Any] = []
        for eqn in jaxpr.eqns:
            (early if _is_early(eqn, origins) else late).append(eqn)
            if early and early[-1] is eqn:
                inputs = tuple(str(v.val) if isinstance(v, core.Literal) else origins[v] for v in eqn.invars)
                origins[eqn.outvars[0]] = (eqn.primitive.name, str(eqn.params), inputs)
        if functions is not None:
            late = joined(late, jaxpr.outvars, functions)
        read = dict.fromkeys(
            var for eqn in late for var in eqn.invars if not isinstance(var, core.Literal) and var in origins
        )
        read |= dict.fromkeys(var for var in jaxpr.outvars if not isinstance(var, core.Literal) and var in origins)
        kept = self._prepared(known, early, [var for var in read if var not in known], origins)
        weights = [known[var] if var in known else kept[var] for var in read]
        outside = [var for i, var in enumerate(jaxpr.invars) if i not in self.constants]

        def main(*values: Any) -> tuple[Any, ...]:
            found = _evaluated(late, dict(zip([*outside, *read], values, strict=True)), jaxpr.outvars)
            return jax.tree.unflatten(structure, found)  # type: ignore[no-any-return]

        main.__name__ = getattr(self.fn, "__name__", "region")
        alone = any(_on_one_thread(eqn) for eqn in late if type(eqn) is not Joined)
        options = THREADED if alone and _known(*THREADED.items()) else None
        return jax.jit(main, compiler_options=options), weights, (flat.consts, functions)

    def _given(self, arrays: Sequence[Any]) -> list[Any]:
        """All arguments of the function."""
        rest = iter(arrays)
        count = len(arrays) + len(self.constants)
        return [self.constants[i] if i in self.constants else next(rest) for i in range(count)]

    @cached_property
    def whole(self) -> Callable[..., Any]:
        """The function of all arguments, compiled as it is."""
        return jax.jit(self.fn)  # type: ignore[no-any-return]

    def _prepared(
        self, known: Mapping[Any, Any], eqns: Sequence[Any], wanted: Sequence[Any], origins: Mapping[Any, Any]
    ) -> dict[Any, Any]:
        """The values of `wanted`, of which `eqns` tell how they are made of `known` ones."""
        with jax.ensure_compile_time_eval():
            found = {var: value for var in wanted if (value := _made.get(origins[var])) is not None}
            missing = [var for var in wanted if var not in found]
            if missing:
                needed, steps = set(missing), []
                for eqn in reversed(eqns):
                    if eqn.outvars[0] in needed:
                        steps.append(eqn)
                        needed.update(var for var in eqn.invars if not isinstance(var, core.Literal))
                steps.reverse()
                given, rest = _moved(steps, {var: known[var] for var in known if var in needed})
                unmade = [var for var in missing if var not in given]
                if unmade:
                    read = {var for eqn in rest for var in eqn.invars if not isinstance(var, core.Literal)}
                    sources = [var for var in given if var in read]

                    def prepare(*values: Any) -> list[Any]:
                        return _evaluated(rest, dict(zip(sources, values, strict=True)), unmade)

                    values = jax.jit(prepare)(*[given[var] for var in sources])
                    given.update(zip(unmade, values, strict=True))
                device = next((v.device for v in known.values() if getattr(v, "committed", False)), None)
                for var in missing:
                    made = given[var]
                    made = jax.device_put(made, device) if isinstance(made, np.ndarray) else made
                    found[var] = _made[origins[var]] = made
        return found


def _run(program: Callable[..., Any], arrays: Sequence[Any], weights: Sequence[Any]) -> Any:
    """What a program computes. Of Control-C in a function that it calls, XLA makes an error like any other."""
    try:
        return program(*arrays, *weights)
    except Exception:
        if (stop := calls.stopped()) is not None:
            raise stop from None
        raise


# What only moves elements, by NumPy: XLA takes longer to compile that than NumPy to do it.
MOVES: dict[str, Callable[..., np.ndarray]] = {
    "transpose": lambda params, x: np.transpose(x, params["permutation"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "reshape": lambda params, x: np.reshape(x, params["new_sizes"]),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "slice": lambda params, x: x[
        tuple(map(slice, params["start_indices"], params["limit_indices"], params["strides"] or [1] * x.ndim))
    ],
}


def _moved(eqns: Sequence[Any], values: dict[Any, Any]) -> tuple[dict[Any, Any], list[Any]]:
    """The values with those that follow from them by moving elements, as NumPy arrays; and the equations that are left.

    On a CPU alone, where an array of JAX is one of NumPy's without a copy.
    """
    if jax.default_backend() != "cpu":
        return values, list(eqns)
    found, left = dict(values), []
    for eqn in eqns:
        move = MOVES.get(eqn.primitive.name)
        arrays = [found.get(var) for var in eqn.invars if not isinstance(var, core.Literal)]
        if move is None or len(arrays) < len(eqn.invars) or any(array is None for array in arrays):
            left.append(eqn)
        else:
            found[eqn.outvars[0]] = move(eqn.params, *map(np.asarray, arrays))
    return found, left


# On a CPU, XLA convolves with YNNPACK, which divides among threads by the map, 64 at a time; left out here, with Eigen.
THREADED = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
FEW_MAPS, MUCH_WORK = 64, 1 << 26  # multiplications of a convolution that one thread should not have alone
FEW_CHANNELS = 16  # of which Eigen is no faster on two threads than YNNPACK on one


def _on_one_thread(eqn: Any) -> bool:
    """Whether an equation is a convolution of images that XLA would compute on one thread, and a large one."""
    if eqn.primitive.name != "conv_general_dilated" or jax.default_backend() != "cpu":
        return False
    kernel, result = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    maps, channels = (kernel[axis] for axis in eqn.params["dimension_numbers"].rhs_spec[:2])
    if len(kernel) != 4 or channels <= FEW_CHANNELS or maps > FEW_MAPS or eqn.params["feature_group_count"] > 1:
        return False
    work: int = prod(result) * prod(kernel) // maps
    return work >= MUCH_WORK


@cache
def _known(*options: tuple[str, str]) -> bool:
    """Whether this XLA has such options, and nobody has chosen them for the process: other versions have others."""
    if any(name in os.environ.get("XLA_FLAGS", "") for name, _ in options):
        return False
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(np.float32(0)).compile()
    except jax.errors.JaxRuntimeError as error:
        log.info("convolutions stay as XLA compiles them: %s", error)
        return False
    return True


def _is_early(eqn: Any, origins: Mapping[Any, Any]) -> bool:
    """Whether an equation has only constants for arguments, and is worth being computed beforehand."""
    arrays = [var for var in eqn.invars if not isinstance(var, core.Literal)]
    if eqn.primitive.name not in PREPARED or not arrays or any(var not in origins for var in arrays):
        return False
    before: int = sum(prod(var.aval.shape) for var in arrays)
    after: int = prod(eqn.outvars[0].aval.shape)
    return after <= before and (eqn.primitive.name != "slice" or after >= LARGE)


def _evaluated(eqns: Sequence[Any], values: dict[Any, Any], wanted: Sequence[Any]) -> list[Any]:
    """The values of `wanted` where `values` are known."""

    def read(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else values[var]

    for eqn in eqns:
        given = [*map(read, eqn.invars)]
        values.update(zip(eqn.outvars, eqn(*given) if type(eqn) is Joined else bound(eqn, given), strict=True))
    return [*map(read, wanted)]
