"""What the benchmarks do around a measurement. Nothing is measured here."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import speed

ROOT = Path(__file__).parent.parent

CODE = """
import benchmarks, os, subprocess, sys
benchmarks.compile_sources()
imports = "import ortlite.pipeline, ortlite_numpy"
command = [sys.executable, "-v", "-c", imports]
for line in subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines():
    if line.startswith("# code object from") and "ortlite" in line and ".pyc" not in line:
        print(line)
"""


def test_processes_that_are_measured_find_bytecode(tmp_path):
    """Also where the shell has PYTHONDONTWRITEBYTECODE."""
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    paths = [str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, "-c", CODE], env=variables, check=True, capture_output=True, text=True)
    assert done.stdout == ""
    source = importlib.util.find_spec("ortlite.pipeline").origin
    kept = tmp_path / Path(source).parent.relative_to("/")
    assert list(kept.glob("pipeline.*.pyc"))


def test_an_engine_is_a_provider_and_its_options():
    assert speed.engine_of("onnxruntime") == ("onnxruntime", "CPUExecutionProvider", {})
    assert speed.engine_of("CPU:compiled=0") == ("ortlite", "CPUExecutionProvider", {"compiled": "0"})


def row(model, batch, rounds, date, ms):
    figures = {"onnxruntime": {"run": 2.0}, "Torch": {"run": ms}}
    return {"model": model, "batch": batch, "rounds": rounds, "date": date, "figures": figures, "problems": {}}


def test_rows_that_are_measured_again_take_the_place_of_their_own_alone():
    before = [row("a", 1, 1, "2026-11-28", 3.0), row("a", 8, 1, "2026-11-28", 4.0), row("b", 1, 1, "2026-11-28", 5.0)]
    found = speed.merged(before, [row("b", 1, 3, "2026-11-29", 6.0), row("a", 1, 3, "2026-11-29", 1.0)])
    assert [(entry["model"], entry["batch"], entry["figures"]["Torch"]["run"]) for entry in found] == [
        ("a", 1, 1.0), ("a", 8, 4.0), ("b", 1, 6.0),
    ]  # fmt: skip
    for entry in found:
        for figures in entry["figures"].values():
            figures.update(dict.fromkeys(speed.TITLES, 1.0))
    text = speed.table(found, ["onnxruntime", "Torch"], "2 threads, a machine")
    assert "| a | 1 | 2.00 | 0.50 |" in text
    assert text.endswith("Medians of 1 to 3 processes each, 2026-11-28 to 2026-11-29, 2 threads, a machine.\n")


@pytest.mark.parametrize(
    ("flags", "widest"),
    [
        ("sse2", ""),
        ("avx avx2", " with AVX2"),
        ("avx2 avx512f", " with AVX-512"),
        ("avx2 avx512f amx_tile", " with AMX"),
    ],
)
def test_processors_of_one_name_are_told_apart(flags, widest, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu {flags}\n\n" * 2)
    assert speed.processor(info) == f"{os.cpu_count()} cores of Some Processor{widest}"
    assert speed.processor(tmp_path / "none").endswith(f" cores of {platform.machine()}")


def test_rows_of_another_machine_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "HERE", tmp_path)
    entries = [row("a", 1, 1, "2026-11-28", 3.0)]
    (tmp_path / "speed.json").write_text(json.dumps(entries))
    (tmp_path / "SPEED.md").write_text("Medians of 1 process each, 2 cores of Some Processor with AMX, Python 3.\n")
    engines = ["onnxruntime", "Torch"]
    assert speed.merging(engines, "2 cores of Some Processor with AMX, Python 3") == entries
    with pytest.raises(SystemExit, match="or of another machine"):
        speed.merging(engines, "2 cores of Some Processor with AVX-512, Python 3")
