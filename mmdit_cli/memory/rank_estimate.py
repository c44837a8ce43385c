"""What one process of many would hold and send in a training step, by really cutting the model.

`mmdit.parallel` cuts it under a process group that stands for any number of processes and sends nothing, and the step
runs under fake tensors, shortened: figures are those of the whole model. Weights, gradients and optimizer state are in
float32, FSDP gathers and computes in the run's dtype and sums gradients in float32; AdamW is fused.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp._fully_shard._fsdp_param as _fsdp_param
import torch.distributed.tensor.debug as tensor_debug
import torch.testing._internal.distributed.fake_pg  # it registers the backend
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mmdit.parallel import MeshLayout, parallelize
from mmdit.parallel.mesh_layout import DIMENSIONS, SHARD
from mmdit_cli.memory.fake_tensors import FakeTensorMode, StorageTracker, fake_inputs, fake_parameters
from mmdit_cli.memory.optimizer_step import step_bytes, with_gradients
from mmdit_cli.memory.shortened import BlockFollower, Lengthened, ShortRun, lengthened, peak_of, shorten
from mmdit_cli.model_parts.collectives import Collective, CollectiveCounter, Traffic
from mmdit_cli.model_parts.flop_count import meta_model, outputs_sum
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD
from mmdit_cli.model_parts.tensor_bytes import local
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.tool_config import ToolConfig

CPU = torch.device("cpu")
BEFORE = 3  # blocks before the gap: the second of them does not bring the weights of another one, as the rest do


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one process, the inputs apart. `activations`: what the forward pass leaves for the backward one.
    `gathered`: the most that FSDP holds at once beside its shards: weights, and gradients before they are scattered.
    `peak` is the most of all that is held at once, which is less than their sum."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int
    peak: int


@dataclass(frozen=True)
class RankStep:
    """A training step of one process: its memory, and what it sends, by collective."""

    memory: RankMemory
    sent: dict[Collective, Traffic]


def estimate_rank(
    config: ToolConfig,
    layout: MeshLayout,
    dtype: torch.dtype,
    *,
    rank: int = 0,
    batch_size: int | None = None,
    checkpoint: bool | None = None,
    whole: bool = False,
) -> RankStep:
    """See `RankEstimator`."""
    return RankEstimator(config, dtype, batch_size, whole=whole).estimate(layout, rank=rank, checkpoint=checkpoint)


class RankEstimator:
    """Estimates processes of any layouts of one model, which is built once; nothing of its size is allocated, and no
    process group may be there.

    Args:
        dtype: what is computed in.
        batch_size: samples that a process is given; None: the config's.
        whole: run every block.

    Raises:
        ValueError: the model can't be built, or its sizes are beyond any machine.
    """

    def __init__(
        self, config: ToolConfig, dtype: torch.dtype, batch_size: int | None = None, *, whole: bool = False
    ) -> None:
        self.config, self.dtype, self.batch_size = config, dtype, batch_size
        with possible(config):
            self.inputs = example_inputs(config, device="meta", dtype=dtype, batch_size=batch_size)
            self.model = meta_model(config).train()
        self.runs = [] if whole else shorten(self.model, BEFORE)

    def estimate(self, layout: MeshLayout, *, rank: int = 0, checkpoint: bool | None = None) -> RankStep:
        """One process.

        Args:
            checkpoint: recompute each block's activations in the backward pass; None: as the config says.

        Raises:
            ValueError: the layout can't be cut so.
        """
        if checkpoint is None:
            checkpoint = self.config.model.checkpoint_activations
        fake = FakeTensorMode()
        model, runs = deepcopy((self.model, self.runs))
        with fake_group(layout, rank) as mesh, possible(self.config):
            with fake:
                fake_parameters(model, CPU)
                kwargs = fake_inputs(self.inputs.kwargs, CPU)
            low = None if self.dtype == torch.float32 else self.dtype
            parallelize(model, mesh, param_dtype=low, checkpoint_activations=checkpoint)  # a mesh is of real numbers
            blocks = BlockFollower(model)
            tracker, counter = _ShardTracker(blocks.here), CollectiveCounter(blocks.here)
            tracker.ignore([*map(local, (*model.parameters(), *model.buffers())), kwargs])
            with fake, blocks, counter, tracker:
                outputs = outputs_by_name(self.config, model(**kwargs))
                loss = outputs_sum(outputs)
                del outputs
                activations = tracker.held - tracker.gathered
                blocks.start(BACKWARD)
                loss.backward()
            added = lengthened(tracker.curves, runs)
            if added is not None:
                return RankStep(_memory(model, tracker, added, runs, activations), _sent(counter, runs))
        every = RankEstimator(self.config, self.dtype, self.batch_size, whole=True)
        return every.estimate(layout, rank=rank, checkpoint=checkpoint)


def with_copies(step: RankStep, layout: MeshLayout) -> RankStep:
    """The same step of one copy in a layout of more (`replicate`): it holds the same, and what it has scattered of the
    gradients is reduced over the copies.

    Raises:
        ValueError: nothing is scattered, for each process has whole weights: the copies have to be cut themselves.
    """
    if layout.replicate == 1:
        return step
    scattered = [(c, t) for c, t in step.sent.items() if c.kind == "reduce_scatter" and c.by == "fsdp"]
    if not scattered:
        raise ValueError(f"nothing is scattered in {layout}")
    every = tuple(range(0, layout.size, layout.size // layout.replicate))
    traffic = Traffic()
    for collective, each in scattered:
        traffic = traffic.plus(Traffic(each.calls, each.payload // len(collective.ranks)))
    return replace(step, sent=step.sent | {Collective("all_reduce", "fsdp", every): traffic})


@contextmanager
def fake_group(layout: MeshLayout, rank: int = 0) -> Iterator[DeviceMesh]:
    """The mesh of a layout, as one of its processes has it; what it is asked to send goes nowhere."""
    sizes = {name: getattr(layout, name) for name in DIMENSIONS if getattr(layout, name) > 1 or name == SHARD}
    dist.init_process_group("fake", store=dist.HashStore(), rank=rank, world_size=layout.size)
    chunks = getattr(_fsdp_param, "_chunk_with_empty", None)
    shown = warnings.catch_warnings()
    shown.__enter__()
    try:
        if chunks is not None:
            _fsdp_param._chunk_with_empty = _Chunks  # type: ignore[assignment]
        warnings.simplefilter("ignore")  # FSDP's, of views
        yield init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    finally:
        if chunks is not None:
            _fsdp_param._chunk_with_empty = chunks
        shown.__exit__(None, None, None)
        dist.destroy_process_group()
        forget = getattr(tensor_debug, "_clear_sharding_prop_cache", None)
        if forget is not None:  # DTensor keeps what it found for meshes of groups that are gone
            forget()


class _Chunks:
    """What `torch.chunk` gives, of which FSDP looks at two: to make a thousand for each weight would take minutes."""

    def __init__(self, tensor: Tensor, count: int, dim: int) -> None:
        self.tensor, self.dim = tensor, dim
        self.length = -(-tensor.size(dim) // count)

    def __getitem__(self, place: int) -> Tensor:
        whole = self.tensor.size(self.dim)
        start = min(place * self.length, whole)
        if start == whole:
            return self.tensor.new_empty(0)
        return self.tensor.narrow(self.dim, start, min(self.length, whole - start))


class _ShardTracker(StorageTracker):
    """Knows which storages FSDP has made, and that it empties and fills them again."""

    def __init__(self, place: Any) -> None:
        super().__init__(place)
        self.gathered = 0
        self._of_fsdp: set[int] = set()
        self._course: list[int] = []  # of `gathered`
        self._born: dict[int, int] = {}

    def __enter__(self) -> Any:
        self._original = torch.UntypedStorage.resize_

        def resize_(storage: Any, size: int) -> Any:
            out = self._original(storage, size)
            key = id(storage)
            if key in self._known:
                grows = storage.nbytes() > self._sizes[key]
                self._resize(key, storage.nbytes())
                if grows:
                    self.curves.setdefault(self.place(), []).append(self.held)
            return out

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._original  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]  # as it really does; a fake one would make another tensor
        return super().__torch_dispatch__(func, types, args, kwargs)

    def most_gathered(self, gradients: Iterable[Tensor]) -> int:
        """The most that FSDP held at once, beside what it made of gradients for good."""
        course = list(self._course)
        for key in {id(local(x).untyped_storage()) for x in gradients}:
            if key in self._of_fsdp:
                for i in range(self._born[key], len(course)):
                    course[i] -= self._sizes[key]
        return max(course, default=0)

    def _know(self, storage: Any, size: int) -> None:
        key = id(storage)
        if key not in self._known:
            self._of_fsdp.discard(key)  # of a storage that is gone
            if _made_by_fsdp():
                self._of_fsdp.add(key)
                self._born[key] = len(self._course)
        super()._know(storage, size)

    def _resize(self, key: int, size: int) -> None:
        if key in self._of_fsdp:
            self.gathered += size - self._sizes[key]
            self._course.append(self.gathered)
        super()._resize(key, size)


def _made_by_fsdp() -> bool:
    """Whether the operator that runs was called by FSDP's hooks, and by no layer within them."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "distributed/fsdp/" in name:
            return True
        if name.endswith("nn/modules/module.py"):
            return False
        frame = frame.f_back
    return False


def _memory(
    model: nn.Module,
    tracker: _ShardTracker,
    added: Sequence[Lengthened],
    runs: Sequence[ShortRun],
    activations: int,
) -> RankMemory:
    times = {id(p): 1 + run.missing for run in runs for p in run.block.parameters()}
    weights = _storages([(p, times.get(id(p), 1)) for p in (*model.parameters(), *model.buffers())])
    trained = [(p.grad, times.get(id(p), 1)) for p in model.parameters() if p.grad is not None]
    gradients = _storages(trained)
    optimizer, _ = step_bytes("adamw", with_gradients(model, runs), "cpu", False)
    top = max(peak_of(tracker.curves, phase, added) for phase in (FORWARD, BACKWARD))
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations + sum(each.run.missing * each.forward for each in added),
        gathered=tracker.most_gathered(grad for grad, _ in trained),
        peak=weights + optimizer + max(top, gradients),
    )


def _storages(tensors: Iterable[tuple[Tensor, int]]) -> int:
    """Bytes of the storages behind tensors, each so many times; FSDP fills up what the processes do not divide."""
    found = {id(storage): storage.nbytes() * n for storage, n in ((local(x).untyped_storage(), n) for x, n in tensors)}
    return sum(found.values())


def _sent(counter: CollectiveCounter, runs: Sequence[ShortRun]) -> dict[Collective, Traffic]:
    """The whole model's: a missing block sends what its like do."""
    found = counter.total()
    for run in runs:
        for place in ((FORWARD, run.gap - 1), (BACKWARD, run.gap)):
            for collective, traffic in counter.by_place.get(place, {}).items():
                found[collective] = found[collective].plus(traffic, run.missing)
    return found
