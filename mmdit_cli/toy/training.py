"""Training the toy: rectified flow on a world drawn on the fly, in a folder where it can stop and go on."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdit.weights.atomic import write_atomic
from mmdit.weights.checkpoints import EMA, newest_checkpoint
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.interrupts import held_interrupt
from mmdit_cli.memory.precheck import check_fits
from mmdit_cli.model_parts.compiling import CompileGain, check_compiler, in_words
from mmdit_cli.model_parts.processes import ALONE, Group
from mmdit_cli.output.run_files import SAMPLES
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy import progress
from mmdit_cli.toy.alignment import check_alignment
from mmdit_cli.toy.any_to_any import any_to_any
from mmdit_cli.toy.data_fit import as_fed, world_of
from mmdit_cli.toy.equal_cost import in_steps
from mmdit_cli.toy.evaluation import SEEN, SHOWN, Samples, draw, evaluate
from mmdit_cli.toy.metrics import Metrics, NoMetrics
from mmdit_cli.toy.optimizer import check_optimizer
from mmdit_cli.toy.resume import go_on
from mmdit_cli.toy.run_folder import describe, open_run, resume_command
from mmdit_cli.toy.shown_samples import samples_document, write_sounds
from mmdit_cli.toy.trackers import Tracked, check_trackers
from mmdit_cli.toy.train_result import AVERAGED, TrainResult, forget_result, keep_result
from mmdit_cli.toy.trainer import DTYPES, Diverged, Trainer

PICTURED, SCENES_PICTURED = 16, 36  # captions in the picture of samples, the same throughout a run
ON_THE_WAY = 128  # samples of an evaluation on the way

Progress = Callable[[int, int, float, float, float], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the run has been saved; `where` it was, and the `command` that goes on."""

    def __init__(self, where: str, command: str) -> None:
        super().__init__(f"{where}; go on with\n{command}")
        self.where, self.command = where, command


class GroupBroken(CheckFailed):
    """Another process of the group has ended; the message says how to go on from the last checkpoint."""


def train(
    config: ToolConfig,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    steps: int | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    track: Sequence[str] = (),
    on_progress: Progress = lambda step, steps, loss, rate, left: None,
    on_message: Callable[[str], None] = lambda message: None,
    command_line: Sequence[str] = (),
    group: Group = ALONE,
) -> TrainResult | None:
    """Train, evaluate, and leave checkpoints, metrics, samples and curves in the run's folder.

    Every process of a `group` has to call it; the main one alone writes, and is told the result.

    Args:
        steps: in place of the config's `train.steps`.
        run_dir: a new or empty folder, or the run to `resume`; None: `runs/NAME-TIME`.
        allow_changes: resume even where the run was started with another seed, dtype or config.
        track: the trackers that are told of the run, by name; see `mmdit_cli.toy.trackers`.
        on_progress: called after each step with the step, the steps in all, the loss, steps/s and seconds left.
        on_message: called with what a user should know, such as a damaged checkpoint that was passed over.

    Raises:
        UserError: the config is not one of the toy's worlds, or the folder can't be used or written to.
        Diverged: the loss stopped being finite; the last checkpoint stands.
        Interrupted: Ctrl-C or SIGTERM; the state has been saved.
        GroupBroken: another process of the group has ended; the last checkpoint stands.
    """
    if dtype not in DTYPES:
        raise UserError(f"train-toy trains in {' or '.join(DTYPES.values())}, got {str(dtype).removeprefix('torch.')}")
    if steps is not None:
        config = in_steps(config, steps)
    check_trackers(track)
    if config.train.batch_size < group.place[1]:
        raise UserError(
            f"train.batch_size is {config.train.batch_size}, and {group.place[1]} processes need a row each"
        )
    group.check(config.model)
    check_optimizer(config.train, group)
    check_alignment(config, group)
    if config.train.compile:
        if group.size > 1:
            raise UserError("train.compile is for one process; leave it out under torchrun")
        check_compiler(device, "train.compile")
    world = world_of(config)
    check_fits(as_fed(config), "train", dtype, device, "train-toy")
    with ExitStack() as until_the_end:
        folder = group.on_main(lambda: until_the_end.enter_context(open_run(config.name, run_dir, resume=resume)))
        trainer = Trainer(config, world, device=device, dtype=dtype, seed=seed, group=group)
        metrics = Metrics(folder) if group.main else NoMetrics(folder)
        until_the_end.callback(metrics.close)
        command = resume_command(folder, device, group.parallel, track)
        try:
            changes = go_on(trainer, folder, metrics, on_message, allow_changes=allow_changes) if resume else []
            if group.main:
                forget_result(folder)
                about = trainer.identity()
                run_id = describe(folder, about, device=device, command_line=command_line, changes=changes)
                told = {**about["config"], "seed": seed, "dtype": about["dtype"]}
                metrics.trackers.on_message = on_message
                metrics.trackers.start(track, Tracked(folder, config.name, seed, run_id, trainer.completed, told))
            gain = trainer.compile_gain() if config.train.compile else None
            if gain is not None:
                on_message(f"{config.name}: {in_words(gain)}")
            rate = _train(trainer, folder, metrics, on_progress)
            return _finish(trainer, folder, metrics, rate, gain)
        except Diverged as problem:
            lost = ""
            try:
                trainer.saving.finish()
            except OSError as error:
                lost = f", for the one under way can't be written ({error.strerror or error})"
            group.wait()
            raise Diverged(f"{problem}; {_last_good(folder)}{lost}. A lower train.learning_rate may help") from None
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted at step {trainer.completed}", command) from None
        except OSError as problem:
            where, why = problem.filename or folder, problem.strerror or problem
            raise UserError(f"{where}: {why}, at step {trainer.completed}; go on later with: {command}") from None
        except RuntimeError as problem:
            if not group.broken_by(problem):
                raise
            raise GroupBroken(
                f"another process of this run has ended, at step {trainer.completed}; go on with\n{command}"
            ) from None


def _train(trainer: Trainer, folder: Path, metrics: Metrics, on_progress: Progress) -> float:
    """Train to the end, saving and evaluating on the way; returns steps/s without the time of either.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step it came in has been finished and saved.
    """
    settings, first, spent, group = trainer.settings, trainer.completed, 0.0, trainer.group
    saved, before = -1, metrics.seconds()
    with held_interrupt() as interrupted:
        while trainer.completed < settings.steps and not group.any(interrupted()):
            began = time.perf_counter()
            record = trainer.step()
            spent += time.perf_counter() - began
            step = trainer.completed
            metrics.append({**record, "seconds": before + spent})
            rate = (step - first) / spent
            if group.main:
                on_progress(step, settings.steps, record["loss"], rate, (settings.steps - step) / rate)
            if settings.evaluate_every and step % settings.evaluate_every == 0 and step < settings.steps:
                _evaluate_on_the_way(trainer, folder, metrics)
            trainer.saving.look()
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                metrics.sync()
                trainer.save(folder)
                saved = step
        stopped = group.any(interrupted())
        if stopped and saved != trainer.completed and trainer.completed > first:
            metrics.sync()
            trainer.save(folder)
        trainer.saving.finish()
        if stopped:
            raise KeyboardInterrupt
    return (trainer.completed - first) / spent if spent else 0.0


def _evaluate_on_the_way(trainer: Trainer, folder: Path, metrics: Metrics) -> None:
    """Log the accuracy, and draw the run's captions once more."""
    model = trainer.averaged_model
    if trainer.group.main:
        samples = _draw_shown(model, trainer)
        count = min(ON_THE_WAY, trainer.settings.evaluation_samples)
        batch = trainer.world.batch(count, seed=trainer.seed, stream=SEEN, index=0)
        accuracy = draw(model, batch, trainer.settings, seed=trainer.seed, device=trainer.device).accuracy
        metrics.append({"step": trainer.completed, "accuracy": accuracy})
        picture = progress.place_of(folder, trainer.completed, ".png")
        _picture(samples, picture, trainer)
        progress.keep(folder, trainer.completed, samples)
        metrics.trackers.show(trainer.completed, {"samples": picture, **write_sounds(samples, picture)})
    trainer.group.wait()


def _finish(
    trainer: Trainer, folder: Path, metrics: Metrics, rate: float, gain: CompileGain | None
) -> TrainResult | None:
    """Judge, and draw the pictures, in the main process."""
    model = trainer.averaged_model
    result = _result(model, trainer, folder, metrics, rate, gain) if trainer.group.main else None
    trainer.group.wait()
    return result


def _result(
    model: nn.Module, trainer: Trainer, folder: Path, metrics: Metrics, rate: float, gain: CompileGain | None
) -> TrainResult:
    checkpoint, _ = newest_checkpoint(folder)
    if checkpoint is None or checkpoint.step != trainer.completed:
        raise UserError(f"{folder}: the last checkpoint is gone or damaged; resume the run to write it anew")
    settings = trainer.settings
    shares = evaluate(model, trainer.world, settings, seed=trainer.seed, device=trainer.device)
    final = {key: shares[key] for key in ("accuracy", "held_out")}
    metrics.append({"step": trainer.completed, "final": True, **final})
    records = metrics.read()
    losses = [record["loss"] for record in records if "loss" in record]
    files = {
        "checkpoint": checkpoint.whole(EMA),
        "samples": folder / "samples.png",
        "loss_plot": folder / "loss.png",
        "metrics": metrics.path,
    }
    shown = _draw_shown(model, trainer)
    _picture(shown, files["samples"], trainer)
    write_atomic(folder / SAMPLES, json.dumps(samples_document(shown, trainer.completed)).encode())
    _curves(records, files["loss_plot"], trainer)
    if before := progress.kept(folder, shown.batch, until=trainer.completed - 1):
        files["progress"] = folder / "progress.png"
        _over_training({**before, trainer.completed: shown}, files["progress"], trainer)
    files |= write_sounds(shown, files["samples"])
    to_show = {key: path for key, path in files.items() if path.suffix in (".png", ".wav")}
    metrics.trackers.show(trainer.completed, to_show)
    result = TrainResult(
        config=trainer.config.name,
        steps=trainer.completed,
        parameters=trainer.parameters,
        loss={"first": _mean(losses[:AVERAGED]), "last": _mean(losses[-AVERAGED:])},
        **shares,
        samples=settings.evaluation_samples,
        steps_per_s=rate,
        run_dir=str(folder),
        files={key: str(path) for key, path in files.items()},
        seed=trainer.seed,
        loss_steps=min(AVERAGED, len(losses)),
        any_to_any=any_to_any(model, trainer.world, settings, seed=trainer.seed, device=trainer.device),
        compile_gain=gain,
    )
    keep_result(folder, result)
    return result


def _draw_shown(model: nn.Module, trainer: Trainer) -> Samples:
    """Samples for the captions that a run's pictures show, from the same noise each time."""
    count = SCENES_PICTURED if trainer.settings.data == "scenes" else PICTURED
    batch = trainer.world.batch(count, seed=trainer.seed, stream=SHOWN, index=0)
    return draw(model, batch, trainer.settings, seed=trainer.seed, device=trainer.device)


def _picture(samples: Samples, path: Path, trainer: Trainer) -> None:
    from mmdit_cli.output.figures import save_figure
    from mmdit_cli.toy.plots import sample_plot
    from mmdit_cli.toy.scene_gallery import scene_gallery

    plot = scene_gallery if trainer.settings.data == "scenes" else sample_plot
    path.parent.mkdir(exist_ok=True)
    save_figure(plot(samples, title=f"{trainer.config.name}, step {trainer.completed}"), path)


def _over_training(shown: dict[int, Samples], path: Path, trainer: Trainer) -> None:
    from mmdit_cli.output.figures import save_figure
    from mmdit_cli.toy.progress_plot import progress_plot

    save_figure(progress_plot(shown, title=f"{trainer.config.name}, from the same noise"), path)


def _curves(records: list[dict[str, Any]], path: Path, trainer: Trainer) -> None:
    from mmdit_cli.output.figures import save_figure
    from mmdit_cli.toy.plots import curve_plot

    save_figure(curve_plot(records, title=trainer.config.name), path)


def _last_good(folder: Path) -> str:
    checkpoint, _ = newest_checkpoint(folder)
    return f"the last good checkpoint is {checkpoint.path}" if checkpoint else "there was no checkpoint yet"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")
