"""cupy.fft."""

import numpy as np

from cupy import _function

_NAMES = "fft fft2 fftfreq fftn fftshift hfft ifft ifft2 ifftn ifftshift ihfft irfft irfftn rfft rfftfreq rfftn".split()
globals().update({_name: _function(getattr(np.fft, _name)) for _name in _NAMES})
