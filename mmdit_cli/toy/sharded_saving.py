"""Checkpoints of weights that several processes share: each writes its own pieces, beside the training.

What a process holds is copied to the host's memory, and a thread writes it while the training goes on; nothing is
gathered. When all have written theirs, the first process binds the files by their checksums and renames the folder. One
checkpoint is under way at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from mmdit.options import ModelOptions
from mmdit.weights.atomic import replacing_folder, sync
from mmdit.weights.checkpoints import EMA, OPTIMIZER, PREFIX, STATE, WEIGHTS, file_digest, files_of, state_digest
from mmdit.weights.piece_files import Piece, write_pieces
from mmdit.weights.saved_model import own_metadata
from mmdit_cli.model_parts.processes import Group
from mmdit_cli.model_parts.tensor_bytes import local
from mmdit_cli.toy.checkpoints import drop_old


@dataclass(frozen=True)
class HeldTensors:
    """The tensors of one file, of which each process has a part; how each is cut (`Group.cuts`); and the metadata."""

    tensors: Mapping[str, Tensor]
    cuts: Mapping[str, Any]
    metadata: Mapping[str, str]


def held_tensors(
    model: nn.Module, average: nn.Module, optimizer: Mapping[str, Tensor], cuts: Mapping[str, Any]
) -> dict[str, HeldTensors]:
    """What a checkpoint's files hold.

    Args:
        cuts: of each parameter by name, in the model's order.
    """
    ways, about = list(cuts.values()), own_metadata(cast(ModelOptions, model.config))
    of_optimizer = {name: ways[int(name.partition(".")[0])] for name in optimizer}
    return {
        WEIGHTS: HeldTensors(model.state_dict(), cuts, about),
        EMA: HeldTensors(average.state_dict(), cuts, about),
        OPTIMIZER: HeldTensors(optimizer, of_optimizer, {}),
    }


@dataclass
class _UnderWay:
    """A checkpoint that is being written: where to, in the main process what will rename it, and when this process has
    written its own."""

    run_dir: Path
    target: Path
    folder: Path
    until_whole: ExitStack
    state: dict[str, Any]
    written: Future[dict[str, str]]


class ShardedSaving:
    """Writes the checkpoints of a group's run. Every process has to call each of its methods."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: _UnderWay | None = None

    def start(self, run_dir: Path, step: int, files: Mapping[str, HeldTensors], **state: Any) -> None:
        """Begin to write the checkpoint of `step` finished steps, once the one before is there. When this returns, what
        is to be written no longer depends on the tensors.

        Raises:
            OSError: the one before can't be written, or this one can't be begun; those before are as they were.
        """
        self.finish()
        target, until_whole = run_dir / f"{PREFIX}{step:08d}", ExitStack()
        folder = self.group.on_main(lambda: until_whole.enter_context(replacing_folder(target)))
        pieces = {name: _own(held) for name, held in files.items()}
        metadata = {name: held.metadata for name, held in files.items()}
        number, writers = self.group.rank, self.group.size

        def write() -> dict[str, str]:
            digests = {}
            for name, own in pieces.items():
                file = folder / files_of(name, writers)[number]
                write_pieces(file, own, metadata[name])
                own.clear()
                sync(file)
                digests[file.name] = file_digest(file)
            return digests

        state = {"step": step, "writers": writers, **state}
        self._under_way = _UnderWay(run_dir, target, folder, until_whole, state, self._thread.submit(write))

    def look(self) -> None:
        """Put the checkpoint under way in its place, if all have written theirs. It takes one word with the others.

        Raises:
            OSError: as `finish`.
        """
        if self._under_way is not None and not self.group.any(not self._under_way.written.done()):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, and put it in its place.

        Raises:
            OSError: it can't be written; those before are as they were.
        """
        if self._under_way is None:
            return
        saving, self._under_way = self._under_way, None
        with saving.until_whole:
            digests: dict[str, str] = {}
            for outcome in self.group.gathered(_outcome(saving.written)):
                if isinstance(outcome, Exception):
                    raise _of(outcome, saving.target)
                digests |= outcome
            if self.group.main:
                state = saving.state | {"sha256": digests}
                state["sha256"][STATE] = state_digest(state)
                (saving.folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        if self.group.main:
            drop_old(saving.run_dir)
        self.group.wait()


def _own(held: HeldTensors) -> list[Piece]:
    """Copies of the pieces that this process is to write, in the host's memory."""
    from mmdit.parallel.own_pieces import own_pieces, writes

    return [
        Piece(name, tuple(x.shape), each.start, local(x.detach())[each.place].to("cpu", copy=True))
        for name, x in held.tensors.items()
        if writes(x)
        for each in own_pieces(x, held.cuts.get(name))
    ]


def _outcome(written: Future[dict[str, str]]) -> dict[str, str] | Exception:
    """What a process has written, once it has: the checksums of its files; or why not."""
    error = written.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return written.result() if error is None else error


def _of(error: Exception, target: Path) -> Exception:
    """An error about a file with a name that the user knows."""
    return OSError(error.errno, error.strerror, str(target)) if isinstance(error, OSError) else error
