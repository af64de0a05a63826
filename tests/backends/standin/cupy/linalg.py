"""cupy.linalg."""

import numpy as np

from cupy import _function, matmul, matrix_transpose  # noqa: F401

_NAMES = (
    "cholesky det eig eigh eigvals eigvalsh inv lstsq matrix_power matrix_rank norm pinv qr slogdet solve svd".split()
)
globals().update({_name: _function(getattr(np.linalg, _name)) for _name in _NAMES})
