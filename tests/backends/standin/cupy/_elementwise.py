"""`cupy.ElementwiseKernel`: the host's C++ compiler in NVRTC's place.

As NVRTC does, it makes one instruction of a product and a sum, unless told not to, on processors that have it, and
knows float16 where an argument is of it, or a header says so.
"""

import ctypes
import hashlib
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cupy.cuda.compiler import CompileException

TYPES = {"float16": "_Float16", "float32": "float", "float64": "double", "bool": "bool", "int32": "int"}
TYPES |= {"int64": "long long"}
FOLDER = tempfile.TemporaryDirectory()
SOURCE = """
#include <cmath>
using namespace std;
{half}
extern "C" void run(long size, void** given) {{
    for (long index = 0; index < size; index++) {{
        {arguments}
        {operation}
    }}
}}
"""


class ElementwiseKernel:
    """A function of elements: arguments are broadcast, results are new arrays."""

    made = 0

    def __init__(self, in_params, out_params, operation, name="kernel", preamble="", options=()):
        self.taken, self.given = ([param.split() for param in params.split(",")] for params in (in_params, out_params))
        known = preamble == '#include "cupy/float16.cuh"' or "float16" in in_params + out_params
        half = "typedef _Float16 float16;" if known else ""
        contract = "off" if "--fmad=false" in options else "fast"
        lines = []
        for place, (kind, called) in enumerate([*self.taken, *self.given]):
            const, reference = ("const ", "") if place < len(self.taken) else ("", "&")
            kind = TYPES[kind]
            lines.append(f"{const}{kind} {reference}{called} = (({kind}*)given[{place}])[index];")
        source = SOURCE.format(half=half, arguments="\n        ".join(lines), operation=operation)
        file = Path(FOLDER.name, hashlib.sha256((contract + source).encode()).hexdigest()).with_suffix(".cpp")
        file.write_text(source)
        built = file.with_suffix(".so")
        command = ["g++", "-O2", "-march=native", f"-ffp-contract={contract}", "-shared", "-fPIC"]
        command += ["-o", str(built), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileException(done.stderr)
        self.run = ctypes.CDLL(str(built)).run
        ElementwiseKernel.made += 1

    def __call__(self, *arrays):
        from cupy import ndarray

        assert all(isinstance(x, ndarray) for x in arrays)
        assert [x.dtype.name for x in arrays] == [kind for kind, _ in self.taken]
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        there = [np.ascontiguousarray(np.broadcast_to(x._a, shape)) for x in arrays]
        there += [np.empty(shape, kind) for kind, _ in self.given]
        pointers = (ctypes.c_void_p * len(there))(*(x.ctypes.data for x in there))
        self.run(ctypes.c_long(int(np.prod(shape))), pointers)
        results = tuple(ndarray(x) for x in there[len(arrays) :])
        return results if len(results) > 1 else results[0]
