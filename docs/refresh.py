"""Runs the commands that the README shows and puts their real output under them.

    python docs/refresh.py            all of them
    python docs/refresh.py profile    those that hold the word

A block is fenced as `console` and starts with `$ ` and the command. What a command writes goes to a temporary folder.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```console\n\$ (?P<command>[^\n]+)\n.*?^```$", re.MULTILINE | re.DOTALL)
PICTURES = {"runs/readme/samples.png": "docs/toy-samples.png", "runs/readme/loss.png": "docs/toy-loss.png"}


def refreshed(match: re.Match[str], folder: Path, words: list[str]) -> str:
    command = match["command"]
    if words and not any(word in command for word in words):
        return match[0]
    print("$", command, file=sys.stderr)
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    lines = [line.rstrip() for line in text.splitlines()]
    for made, kept in PICTURES.items():
        if (folder / made).exists():
            shutil.copy(folder / made, ROOT / kept)
    return "```console\n$ " + command + "\n" + "\n".join(lines) + "\n```"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "configs").symlink_to(ROOT / "configs")
        text = BLOCK.sub(lambda match: refreshed(match, folder, sys.argv[1:]), README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
