"""Ctrl-C (SIGINT) and SIGTERM: both end a command in one message, with exit code 130 and 143 (128 + the signal).

Python raises `KeyboardInterrupt` between any two of its instructions. Where that happens in a destructor it is lost,
and some libraries turn it into an error of their own while they are imported; so what was caught is kept here as well.
A second signal soon after the first is the same wish: it does not tear what the first one has begun to put away.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.05  # seconds until a signal whose exception was lost is sent anew
ECHO = 1.0  # seconds in which another signal counts as the one before

_caught, _when = 0, -math.inf


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def caught() -> int:
    """The signal that is ending this command; 0: none."""
    return _caught


def forget() -> None:
    """A new command begins: what stopped an earlier one in this process is of no concern to it."""
    global _caught, _when
    _caught, _when = 0, -math.inf


def exit_code() -> int:
    """Of a command that was interrupted."""
    return 128 + (_caught or signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in what runs here. Outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forget()
    hook = sys.unraisablehook

    def unraisable(args: Any) -> None:
        global _when
        if isinstance(args.exc_value, KeyboardInterrupt):
            _when = -math.inf
            threading.Timer(AGAIN, os.kill, (os.getpid(), _caught or signal.SIGINT)).start()
        else:
            hook(args)

    sys.unraisablehook = unraisable
    try:
        with _handled_by(_raise):
            yield
    finally:
        sys.unraisablehook = hook


@contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM wait until they are asked for, so that they can't tear a step; a later one does not wait."""
    global _when
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    waiting, _when = False, -math.inf

    def note(number: int, frame: Any) -> None:
        nonlocal waiting
        if waiting:
            _raise(number, frame)
        else:
            waiting = _note(number)

    with _handled_by(note):
        yield lambda: waiting


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = [(number, signal.signal(number, handler)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


@contextmanager
def held_at_start() -> Iterator[None]:
    """A process that is started in here holds both signals until it is ready for them and takes them up
    (`take_up`), so that they can't tear its start. Those that come to this process meanwhile wait, too."""
    with held_interrupt() as waiting:  # a signal that is blocked here is taken up by another thread, if there is one
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            take_up()
    if waiting():
        raise Terminated if _caught == signal.SIGTERM else KeyboardInterrupt


def take_up() -> None:
    """What was held counts from here on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def let_die() -> None:
    """From here on a signal ends the process at once and in silence: everything is written, nothing is left to lose."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _note(number: int) -> bool:
    """Keep a signal; False where it is an echo of the one before."""
    global _caught, _when
    now = time.monotonic()
    if now - _when < ECHO:
        return False
    _caught, _when = number, now
    return True


def _raise(number: int, frame: Any) -> None:
    if not _note(number):
        return
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
