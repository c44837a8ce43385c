"""A network cut for each of several layouts, in processes side by side: every cut is seconds of a core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from mmdit.parallel import MeshLayout
from mmdit_cli.errors import CheckFailed
from mmdit_cli.interrupts import held_at_start, take_up
from mmdit_cli.memory.rank_estimate import RankEstimator, RankStep
from mmdit_cli.request.tool_config import ToolConfig

FEWEST = 4  # layouts, for which other processes are worth their start
Cuts = dict[bool, RankStep | str]  # with blocks recomputed or not; why the network can't be cut so


class Cutter:
    """Cuts one network. What does not fit in `memory` bytes is cut with its blocks recomputed as well."""

    def __init__(self, config: ToolConfig, dtype: torch.dtype, batch_size: int, memory: int) -> None:
        self.estimator, self.memory = RankEstimator(config, dtype, batch_size), memory
        self.ways = [True] if config.model.checkpoint_activations else [False, True]

    def __call__(self, layout: MeshLayout) -> Cuts:
        found: Cuts = {}
        for checkpoint in self.ways:
            try:
                found[checkpoint] = step = self.estimator.estimate(layout, checkpoint=checkpoint)
            except ValueError as problem:
                return {checkpoint: str(problem)}
            if step.memory.peak <= self.memory:
                break
        return found


def cut_all(
    make: Callable[[], Cutter], layouts: Sequence[MeshLayout], processes: int, on_cut: Callable[[int], None]
) -> dict[MeshLayout, Cuts]:
    """The network cut for each layout.

    Args:
        make: goes to other processes, so it must be picklable.
        on_cut: told how many are cut.

    Raises:
        CheckFailed: a process died.
    """
    found: dict[MeshLayout, Cuts] = {}
    if processes == 1 or len(layouts) < FEWEST:
        cutter = make()
        for layout in layouts:
            on_cut(len(found))
            found[layout] = cutter(layout)
        return found
    on_cut(0)
    waiting, workers = deque(layouts), dict[Connection, BaseProcess]()
    resource_tracker.ensure_running()  # which takes up signals that are held, and so must not start among the processes
    context = multiprocessing.get_context("spawn")
    try:
        for _ in range(min(processes, len(layouts))):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(theirs, make), daemon=True)
            with held_at_start():
                process.start()
                workers[ours] = process
            theirs.close()
            ours.send(waiting.popleft())
        while len(found) < len(layouts):
            for ready in wait([*workers]):
                assert isinstance(ready, Connection)
                layout, cuts = ready.recv()
                if isinstance(cuts, Exception):
                    raise cuts
                found[layout] = cuts
                on_cut(len(found))
                if waiting:
                    ready.send(waiting.popleft())
    except (EOFError, ConnectionError):
        what = "a process that cut the network died, perhaps for want of memory: ask for fewer ways"
        raise CheckFailed(what) from None
    finally:
        for connection, process in workers.items():
            process.kill()  # it has nothing to lose
            process.join()
            connection.close()
    return found


def _work(connection: Connection, make: Callable[[], Cutter]) -> None:
    """What a process does, until the first one ends it: cut for each layout that it is sent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all
    take_up()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cutter: Cutter | None = None
    with suppress(EOFError, ConnectionError):
        while True:
            layout = connection.recv()
            try:
                cutter = cutter or make()
                connection.send((layout, cutter(layout)))
            except Exception as problem:
                connection.send((layout, problem))


def _end_with_parent() -> None:
    """A process that is killed tells nobody, and a cut takes seconds."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
