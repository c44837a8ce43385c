"""A network cut for each of several layouts, in processes side by side: every cut is seconds of a core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import resource_tracker

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
    pool = ProcessPoolExecutor(
        min(processes, len(layouts)), multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make,)
    )
    resource_tracker.ensure_running()  # the first process to start would start it, with its signals held
    try:
        with held_at_start():
            cuts = {pool.submit(_cut, layout): layout for layout in layouts}
        for done in as_completed(cuts):
            found[cuts[done]] = done.result()
            on_cut(len(found))
        pool.shutdown()
    except BrokenProcessPool:
        pool.shutdown()
        what = "a process that cut the network died, perhaps for want of memory: ask for fewer ways"
        raise CheckFailed(what) from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    return found


_make: Callable[[], Cutter]


def _begin(make: Callable[[], Cutter]) -> None:
    global _make
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    take_up()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _make = cache(make)  # at the first cut, whose error reaches the first process


def _end_with_parent() -> None:
    """A process that is killed tells nobody, and those that it started would wait for it for good."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cut(layout: MeshLayout) -> Cuts:
    return _make()(layout)
