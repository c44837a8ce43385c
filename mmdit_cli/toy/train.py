"""Training the toy: rectified flow on a world drawn on the fly, in a run that can stop and go on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmdit.config import LinearInput, PatchInput, TokenInput, build
from mmdit.files import replacing, write_atomic
from mmdit_cli import __version__
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.schema import ToolConfig
from mmdit_cli.toy.checkpoints import EMA, newest_checkpoint, restore, save_checkpoint
from mmdit_cli.toy.evaluate import EVALUATION, draw, evaluate
from mmdit_cli.toy.flow import interpolate, sample_timesteps, velocity_target
from mmdit_cli.toy.settings import TrainConfig
from mmdit_cli.toy.world import FRAME, MAX_WORDS, NULL, SAMPLES, SIZE, VOCABULARY_SIZE, World, encode, hash_seed

TRAINING, NOISE = 1, 2  # streams of the captions and of the noise
LOGGED_EVERY = 10
AVERAGED = 20  # steps that the first and the last loss are means of

Progress = Callable[[int, int, float, float, float], None]


@dataclass(frozen=True)
class TrainResult:
    """A finished run. Accuracies are shares of samples from which the oracle reads back every attribute: on
    combinations that training showed, and `held_out` on those it never did. Losses are means over 20 steps."""

    config: str
    steps: int
    parameters: int
    loss: dict[str, float]
    accuracy: dict[str, float]
    held_out: dict[str, float]
    chance: dict[str, float]
    per_attribute: dict[str, dict[str, float]]
    oracle_real: dict[str, float]
    oracle_noise: dict[str, float]
    steps_per_s: float
    run_dir: str
    files: dict[str, str]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the run has been saved; the message says how to go on."""


def train(
    config: ToolConfig,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    steps: int | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    on_progress: Progress = lambda step, steps, loss, rate, left: None,
    on_message: Callable[[str], None] = lambda message: None,
    command_line: Sequence[str] = (),
) -> TrainResult:
    """Train, evaluate, and leave checkpoints, metrics, samples and curves in the run's folder.

    Weights are float32; another `dtype` is that of autocast. Every step is a pure function of seed, step and state, so
    a run that was stopped and resumed on the CPU ends with the same bits as one that was not.

    Raises:
        UserError: the config is not one of the toy's worlds, or the folder can't be used.
        CheckFailed: the loss stopped being finite; the last checkpoint stands.
        Interrupted: Ctrl-C; the state has been saved.
    """
    settings = config.train if steps is None else config.train.model_copy(update={"steps": steps})
    world = _world(config)
    folder = _open_run(config, run_dir, resume)
    run = _Run(config, settings, world, folder, device, dtype, seed)
    for problem in run.start(resume):
        on_message(problem)
    if not resume:
        _describe(run, command_line)

    began, first = time.perf_counter(), run.step
    metrics_path = folder / "metrics.jsonl"
    with metrics_path.open("a", encoding="utf-8") as metrics:
        try:
            while run.step < settings.steps:
                losses = run.train_step()
                rate = (run.step - first) / (time.perf_counter() - began)
                on_progress(run.step, settings.steps, run.losses[-1], rate, (settings.steps - run.step) / rate)
                if run.step % LOGGED_EVERY == 0 or run.step == settings.steps:
                    print(json.dumps({"step": run.step, "loss": run.losses[-1], **losses}), file=metrics, flush=True)
                if run.step % settings.checkpoint_every == 0 and run.step < settings.steps:
                    run.save()
        except KeyboardInterrupt:
            run.save()
            go_on = f"mmdit train-toy --resume --run-dir {folder} with the same --config, --set and --seed"
            raise Interrupted(f"interrupted at step {run.step}; saved. Go on with {go_on}") from None
    rate = (run.step - first) / max(time.perf_counter() - began, 1e-9)
    return _finish(run, rate)


class _Run:
    """The state of a run: model, average, optimizer, schedule and the losses so far."""

    def __init__(
        self,
        config: ToolConfig,
        settings: TrainConfig,
        world: World,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.config, self.settings, self.world, self.folder = config, settings, world, folder
        self.device, self.seed, self.step = device, seed, 0
        self.losses: list[float] = []
        torch.manual_seed(seed)
        self.model: nn.Module = build(config.model).to(device).train()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        self.average.module.config = config.model  # type: ignore[assignment]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
        )
        self.schedule = LambdaLR(self.optimizer, self.learning_rate_factor)
        mixed = dtype != torch.float32
        self.autocast = lambda: torch.autocast(device.type, dtype) if mixed else nullcontext()
        self.null_ids, self.null_mask = encode([NULL])

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero: a pure function of the step."""
        warm = min(1.0, (step + 1) / max(1, self.settings.warmup_steps))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.settings.steps)))

    def start(self, resume: bool) -> list[str]:
        """Take up the newest whole checkpoint where the run is resumed; returns what was wrong with newer ones."""
        if not resume:
            return []
        checkpoint, problems = newest_checkpoint(self.folder)
        if checkpoint is None:
            raise UserError(f"--run-dir {self.folder}: holds no whole checkpoint to resume from" + "".join(problems))
        saved = {key: checkpoint.state.get(key) for key in self.identity()}
        for key, value in self.identity().items():
            if saved[key] != value:
                raise UserError(f"--resume: the run in {self.folder} has another {key}; pass what it was started with")
        restore(checkpoint, self.model, self.average, self.optimizer)
        self.step, self.losses = checkpoint.step, list(checkpoint.state["losses"])
        self.schedule = LambdaLR(self.optimizer, self.learning_rate_factor, last_epoch=self.step - 1)
        _truncate_metrics(self.folder / "metrics.jsonl", self.step)
        return problems

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        plain = self.config.model_dump(mode="json") | {"train": self.settings.model_dump(mode="json")}
        return {"seed": self.seed, "config": plain}

    def save(self) -> Path:
        return save_checkpoint(
            self.folder, self.step, self.model, self.average, self.optimizer, losses=self.losses, **self.identity()
        )

    def train_step(self) -> dict[str, float]:
        """One step; the losses by modality."""
        settings, device = self.settings, self.device
        size = settings.batch_size
        batch = self.world.batch(size, seed=self.seed, stream=TRAINING, index=self.step)
        generator = torch.Generator().manual_seed(hash_seed(self.seed, NOISE, self.step))
        uniform, normal, chances = (
            torch.rand(size, generator=generator),
            torch.randn(size, generator=generator),
            torch.rand(size, generator=generator),
        )
        t = sample_timesteps(settings.timesteps, uniform, normal, shift=settings.shift).to(device)
        unnamed = (chances < settings.caption_dropout)[:, None]
        ids = torch.where(unnamed, self.null_ids, batch.ids).to(device)
        mask = torch.where(unnamed, self.null_mask, batch.mask).to(device)
        data = {name: x.to(device) for name, x in batch.data.items()}
        noise = {name: torch.randn(x.shape, generator=generator).to(device) for name, x in batch.data.items()}

        noisy = {name: interpolate(x, noise[name], t) for name, x in data.items()}
        with self.autocast():
            velocity = self.model({"text": ids, **noisy}, t, masks={"text": mask})
        losses = {
            name: (velocity[name].float() - velocity_target(x, noise[name])).square().mean() for name, x in data.items()
        }
        loss = torch.stack([losses[name] * settings.loss_weights.get(name, 1.0) for name in losses]).sum()
        value = loss.item()
        if not math.isfinite(value):
            raise CheckFailed(
                f"the loss is {value} at step {self.step + 1}, so the run stops; {self._last_good()}. "
                "A lower train.learning_rate or qk_rmsnorm: true may help"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        self.step += 1
        self.losses.append(value)
        return {f"loss_{name}": part.item() for name, part in losses.items()}

    def _last_good(self) -> str:
        checkpoint, _ = newest_checkpoint(self.folder)
        return f"the last checkpoint is {checkpoint.path}" if checkpoint else "there was no checkpoint yet"


def _finish(run: _Run, rate: float) -> TrainResult:
    """Save, judge, and draw the pictures."""
    from mmdit_cli.plots import loss_plot, sample_plot

    checkpoint = run.save()
    model = run.average.module.eval()
    scores = evaluate(model, run.world, run.settings, seed=run.seed, device=run.device)
    shown = run.world.batch(16, seed=run.seed, stream=EVALUATION, index=1)
    samples = draw(model, run.world, shown, run.settings, seed=run.seed, device=run.device)
    files = {
        "checkpoint": checkpoint / EMA,
        "samples": run.folder / "samples.png",
        "loss_plot": run.folder / "loss.png",
        "metrics": run.folder / "metrics.jsonl",
    }
    for key, figure in (("samples", sample_plot(samples)), ("loss_plot", loss_plot(run.losses, run.config.name))):
        with replacing(files[key]) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    head, tail = run.losses[:AVERAGED], run.losses[-AVERAGED:]
    return TrainResult(
        config=run.config.name,
        steps=run.step,
        parameters=sum(p.numel() for p in run.model.parameters()),
        loss={"first": sum(head) / len(head), "last": sum(tail) / len(tail)},
        accuracy={name: score.accuracy for name, score in scores.seen.items()},
        held_out={name: score.accuracy for name, score in scores.held_out.items()},
        chance=scores.chance,
        per_attribute={name: score.per_attribute for name, score in scores.seen.items()},
        oracle_real=scores.oracle_real,
        oracle_noise=scores.oracle_noise,
        steps_per_s=rate,
        run_dir=str(run.folder),
        files={key: str(path) for key, path in files.items()},
    )


def _world(config: ToolConfig) -> World:
    """The world whose modalities the config has.

    Raises:
        UserError: the modalities or their ends are not the world's.
    """
    names = list(config.model.modalities)
    if sorted(names) not in (["image", "text"], ["audio", "image", "text"]):
        raise UserError(f"{config.name}: train-toy has text, image and maybe audio, got {', '.join(names)}")
    ends = {name: (modality.input, modality.output) for name, modality in config.model.modalities.items()}
    text = ends["text"][0]
    if not isinstance(text, TokenInput) or text.vocabulary < VOCABULARY_SIZE or text.max_length < MAX_WORDS:
        wanted = f"{{kind: tokens, vocabulary: {VOCABULARY_SIZE} or more, max_length: {MAX_WORDS} or more}}"
        raise UserError(f"{config.name}: model.modalities.text.input must be {wanted} for train-toy")
    image, head = ends["image"]
    if not isinstance(image, PatchInput) or image.channels != 3 or SIZE % image.patch or head is None:
        raise UserError(
            f"{config.name}: model.modalities.image must have 3 channels in patches that divide {SIZE}, in and out, "
            "for train-toy"
        )
    if "audio" in ends:
        audio, head = ends["audio"]
        if not isinstance(audio, LinearInput) or audio.dim != FRAME or head is None:
            raise UserError(
                f"{config.name}: model.modalities.audio must have linear ends of dim {FRAME} "
                f"({SAMPLES // FRAME} tokens of {FRAME} samples) for train-toy"
            )
    if config.model.timestep is None or config.model.pooled is not None:
        raise UserError(f"{config.name}: train-toy needs model.timestep, and no model.pooled")
    return World(sound="audio" in ends)


def _open_run(config: ToolConfig, run_dir: Path | None, resume: bool) -> Path:
    """The run's folder, new unless it is resumed.

    Raises:
        UserError: it exists and is not empty, is missing where it should be resumed, or can't be made.
    """
    if resume:
        if run_dir is None or not run_dir.is_dir():
            raise UserError(f"--run-dir {run_dir}: there is no such run to resume")
        return run_dir
    folder = run_dir or Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"--run-dir {folder}: is not empty; name a new folder, or go on with it by --resume")
    except OSError as error:
        raise UserError(f"--run-dir {folder}: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--run-dir {folder}: is not writable")
    return folder


def _describe(run: _Run, command_line: Sequence[str]) -> None:
    """The resolved config and what the run was made with."""
    plain = run.identity()["config"]
    write_atomic(run.folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False).encode())
    about: Mapping[str, Any] = {
        "command_line": list(command_line),
        "seed": run.seed,
        "device": str(run.device),
        "mmdit_version": __version__,
        "torch_version": str(torch.__version__),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }
    write_atomic(run.folder / "run.json", (json.dumps(about, indent=2) + "\n").encode())


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):  # a line cut short when the run was killed
            continue
    write_atomic(path, "".join(line + "\n" for line in kept).encode())
