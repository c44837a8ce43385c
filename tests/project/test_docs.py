"""What README.md and docs/ say holds: code runs, commands work and print what is shown, links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mmdit_cli.request.tool_config import load_tool_config
from tests.support.command_lines import in_this_process
from tests.support.marks import slow_but
from tests.support.pages import PAGES, Shown, blocks, commands, name_of
from tests.support.paths import ROOT
from tests.support.small_commands import LARGE, OFFICIAL, SECONDS, small, write_stand_in
from tests.support.toy import train_tiny

WITH_COMMANDS = [page for page in PAGES if commands(page)]
# pages that take longest; of what they show, README.md and the tests of the command have the main part
LONG = {"train-toy", "profile", "configs", "flops", "networks", "config", "export", "packing"}
LONG |= {"index", "report", "shape-check", "sample", "plan", "techniques"}
QUICK = [page for page in WITH_COMMANDS if page.stem not in LONG]
# the same on every machine
COUNTED = re.compile(r"^mmdit (flops|plan|shape-check|export|configs|profile .*--estimate)\b")
FAULTS = re.compile(r"Traceback|unexpected|\bTODO\b")


@pytest.mark.parametrize("name", slow_but(["config.md", "library.md", "networks.md"], "config.md", "library.md"))
def test_the_tables_of_options_and_networks_are_those_of_the_fields_and_configs(name):
    with_tables = runpy.run_path(str(ROOT / "docs" / "refresh.py"))["with_tables"]
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert "<!-- /" in text and with_tables(text) == text
    assert {page.name for page in PAGES if "<!-- /" in page.read_text(encoding="utf-8")} == {
        *("config.md", "library.md", "networks.md")
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the repository's own files are where the pages say."""
    for name in ("configs", "constraints.txt", "pyproject.toml", "Makefile", "docs", "benchmarks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(page, code, id=f"{name_of(page)}-{i}")
        for page in PAGES
        for i, code in enumerate(blocks(page, "python"))
    ],
)
def test_the_code_runs_as_it_stands(page, code, folder):
    if (run := "runs/mine") in code:
        train_tiny(folder / run)
    exec(compile(code, name_of(page), "exec"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name_of)
def test_a_config_is_valid(page, tmp_path):
    for text in blocks(page, "yaml"):
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        load_tool_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_file_that_a_page_links_to_is_missing(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


# ----------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("page", slow_but(WITH_COMMANDS, *QUICK), ids=name_of)
def test_every_command_of_a_page_works(page, folder, quick_ceilings):
    """In this process, small where the size does not matter. What takes longer is in the slow test below."""
    for shown in commands(page):
        exact = shown.output is not None and COUNTED.search(shown.line) and not LARGE.search(shown.line)
        if exact and page != PAGES[0] and shown in commands(PAGES[0]):
            continue  # held by the README's own
        if not SECONDS.search(shown.line):
            _stand_in(shown.line, folder)
            _hold(shown, *in_this_process(shown.line if exact else small(shown.line)), exact=bool(exact))


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_works_in_a_process_of_its_own(page, folder):
    """As it stands where the page shows what it prints; what takes minutes, a GPU or official files is small."""
    for shown in commands(page):
        _stand_in(shown.line, folder)
        line = shown.line if shown.output is not None else small(shown.line)
        done = subprocess.run(
            line,
            shell=True,
            cwd=ROOT if re.match(r"make|pytest|pip", line) else folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        )
        _hold(shown, done.returncode, done.stdout, done.stderr, exact=bool(shown.output and COUNTED.search(line)))


def _hold(shown: Shown, code: int, out: str, err: str, *, exact: bool) -> None:
    assert code == shown.exit_code, f"{shown.line}\n{out}{err}"
    assert not FAULTS.search(out + err), f"{shown.line}\n{out}{err}"
    if exact and shown.output is not None:  # beside the first line, which names the machine
        printed = [line.rstrip() for line in (err if shown.exit_code else out).rstrip().splitlines()]
        wanted = shown.output.rstrip().splitlines()
        assert printed[1 - shown.exit_code // 2 :] == wanted[1 - shown.exit_code // 2 :], shown.line


def _stand_in(line: str, folder: Path) -> None:
    for name in OFFICIAL:
        if name in line and not (folder / name).exists():
            write_stand_in(folder / name)
