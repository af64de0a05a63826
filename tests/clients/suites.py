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


def run(folder: Path, engine: str, cache: Path, arguments: list[str]) -> dict[str, str]:
    """How each test that did not pass or was skipped failed, and how many there were under the name ""."""
    report = cache / f"{engine}.xml"
    pytest = ["-m", "pytest", "tests", "-q", "--tb=line", "-o", f"cache_dir={cache}", f"--junitxml={report}"]
    command = [sys.executable, *ENGINES[engine], *pytest, *arguments]
    said = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if not report.exists():
        raise SystemExit(f"{folder.name} on {engine} did not run:\n{said.stdout[-3000:]}{said.stderr[-3000:]}")
    cases = list(ET.parse(report).iter("testcase"))
    failed = {"": str(len(cases))}
    for case in cases:
        for child in case:
            if child.tag in {"failure", "error"}:
                failed[f"{case.get('classname')}::{case.get('name')}"] = child.get("message", "")
    return failed


def main(arguments: list[str]) -> int:
    """Run the suites named, or all: on ortlite, and on onnxruntime what failed there."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    only_here = 0
    for name in arguments[:cut] or SUITES:
        folder, options = fetch(name), arguments[cut + 1 :]
        with tempfile.TemporaryDirectory() as temporary:
            ours = run(folder, "ortlite", Path(temporary), options)
            again = ["--last-failed", "--last-failed-no-failures=none", *options]
            theirs = run(folder, "onnxruntime", Path(temporary), again)
        worse = [test for test in ours if test not in theirs]
        print(f"{folder.name}: {ours['']} tests, {len(ours) - 1} fail on ortlite, {len(worse)} of them only there")
        for test in worse:
            print(f"  {test}\n      {ours[test][:500]}")
        only_here += len(worse)
    return int(only_here > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
