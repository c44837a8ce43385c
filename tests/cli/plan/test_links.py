"""Where bytes go, and how long they take."""

from __future__ import annotations

import pytest

from mmdit_cli.model_parts.collectives import Collective, Traffic
from mmdit_cli.plan.links import PROTOCOLS, placed, seconds, sent_bytes
from mmdit_cli.plan.machine import Machine

BOX = Machine("x", "bf16", 1e12, 10**9, 1e12, within_node=1e11, between_nodes=1e10, gpus_per_node=4)


@pytest.mark.parametrize("ranks", [range(4), range(8), range(0, 16, 4), range(0, 16, 2)], ids=str)
def test_a_ring_sends_what_a_simulation_of_it_sends(ranks):
    """Every process passes on what it got last, to its neighbour; as many rings as a node has cards, each of which
    leaves the node at another card."""
    ranks, size = list(ranks), 960
    here = sum(rank // 4 == ranks[0] // 4 for rank in ranks)
    within, between = 0.0, 0.0
    for start in range(here):  # of a node the ring begins at another card
        order = [node[(start + i) % here] for node in zip(*[iter(ranks)] * here, strict=True) for i in range(here)]
        place = order.index(ranks[0])
        next_ = order[(place + 1) % len(order)]
        piece = size / here / len(ranks) * (len(ranks) - 1)
        if next_ // 4 == ranks[0] // 4:
            within += piece
        else:
            between += piece
    got = placed(Collective("all_gather", "fsdp", tuple(ranks)), Traffic(1, size), 4)
    assert got == pytest.approx((within, between))


def test_an_exchange_sends_each_its_part():
    exchange = Collective("all_to_all", "layer", tuple(range(8)))
    assert placed(exchange, Traffic(1, 800, 100), 4) == (300.0, 400.0)
    assert placed(exchange, Traffic(1, 800, 100), 8) == (700.0, 0.0)
    both = sent_bytes({exchange: Traffic(1, 800, 100), Collective("all_reduce", "fsdp", (0, 4)): Traffic(2, 60)}, 4)
    assert (both.within_node, both.between_nodes) == (300, 460)


def test_time_is_a_start_a_step_for_each_process_and_bytes_over_bandwidth():
    gather = Collective("all_gather", "fsdp", tuple(range(8)))
    large = seconds(gather, Traffic(1, 8 * 10**9), BOX)
    assert large == pytest.approx(7e9 / 4 / 1e10, rel=1e-3)  # a quarter by each of a node's adapters, the slower link
    simple, ll128 = PROTOCOLS
    assert seconds(gather, Traffic(3, 0), BOX) == pytest.approx(3 * (ll128.start + 6 * ll128.within + ll128.between))
    assert seconds(gather._replace(ranks=(0,)), Traffic(1, 99), BOX) == 0
    wide = gather._replace(ranks=tuple(range(1024)))
    assert seconds(wide, Traffic(1, 8), BOX) > 50 * seconds(gather, Traffic(1, 8), BOX)
    assert simple.share > ll128.share
