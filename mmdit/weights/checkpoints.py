"""Finding a training run's newest whole checkpoint: for whoever resumes the run, or takes its weights.

A checkpoint is a folder with safetensors files and a JSON that binds them: each file's SHA-256 is in it, and a
checkpoint that does not match is passed over. Where several processes had a part of the weights each, each has written
files of its own (`weights-00001-of-00004.safetensors`), with pieces of tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdit.config.regular_file import open_regular, read_regular
from mmdit.weights.atomic import replacing
from mmdit.weights.header import CheckpointError
from mmdit.weights.piece_files import PieceFiles
from mmdit.weights.reader import WeightFiles
from mmdit.weights.writer import write_tensors

PREFIX, STATE = "checkpoint-", "state.json"
NAME = re.compile(PREFIX + r"(\d{8,18})")  # a user may keep others beside them, such as checkpoint-best
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
LONGEST = 1 << 24  # bytes that are read of what a run says of itself; it takes some kB
MOST_WRITERS = 99_999


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk that has been found whole."""

    path: Path
    step: int
    state: dict[str, Any]

    def files(self, name: str) -> list[Path]:
        """Those of `WEIGHTS`, `EMA` or `OPTIMIZER`: one, or one of each process that wrote."""
        return [self.path / each for each in files_of(name, self.state.get("writers"))]

    def whole(self, name: str) -> Path:
        """The same as one file. It is joined of those of several processes when it is first asked for, a tensor at a
        time, and stays beside them; one that is not as it was written is joined again.

        Raises:
            CheckpointError: they are not pieces of whole tensors, or the file can't be written.
        """
        target = self.path / name
        if "writers" in self.state and not _holds_its_hash(target):
            pieces = PieceFiles(self.files(name))
            try:
                with replacing(target, force=True) as file:
                    write_tensors(file, pieces.specs, pieces.read, pieces.metadata, hashed=True)
            except OSError as error:
                raise CheckpointError(
                    f"{target}: can't be joined there of what several processes wrote ({error.strerror or error}); "
                    "copy the run to a folder that can be written"
                ) from None
        return target


def _holds_its_hash(path: Path) -> bool:
    """Whether a file is there and as it was written, by the hash in it."""
    try:
        with WeightFiles(path) as files:
            files.check_hash({name: files.digest(name) for name in files.stored})
    except CheckpointError:
        return False
    return True


def files_of(name: str, writers: int | None) -> list[str]:
    """What a checkpoint's file is called, or those of several processes; None: there is one.

    Raises:
        ValueError: there can't be so many.
    """
    if writers is None:
        return [name]
    if type(writers) is not int or not 0 < writers <= MOST_WRITERS:
        raise ValueError(f"{writers!r} is no number of processes")
    stem, _, kind = name.rpartition(".")
    return [f"{stem}-{number:05d}-of-{writers:05d}.{kind}" for number in range(1, writers + 1)]


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with those passed over."""
    problems: list[str] = []
    for folder in reversed(checkpoint_folders(run_dir)):
        try:
            state = json.loads(read_regular(folder / STATE, LONGEST))
            if state["sha256"].get(STATE, state_digest(state)) != state_digest(state):  # older ones have none
                raise ValueError(f"{STATE} does not match its checksum")
            names = [each for name in (WEIGHTS, EMA, OPTIMIZER) for each in files_of(name, state.get("writers"))]
            for name in names:
                if file_digest(folder / name) != state["sha256"][name]:
                    raise ValueError(f"{name} does not match its checksum")
            if state["step"] != _step(folder) or not 0 <= int(state["averaged"]) < 1 << 63:
                raise ValueError(f"{STATE} is not that of step {_step(folder)}")
            return Checkpoint(folder, _step(folder), state), problems
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{folder} is damaged ({error}); passed over")
        except RecursionError:
            problems.append(f"{folder} is damaged ({STATE} is nested too deep); passed over")
    return None, problems


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """The checkpoints' folders, by their step."""
    return sorted((path for path in run_dir.iterdir() if NAME.fullmatch(path.name) and path.is_dir()), key=_step)


def state_digest(state: dict[str, Any]) -> str:
    """The checksum of the JSON itself, without itself."""
    rest = state | {"sha256": {name: text for name, text in state["sha256"].items() if name != STATE}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a regular file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))
