"""Faults inside of a process under test, named in its environment: Python imports this file before anything else.

MMDIT_FAULTS is a list of: `no-network`, `clock`, `stop:os.replace:2:9` (signal 9 before the second call of os.replace).
"""

import os
import random
import signal
import socket
import sys
import time


def no_network() -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network here, and none is needed")

    class Socket(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *args: object, **options: object) -> None:
            if family in (-1, socket.AF_INET, socket.AF_INET6):
                refuse()
            super().__init__(family, *args, **options)

    socket.socket = Socket
    socket.create_connection = socket.getaddrinfo = refuse


def jumping_clock() -> None:
    jumps, real = random.Random(0), time.time
    time.time = lambda: real() + jumps.uniform(-1e7, 1e7)
    time.time_ns = lambda: int(time.time() * 1e9)


def stop_before(function: str, count: int, number: int) -> None:
    module, name = function.split(".")
    real = getattr(sys.modules[module], name)
    calls = 0

    def stopping(*args: object, **options: object) -> object:
        nonlocal calls
        ours = any(".mmdit-" in os.fsdecode(x) or "checkpoint-" in os.fsdecode(x) for x in args if _is_path(x))
        calls += ours or name == "fsync"
        if calls == count and (ours or name == "fsync"):
            os.kill(os.getpid(), signal.Signals(number))
        return real(*args, **options)

    setattr(sys.modules[module], name, stopping)


def _is_path(value: object) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


for _fault in os.environ.get("MMDIT_FAULTS", "").split():
    _kind, *_rest = _fault.split(":")
    if _kind == "no-network":
        no_network()
    elif _kind == "clock":
        jumping_clock()
    elif _kind == "stop":
        stop_before(_rest[0], int(_rest[1]), int(_rest[2]))
