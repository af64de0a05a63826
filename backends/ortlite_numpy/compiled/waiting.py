"""How helpers of `ortlite_numpy.threads` wait without the GIL: they look at a number for about a millisecond."""

from __future__ import annotations

import platform
from typing import Any

from ortlite_numpy.compiled.jit import Emitted, loops
from ortlite_numpy.threads import DONE, GIVEN

__all__ = ["for_result", "for_work"]

LOOKS = 1 << 15  # with a pause of 15 to 45 ns after each
SETTLE = 1 << 6  # pauses in which who gave the work lets go of the GIL: to wait for that takes longer
PAUSE = {  # tells the processor that this is a loop that waits: it then leaves more to the other thread of its core
    "x86_64": ("llvm.x86.sse2.pause", ()), "amd64": ("llvm.x86.sse2.pause", ()), "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}  # fmt: skip


def _place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])


def _load(typing: Any, x: Any, i: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, args), "acquire", 8)

    return types.int64(x, types.int64), code


def _store(typing: Any, x: Any, i: Any, value: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _place(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.none(x, types.int64, types.int64), code


def _pause(typing: Any) -> Any:
    from llvmlite import ir
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, numbers = PAUSE.get(platform.machine().lower(), (None, ()))
        if name:
            given = [ir.Constant(ir.IntType(32), n) for n in numbers]
            kind = ir.FunctionType(ir.VoidType(), [n.type for n in given])
            builder.call(builder.module.declare_intrinsic(name, (), kind), given)
        return context.get_dummy_value()

    return types.none(), code


load, store, pause = Emitted(_load), Emitted(_store), Emitted(_pause)


@loops()
def look(numbers, at, value, alike):
    """Until numbers[at] is `value`, or is not, but not for long."""
    for _ in range(LOOKS):
        if (load(numbers, at) == value) == alike:
            break
        pause()


@loops()
def done_and_look(numbers, done):
    """Say what is done; until something else is given."""
    store(numbers, DONE, done)
    look(numbers, GIVEN, done, False)
    for _ in range(SETTLE):
        pause()


def for_work(numbers: Any, done: int) -> None:
    """Set DONE, and look until GIVEN is another number."""
    done_and_look.run(numbers, done)


def for_result(numbers: Any, given: int) -> None:
    """Look until DONE is `given`."""
    look.run(numbers, DONE, given, True)
