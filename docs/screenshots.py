"""Photographs the page that `mmdit report` writes, in both themes, into docs/assets.

    python -m docs.screenshots

It counts four networks and trains a toy: no figure depends on how busy a machine is. Chromium and playwright (of the
extra `test`) do the rest.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from tests.support.browser import chromium, opened

ASSETS = Path(__file__).resolve().parent / "assets"
COMMANDS = (
    "flops -c sd3-medium -c sd3.5-medium -c sd3.5-large -c flux.1-dev --report flops.json",
    "train-toy -c toy-generalized --steps 400 --run-dir toy",
    "report flops.json toy --out report.html --title 'Four networks and a toy'",
)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTH = 1200


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for command in COMMANDS:
            print("$ mmdit", command, file=sys.stderr)
            subprocess.run([sys.executable, "-m", "mmdit_cli", *shlex.split(command)], cwd=name, check=True)
        with chromium() as browser:
            for theme in THEMES:
                with opened(browser, Path(name) / "report.html", WIDTH, theme) as shown:
                    shown.page.screenshot(path=ASSETS / f"report-{theme}.png")


if __name__ == "__main__":
    main()
