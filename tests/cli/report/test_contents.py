"""What `mmdit report` takes, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.support.command_lines import in_this_process
from tests.support.toy import train_tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "empty.json").write_text(json.dumps({"command": "flops", "results": []}))
    (tmp_path / "part.json").write_text(json.dumps({"command": "profile", "results": [{"config": "a"}]}))
    (tmp_path / "nothing").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone.json --out x.html", "gone.json: No such file"),
        ("list.json --out x.html", "list.json: is no document of this tool; write one with --report x.json"),
        ("text.json --out x.html", "text.json: is no JSON document"),
        ("empty.json --out x.html", "empty.json: is no document of this tool"),
        ("part.json --out x.html", "part.json: is no whole document of mmdit profile"),
        ("nothing --out x.html", "nothing: holds no JSON document, no run and no comparison"),
        ("list.json --out x.pdf", "--out x.pdf: expected a name that ends in .html"),
        ("list.json --out no/x.html", "--out no/x.html: there is no folder no"),
    ],
)
def test_what_is_no_result_is_refused_by_its_name(line, message, folder):
    code, out, err = in_this_process(f"mmdit report {line}")
    assert (code, out) == (2, "") and message in err, err
    assert not (folder / "x.html").exists()


def test_in_a_folder_what_is_not_ours_is_named_and_passed_over_and_runs_are_found_further_down(folder):
    train_tiny(folder / "runs" / "compared" / "a")
    (folder / "package.json").write_text('{"name": "x"}')
    code, out, err = in_this_process("mmdit report . --out x.html")
    assert code == 0 and "x.html: 0 documents, 1 runs, " in out, err
    for name in ("list.json: is no document of this tool\n", "package.json", "text.json: is no JSON", "part.json"):
        assert f"passed over: {name}" in err
    code, _, err = in_this_process("mmdit report nothing --out x.html")
    assert code == 2


def test_a_page_does_not_replace_what_it_is_made_of(folder):
    (folder / "x.html").write_text("{}")
    code, _, err = in_this_process("mmdit report x.html --out x.html")
    assert code == 2 and "is the file that --PATH names" in err and (folder / "x.html").read_text() == "{}"


@pytest.mark.slow
def test_a_folder_stands_for_all_that_lies_in_it_and_nothing_is_shown_twice(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("profile.json", "flops.json", "compared"):
        (tmp_path / "all" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "all" / name).symlink_to(results / name)
    code, out, err = in_this_process("mmdit report all all/flops.json --out x.html")
    assert code == 0, err
    assert "x.html: 3 documents, 4 runs, " in out
