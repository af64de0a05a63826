"""Other projects' own tests, with `onnxruntime` meaning ortlite and with the real one: `nox -s suites`.

    python tests/clients/suites.py [NAME ...] [-- PYTEST-ARGUMENTS ...]

Their source distributions, of the versions that are installed here, are fetched into a cache outside the repository.
Prints what fails only on ortlite, and ends with 1 if anything does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

CACHE = Path(os.environ.get("ORTLITE_SUITES", Path.home() / ".cache/ortlite/suites"))
SUITES = ["spox", "ndonnx", "skl2onnx"]
ENGINES = {"onnxruntime": [], "ortlite": ["-m", "ortlite.as_onnxruntime", "--children"]}


def fetch(name: str) -> Path:
    """The unpacked source distribution of what is installed."""
    folder = CACHE / f"{name}-{version(name)}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            options = ["--no-deps", "--no-binary", name, "-q", "-d", temporary]
            wanted = f"{name}=={version(name)}"
            subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
            (archive,) = Path(temporary).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(CACHE, filter="data")
    return folder


def run(folder: Path, engine: str, arguments: list[str]) -> dict[str, str]:
    """What came of each test: "passed", "skipped", or how it failed."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        pytest = ["-m", "pytest", "tests", "-q", "--tb=line", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, *ENGINES[engine], *pytest, *arguments]
        said = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(f"{folder.name} on {engine} did not run:\n{said.stdout[-3000:]}{said.stderr[-3000:]}")
        results = {}
        for case in ET.parse(report).iter("testcase"):
            outcome = [(child.tag, child.get("message", "")) for child in case if child.tag in OUTCOMES]
            name = f"{case.get('classname')}::{case.get('name')}"
            results[name] = "passed" if not outcome else "skipped" if outcome[0][0] == "skipped" else outcome[0][1]
        return results


OUTCOMES = {"failure", "error", "skipped"}
FINE = {"passed", "skipped"}


def main(arguments: list[str]) -> int:
    """Run the suites named, or all."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    only_here = 0
    for name in arguments[:cut] or SUITES:
        folder = fetch(name)
        theirs, ours = (run(folder, engine, arguments[cut + 1 :]) for engine in ENGINES)
        worse = sorted(test for test in ours if ours[test] not in FINE and theirs.get(test, "passed") in FINE)
        better = sum(ours.get(test) in FINE for test in theirs if theirs[test] not in FINE)
        passed = sum(result == "passed" for result in ours.values())
        print(
            f"{folder.name}: {passed} of {len(ours)} pass, {len(worse)} fail only on ortlite, {better} only elsewhere"
        )
        for test in worse:
            print(f"  {test}\n      {ours[test][:500]}")
        only_here += len(worse)
    return int(only_here > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
