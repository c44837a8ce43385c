"""How fast work could be at best, and how near a measured time comes to that: the roofline (Williams et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmdit_cli.profile.ceilings import Ceilings
from mmdit_cli.profile.traffic import Traffic


@dataclass(frozen=True)
class Bound:
    """The least time that some work can take: the larger of its FLOPs over the machine's best matrix product and its
    bytes over its best stream.

    `of_measured` is that time over the measured one: 1 is as fast as can be. `intensity`: FLOPs a byte.
    """

    ms: float
    limited_by: Literal["compute", "memory"]
    bytes: int
    intensity: float
    of_measured: float | None


def bound(flops: int, traffic: Traffic, ceilings: Ceilings, *, model_bytes: int, seconds: float | None) -> Bound:
    """The bound of work that took `seconds`.

    Args:
        model_bytes: of all weights, which decides whether they can stay in a cache from one use to the next.
    """
    compute = flops / ceilings.gemm_flops_per_s
    memory = traffic.seconds(ceilings.stream_rate, model_bytes)
    least = max(compute, memory)
    return Bound(
        ms=least * 1e3,
        limited_by="compute" if compute >= memory and flops else "memory",
        bytes=traffic.bytes,
        intensity=flops / traffic.bytes if traffic.bytes else 0.0,
        of_measured=least / seconds if seconds else None,
    )
