"""Operators that neither BLAS nor a ufunc does well, as loops that numba compiles: `pip install 'ortlite[fast]'`.

`jit` compiles and keeps, `table` says what is replaced; every other module holds the kernels of a few operators, each
with the function that checks a call, makes room for the result and returns NotImplemented for what the kernel does not
take.
"""

from __future__ import annotations

from ortlite_numpy.compiled.disk import kept
from ortlite_numpy.compiled.jit import installed
from ortlite_numpy.compiled.table import OVERRIDES, before, warm_all

from ortlite_numpy.compiled import attention, conv, detection, distances, elementwise, linear, pool, quant  # isort: skip
from ortlite_numpy.compiled import pointwise, products, qconv, qlinear, recurrent, resize, rotary, rows, svm, trees  # isort: skip  (they fill the table)
from ortlite_numpy import threads
from ortlite_numpy.compiled import team

threads.wait_by(team)

__all__ = [
    "OVERRIDES", "attention", "before", "conv", "detection", "distances", "elementwise", "installed", "kept", "linear",
    "pointwise", "pool", "products", "qconv", "qlinear", "quant", "recurrent", "resize", "rotary", "rows", "svm",
    "team", "trees", "warm_all",
]  # fmt: skip
