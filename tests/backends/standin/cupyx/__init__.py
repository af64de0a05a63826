"""What ortlite uses of CuPy's extensions. `cupyx.scatter_add` and its like, which are deprecated, are not there."""

from cupyx import scipy

__all__ = ["scipy"]
