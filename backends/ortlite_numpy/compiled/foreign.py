"""A function of Python's as XLA calls one: compiled code stands between, for Python may be interrupted anywhere.

What Python raises outside of all `try` is lost on its way to C, and with it the result, which XLA would take for the
address of an error.
"""

from __future__ import annotations

from typing import Any

from ortlite_numpy.compiled.jit import Emitted, loops

__all__ = ["handler"]

API, ERROR_CREATE = 2, 6  # words of XLA_FFI_CallFrame and of XLA_FFI_Api
SIZE, CANCELLED = 32, 1  # of XLA_FFI_Error_Create_Args, in bytes; and an XLA_FFI_Error_Code
MESSAGE = b"interrupted\0"
UNKNOWN = -1  # what no address is


def _handler(typing: Any, callback: Any) -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, number = ir.IntType(64), ir.IntType(32)
        address = word.as_pointer()
        name = builder.function.name
        kept = cgutils.add_global_variable(builder.module, word, f"{name}.callback")
        kept.linkage, kept.initializer = "internal", word(0)
        builder.store(args[0], kept)
        fn = ir.Function(builder.module, ir.FunctionType(word, [word]), f"{name}.handler")
        fn.linkage = "internal"
        inside = ir.IRBuilder(fn.append_basic_block())

        def loaded(base: Any, place: int) -> Any:
            """A word of the struct at an address."""
            return inside.load(inside.gep(inside.inttoptr(base, address), [number(place)]))

        def call(fn: Any, *given: Any) -> Any:
            return inside.call(inside.inttoptr(fn, ir.FunctionType(word, [word] * len(given)).as_pointer()), given)

        result = cgutils.alloca_once_value(inside, word(UNKNOWN))
        call(inside.load(kept), fn.args[0], inside.ptrtoint(result, word))
        with inside.if_then(inside.icmp_signed("==", inside.load(result), word(UNKNOWN))):
            text = cgutils.global_constant(builder.module, f"{name}.text", cgutils.make_bytearray(MESSAGE))
            struct = cgutils.alloca_once(inside, word, 4)
            for i, value in enumerate([word(SIZE), word(0), inside.ptrtoint(text, word), word(CANCELLED)]):
                inside.store(value, inside.gep(struct, [number(i)]))
            create = loaded(loaded(fn.args[0], API), ERROR_CREATE)
            inside.store(call(create, inside.ptrtoint(struct, word)), result)
        inside.ret(inside.load(result))
        return builder.ptrtoint(fn, word)

    return types.int64(types.int64), code


_emitted = Emitted(_handler)


@loops()
def handler(callback):
    """The address of an XLA_FFI_Handler.

    `callback` is the address of what it calls, with the address of the XLA_FFI_CallFrame and that of a word for the
    result: the address of an XLA_FFI_Error, or 0.
    """
    return _emitted(callback)
