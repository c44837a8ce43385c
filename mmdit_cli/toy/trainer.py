"""One training run's state and its step: model, average, optimizer, schedule."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmdit.config import build
from mmdit.options import as_data
from mmdit.sampling import Tensors
from mmdit.weights.checkpoints import Checkpoint
from mmdit_cli.errors import CheckFailed
from mmdit_cli.model_parts.compiling import CompileGain, compile_gain, compiled
from mmdit_cli.model_parts.follower import tensors_of
from mmdit_cli.model_parts.processes import ALONE, Group, whole
from mmdit_cli.model_parts.tensor_bytes import local
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.alignment import make_alignment
from mmdit_cli.toy.checkpoints import optimizer_tensors, restore, save_checkpoint
from mmdit_cli.toy.data import NULL, ToyData, hash_seed
from mmdit_cli.toy.data_fit import longest_caption, predict
from mmdit_cli.toy.flow import interpolate, prediction_error, sample_timesteps
from mmdit_cli.toy.optimizer import make_optimizer
from mmdit_cli.toy.parametrization import initialize, parameter_groups, scalings
from mmdit_cli.toy.sharded_saving import ShardedSaving, held_tensors

TRAINING, NOISE, LAYERS = 1, 2, 3  # streams of the captions, of the noise, and of what layers draw (dropout)
TIMED = 5  # passes, by which the gain of compiling is known
Precision = Literal["pure", "mixed"]  # mixed: float32 weights, and autocast to the dtype that was asked for
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Diverged(CheckFailed):
    """A loss, gradient or weight stopped being finite; the message names the step and the layer where it began."""


class Trainer:
    """Every step is a pure function of seed, step and state, so a run may stop after any step and go on from its
    checkpoint with the same bits. Weights are float32; another `dtype` is that of autocast."""

    def __init__(
        self,
        config: ToolConfig,
        world: ToyData,
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        group: Group = ALONE,
    ) -> None:
        self.config, self.settings, self.world, self.group = config, config.train, world, group
        self.device, self.dtype, self.seed, self.completed = device, dtype, seed, 0
        with torch.random.fork_rng(devices=[]):  # the same weights on every device; the caller's generator stays
            torch.manual_seed(seed)
            self.model: nn.Module = build(config.model).to(device).train()
        scaled = scalings(config)
        initialize(self.model, scaled)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema_decay))
        for model in (self.model, self.average.module):
            group.shard(model)
        # to be compiled, captions have one size, and so one graph; else they are as long as the longest of a batch
        self.caption_length = longest_caption(config) if self.settings.compile else None
        self.network = self.model
        self.network = compiled(self.model) if self.settings.compile else group.network(self.model, self._some_unused)
        groups = parameter_groups(self.model, self.settings, scaled)
        self.optimizer = make_optimizer(self.model, self.settings, groups)
        # after the average is copied, so that the model alone is followed
        self.alignment = make_alignment(self.model, self.settings.alignment)
        self.schedule = LambdaLR(self.optimizer, self.learning_rate_factor)
        self.saving = ShardedSaving(group)

    @property
    def averaged_model(self) -> nn.Module:
        """The exponential moving average of the weights, in eval mode; every process of the group has to ask."""
        return self.group.full(self.average.module).eval()

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero: a pure function of the step."""
        warm = min(1.0, (step + 1) / (self.settings.warmup_steps + 1))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.settings.steps)))

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {"seed": self.seed, "dtype": DTYPES[self.dtype], "config": as_data(self.config)}

    def step(self) -> dict[str, Any]:
        """One step of training; what is logged of it.

        Raises:
            Diverged: the loss or the gradient is not finite. The weights are as they were before the step.
        """
        batch = self._own_rows(*self._draw())
        own = self._losses(*batch)
        share = self.group.share(self.settings.batch_size)
        weights = torch.tensor([self.settings.loss_weights.get(name, 1.0) for name in own], device=self.device)
        loss = (torch.stack(list(own.values())) * weights).sum()
        each = self.group.total(torch.stack(list(own.values())).detach() * share)
        losses = dict(zip(own, each.tolist(), strict=True))
        value = (each * weights).sum().item()
        if not math.isfinite(value):
            layer = self._first_not_finite(lambda: self._losses(*batch))
            raise Diverged(f"the loss is {value} at step {self.completed + 1}, beginning in {layer}")
        further: dict[str, float] = {}  # what is learned beside the loss
        if self.alignment is not None:
            apart = self.alignment()
            further["alignment"] = self.group.total(apart.detach() * share).item()
            loss = loss + self.alignment.weight * apart
        (loss * (share * self.group.place[1])).backward()  # of which the group takes the mean
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        norm = nn.utils.get_total_norm(gradients.values())
        size = whole(norm).item()
        if not math.isfinite(size):
            # the backward pass goes from the last layer to the first, so the last one that is not finite is the first
            layer = next((name for name in reversed(gradients) if not is_finite(gradients[name])), "their norm")
            self.optimizer.zero_grad()
            raise Diverged(f"the gradient is {size} at step {self.completed + 1}, beginning in {layer}")
        nn.utils.clip_grads_with_norm_(self.model.parameters(), self.settings.clip_grad_norm, norm)
        rate = self.settings.learning_rate * self.learning_rate_factor(self.completed)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.completed += 1
        step = self.completed
        record = {"step": step, "loss": value, "losses": losses, "learning_rate": rate, "gradient_norm": size}
        return record | further

    def save(self, run_dir: Path) -> None:
        """Write a checkpoint, from the main process; or, where weights are sharded, begin to (see `saving`). Every
        process of the group has to ask.

        Raises:
            Diverged: a weight is not finite; the checkpoints before stay the last ones.
            OSError: it can't be written, or the one before can't.
        """
        wrong = (name for name, p in self.model.named_parameters() if not local(p).isfinite().all())
        if (name := self.group.first_text(next(wrong, None))) is not None:
            raise Diverged(f"the weights are not finite after step {self.completed}, in {name}")
        state = {"averaged": int(self.average.n_averaged), "identity": self.identity()}
        average, optimizer = self.average.module, optimizer_tensors(self.optimizer, self.model)
        if self.group.sharded:
            files = held_tensors(self.model, average, optimizer, self._cuts())
            self.saving.start(run_dir, self.completed, files, **state)
        elif self.group.main:
            save_checkpoint(run_dir, self.completed, self.model, average, optimizer, **state)
        self.group.wait()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state."""
        restore(checkpoint, self.model, self.average, self.optimizer, cuts=self._cuts())
        self.completed = checkpoint.step
        self.schedule = LambdaLR(self.optimizer, self.learning_rate_factor, last_epoch=self.completed - 1)

    def _cuts(self) -> dict[str, Any]:
        """How each parameter is cut, in the model's order; see `Group.cuts`."""
        cuts = self.group.cuts(self.model)
        return {name: cuts.get(name) for name, _ in self.model.named_parameters()}

    def _draw(self) -> tuple[Tensor, Tensor, Tensors, Tensors, Tensors]:
        """This step's captions, data, noise and timesteps of the whole batch, drawn on the CPU so that every device and
        process sees the same."""
        size, settings = self.settings.batch_size, self.settings
        batch = self.world.batch(size, seed=self.seed, stream=TRAINING, index=self.completed)
        generator = torch.Generator().manual_seed(hash_seed(self.seed, NOISE, self.completed))
        dropped = torch.rand(size, generator=generator) < settings.caption_dropout
        captions = [NULL if drop else text for text, drop in zip(batch.captions, dropped.tolist(), strict=True)]
        ids, mask = self.world.encode(captions, self.caption_length)
        times: Tensors = {}
        for name in batch.data:
            if times and not settings.timesteps.per_modality:
                times[name] = next(iter(times.values()))
                continue
            uniform, normal = torch.rand(size, generator=generator), torch.randn(size, generator=generator)
            times[name] = sample_timesteps(settings.timesteps, uniform, normal, shift=settings.shift).to(self.device)
        noise = {name: torch.randn(x.shape, generator=generator) for name, x in batch.data.items()}
        data, noise = ({name: x.to(self.device) for name, x in part.items()} for part in (batch.data, noise))
        return ids.to(self.device), mask.to(self.device), data, noise, times

    def _own_rows(self, ids: Tensor, mask: Tensor, *parts: Tensors) -> tuple[Tensor, Tensor, Tensors, Tensors, Tensors]:
        """This process's part of what `_draw` gives."""
        rows = self.group.rows(self.settings.batch_size)
        data, noise, times = ({name: x[rows] for name, x in part.items()} for part in parts)
        return ids[rows], mask[rows], data, noise, times

    def _some_unused(self) -> bool:
        """Whether a weight gets no gradient, by a step that changes nothing."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        loss = torch.stack(list(self._losses(*self._own_rows(*self._draw())).values())).sum()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def _losses(self, ids: Tensor, mask: Tensor, data: Tensors, noise: Tensors, times: Tensors) -> Tensors:
        """Mean squared error of what is predicted, by modality."""
        noisy = {name: interpolate(x, noise[name], times[name]) for name, x in data.items()}
        autocast: AbstractContextManager[object] = nullcontext()
        if self.dtype != torch.float32:
            autocast = torch.autocast(self.device.type, self.dtype)
        devices = [] if self.device.type == "cpu" else [self.device]
        with autocast, torch.random.fork_rng(devices=devices):
            torch.manual_seed(hash_seed(self.seed, LAYERS, self.completed, self.group.place[0]))
            out = predict(self.network, noisy, times, ids, mask, per_modality=self.settings.timesteps.per_modality)
        errors = {
            name: prediction_error(out[name].float(), x, noise[name], times[name], self.settings.prediction)
            for name, x in data.items()
        }
        return {name: error.square().mean() for name, error in errors.items()}

    def compile_gain(self) -> CompileGain:
        """Compile the network, and time forward and backward passes of the next step's batch with it and without.
        Nothing of the state changes."""
        batch, network = self._draw(), self.network
        _, *eager = (self._timed_pass(self.model, batch) for _ in range(1 + TIMED))
        first, *rest = (self._timed_pass(network, batch) for _ in range(1 + TIMED))
        return compile_gain(first, rest, eager)

    def _timed_pass(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensors, Tensors, Tensors]) -> float:
        """Seconds of a forward and a backward pass."""
        self.network = network
        began = time.perf_counter()
        torch.stack(list(self._losses(*batch).values())).sum().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        taken = time.perf_counter() - began
        self.optimizer.zero_grad()
        return taken

    def _first_not_finite(self, forward: Any) -> str:
        """The innermost module whose output stops being finite first, when `forward` is run again."""
        for name, p in self.model.named_parameters():
            if not is_finite(p):
                return f"the weights of {name}"
        found: list[str] = []
        self.network = self.model  # no hook is called in a compiled graph; the run ends here

        def check(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if not found and any(x.is_floating_point() and not x.isfinite().all() for x in tensors_of(output)):
                    found.append(name)

            return hook

        hooks = [
            module.register_forward_hook(check(name or "the model")) for name, module in self.model.named_modules()
        ]
        try:
            with torch.no_grad():
                forward()
        finally:
            for hook in hooks:
                hook.remove()
        return self.group.first_text(found[0] if found else None) or "the loss itself"


def is_finite(x: Tensor) -> bool:
    """Of a tensor that may be sharded; then every process has to ask."""
    return bool(whole(x).isfinite().all())
