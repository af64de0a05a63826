"""`ortlite warm`: what providers compile is compiled now, and kept for the sessions of later processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ortlite import cache, provider

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["warm"]


def warm(out: Console) -> None:
    """Compile what the providers on this machine can compile ahead, and remove what other versions left behind.

    Raises RuntimeError where there is nothing to compile.
    """
    found = [provider.create(name) for name in provider.available()]
    compiling = [p for p in found if p.compiles_ahead]
    if not compiling:
        raise RuntimeError("nothing here compiles kernels: pip install 'ortlite[fast]' brings numba, which does")
    for each in compiling:
        start = time.perf_counter()
        count, where = each.compile_ahead()
        kept = "kept nowhere: its directory cannot be written" if where is None else f"kept in {where}"
        text = f"{each.name}: {count} operators compiled in {time.perf_counter() - start:.1f} s, {kept}"
        gone = [] if where is None else cache.remove_unused(where)
        if gone:
            text += f"; {len(gone)} of other versions, unused for {cache.DAYS} days, removed"
        out.print(text, markup=False, highlight=False, soft_wrap=True)
