"""A training step on several gloo processes: the memory that torch's allocator held, and what was sent, by process."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed.tensor.debug._comm_mode import CommDebugMode, c10d_collective_ops
from torch.utils._python_dispatch import TorchDispatchMode

import mmdit
from mmdit.parallel import MeshLayout, parallelize
from mmdit_cli.memory.measured import measure_spread_memory
from mmdit_cli.model_parts.collectives import Collective, CollectiveCounter, Traffic
from mmdit_cli.model_parts.flop_count import outputs_sum
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig

Case = tuple[ToolConfig, MeshLayout, bool]  # with activations recomputed or not


@dataclass(frozen=True)
class MeasuredRank:
    """Bytes of one process: the most that was held in a step, the inputs apart, and what it sent by kind of collective;
    `calls`: torch's own count of all collectives."""

    peak: int
    sent: dict[str, int]
    calls: int


def measure(cases: Sequence[Case], processes: int, dtype: torch.dtype) -> list[list[MeasuredRank]]:
    """Of each case every process, in order."""
    with tempfile.TemporaryDirectory() as folder:
        given = (processes, folder, list(cases), dtype)
        multiprocessing.start_processes(_work, given, nprocs=processes, start_method="spawn")
        each = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]
    return [[MeasuredRank(**one) for one in found] for found in zip(*each, strict=True)]


def _work(rank: int, processes: int, folder: str, cases: Sequence[Case], dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    found = [asdict(_measured(*case, dtype)) for case in cases]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _measured(config: ToolConfig, layout: MeshLayout, checkpoint: bool, dtype: torch.dtype) -> MeasuredRank:
    gc.collect()  # the network of the case before, whose end would be counted among this one's
    call = example_inputs(config, dtype=dtype).kwargs
    mesh = layout.mesh("cpu")

    def step() -> None:
        outputs_sum(outputs_by_name(config, model(**call))).backward()
        optimizer.step()
        optimizer.zero_grad()

    model = parallelize(mmdit.build(config.model), mesh, param_dtype=dtype, checkpoint_activations=checkpoint).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step()  # it makes the optimizer's state
    memory = measure_spread_memory(model, lambda _: step(), torch.device("cpu"), optimizer=optimizer)
    counter, debug = CollectiveCounter(), _CommCounts()
    with debug, counter:
        step()
    return MeasuredRank(memory.peak, by_kind(counter.total()), debug.calls)


def by_kind(sent: Mapping[Collective, Traffic]) -> dict[str, int]:
    """Bytes that a process sends, by kind of collective."""
    found: dict[str, int] = {}
    for collective, traffic in sent.items():
        found[collective.kind] = found.get(collective.kind, 0) + round(traffic.sent(collective))
    return found


class _CommCounts(TorchDispatchMode):
    """How many of the operators run that torch's CommDebugMode counts; its own account of modules fails with hooks that
    run before a module is entered, as FSDP's."""

    def __init__(self) -> None:
        super().__init__()
        self.known, self.calls = {*CommDebugMode().comm_registry, *c10d_collective_ops}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.calls += getattr(func, "_overloadpacket", None) in self.known
        return func(*args, **(kwargs or {}))
