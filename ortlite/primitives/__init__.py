"""Default bodies of the primitives: pure functions of `xp` and arrays, in the Array API standard alone.

Each module's `__all__` lists the primitives it adds to every namespace; everything else is private to it.
"""

from ortlite.primitives import control, gradient, linalg, math, pad, random, scatter, sort, window

MODULES = (math, linalg, pad, window, scatter, sort, random, control, gradient)
