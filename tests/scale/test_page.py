"""The examples of docs/scaling.md run as they stand there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scaling.md").read_text(encoding="utf-8"), re.DOTALL)
NEEDED = ("distributed", "ray", "pyspark", "sklearn")


def names(block):
    return [name for name in NEEDED if re.search(rf"^(?:import|from) {name}\b", block, re.MULTILINE)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(names(block)))
def test_example(block, tmp_path):
    for name in names(block):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the example needs {name}")
    if "pyspark" in names(block) and shutil.which("java") is None:
        pytest.skip("Spark needs Java: apt install openjdk-17-jre-headless")
    (tmp_path / "example.py").write_text(block)
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"9\d\.\d% right|100\.0% right", done.stdout), done.stdout
