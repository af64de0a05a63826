"""Functions of memory that XLA calls on a CPU, in the middle of what it compiled: jax.pure_callback without its copies.

XLA's foreign function interface hands over a C struct that says where the operands lie, and where the results shall.
jaxlib brings its description, xla/ffi/api/c_api.h; what is read of it here stays as it is while its major version does.
A program that XLA keeps on the disk names no function: which ones it calls, an argument says.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import count
from typing import Any, ClassVar, Protocol
from weakref import WeakValueDictionary

import jax
import numpy as np

from ortlite.provider import CPU, create
from ortlite_numpy import threads

__all__ = ["TARGET", "Function", "Functions", "available", "bound", "called", "gathered", "gathers", "stopped"]

log = logging.getLogger("ortlite")

# A function is given the addresses of the operands, of the memory of the results, and of the team of XLA's threads.
Function = Callable[[Sequence[int], Sequence[int], int], None]

TARGET = "ortlite_function"
# Words of XLA_FFI_CallFrame, of 8 bytes each. An extension asks what the handler is, instead of a call.
EXTENSION, API, CONTEXT, OPERANDS, OPERAND, RESULTS, RESULT, ATTRIBUTE = 1, 2, 3, 7, 9, 12, 14, 20
METADATA, VERSIONS = 3, 3  # words of the extension, and of what it points to: two numbers of 4 bytes
DATA = 24  # bytes before the address in XLA_FFI_Buffer,
SCALAR = 8  # and in XLA_FFI_Scalar
ERROR_CREATE, POOL_SCHEDULE = 6, 17  # words of XLA_FFI_Api
VERSION, INTERNAL = (0, 1), 13  # of the interface; and an XLA_FFI_Error_Code


class Wanted(Protocol):
    """What is traced as a call."""

    @property
    def shapes(self) -> Sequence[jax.ShapeDtypeStruct]:
        """Its results, in C order."""

    def alone(self) -> Function:
        """The function that does it."""


class Functions(dict[int, Function]):
    """Those that one program calls, by number. Whoever holds the program holds these."""

    def __init__(self) -> None:
        self.wanted: list[Any] = []  # of Wanted
        self.made: dict[int, Any] = {}  # the images that they have made, by id
        number = next(_numbers)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            self.handle = jax.numpy.asarray([number], np.int64)
        _programs[number] = self

    def has_made(self, value: Any) -> bool:
        """Whether a traced array is an image that a call has made."""
        return id(value) in self.made

    def __missing__(self, number: int) -> Function:
        function: Function = self.wanted[number].alone()
        self[number] = function
        return function

    def add(self, function: Function) -> int:
        """The number of a function that does several."""
        number = len(self.wanted) + len(self)
        self[number] = function
        return number


_numbers = count()
_programs: WeakValueDictionary[int, Functions] = WeakValueDictionary()
_gathered: ContextVar[Functions | None] = ContextVar("ortlite_jax_functions", default=None)


@contextmanager
def gathers(functions: Functions | None) -> Iterator[None]:
    """What is traced within may call functions, which are added to these."""
    token = _gathered.set(functions)
    try:
        yield
    finally:
        _gathered.reset(token)


def gathered() -> Functions | None:
    """Where the functions go that are called by what is traced now; None where it may call none."""
    return _gathered.get()


def called(wanted: Wanted, *operands: Any) -> Sequence[Any]:
    """The results of what gets operands in C order and gives results so."""
    functions = gathered()
    assert functions is not None
    functions.wanted.append(wanted)
    return bound(len(functions.wanted) - 1, wanted.shapes, functions.handle, *operands)


def bound(number: int, shapes: Sequence[jax.ShapeDtypeStruct], handle: Any, *operands: Any) -> Sequence[Any]:
    """The results of the function of that number."""
    found: Sequence[Any] = jax.ffi.ffi_call(TARGET, shapes)(handle, *operands, number=np.int64(number))
    return found


class _Thread(threading.local):
    """What a thread of XLA's keeps from one call to the next."""

    def __init__(self) -> None:
        # Python makes a state for a thread that is not its own at every call, and drops it, in 25 microseconds
        ctypes.pythonapi.PyGILState_Ensure()
        self.team = threads.pool_team()
        self.has_pool = True  # until it refuses a task, where XLA is told to use one thread


_thread = _Thread()
_stopped = threading.local()


def stopped() -> BaseException | None:
    """What was to end the process, not just a call: told once to the thread it was raised on, after XLA's error."""
    raised: BaseException | None = vars(_stopped).pop("raised", None)
    return raised


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _addresses(buffers: int, count: int) -> list[int]:
    """Where the memory of so many buffers begins."""
    return [_word(_word(buffers + 8 * i) + DATA) for i in range(count)]


def _handle(address: int, result: int) -> None:
    """What is called with the address of XLA's struct, and with that of the address of an error, or of 0."""
    error = 0
    frame = (ctypes.c_int64 * 21).from_address(address)
    if frame[EXTENSION]:
        about = (ctypes.c_int64 * 4).from_address(frame[EXTENSION])
        (ctypes.c_int32 * 2).from_address(about[METADATA] + 8 * VERSIONS)[:] = list[Any](VERSION)
    else:
        try:
            _call(frame)
        except BaseException as raised:  # noqa: BLE001  (nothing else would hear of it)
            error = _error(frame[API], f"{type(raised).__name__}: {raised}")
            if not isinstance(raised, Exception):  # Control-C: XLA runs this on the thread that called its program
                _stopped.raised = raised
    ctypes.c_int64.from_address(result).value = error


def _call(frame: Any) -> None:
    team = _thread.team
    if _thread.has_pool:
        team[threads.SCHEDULE // 8] = _word(frame[API] + 8 * POOL_SCHEDULE)
        team[threads.CONTEXT // 8] = frame[CONTEXT]
    handle, *operands = _addresses(frame[OPERAND], frame[OPERANDS])
    results = _addresses(frame[RESULT], frame[RESULTS])
    number = _word(_word(_word(frame[ATTRIBUTE]) + SCALAR))
    _programs[_word(handle)][number](operands, results, team.ctypes.data)
    _thread.has_pool = bool(team[threads.SCHEDULE // 8])


def _error(api: int, message: str) -> int:
    """The address of an error of XLA's with this message."""
    text = ctypes.create_string_buffer(message.encode())
    given = (ctypes.c_int64 * 4)(32, 0, ctypes.addressof(text), INTERNAL)
    create = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(_word(api + 8 * ERROR_CREATE))
    return int(create(ctypes.addressof(given)))


_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(_handle)


class _Copy:
    shapes: ClassVar = [jax.ShapeDtypeStruct((3,), np.float32)]

    def alone(self) -> Function:
        def copy(given: Sequence[int], results: Sequence[int], team: int) -> None:
            ctypes.memmove(results[0], given[0], 12)

        return copy


@cache
def available() -> bool:
    """Whether numba is there, and this jaxlib calls functions so: tried once."""
    if not create(CPU).compiles_ahead:
        return False
    from ortlite_numpy.compiled import foreign

    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    given = np.arange(3, dtype=np.float32)
    try:
        handler = foreign.handler(ctypes.cast(_callback, ctypes.c_void_p).value)
        jax.ffi.register_ffi_target(TARGET, capsule(handler, None, None), platform="cpu")
        with gathers(Functions()), jax.ensure_compile_time_eval():  # no part of what is being traced
            return bool((np.asarray(jax.jit(lambda x: called(_Copy(), x)[0])(given)) == given).all())
    except Exception as error:  # noqa: BLE001  (an interface that is no longer this one)
        log.info("JAX computes without ortlite's loops: %s", error)
        return False
