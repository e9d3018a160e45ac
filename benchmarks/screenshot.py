"""Render the top of a run's report page to PNG, for the README.

    prooftune demo
    python benchmarks/screenshot.py runs/demo --out docs/images

Writes ``report-light.png`` and ``report-dark.png``. Needs Playwright (``requirements/test.txt``)
and a system Chromium, from the path or from ``PROOFTUNE_CHROMIUM``.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

WIDTH, HEIGHT, SCALE = 1280, 1400, 2
"""Viewport in CSS pixels, and device pixels per CSS pixel."""
LAST_ELEMENT = "#variants-table tbody tr:nth-child(3)"
"""The picture ends below this element: verdict, caveats and the best three variants."""
MAX_BYTES = 200_000
COLOURS = 256
"""Palette size: enough for text and bars, at half the bytes of true colour."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"), help="run folder")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="output folder")
    options = parser.parse_args()
    report = options.run / "report.html"
    if not report.is_file():
        sys.exit(f"{report} is missing: run 'prooftune demo', or name the folder of a finished run")
    options.out.mkdir(parents=True, exist_ok=True)
    for theme, screenshot in screenshots(report).items():
        content = quantized(screenshot)
        if len(content) > MAX_BYTES:
            sys.exit(f"the {theme} picture takes {len(content):,} bytes, over {MAX_BYTES:,}")
        path = options.out / f"report-{theme}.png"
        path.write_bytes(content)
        print(f"{path}: {len(content):,} bytes")


def quantized(png: bytes) -> bytes:
    """The same PNG with a palette of `COLOURS` colours."""
    from PIL import Image

    output = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Dithering would put noise around the text.
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return output.getvalue()


def screenshots(report: Path) -> dict[Theme, bytes]:
    """PNG of the top of a report page in every colour theme.

    Args:
        report: the HTML file.
    """
    from playwright.sync_api import sync_playwright

    chromium = (
        os.environ.get("PROOFTUNE_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
    )
    if chromium is None:
        sys.exit("Chromium is not installed: install it, or set PROOFTUNE_CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            pictures: dict[Theme, bytes] = {}
            for theme in THEMES:
                page = browser.new_page(
                    viewport={"width": WIDTH, "height": HEIGHT},
                    device_scale_factor=SCALE,
                    color_scheme=theme,
                )
                page.goto(report.resolve().as_uri())
                box = page.locator(LAST_ELEMENT).bounding_box()
                bottom = box["y"] + box["height"] if box else HEIGHT
                pictures[theme] = page.screenshot(
                    clip={"x": 0, "y": 0, "width": WIDTH, "height": bottom}
                )
            return pictures
        finally:
            browser.close()


if __name__ == "__main__":
    main()
