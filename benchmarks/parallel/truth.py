"""What is planned for each process against what is measured; the table of `python -m benchmarks.parallel truth`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from benchmarks.parallel.measured_rank import Case, MeasuredRank, by_kind, measure
from mmdit.parallel import MeshLayout
from mmdit_cli.memory.rank_estimate import RankEstimator, RankStep
from mmdit_cli.request.tool_config import as_tool_config

BOUND = 0.1
DTYPE = torch.bfloat16
LAYOUTS = {
    2: (MeshLayout(shard=2), MeshLayout(replicate=2), MeshLayout(tensor=2), MeshLayout(context=2)),
    4: (
        MeshLayout(shard=4),
        MeshLayout(replicate=2, shard=2),
        MeshLayout(shard=2, tensor=2),
        MeshLayout(shard=2, context=2),
        MeshLayout(context=2, tensor=2),
    ),
}
_SIZES = dict(dim_cond=64, heads=4, dim_head=24, qk_rmsnorm=True, depth=6)  # many a CPU computes bfloat16 slowly
_NARROW, _WIDE = {"text": {"dim": 48}, "image": {"dim": 96}}, {"text": {"dim": 96}, "image": {"dim": 96}}
MODELS: dict[str, dict[str, Any]] = {
    "two streams": {"variant": "two_modality", "modalities": _NARROW, **_SIZES},
    "one stream behind": {
        **_SIZES,
        "modalities": _WIDE,
        "depth": 2,
        "single_stream": {"depth": 5, "kind": "parallel"},
    },
}
RUN = {"batch_size": 2, "tokens": {"text": 41, "image": 257}}  # which the processes do not divide
COLUMNS = ["network", "layout", "recomputed", "process", "planned", "measured", "", "sent", "collectives", "holds"]
COLUMNS_OF_CASES = [
    "network",
    "layout",
    "recomputed",
    "planned, MB",
    "measured, MB",
    "farthest",
    "sent, MB",
    "collectives",
    "",
]


@dataclass(frozen=True)
class Truth:
    """One process of a case."""

    network: str
    layout: MeshLayout
    checkpoint: bool
    rank: int
    planned: RankStep
    measured: MeasuredRank

    @property
    def apart(self) -> float:
        return self.planned.memory.peak / self.measured.peak - 1

    @property
    def sent(self) -> dict[str, int]:
        return by_kind(self.planned.sent)

    @property
    def holds(self) -> bool:
        calls = sum(traffic.calls for traffic in self.planned.sent.values())
        return abs(self.apart) <= BOUND and self.sent == self.measured.sent and calls == self.measured.calls

    def row(self) -> list[str]:
        """As the table shows it."""
        planned, measured = self.planned.memory.peak / 1e6, self.measured.peak / 1e6
        equal = "equal" if self.sent == self.measured.sent else f"{self.sent} planned, {self.measured.sent} counted"
        return [
            self.network,
            str(self.layout),
            "blocks" if self.checkpoint else "",
            str(self.rank),
            f"{planned:.2f} MB",
            f"{measured:.2f} MB",
            f"{self.apart:+.1%}",
            f"{sum(self.sent.values()) / 1e6:.2f} MB, {equal}",
            str(self.measured.calls),
            "yes" if self.holds else "NO",
        ]


def row_of_case(processes: Sequence[Truth]) -> list[str]:
    """All processes of a case together: memory of each, where they differ."""
    first, farthest = processes[0], max(processes, key=lambda each: abs(each.apart))

    def each(values: Iterable[float]) -> str:
        return " ".join(dict.fromkeys(f"{value:.2f}" for value in values))

    return [
        first.network,
        str(first.layout),
        "blocks" if first.checkpoint else "",
        each(one.planned.memory.peak / 1e6 for one in processes),
        each(one.measured.peak / 1e6 for one in processes),
        f"{farthest.apart:+.1%}",
        each(sum(one.sent.values()) / 1e6 for one in processes),
        " ".join(dict.fromkeys(str(one.measured.calls) for one in processes)),
        "holds" if all(one.holds for one in processes) else "FAILS",
    ]


def truths(networks: Sequence[str] = tuple(MODELS), processes: Sequence[int] = tuple(LAYOUTS)) -> Iterator[Truth]:
    """Every network, layout and process, without and with recomputed activations."""
    for count in processes:
        named = [(name, layout, ckpt) for name, layout, ckpt in product(networks, LAYOUTS[count], (False, True))]
        configs = {name: as_tool_config({"name": name, "model": MODELS[name], "run": RUN}) for name in networks}
        estimators = {name: RankEstimator(config, DTYPE) for name, config in configs.items()}
        cases: list[Case] = [(configs[name], layout, checkpoint) for name, layout, checkpoint in named]
        for (name, layout, checkpoint), found in zip(named, measure(cases, count, DTYPE), strict=True):
            print(f"{name}, {layout}", file=sys.stderr, flush=True)
            for rank, one in enumerate(found):
                planned = estimators[name].estimate(layout, rank=rank, checkpoint=checkpoint)
                yield Truth(name, layout, checkpoint, rank, planned, one)
