"""How long the page of a profile takes to open: 5,000 nodes in headless Chromium, from the start to all controls.

Run as `python -m benchmarks.report`, after `pip install '.[report]' playwright` and `apt install chromium`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import ortlite
from conformance import run_main
from ortlite.cli.bars import working
from ortlite.progress import each
from tests.tools.test_report_browser import branches

NODES, TIMES = 5000, 5


def write(path: Path) -> None:
    """Profile a model of so many nodes, not optimised, and write the page."""
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ortlite.InferenceSession(branches(NODES), options, providers=["CPUExecutionProvider"])
    found = ortlite.profile(session, runs=1)
    begin = perf_counter()
    found.write(path)
    print(f"{len(found.nodes)} nodes: {path.stat().st_size / 1e6:.2f} MB, written in {perf_counter() - begin:.2f} s")


def measure(path: Path) -> tuple[list[float], list[float]]:
    """Milliseconds until the page is ready, and of these the processor's on the page's main thread."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit("no Chromium here: apt install chromium")
    walls, works = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for _ in each("opening", range(TIMES)):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(path.as_uri(), wait_until="commit")
            page.wait_for_selector("html[data-ready]", state="attached")
            walls.append(float(page.evaluate("document.documentElement.dataset.ready")))
            metrics = {m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]}
            works.append(1e3 * metrics["TaskDuration"])
            page.close()
        browser.close()
    return walls, works


def main() -> None:
    """Print the figures."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        with working("writing"):
            write(path)
            found = measure(path)
        for name, times in zip(("open after", "processor"), found, strict=True):
            print(f"{name}: {min(times):.0f} ms at least, {median(times):.0f} ms median of {TIMES}")


if __name__ == "__main__":
    run_main(main)
