"""Training several runs side by side, each in a process of its own with its share of the cores.

A process that dies is a run that failed, and the others go on. Ctrl-C reaches all of them: each saves what it has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch

from mmdit_cli.errors import UserError
from mmdit_cli.interrupts import held_at_start, interruptible, take_up
from mmdit_cli.output.console import OnProgress, message, training_bars
from mmdit_cli.toy.runs import Failure, PlannedRun, Run, Train, failure, finished
from mmdit_cli.toy.trainer import Diverged
from mmdit_cli.toy.training import Interrupted

End = tuple[Literal["finished", "failed", "refused", "interrupted"], Any]  # what a process tells of its end, at last


@dataclass
class _Job:
    """A run in a process: its place among those planned, and where its process is."""

    number: int
    slot: int
    planned: PlannedRun
    process: Any
    on_progress: OnProgress


class SideBySide:
    """Trains up to `jobs` runs at a time.

    Args:
        train: how a run is trained in each of the jobs; it goes to another process, so it must be picklable.
        start: how `multiprocessing` starts a process.
    """

    def __init__(self, jobs: int, train: Callable[[int], Train], *, start: str = "spawn") -> None:
        self.jobs, self.train, self.done = jobs, train, 0
        self.threads = max(1, torch.get_num_threads() // jobs)
        self._context: Any = multiprocessing.get_context(start)
        resource_tracker.ensure_running()  # which takes up signals that are held, and so must not start among the jobs
        self._running: dict[Connection, _Job] = {}

    def __call__(self, planned: Sequence[PlannedRun]) -> list[Run | Failure]:
        waiting, outcomes = deque(enumerate(planned)), dict[int, Run | Failure]()
        total = self.done + len(planned)
        try:
            with training_bars() as follow:
                while waiting or self._running:
                    while waiting and len(self._running) < self.jobs:
                        self.done += 1
                        slot = min(set(range(self.jobs)) - {job.slot for job in self._running.values()})
                        number, each = waiting.popleft()
                        self._start(number, slot, each, follow(slot, f"{each.title} ({self.done}/{total})"))
                    job, (how, what) = self._next_end()
                    if how == "refused":
                        self._stop()
                        raise UserError(what)
                    if how == "interrupted":  # it alone
                        what = "its process was interrupted"
                    outcomes[job.number] = finished(what) if how == "finished" else failure(job.planned, what)
        except KeyboardInterrupt:
            under_way = self._stop()
            where = "; ".join(f"{job.planned.title}: {what}" for job, what in under_way)
            raise Interrupted(f"interrupted in {planned[0].folder.parent}: {where or 'between runs'}", "") from None
        finally:
            self._end_all()
        return [outcomes[number] for number in range(len(planned))]

    def _start(self, number: int, slot: int, planned: PlannedRun, on_progress: OnProgress) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_train, args=(theirs, self.train(slot), planned, self.threads), daemon=True
        )
        with held_at_start():
            process.start()
            self._running[ours] = _Job(number, slot, planned, process, on_progress)
        theirs.close()

    def _next_end(self) -> tuple[_Job, End]:
        """The next run to end, and how; meanwhile what the others tell is shown."""
        while True:
            for ready in wait(list(self._running)):
                assert isinstance(ready, Connection)
                job = self._running[ready]
                try:
                    kind, what = ready.recv()
                except (EOFError, OSError):  # it has died
                    kind, what = "failed", _how_it_died(job.process)
                if kind == "progress":
                    job.on_progress(*what)
                elif kind == "message":
                    message(f"{job.planned.title}: {what}")
                else:
                    del self._running[ready]
                    ready.close()
                    job.process.join()
                    return job, (kind, what)

    def _stop(self) -> list[tuple[_Job, str]]:
        """Let every run save what it has and end; those that did, and where they were."""
        for job in self._running.values():
            with suppress(ProcessLookupError):
                os.kill(job.process.pid, signal.SIGINT)
        ends = []
        while self._running:
            job, (how, what) = self._next_end()
            ends.append((job, "finished" if how == "finished" else str(what)))
        return sorted(ends, key=lambda end: end[0].number)

    def _end_all(self) -> None:
        for connection, job in self._running.items():
            job.process.kill()
            job.process.join()
            connection.close()
        self._running.clear()


def _train(connection: Connection, train: Train, planned: PlannedRun, threads: int) -> None:
    """What a process does: train one run, and tell of it."""
    with interruptible():
        try:
            take_up()
            torch.set_num_threads(threads)
            tell = partial(_tell, connection)
            result = train(planned, lambda *progress: tell("progress", progress), partial(tell, "message"))
            end: End = ("finished", result)
        except Diverged as problem:
            end = ("failed", str(problem))
        except KeyboardInterrupt as stop:
            end = ("interrupted", stop.where if isinstance(stop, Interrupted) else "before its first step")
        except UserError as problem:
            end = ("refused", str(problem))
        except Exception as problem:
            first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            end = ("failed", f"its process ended by {type(problem).__name__}: {first}")
        with suppress(OSError):  # nobody hears any more
            connection.send(end)


def _tell(connection: Connection, kind: str, what: Any) -> None:
    connection.send((kind, what))


def _how_it_died(process: Any) -> str:
    process.join()
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        more = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
        return f"its process was ended by {name}{more}"
    return f"its process ended with exit code {code}"
