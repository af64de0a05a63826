"""Makes docs/images/profile.png anew: the page of a profile in headless Chromium, the slowest node chosen.

Run as `python -m benchmarks.screenshot MODEL INPUTS.npz [--dark] [--out FILE]`, after
`pip install '.[report]' playwright pillow` and `apt install chromium`. The npz holds each input as `in_` and its name.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import ortlite
from conformance import run_main
from ortlite.compare import compare

CPU, IMAGE = "CPUExecutionProvider", Path(__file__).parents[1] / "docs" / "images" / "profile.png"


def write(model: Path, inputs: Path, path: Path) -> str:
    """Write the page, with differences to the judge's answers. Returns the slowest node's name."""
    with np.load(inputs) as file:
        feed = {name.removeprefix("in_"): file[name] for name in file.files if name.startswith("in_")}
    found = ortlite.profile(str(model), feed, runs=8)
    found.write(path, compare(str(model), feed, [CPU, "StrictExecutionProvider"]))
    return found.nodes[0].name


def shoot(page_path: Path, node: str, out: Path, *, dark: bool) -> None:
    """Open the page, choose the node, and keep what is seen."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("no Chromium here: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        size = {"width": 1280, "height": 980}
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        page.goto(page_path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.select_option("#metric", "time")
        page.locator("#nodes").get_by_role("button", name=node, exact=True).click()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)  # what moves has come to rest
        page.screenshot(path=out)
        browser.close()
    with Image.open(out) as image:  # in 256 colours it is a third as large
        small = image.convert("RGB").quantize(256)
    small.save(out, optimize=True)


def main() -> None:
    """Read the arguments, and write the picture."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", type=Path)
    options.add_argument("inputs", type=Path)
    options.add_argument("--dark", action="store_true")
    options.add_argument("--out", type=Path, default=IMAGE)
    args = options.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        shoot(path, write(args.model, args.inputs, path), args.out, dark=args.dark)


if __name__ == "__main__":
    run_main(main)
