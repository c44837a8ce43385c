"""Signals end a command once, and tear nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli import interrupts
from mmdit_cli.toy.training import Interrupted, train
from tests.support.paths import ROOT
from tests.support.toy import CPU, same_bits, tiny, weights


@pytest.mark.usefixtures("bare_training")
def test_sigterm_saves_the_step_it_came_in_and_gives_its_handler_back(tmp_path):
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)

    def stop(step, *rest):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert interrupts.exit_code() == 143 and signal.getsignal(signal.SIGTERM) is before
    assert newest_checkpoint(tmp_path / "run")[0].step == 3
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), weights(whole))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_once_and_names_its_exit_code(number, code):
    with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
        assert interrupts.caught() == 0
        signal.raise_signal(number)
    assert (interrupts.caught(), interrupts.exit_code()) == (number, code)


def test_a_second_ctrl_c_soon_after_does_not_tear_the_clean_up_and_a_later_one_does(monkeypatch):
    def stopped_twice():
        with interrupts.interruptible():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)
                cleaned.append(interrupts.exit_code())

    cleaned: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        stopped_twice()
    assert cleaned == [130]
    monkeypatch.setattr(interrupts, "ECHO", 0.0)
    with pytest.raises(interrupts.Terminated):
        stopped_twice()
    assert cleaned == [130]


@pytest.mark.usefixtures("bare_training")
def test_a_second_ctrl_c_soon_after_does_not_tear_a_step(tmp_path):
    def stop(step, *rest):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert newest_checkpoint(tmp_path / "run")[0].step == 3


def test_an_interrupt_that_a_destructor_swallows_comes_again():
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
        thing = Swallows()
        del thing
        threading.Event().wait(20)


def test_an_interrupt_that_an_import_made_an_error_of_is_still_one():
    code = """
import signal, sys
from mmdit_cli import __main__, app
def command(**options):
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        raise ImportError("something")
app.app = command
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (143, "error: terminated\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_comes_while_a_process_starts_waits_although_another_thread_takes_it_up(number):
    done, seen = threading.Event(), []
    beside = threading.Thread(target=done.wait)  # it blocks no signal
    beside.start()
    try:
        with interrupts.interruptible(), pytest.raises(KeyboardInterrupt) as stop:
            with interrupts.held_at_start():
                os.kill(os.getpid(), number)
                time.sleep(0.05)
                seen.append("started")
            seen.append("went on")
    finally:
        done.set()
    assert seen == ["started"] and isinstance(stop.value, interrupts.Terminated) == (number == signal.SIGTERM)
