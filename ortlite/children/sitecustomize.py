"""Imported by child processes when Python starts: `import onnxruntime` means ortlite there, too."""

import importlib.util
import sys
from pathlib import Path

from ortlite.as_onnxruntime import install_as_onnxruntime

install_as_onnxruntime()

# the sitecustomize that this one hides
others = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]
hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
if hidden is not None and hidden.loader is not None:
    hidden.loader.exec_module(importlib.util.module_from_spec(hidden))
