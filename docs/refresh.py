"""Runs the commands that README.md and docs/ show, and puts their real output under them.

    python docs/refresh.py            all of them
    python docs/refresh.py profile    those that hold the word, or the table of that name (keys, networks, ...)

A block is fenced as `console` and starts with `$ ` and the command. The commands of a page run in one temporary folder.
What stands between `<!-- NAME -->` and `<!-- /NAME -->` is written by the function of that name in `TABLES`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmdit.config.shipped import shipped_configs
from mmdit.config.yaml_text import to_line
from mmdit_cli.commands.config_contents import compared
from mmdit_cli.commands.option_tables import key_table, keyword_table
from mmdit_cli.commands.shipped_sizes import shipped_sizes, task_of
from mmdit_cli.output.tables import tokens_text
from mmdit_cli.output.units import flops
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n\$ (?P<command>[^\n]+)\n.*?^```$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"(?P<begin><!-- (?P<name>\w+) -->\n).*?(?P<end><!-- /(?P=name) -->)", re.DOTALL)
PICTURES = {
    "runs/readme/samples.png": "docs/pictures/toy-samples.png",
    "runs/readme/loss.png": "docs/pictures/toy-loss.png",
    "runs/mine/drawn.png": "docs/pictures/toy-drawn.png",
}
TASKS = {"image": "text to image", "edit": "editing", "video": "video", "audio": "sound"}  # of published networks


def network_table() -> str:
    """The published networks, with what they cost."""
    rows = [
        f"| `{size.config}` | {size.about} | {TASKS[size.task]} | {size.parameters / 1e9:.1f} billion | "
        f"{flops(size.forward_flops)} | `{tokens_text(size.tokens)}` |\n"
        for size in shipped_sizes()
        if size.task in TASKS
    ]
    head = "| config | network | for | parameters | forward | of tokens |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(rows)


def differences() -> str:
    """For each of them the keys of its model that are not as SD3's, defaults left out."""
    parts = []
    for name, path in shipped_configs().items():
        if name == "sd3-medium" or task_of(name, load_tool_config(path)) not in TASKS:
            continue
        _, other = compared("sd3-medium", name, whole=False)
        keys = {key.removeprefix("model."): v for key, v in other.differing.items() if key.startswith("model.")}
        lines = [f"{key}: {to_line(without_defaults(value))}\n" for key, value in keys.items() if key != "variant"]
        parts.append(f"### {name}\n\n```text\n{''.join(lines)}```\n")
    return "\n".join(parts)


def without_defaults(value: Any) -> Any:
    """Without what is null or false, to be short."""
    if not isinstance(value, dict):
        return value
    return {key: without_defaults(each) for key, each in value.items() if each is not None and each is not False}


TABLES: dict[str, Callable[[], str]] = {  # name of the markers -> the Markdown between them
    "keys": lambda: key_table(ToolConfig),
    "keywords": keyword_table,
    "networks": network_table,
    "differences": differences,
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if not p.is_symlink())]


def refreshed(match: re.Match[str], folder: Path, words: Sequence[str]) -> str:
    command = match["command"]
    if words and not any(word in command for word in words):
        return match[0]
    print("$", command, file=sys.stderr)
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    for made, kept in PICTURES.items():
        if (folder / made).exists():
            shutil.copy(folder / made, ROOT / kept)
    return "```console\n$ " + command + "\n" + "\n".join(lines) + "\n```"


def with_tables(text: str, words: Sequence[str] = ()) -> str:
    """The text with what `TABLES` makes between their markers, if the words are none or name them."""

    def made(m: re.Match[str]) -> str:
        asked = m["name"] in TABLES and (not words or m["name"] in words)
        return m["begin"] + TABLES[m["name"]]() + m["end"] if asked else m[0]

    return MARKED.sub(made, text)


def main(words: Sequence[str]) -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "configs").symlink_to(ROOT / "configs")
            new = BLOCK.sub(lambda match, folder=Path(name): refreshed(match, folder, words), with_tables(text, words))
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
