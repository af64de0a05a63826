"""Kernels on several threads without the GIL: who calls one offers its ranges, and helpers that look out take some.

The helpers are the threads of `ortlite_numpy.threads`; each has a row of numbers, and STATE says what it does: look out
(LOOKS_OUT), something else or nothing (0), or it is the address of a job on offer, plus TAKEN once the helper has taken
it. A helper that does not look out is offered a job, too, where too few do: it may be waking up. A job lies on the
stack of the caller, who takes back what nobody took and waits for who did, so that nobody reads it later. To hand over
a range takes about a microsecond. Where another library has threads that wait for work, its own do the job.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

from ortlite_numpy.compiled.jit import Emitted, loops
from ortlite_numpy.threads import BLOCKS, CONTEXT, DONE, GIVEN, HELPERS, ROW, SCHEDULE, STATE, TOGETHER, YIELD

__all__ = ["entry", "for_result", "for_work", "placed", "run"]

WORD = 8  # bytes
LOOKS_OUT, TAKEN = 1, 1  # a job's address is even
FN, ARGS, TAKEN_RANGES, COUNT, PARTS, FAILED = (WORD * i for i in range(6))  # the words of a job
# The words of a block, by which a task of a pool finds its job: what becomes of the offer, and the address. It is made,
# and then begun by the task or withdrawn by the caller; the task frees the block, maybe long after the caller went on.
OFFER, JOB = 0, WORD
FREE, MADE, BEGUN, WITHDRAWN = range(4)
BLOCK = 2 * WORD
# Of its ranges, callers take the first and helpers the last, one after the other: what a thread has written it finds in
# its own cache when the next job reads it. So many of the first, and of the last so many times LAST, are taken.
LAST = 1 << 32
NEAR = 1 << 16  # bytes to a job that lies on this thread's stack: other stacks are megabytes away
LOOKS = 1 << 16  # with a pause of 15 to 45 ns after each
SETTLE = 1 << 6  # pauses in which who gave the work lets go of the GIL: to wait for that takes longer
PATIENCE = 1 << 10  # pauses after which who waits lets others have the processor
PAUSE = {  # tells the processor that this is a loop that waits: it then leaves more to the other thread of its core
    "x86_64": ("llvm.x86.sse2.pause", ()), "amd64": ("llvm.x86.sse2.pause", ()), "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}  # fmt: skip


def _pointer(builder: Any, address: Any) -> Any:
    from llvmlite import ir

    return builder.inttoptr(address, ir.IntType(64).as_pointer())


def _load(typing: Any, address: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", WORD)

    return types.int64(types.int64), code


def _store(typing: Any, address: Any, value: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", WORD)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), code


def _add(typing: Any, address: Any, value: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), code


def _change(typing: Any, address: Any, old: Any, new: Any) -> Any:
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), code


def _call(typing: Any, fn: Any, args: Any, start: Any, stop: Any) -> Any:
    from llvmlite import ir
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word] * 3)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(*[types.int64] * 4), code


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An array of which nobody counts the references: its caller holds it, and threads would wait for one another."""
    from numba import types

    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = array.meminfo.type(None)
    return array._getvalue()  # noqa: SLF001


def _beside(context: Any, builder: Any, kernel: Any, given: Any, kind: Any) -> tuple[Any, Any, Callable[..., Any]]:
    """A function of that kind within what is compiled, the builder of its code, and what calls the kernel there and
    gives its status.
    """
    from llvmlite import ir
    from numba.core.targetconfig import ConfigStack

    flags = ConfigStack().top().copy()
    compiled = context.compile_subroutine(builder, kernel.py_func, given, flags=flags, caching=False)
    fn = ir.Function(builder.module, kind, f"{builder.function.name}.part")
    fn.linkage = "internal"
    inside = ir.IRBuilder(fn.append_basic_block())

    def call(values: Sequence[Any]) -> Any:
        return context.call_internal_no_propagate(inside, compiled.fndesc, given, values)[0]

    return fn, inside, call


def _entry(typing: Any, kernel: Any, args: Any) -> Any:
    from llvmlite import ir
    from numba import types

    given = types.none(*args.types, types.int64, types.int64)

    def code(context: Any, builder: Any, signature: Any, _: Any) -> Any:
        word = ir.IntType(64)
        part, inside, call = _beside(context, builder, kernel.dispatcher, given, ir.FunctionType(word, [word] * 3))
        kind = context.get_value_type(signature.args[1])
        values = inside.load(inside.inttoptr(part.args[0], kind.as_pointer()))
        each = [_uncounted(context, inside, t, inside.extract_value(values, i)) for i, t in enumerate(args.types)]
        inside.ret(inside.sext(call([*each, *part.args[1:]]).code, word))
        return builder.ptrtoint(part, word)

    return types.int64(kernel, args), code


def _together(typing: Any, address: Any, job: Any) -> Any:
    from llvmlite import ir
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind, given = ir.FunctionType(ir.VoidType(), [pointer]), types.none(types.int64)
        part, inside, call = _beside(context, builder, take_part.dispatcher(), given, kind)
        call([inside.ptrtoint(part.args[0], ir.IntType(64))])
        inside.ret_void()
        called = ir.FunctionType(ir.VoidType(), [kind.as_pointer(), pointer, number, number])
        fn = builder.inttoptr(args[0], called.as_pointer())
        builder.call(fn, [part, builder.inttoptr(args[1], pointer), number(0), number(0)])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), code


def _schedule(typing: Any, schedule: Any, given: Any, block: Any) -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        kind, given = ir.FunctionType(ir.VoidType(), [pointer]), types.none(types.int64)
        part, inside, call = _beside(context, builder, take_offer.dispatcher(), given, kind)
        call([inside.ptrtoint(part.args[0], word)])
        inside.ret_void()
        # XLA_FFI_ThreadPool_Schedule_Args: its size, no extension, the context, the task and what that is given
        struct = cgutils.alloca_once(builder, word, 5)
        for i, value in enumerate([word(40), word(0), args[1], builder.ptrtoint(part, word), args[2]]):
            builder.store(value, builder.gep(struct, [ir.IntType(32)(i)]))
        fn = builder.inttoptr(args[0], ir.FunctionType(word, [word.as_pointer()]).as_pointer())
        return builder.call(fn, [struct])

    return types.int64(types.int64, types.int64, types.int64), code


def _placed(typing: Any, args: Any) -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(builder, args[0])
        return builder.ptrtoint(place, ir.IntType(64))

    return types.int64(args), code


def _job(typing: Any) -> Any:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        return builder.ptrtoint(cgutils.alloca_once(builder, word, 6), word)

    return types.int64(), code


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


load, store, add, change = Emitted(_load), Emitted(_store), Emitted(_add), Emitted(_change)
call, job, pause = Emitted(_call), Emitted(_job), Emitted(_pause)
together = Emitted(_together)  # all threads of another library take part in a job, see threads.another_team
schedule = Emitted(_schedule)  # have another library's pool run a task on a block; not 0 where it does not
entry = Emitted(_entry)  # the address of what calls a kernel with the arguments that lie at an address, and a range
placed = Emitted(_placed)  # the address of a tuple of arguments, on the stack of who asks


@loops()
def taken(ranges):
    """How many ranges are taken, from either end."""
    return ranges % LAST + ranges // LAST


@loops()
def take_part(job):
    """Range by range what nobody has taken, from the first on where the job is this thread's, else from the last."""
    fn, args, count, parts = load(job + FN), load(job + ARGS), load(job + COUNT), load(job + PARTS)
    ours = abs(placed((job,)) - job) < NEAR
    while True:
        ranges = add(job + TAKEN_RANGES, 1 if ours else LAST)
        if taken(ranges) >= parts:
            return
        part = ranges % LAST if ours else parts - 1 - ranges // LAST
        if call(fn, args, count * part // parts, count * (part + 1) // parts) != 0:
            store(job + FAILED, 1)


@loops()
def wait_while(place, value, give_way):
    """Until another value stands there."""
    looks = 0
    while load(place) == value:
        looks += 1
        if looks > PATIENCE and give_way:
            call(give_way, 0, 0, 0)
        else:
            pause()


@loops()
def with_helpers(team, most, this):
    """Do a job, range by range from the first on, with helpers that look out; not 0 where a range of ours failed."""
    fn, args, count, parts = load(this + FN), load(this + ARGS), load(this + COUNT), load(this + PARTS)
    helpers = load(team + HELPERS)
    store(this + TAKEN_RANGES, 1)  # the first is the caller's
    ranges, offered, failed = 0, 0, 0
    while taken(ranges) < parts:
        helper, part = 0, ranges % LAST
        while offered + 1 < most and helper < 2 * helpers and taken(load(this + TAKEN_RANGES)) < parts:
            state = team + (helper % helpers + 1) * ROW + STATE
            offered += change(state, LOOKS_OUT if helper < helpers else 0, this)
            helper += 1
        failed |= call(fn, args, count * part // parts, count * (part + 1) // parts)
        ranges = add(this + TAKEN_RANGES, 1)
    give_way = load(team + YIELD)
    for helper in range(1, helpers + 1 if offered else 0):
        state = team + helper * ROW + STATE
        if not change(state, this, 0):
            wait_while(state, this + TAKEN, give_way)
    return failed


@loops()
def take_offer(block):
    """What a task of a pool does: take part, if the caller has not gone on."""
    if change(block + OFFER, MADE, BEGUN):
        take_part(load(block + JOB))
    store(block + OFFER, FREE)


@loops()
def with_pool(team, most, this):
    """Do a job with tasks of another library's pool, where they begin in time; not 0 where a range of ours failed."""
    fn, args, count, parts = load(this + FN), load(this + ARGS), load(this + COUNT), load(this + PARTS)
    store(this + TAKEN_RANGES, 1)  # the first is the caller's
    offered, block = 0, team + BLOCKS
    while offered + 1 < most and block < team + ROW:
        if load(block + OFFER) == FREE:
            store(block + JOB, this)
            store(block + OFFER, MADE)
            if schedule(load(team + SCHEDULE), load(team + CONTEXT), block) != 0:
                store(block + OFFER, FREE)
                store(team + SCHEDULE, 0)  # there is no pool: asked once
                break
            offered += 1
        block += BLOCK
    ranges, failed = 0, 0
    while taken(ranges) < parts:
        part = ranges % LAST
        failed |= call(fn, args, count * part // parts, count * (part + 1) // parts)
        ranges = add(this + TAKEN_RANGES, 1)
    for block in range(team + BLOCKS, team + ROW, BLOCK):
        if load(block + JOB) == this and not change(block + OFFER, MADE, WITHDRAWN):
            wait_while(block + OFFER, BEGUN, load(team + YIELD))
    return failed


@loops()
def run(team, most, parts, count, fn, args):
    """All of [0, count), in so many ranges, on the calling thread and on helpers that look out: `most` together."""
    if most < 2 or parts < 2:
        failed = call(fn, args, 0, count)
    else:
        this = job()
        store(this + FN, fn)
        store(this + ARGS, args)
        store(this + TAKEN_RANGES, 0)
        store(this + COUNT, count)
        store(this + PARTS, parts)
        store(this + FAILED, 0)
        another = load(team + TOGETHER)
        failed = 0
        if another:
            together(another, this)
        elif load(team + SCHEDULE):
            failed = with_pool(team, most, this)
        else:
            failed = with_helpers(team, most, this)
        failed |= load(this + FAILED)
    if failed:
        raise MemoryError("a compiled kernel failed: there was no memory for what it works with")


@loops()
def look_out(row, given):
    """Take part in what is offered, until GIVEN is not `given` or nothing has been offered for a while."""
    state = row + STATE
    looks = 0
    while True:
        now = load(state)
        if now == 0:
            change(state, 0, LOOKS_OUT)
        elif now != LOOKS_OUT:
            if change(state, now, now + TAKEN):
                take_part(now)
                store(state, LOOKS_OUT)
            looks = 0
        elif (looks >= LOOKS or load(row + GIVEN) != given) and change(state, LOOKS_OUT, 0):
            return
        looks += 1
        pause()


@loops()
def done_and_look_out(row, done):
    """Say what is done; until something else is given."""
    store(row + DONE, done)
    look_out(row, done)
    for _ in range(SETTLE):
        pause()


@loops()
def look(row, given):
    """Until DONE is `given`, but not for long."""
    for _ in range(LOOKS):
        if load(row + DONE) == given:
            break
        pause()


def for_work(row: int, done: int) -> None:
    """Set DONE, and look out until GIVEN is another number."""
    done_and_look_out.run(row, done)


def for_result(row: int, given: int) -> None:
    """Look until DONE is `given`."""
    look.run(row, given)


def warm() -> None:
    """Compile, or load from the disk, what threads wait by."""
    from numba import int64

    for waiting in (done_and_look_out, look):
        waiting.dispatcher().compile((int64, int64))  # a string would be another key of the cache
