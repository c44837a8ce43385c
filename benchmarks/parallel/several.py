"""Several gloo processes on this machine, started once, which hold every network against itself on one process."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from benchmarks.parallel.cases import case, network
from benchmarks.parallel.equality import Difference, Known, difference, known
from mmdit.parallel import MeshLayout

Case = tuple[str, MeshLayout, dict[str, Any]]  # network, layout, options of `parallelize` and the weights' `dtype`


def compare(cases: Sequence[Case], processes: int) -> list[Difference | str]:
    """The largest difference that any process finds for each, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.set_forkserver_preload([__name__])  # imported once, for all of them
        work = processes, folder, list(cases)
        multiprocessing.start_processes(_work, work, nprocs=processes, start_method="forkserver")
        each = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]
    return [_worst(found) for found in zip(*each, strict=True)]


def _worst(found: Sequence[dict[str, Any]]) -> Difference | str:
    if problems := [one["problem"] for one in found if "problem" in one]:
        return str(problems[0])
    return Difference(**{name: max(one[name] for one in found) for name in found[0]})


def _work(rank: int, processes: int, folder: str, cases: Sequence[Case]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # FSDP's, of views
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)  # of collectives in several steps
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    found: list[dict[str, Any]] = []
    meshes = {layout: layout.mesh("cpu") for layout in dict.fromkeys(layout for _, layout, _ in cases)}
    kept: dict[Any, tuple[nn.Module, dict[str, Any], Known]] = {}
    for name, layout, options in cases:
        own = dict(options)
        key = name, own.pop("dtype", torch.float64)
        if key not in kept:
            model, call = network(case(name), key[1])
            kept = {key: (model, call, known(model, call))}
        model, call, one = kept[key]
        try:
            found.append(asdict(difference(model, call, meshes[layout], one, **own)))
            if rank == 0:  # the last line says where a run that hangs does
                print(f"{name}, {layout}: {max(found[-1].values()):.0e}", file=sys.stderr, flush=True)
        except Exception as problem:  # what fails with one network is not to hide the others
            found.append({"problem": f"{type(problem).__name__}: {problem}\n{traceback.format_exc()[-1500:]}"})
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
