"""Programs of others say on ortlite what they say on onnxruntime: `nox -s clients`.

Each runs twice, in a process of its own: as it is, and with `import onnxruntime` meaning ortlite.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import programs

ENGINES = {"onnxruntime": [], "ortlite": ["-m", "ortlite.as_onnxruntime", "--children"]}


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_says_the_same(name, tmp_path):
    said, seconds = {}, {}
    for engine, prefix in ENGINES.items():
        out = tmp_path / engine
        command = [sys.executable, *prefix, programs.__file__, name, str(out)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{engine}:\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
        runtime, said[engine], seconds[engine] = pickle.loads(out.read_bytes())
        assert runtime == engine
    same(said["ortlite"], said["onnxruntime"], programs.CLOSE.get(name, 1e-3))
    print(f"\n{name}: {seconds['ortlite']:.3f} s, onnxruntime {seconds['onnxruntime']:.3f} s")


def same(ours, theirs, close, where="said"):
    """Texts, whole numbers and structure equal; other numbers close."""
    assert type(ours) is type(theirs), where
    if is_dataclass(ours):
        ours, theirs = ({f.name: getattr(x, f.name) for f in fields(x)} for x in (ours, theirs))
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            same(ours[key], theirs[key], close, f"{where}[{key!r}]")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), f"{where}: {ours} {theirs}"
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, close, f"{where}[{index}]")
    elif isinstance(ours, (float, np.ndarray, np.generic)):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        if ours.dtype.kind == "f":
            scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.1)  # 0.1: most of these are probabilities
            np.testing.assert_allclose(ours, theirs, rtol=close, atol=close * scale, err_msg=where)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=where)
    else:
        assert ours == theirs, where
