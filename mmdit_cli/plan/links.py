"""Bytes within and between nodes, and the seconds that they take.

A collective's time is NCCL's own model of a ring, with its constants (NVIDIA/nccl, src/graph/tuning.cc: `baseLat`,
`hwLat` of NVLink and of the network): a start, a step for each process that the data pass, and bytes over bandwidth, by
the quicker of two protocols. A node's cards make as many rings as there are network adapters, so that what enters and
leaves a node is spread over all of its cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mmdit_cli.model_parts.collectives import Collective, Traffic
from mmdit_cli.plan.machine import Machine


class Protocol(NamedTuple):
    """Seconds of a start, of a step within a node and of one between nodes, and the share of the bandwidth."""

    start: float
    within: float
    between: float
    share: float


PROTOCOLS = (Protocol(8.4e-6, 3.4e-6, 14.0e-6, 1.0), Protocol(14.0e-6, 1.9e-6, 4.0e-6, 120 / 128))  # Simple, LL128


@dataclass(frozen=True)
class SentBytes:
    """Bytes that each process sends in a step."""

    within_node: int
    between_nodes: int


def placed(collective: Collective, traffic: Traffic, gpus_per_node: int) -> tuple[float, float]:
    """Bytes that a process sends within its node, and to others."""
    here, there = _members(collective, gpus_per_node)
    sent = traffic.sent(collective)
    if not there:
        return sent, 0.0
    if collective.kind == "all_to_all":
        return sent * (here - 1) / (here - 1 + there), sent * there / (here - 1 + there)
    return sent - sent / here, sent / here  # of a ring through `here` cards of a node, one in `here` steps leaves it


def seconds(collective: Collective, traffic: Traffic, machine: Machine) -> float:
    """Seconds of all calls of a collective, one after the other."""
    here, there = _members(collective, machine.gpus_per_node)
    if here + there == 1:
        return 0.0
    within, between = placed(collective, traffic, machine.gpus_per_node)
    bandwidth = max(
        within / machine.within_node if machine.within_node else 0.0,
        between / machine.between_nodes if machine.between_nodes else 0.0,
    )
    if collective.kind == "all_to_all":  # all at once, and to all
        return traffic.calls * PROTOCOLS[0].start + bandwidth
    rounds = 2 if collective.kind == "all_reduce" else 1
    nodes = len({rank // machine.gpus_per_node for rank in collective.ranks})
    between_steps = rounds * (nodes - 1)
    within_steps = rounds * (here + there - 1) - between_steps
    return min(
        traffic.calls * (p.start + within_steps * p.within + between_steps * p.between) + bandwidth / p.share
        for p in PROTOCOLS
    )


def sent_bytes(sent: Mapping[Collective, Traffic], gpus_per_node: int) -> SentBytes:
    """All collectives together."""
    each = [placed(collective, traffic, gpus_per_node) for collective, traffic in sent.items()]
    return SentBytes(round(sum(within for within, _ in each)), round(sum(between for _, between in each)))


def _members(collective: Collective, gpus_per_node: int) -> tuple[int, int]:
    """How many processes are in the first one's node, that one with them, and how many elsewhere."""
    first = collective.ranks[0] // gpus_per_node
    here = sum(rank // gpus_per_node == first for rank in collective.ranks)
    return here, len(collective.ranks) - here
