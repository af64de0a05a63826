"""What kernels that keep a tile of their result in registers are made of: LLVM's vectors, for `jit.Emitted`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

__all__ = ["Vectors", "vector_bytes"]


@cache
def vector_bytes() -> int:
    """The width of this processor's vectors."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    return 64 if has.get("avx512f") else 32 if has.get("avx") else 16


class Vectors:
    """Vectors of a dtype in a function that is being emitted, as long as those of the processor.

    With masks, products and bounds they are of floats. A `mask` of some of the first elements may go with what is read
    and written: the others are zero, and stay.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any):
        from llvmlite import ir

        self.context, self.builder, self.bytes = context, builder, dtype.bitwidth // 8
        self.lanes = vector_bytes() // self.bytes
        self.type = ir.VectorType(context.get_data_type(dtype), self.lanes)
        self.i8, self.i32, self.i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        self.zero, self.undefined = ir.Constant(self.type, None), ir.Constant(self.type, ir.Undefined)
        self.mask_type = ir.VectorType(ir.IntType(1), self.lanes)

    def _declared(self, name: str, result: Any, *given: Any) -> Any:
        from llvmlite import ir

        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, given), name)

    def pointer(self, array_type: Any, array: Any, at: Any) -> Any:
        """Where an element of an array is."""
        data = self.context.make_array(array_type)(self.context, self.builder, array).data
        return self.builder.gep(data, [at])

    def further(self, base: Any, count: int, step: Any) -> Any:
        """So many steps further on."""
        return self.builder.gep(base, [self.builder.mul(step, self.i64(count))])

    def _place(self, base: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [index]), self.type.as_pointer())

    def first(self, count: Any) -> Any:
        """A mask of the first `count` elements, a number of 64 bits."""
        from llvmlite import ir

        wanted = ir.VectorType(self.i32, self.lanes)
        many = self.spread(self.builder.trunc(count, self.i32), wanted)
        return self.builder.icmp_signed("<", ir.Constant(wanted, list(range(self.lanes))), many)

    def spread(self, one: Any, kind: Any = None) -> Any:
        """A number in every element."""
        from llvmlite import ir

        undefined = ir.Constant(kind or self.type, ir.Undefined)
        lone = self.builder.insert_element(undefined, one, self.i32(0))
        return self.builder.shuffle_vector(
            lone, lone, ir.Constant(ir.VectorType(self.i32, self.lanes), [0] * self.lanes)
        )

    def hidden(self, number: Any) -> Any:
        """A number of 64 bits of which LLVM does not know how it came about."""
        from llvmlite import ir

        return self.builder.asm(ir.FunctionType(self.i64, [self.i64]), "", "=r,0", [number], side_effect=False)

    def number_at(self, address: Any) -> Any:
        """The number at an address."""
        return self.number(self.builder.inttoptr(address, self.type.element.as_pointer()), self.i64(0))

    def number(self, base: Any, index: Any) -> Any:
        """The number at an index."""
        value = self.builder.load(self.builder.gep(base, [index]))
        value.align = 1  # words of bytes lie anywhere
        return value

    def load(self, base: Any, index: Any, mask: Any = None) -> Any:
        """The vector from an index on."""
        place = self._place(base, index)
        if mask is None:
            value = self.builder.load(place)
            value.align = 1
            return value
        name = f"llvm.masked.load.v{self.lanes}f{self.bytes * 8}.p0"
        function = self._declared(name, self.type, place.type, self.i32, self.mask_type, self.type)
        return self.builder.call(function, [place, self.i32(self.bytes), mask, self.zero])

    def store(self, value: Any, base: Any, index: Any, mask: Any = None) -> None:
        """Write a vector from an index on."""
        from llvmlite import ir

        place = self._place(base, index)
        if mask is None:
            self.builder.store(value, place).align = self.bytes
            return
        name = f"llvm.masked.store.v{self.lanes}f{self.bytes * 8}.p0"
        function = self._declared(name, ir.VoidType(), self.type, place.type, self.i32, self.mask_type)
        self.builder.call(function, [value, place, self.i32(self.bytes), mask])

    def add_product(self, a: Any, b: Any, c: Any) -> Any:
        """A · b + c."""
        name = f"llvm.fmuladd.v{self.lanes}f{self.bytes * 8}"
        return self.builder.call(self._declared(name, self.type, *[self.type] * 3), [a, b, c])

    def held(self, value: Any, low: Any, high: Any) -> Any:
        """Not below `low` nor above `high`, vectors of numbers; NaN stays."""
        value = self.builder.select(self.builder.fcmp_ordered("<", value, low), low, value)
        return self.builder.select(self.builder.fcmp_ordered(">", value, high), high, value)

    def fetch(self, base: Any, index: Any, to_write: bool = False) -> None:
        """Bring what is at an index nearer: into the second cache, or `to_write` it, into the first."""
        from llvmlite import ir

        place = self.builder.bitcast(self.builder.gep(base, [index]), self.i8.as_pointer())
        kinds = [self.i8.as_pointer(), self.i32, self.i32, self.i32]
        function = self.builder.module.declare_intrinsic(
            "llvm.prefetch", [self.i8.as_pointer()], ir.FunctionType(ir.VoidType(), kinds)
        )
        self.builder.call(function, [place, self.i32(int(to_write)), self.i32(2 + to_write), self.i32(1)])

    def loop(self, count: Any, before: Sequence[Any], body: Any, perhaps: bool = False) -> list[Any]:
        """`body(i, values)` gives the next values, for i from 0 to `count`; the last ones.

        `count` is at least 1, or 0 `perhaps`.
        """
        builder = self.builder
        entry, start, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        if perhaps:
            builder.cbranch(builder.icmp_signed(">", count, self.i64(0)), start, after)
        else:
            builder.branch(start)
        builder.position_at_end(start)
        i, values = builder.phi(self.i64), [builder.phi(v.type) for v in before]
        then = list(body(i, values))
        end = builder.block
        following = builder.add(i, self.i64(1))
        for phi, first, new in zip([i, *values], [self.i64(0), *before], [following, *then], strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(new, end)
        builder.cbranch(builder.icmp_signed("<", following, count), start, after)
        builder.position_at_end(after)
        if not perhaps:
            return then
        last = [builder.phi(v.type) for v in before]
        for phi, first, new in zip(last, before, then, strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(new, end)
        return last

    def choose(self, number: Any, cases: Sequence[Any]) -> None:
        """Of `cases`, functions that emit code, that of a number, the last one for any that is not there."""
        builder = self.builder
        end, blocks = builder.append_basic_block(), [builder.append_basic_block() for _ in cases]
        switch = builder.switch(number, blocks[-1])
        for i, (case, block) in enumerate(zip(cases, blocks, strict=True)):
            switch.add_case(self.i64(i), block)
            builder.position_at_end(block)
            case()
            builder.branch(end)
        builder.position_at_end(end)
