"""Views with strides of one's own."""

import numpy as np

from cupy import _function

as_strided = _function(np.lib.stride_tricks.as_strided)
sliding_window_view = _function(np.lib.stride_tricks.sliding_window_view)
