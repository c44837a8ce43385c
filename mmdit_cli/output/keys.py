"""Keys that are pressed while something runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watched_keys() -> Iterator[Callable[[], bool]]:
    """Yields what tells whether a key was pressed on the terminal of standard input; always False where there is none,
    or where another job has it. Ctrl-C and Ctrl-Z mean what they always do."""
    try:
        import select
        import termios
        import tty
    except ImportError:  # Windows
        yield lambda: False
        return
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        ours = os.tcgetpgrp(terminal) == os.getpgrp()  # setting another job's terminal would stop this one
    except (OSError, ValueError, termios.error):
        ours = False
    if not ours:
        yield lambda: False
        return
    pressed = False

    def asked() -> bool:
        nonlocal pressed
        while select.select([terminal], [], [], 0)[0] and os.read(terminal, 1024):
            pressed = True
        return pressed

    tty.setcbreak(terminal)
    try:
        yield asked
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
