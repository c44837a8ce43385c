"""`--parallel`: how a network is to be spread over the processes that torchrun starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmdit_cli.errors import UserError
from mmdit_cli.output.console import is_one_of_several

KINDS = "ddp, fsdp, hsdp, tp=N, ulysses=N, several by commas"
DATA = ("ddp", "fsdp", "hsdp")
WAYS = {"tp": "tensor", "ulysses": "context"}


@dataclass(frozen=True)
class Spreading:
    """What was asked for: `data`, over the processes that `tensor` and `context` leave; `replicas` of hsdp, where they
    are told."""

    text: str
    data: str = "ddp"
    replicas: int | None = None
    tensor: int = 1
    context: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether every process has whole weights and whole samples."""
        return self.data == "ddp" and self.tensor == self.context == 1

    def over(self, processes: int, machines: int = 1) -> dict[str, int]:
        """The sizes of a `mmdit.parallel.MeshLayout` over so many processes. Of hsdp each machine has a replica, or, on
        one machine, each half of the processes.

        Raises:
            UserError: they do not divide so.
        """
        together = self.tensor * self.context
        left, rest = divmod(processes, together)
        if rest or not left:
            raise UserError(
                f"--parallel {self.text}: {together} processes each time, but there are {processes}; "
                "start them by torchrun --nproc-per-node N -m mmdit_cli"
            )
        replicas = {"ddp": left, "fsdp": 1}.get(self.data, self.replicas or (machines if machines > 1 else 2))
        if left % replicas:
            raise UserError(f"--parallel {self.text}: {replicas} replicas do not divide {left} groups of processes")
        return dict(replicate=replicas, shard=left // replicas, context=self.context, tensor=self.tensor)


def read_spreading(text: str) -> Spreading:
    """Read `fsdp`, `tp=2`, `hsdp=2,ulysses=4`.

    Raises:
        UserError: it is something else, or says a thing twice.
    """
    found: dict[str, str | int] = {}
    for word in text.split(","):
        name, equals, number = (part.strip() for part in word.partition("="))
        key = "data" if name in DATA else WAYS.get(name)
        counted = name in WAYS or (name == "hsdp" and equals)
        if key is None or (counted and not _is_count(number)) or (equals and not counted):
            raise UserError(f"--parallel {text}: expected {KINDS}, got {word.strip()!r}")
        if key in found:
            raise UserError(f"--parallel {text}: {word.strip()!r} says again what was said before")
        found[key] = name if key == "data" else int(number)
        if name == "hsdp" and counted:
            found["replicas"] = int(number)
    return Spreading(text, **found)  # type: ignore[arg-type]


def check_several(mode: str, parallel: str | None, others: Mapping[str, Any]) -> bool:
    """Whether `profile` is to measure a step over several processes.

    Args:
        others: options that are of one process alone; None: not given.

    Raises:
        UserError: `--parallel` is given to one process alone, or what several are asked for is of one alone.
    """
    if not is_one_of_several():
        if parallel is not None:
            start = "start several by torchrun --nproc-per-node N -m mmdit_cli"
            raise UserError(f"--parallel {parallel}: there is one process; {start}")
        return False
    if wrong := [option for option, value in others.items() if value]:
        raise UserError(f"{wrong[0]} measures one process; leave it out, or leave out torchrun")
    if mode != "train":
        raise UserError(f"--mode {mode} measures one process; under torchrun add --mode train")
    return True


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= 1 << 20
