"""A spread training step as one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.memory.measured import STEPS
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import NEVER, Column, listing, note, tokens_text

if TYPE_CHECKING:
    from mmdit_cli.profile.spread_profile import RankProfile, SpreadProfile


def spread_tables(results: Sequence[SpreadProfile], width: int) -> list[RenderableType]:
    """Of each config a row for each process."""
    parts: list[RenderableType] = []
    for result in results:
        columns = _columns(shares_samples=len({rank.part for rank in result.ranks}) < result.processes)
        title = f"{result.config}: a training step of {result.processes} processes, {result.parallel}"
        parts += [listing(title, result.ranks, columns, width), note(_whole(result))]
    return [*parts, *map(note, NOTES)]


def _columns(*, shares_samples: bool) -> list[Column]:
    def of_step(name: str) -> Callable[[RankProfile], str]:
        return lambda rank: f.seconds(getattr(rank.profiled_ms, name) / 1e3)

    def held(name: str) -> Callable[[RankProfile], str]:
        return lambda rank: f.bytes_(getattr(rank.memory_bytes, name))

    return [
        Column("process", lambda rank: str(rank.rank)),
        Column("samples of", lambda rank: str(rank.part), 110 if shares_samples else NEVER),
        Column("step", lambda rank: f.seconds(rank.latency_ms.median / 1e3)),
        Column("profiled", of_step("wall"), 100),
        Column("computing", of_step("computing")),
        Column("communication", of_step("communication")),
        Column("hidden", of_step("hidden"), 76),
        Column("exposed", of_step("exposed")),
        Column("neither", of_step("neither"), 100),
        Column("sent", lambda rank: f.bytes_(sum(rank.sent_bytes.values())), 66),
        Column("weights", held("weights"), 120),
        Column("gradients", held("gradients"), 130),
        Column("optimizer", held("optimizer"), 130),
        Column("activations", held("activations"), 140),
        Column("peak memory", held("peak")),
    ]


def _whole(result: SpreadProfile) -> str:
    latency = result.latency_ms
    interval = "" if latency.ci_low is None else f" (95 %: {_ms(latency.ci_low)} to {_ms(latency.ci_high)})"
    return (
        f"{result.config}: {_ms(latency.median)}{interval} a step of the slowest process, {latency.runs} runs; "
        f"{result.batch_size} × {tokens_text(result.tokens)} tokens of all processes, "
        f"{f.number(result.samples_per_s)} samples/s, {f.flops(result.flops)}, of which each process does "
        f"{f.rate(result.achieved_flops_per_s, 'FLOP')}; {f.count(result.parameters)} parameters."
    )


def _ms(value: float | None) -> str:
    return f.seconds(None if value is None else value / 1e3)


NOTES = (
    "Step: forward, backward and AdamW, begun by all processes together; the median of each.",
    "Profiled: the mean of steps of their own under torch's profiler, and what it is made of: profiled = computing + "
    "exposed + neither, communication = hidden + exposed. Computing: operators (CPU) or kernels and copies (CUDA). "
    "Communication: collectives, from when gloo takes each up until it is done, or NCCL's kernels; waiting for slower "
    "processes is in it. Exposed: while nothing is computed. Neither: Python, and waiting for no collective.",
    "Sent: bytes of the collectives of a step, as a ring sends them. Memory: the most that torch's allocator held at "
    f"once during a step, the inputs apart (with gloo, that of {STEPS} which held least: it holds what it sends until "
    "others have it); what gloo, NCCL and the allocator take besides is not in it.",
)
