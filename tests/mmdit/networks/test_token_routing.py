"""Token routing: in training the tokens that stay go through the blocks as if the others were not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmdit.networks import token_routing
from mmdit.networks.transformer import MMDiT
from mmdit.options import (
    FeedForwardOptions,
    ModalityOptions,
    ModelOptions,
    ModulationOptions,
    OptionError,
    ResidualOptions,
    RotaryOptions,
    RoutingOptions,
)
from mmdit.packing import Packing
from mmdit.parallel import MeshLayout
from mmdit.parallel.parallelize import check_layout
from mmdit_cli.memory.rank_estimate import fake_group
from tests.support.draws import drawn, padded_mask, randn

LENGTHS, DIMS, REGISTERS = (6, 9), (8, 12), 2
ROUTING = {"start": 1, "end": 3, "share": 0.4}


def network(**more: Any) -> Any:
    options: dict[str, Any] = {
        "depth": 4,
        "modalities": {"text": ModalityOptions(dim=DIMS[0]), "image": ModalityOptions(dim=DIMS[1])},
        "dim_cond": 5,
        "heads": 2,
        "dim_head": 4,
        "qk_rmsnorm": True,
        "rotary": RotaryOptions(axes=(2, 2)),
        "register_tokens": {"image": REGISTERS},
        "final_norm": False,
        "routing": RoutingOptions(**ROUTING),
    }
    torch.manual_seed(0)
    return drawn(MMDiT(ModelOptions(**options | more)))


def arguments() -> dict[str, Any]:
    return {
        "modality_tokens": [randn(2, n, dim) for n, dim in zip(LENGTHS, DIMS, strict=True)],
        "modality_masks": [padded_mask(LENGTHS[0], 4, 6), None],
        "time_cond": randn(2, 5),
        "modality_positions": [None, randn(LENGTHS[1], 2)],
    }


@pytest.mark.parametrize("routed", [["image"], ["text", "image"]])
def test_tokens_that_stay_see_one_another_alone_and_those_that_leave_are_as_they_were(routed, monkeypatch):
    net, given, stayed = network(routing=RoutingOptions(**ROUTING, modalities=routed)).train(), arguments(), {}
    draw = token_routing.TokenRouting._draw

    def drawing(self: Any, x: Any, registers: int) -> Any:
        stayed[x.shape[-1]] = places = draw(self, x, registers)
        return places

    monkeypatch.setattr(token_routing.TokenRouting, "_draw", drawing)
    got = net(**given)
    assert [stayed[DIMS[i]].shape[1] for i in range(2) if DIMS[i] in stayed] == [4, 5 + REGISTERS][2 - len(routed) :]

    table, still = net.rotary(given["modality_positions"][1]), net.rotary(torch.zeros(REGISTERS, 2))
    for sample in range(2):  # one by one, its padding cut off
        valid = int(given["modality_masks"][0][sample].sum())
        text = given["modality_tokens"][0][sample : sample + 1, :valid]
        registers = net.registers[1].tokens[None]
        image = torch.cat([registers, given["modality_tokens"][1][sample : sample + 1]], dim=1)
        turns = torch.cat([still, table])
        for index, block in enumerate(net.blocks):
            chosen = [torch.arange(x.shape[1]) for x in (text, image)]
            if 1 <= index < 3:
                for i, dim in enumerate(DIMS):
                    places = stayed[dim][sample] if dim in stayed else chosen[i]
                    chosen[i] = places[places < valid] if i == 0 else places
            new = block(
                modality_tokens=[text[:, chosen[0]], image[:, chosen[1]]],
                time_cond=given["time_cond"][sample : sample + 1],
                rotary=[None, turns[chosen[1]]],
            )
            text, image = text.clone(), image.clone()
            text[:, chosen[0]], image[:, chosen[1]] = new
        torch.testing.assert_close(got[0][sample, :valid], text[0])
        torch.testing.assert_close(got[1][sample], image[0, REGISTERS:])


def test_all_tokens_go_through_all_blocks_but_in_training():
    net, plain, given = network().eval(), network(routing=None), arguments()
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(net(**given), plain(**given), strict=True))
    net.train()
    assert not torch.equal(net(**given)[1], plain(**given)[1])


def test_which_tokens_leave_is_drawn_for_each_sample_and_call():
    routing, x = token_routing.TokenRouting(0.5, [0]), torch.zeros(64, 1 + 8, 3)
    first, second = (routing._draw(x, 1) for _ in range(2))
    assert first.shape == (64, 1 + 4) and (first[:, 0] == 0).all() and (first.diff(dim=1) > 0).all()
    assert not torch.equal(first, second) and len({tuple(row) for row in first.tolist()}) > 20
    assert token_routing.TokenRouting(0.99, [0])._draw(x[:, :2], 1).shape == (64, 2)  # one stays


def test_streams_recomputed_activations_and_shared_modulation_go_along():
    residual = ResidualOptions(kind="hyper_connections", streams=2)
    for more in ({"residual": residual}, {"modulation": ModulationOptions(shared=True)}):
        outs = []
        for checkpoint in (False, True):
            net = network(checkpoint_activations=checkpoint, **more).train()
            torch.manual_seed(1)
            out = net(**arguments())[1]
            out.square().sum().backward()
            outs.append((out, net.blocks[1].joint_attn.to_qkv[1].linear.weight.grad))
        for one, other in zip(*outs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routing": RoutingOptions(start=1, end=5)}, "routing.end: there are 4 joint blocks, got 5"),
        ({"routing": RoutingOptions(start=1, end=2, modalities=("sound",))}, "'sound' is no modality"),
        ({"varlen": True}, "leave varlen at false"),
        (
            {"feedforward": FeedForwardOptions(kernel={"image": 3}), "register_tokens": 0},
            "feedforward.kernel reads neighbours, which image would lose",
        ),
    ],
)
def test_what_does_not_go_with_routing_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        network(**options)
    with pytest.raises(OptionError, match="it is behind the block 2 in which they leave, got 2"):
        RoutingOptions(start=2, end=2)


def test_tokens_with_conditioning_of_their_own_and_packed_ones_are_refused_in_training_alone():
    net, given = network(register_tokens=0), arguments()
    each_token = given | {"time_cond": [given["time_cond"], randn(2, LENGTHS[1], 5)]}
    for wrong, message in (
        (each_token, "time_cond for image: routing goes with one vector"),
        (given | {"modality_masks": Packing.from_masks(given["modality_masks"], LENGTHS, 2)}, "not a Packing"),
    ):
        net.eval()(**wrong)
        with pytest.raises(ValueError, match=message):
            net.train()(**wrong)


@pytest.mark.parametrize("together", ["tensor", "context"])
def test_processes_that_share_a_samples_tokens_are_refused(together):
    with fake_group(MeshLayout(**{together: 2})) as mesh, pytest.raises(ValueError, match=f"{together}=2: routing"):
        check_layout(network(), mesh)
