"""Going on with a run: which checkpoint, and whether what is asked is still the run that was started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdit.options import as_data
from mmdit.weights.atomic import remove_leftovers
from mmdit.weights.checkpoints import Checkpoint
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import as_tool_config
from mmdit_cli.toy.checkpoints import checkpoint_to_resume
from mmdit_cli.toy.metrics import Metrics
from mmdit_cli.toy.run_folder import described, differences
from mmdit_cli.toy.trainer import Trainer

NAMED = 5  # changes that a refusal lists


def go_on(
    trainer: Trainer, folder: Path, metrics: Metrics, on_message: Callable[[str], None], *, allow_changes: bool = False
) -> list[dict[str, Any]]:
    """Take up the newest whole checkpoint; a run that was stopped before its first one begins anew.

    Returns:
        the changes that the run has gone on with, those of now included: `{"step": 40, "changes": ["seed was ..."]}`.

    Raises:
        UserError: the run was started with another seed, dtype or config, and `allow_changes` is false; or it can't go
            on with this one: other weights, or fewer steps than it has done.
    """
    if trainer.group.main:
        for place in (folder, folder / "progress"):
            remove_leftovers(place)
    trainer.group.wait()
    checkpoint = trainer.group.on_main(lambda: checkpoint_to_resume(folder, on_message))  # which reads all of it
    started, before = described(folder)
    saved = started if checkpoint is None else checkpoint.state.get("identity")
    other = [] if saved is None else differences(with_defaults(saved), trainer.identity())
    if other and not allow_changes:
        more = f"; and {len(other) - NAMED} more" if len(other) > NAMED else ""
        raise UserError(
            f"--resume: the run in {folder} was started otherwise: {'; '.join(other[:NAMED])}{more}; "
            "--allow-changes goes on all the same"
        )
    if checkpoint is not None:
        _restore(trainer, checkpoint)
    metrics.truncate(trainer.completed)
    if other:
        on_message(f"going on from step {trainer.completed} with changes: {'; '.join(other)}")
        return [*before, {"step": trainer.completed, "changes": other}]
    return before


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    steps = trainer.settings.steps
    if checkpoint.step > steps:
        raise UserError(f"--resume: train.steps is {steps}, and {checkpoint.path} has done {checkpoint.step}")
    try:
        trainer.restore(checkpoint)
    except ValueError as problem:
        raise UserError(f"--resume: {checkpoint.path} does not fit the config: {problem}") from None


def with_defaults(identity: Any) -> Any:
    """A saved identity with the keys that configs have got since, at their defaults."""
    try:
        return {**identity, "config": as_data(as_tool_config(identity["config"]))}
    except (TypeError, KeyError, ValueError):
        return identity
