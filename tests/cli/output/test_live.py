"""Tables drawn in place, and keys that end the drawing, on a terminal that is made up."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from mmdit_cli.output.keys import watched_keys
from mmdit_cli.output.live import LiveTables


def test_tables_are_drawn_at_most_every_half_second_and_only_made_when_drawn():
    now, drawn, made = [0.0], [], []

    def make():
        made.append(now[0])
        return ["table"]

    live = LiveTables(drawn.append, lambda: False, clock=lambda: now[0])
    assert live.show(make) and not live.show(make)
    now[0] = 0.4
    assert not live.show(make)
    now[0] = 0.6
    assert live.show(make)
    assert made == [0.0, 0.6] and len(drawn) == 2


def test_what_is_being_done_stands_above_the_tables():
    drawn = []
    live = LiveTables(drawn.append, lambda: False, clock=lambda: 0.0)
    live.progress("counting", 0, None)
    assert str(drawn[-1].renderables[0]) == "counting"
    live.show(lambda: ["table"])
    live.progress("measuring", 3, None)
    assert [str(each) for each in drawn[-1].renderables] == ["measuring 3 (any key ends with what is known)", "table"]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard input, of which this process has the other end; another job's unless it is told."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


def test_a_key_is_seen_without_return_and_the_terminal_is_left_as_it_was(terminal, monkeypatch):
    import termios

    monkeypatch.setattr(os, "tcgetpgrp", lambda terminal: os.getpgrp())
    before = termios.tcgetattr(sys.stdin.fileno())
    with watched_keys() as pressed:
        assert not pressed()
        os.write(terminal, b"q")
        assert pressed() and pressed()
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_of_another_jobs_terminal_and_of_a_file_no_key_is_read(terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "tcgetpgrp", lambda terminal: -1)
    os.write(terminal, b"q")
    with watched_keys() as pressed:
        assert not pressed()
    (tmp_path / "f").write_text("q")
    with open(tmp_path / "f") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with watched_keys() as pressed:
            assert not pressed()
