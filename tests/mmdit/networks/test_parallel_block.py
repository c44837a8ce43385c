from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

import mmdit
from mmdit.config import ConfigError
from mmdit.networks.parallel_block import ParallelBlock
from mmdit.networks.transformer import MMDiT
from tests.support import oracles
from tests.support.draws import as_read, drawn, padded_mask, randn

DIM, COND = 12, 6
BLOCK = dict(dim=DIM, dim_cond=COND, heads=2, dim_head=4, bias=True)
STACK = dict(depth=2, dim_modalities=(DIM, DIM), dim_cond=COND, heads=2, dim_head=4, final_norms=False)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def tokens():
    return randn(2, 3, DIM), randn(2, 5, DIM)


def test_a_parallel_block_adds_attention_and_feedforward_of_the_same_tokens():
    net = drawn(ParallelBlock(**BLOCK, qk_rmsnorm=True, qk_norm_shared=True, ff_kwargs=dict(kind="gelu_tanh")))
    cond, mask = randn(2, COND), padded_mask(5, 2, 5)
    (x,) = as_read([randn(2, 5, DIM)], [mask])
    state = net.state_dict()
    shift, scale, gate = (silu(cond) @ state["modulation.linear.weight"].T + state["modulation.linear.bias"])[
        :, None
    ].chunk(3, -1)
    y = oracles.layer_norm(x) * (1 + scale) + shift
    (attended,) = oracles.joint_attention(oracles.below(state, "attn."), [y], 2, [mask])
    fed = oracles.feedforward(y, oracles.below(state, "feedforward."), "gelu_tanh")
    (got,) = net(modality_tokens=[x], modality_masks=[mask], time_cond=cond)
    close(got, x + gate * (attended + fed))


@pytest.mark.parametrize("kind", ["parallel", "sequential"])
def test_single_stream_blocks_run_over_the_joined_tokens(kind):
    net = drawn(MMDiT(**STACK, single_stream_depth=2, single_stream=kind))
    xs, cond, mask = tokens(), randn(2, COND), padded_mask(3, 2, 3)
    outs = xs
    for block in net.blocks:
        outs = block(modality_tokens=outs, modality_masks=[mask, None], time_cond=cond)
    joined, joint_mask = torch.cat(outs, 1), torch.cat([mask, torch.ones(2, 5, dtype=torch.bool)], 1)
    for block in net.single_blocks:
        (joined,) = block(modality_tokens=[joined], modality_masks=[joint_mask], time_cond=cond)
    got = net(modality_tokens=xs, modality_masks=[mask, None], time_cond=cond)
    close(torch.cat(got, 1)[joint_mask], joined[joint_mask])


@pytest.mark.parametrize("kind", ["parallel", "sequential"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_token_of_the_joined_stream_is_modulated_by_its_own_modality(kind, shared):
    net = drawn(MMDiT(**STACK, single_stream_depth=2, single_stream=kind, shared_modulation=shared))
    xs, cond, other = tokens(), randn(2, COND), randn(2, COND)
    same = net(modality_tokens=xs, time_cond=cond)
    for a, b in zip(net(modality_tokens=xs, time_cond=[cond, cond.clone()]), same, strict=True):
        close(a, b)
    apart = net(modality_tokens=xs, time_cond=[other, cond])
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(apart, same, strict=True))


@pytest.mark.parametrize("kind", ["parallel", "sequential"])
def test_a_shared_modulation_is_that_of_every_block(kind):
    shared = drawn(MMDiT(**STACK, single_stream_depth=2, single_stream=kind, shared_modulation=True))
    own = MMDiT(**STACK, single_stream_depth=2, single_stream=kind).double()
    state = {}
    for name in own.state_dict():
        source = name
        if "modulation" in name:
            last = ".".join(name.split(".")[-2:])
            side = name.split(".")[3] if name.startswith("blocks") else None
            source = f"shared_modulations.{side}.{last}" if side else f"shared_single_modulation.{last}"
        state[name] = shared.state_dict()[source]
    own.load_state_dict(state)
    xs, cond = tokens(), randn(2, COND)
    for a, b in zip(shared(modality_tokens=xs, time_cond=cond), own(modality_tokens=xs, time_cond=cond), strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", ["parallel", "sequential"])
@pytest.mark.parametrize(
    "options",
    [
        dict(num_adaptive_weights=2),
        dict(num_adaptive_weights=2, gating="sample"),
        dict(num_residual_streams=3),
        dict(num_residual_streams=2, residual="hyper_connections"),
        dict(softclamp=True, softclamp_value=2.0),
        dict(num_register_tokens=2),
        dict(checkpoint_activations=True),
        dict(dim_cond=None),
    ],
    ids=str,
)
def test_the_blocks_variants_work_in_one_stream_and_every_parameter_learns(kind, options):
    net = drawn(MMDiT(**STACK | dict(single_stream_depth=2, single_stream=kind) | options))
    cond = {} if "dim_cond" in options else dict(time_cond=randn(2, COND))
    outs = net(modality_tokens=tokens(), **cond)
    assert [x.shape for x in outs] == [(2, 3, DIM), (2, 5, DIM)]
    sum(x.square().sum() for x in outs).backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in still if not name.endswith("width.pre")] == []


def test_padding_changes_no_valid_token_of_one_stream():
    net = drawn(MMDiT(**STACK, single_stream_depth=2, rotary_axes=(2, 2)))
    (text, image), cond = tokens(), randn(2, COND)
    places = [randn(3, 2), randn(5, 2)]
    wanted = net(modality_tokens=(text, image), time_cond=cond, modality_positions=places)
    longer, mask = torch.cat([text, randn(2, 4, DIM)], 1), padded_mask(7, 3, 3)
    got = net(
        modality_tokens=(longer, image),
        modality_masks=(mask, None),
        time_cond=cond,
        modality_positions=[torch.cat([places[0], randn(4, 2)]), places[1]],
    )
    close(got[0][:, :3], wanted[0])
    close(got[1], wanted[1])


def test_register_tokens_stand_at_0_on_every_rotary_axis():
    options = dict(depth=1, dim_modalities=(DIM,), dim_cond=COND, heads=2, dim_head=4, rotary_axes=(2, 2))
    net = drawn(MMDiT(**options, num_register_tokens=2, final_norms=False))
    bare = MMDiT(**options, final_norms=False).double()
    bare.load_state_dict({name: x for name, x in net.state_dict().items() if not name.startswith("registers")})
    x, cond, places = randn(2, 5, DIM), randn(2, COND), randn(5, 2)
    (got,) = net(modality_tokens=[x], time_cond=cond, modality_positions=[places])

    def with_registers_at(place):
        joined = torch.cat([net.registers[0].tokens.expand(2, -1, -1), x], 1)
        at = torch.cat([torch.full((2, 2), place, dtype=places.dtype), places])
        return bare(modality_tokens=[joined], time_cond=cond, modality_positions=[at])[0][:, 2:]

    close(got, with_registers_at(0.0))
    assert (got - with_registers_at(1.0)).abs().max() > 1e-4


def test_a_nested_residual_keeps_the_feedforward_alone():
    options = dict(dim_modalities=(DIM,), dim_cond=COND, heads=2, dim_head=4)
    nested = drawn(MMDiT(depth=1, **options, residual="nested", final_norms=False))
    x, cond = randn(2, 5, DIM), randn(2, COND)
    block, state = nested.blocks[0], nested.blocks[0].state_dict()
    chunks = (silu(cond) @ state["modulations.0.linear.weight"].T + state["modulations.0.linear.bias"])[:, None]
    a_shift, a_scale, a_gate, f_shift, f_scale, f_gate = chunks.chunk(6, -1)
    (attended,) = block.joint_attn([oracles.layer_norm(x) * (1 + a_scale) + a_shift])
    seen = oracles.layer_norm(x + a_gate * attended) * (1 + f_scale) + f_shift
    (got,) = nested(modality_tokens=[x], time_cond=cond)
    close(got, x + f_gate * block.feedforwards[0](seen))


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        (dict(dim_modalities=(8, 12)), {}, "widths must be equal, got modality 0 8, modality 1 12"),
        (dict(single_stream="beside"), {}, "single_stream: expected one of parallel, sequential, got 'beside'"),
        (
            dict(shared_modulation=True, dim_cond=None),
            {},
            "modulation comes from the conditioning vector, so set dim_cond",
        ),
        (
            dict(shared_modulation=True, dual_blocks=(0,)),
            {},
            "the second attention of attention.dual has no shared modulation",
        ),
        (dict(rotary_axes=(4,)), {}, "modality_positions: this model has rotary_axes and needs them, got none"),
        ({}, dict(modality_positions=[None, None]), "was built without rotary_axes"),
        (dict(rotary_axes=(4,)), dict(modality_positions=[None]), "must be one .* for each of .* got 1"),
        (
            dict(rotary_axes=(4,)),
            dict(modality_positions=[None, torch.zeros(4, 1)]),
            r"positions of modality 1 must have the shape \(5, 1\) \(length, axes\), got \(4, 1\)",
        ),
        (
            dict(num_adaptive_weights=2, gating="sample"),
            dict(time_cond=[torch.zeros(2, COND), torch.ones(2, COND)]),
            "one gate for the joined tokens",
        ),
        (dict(adaln="identity", modulation_bias=False), {}, "starts the gates at 1 by their bias"),
        (dict(qk_rmsnorm=True, qk_layernorm=True), {}, "set either qk_rmsnorm or qk_layernorm"),
    ],
)
def test_what_can_not_be_is_refused_with_what_was_wanted(options, call, message):
    with pytest.raises(ValueError, match=message):
        net = MMDiT(**STACK | dict(single_stream_depth=1) | options)
        xs = (torch.zeros(2, 3, DIM), torch.zeros(2, 5, DIM))
        net(modality_tokens=xs, **dict(time_cond=torch.zeros(2, COND)) | call)


IMAGE = {"dim": 8, "input": {"kind": "patches", "channels": 3, "patch": 2}, "rotary": {"axes": [0, 1]}}
TEXT = {"dim": 8, "input": {"kind": "linear", "dim": 4}}
WHOLE = {
    "depth": 1,
    "modalities": {"text": TEXT, "image": IMAGE},
    "timestep": {},
    "dim_cond": 6,
    "heads": 2,
    "dim_head": 4,
    "rotary": {"axes": [2, 2]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rotary": {"axes": [2, 4]}},
            "rotary.axes: the axes share the dim_head = 4 features of a head, got a sum of 6",
        ),
        ({"rotary": None}, "modalities.image.rotary: the model has no rotary axes"),
        ({"modalities": {"image": IMAGE | {"rotary": {"axes": [0]}}}}, "rotary.axes: an image needs two axes"),
        ({"modalities": {"image": IMAGE | {"rotary": {"axes": [0, 2]}}}}, r"rotary.axes\[1\]: axis 2 does not exist"),
        (
            {
                "modalities": {
                    "text": {"dim": 8, "input": {"kind": "linear", "dim": 4}, "rotary": {"axes": [0], "after": "sky"}}
                }
            },
            "rotary.after: 'sky' is no modality",
        ),
        ({"modalities": {"text": {"dim": 12}, "image": IMAGE}, "single_stream": {"depth": 1}}, "widths must be equal"),
        ({"unused_weights": "all"}, "unused_weights: unused weights are those of a discarded modality"),
        ({"adaln": "identity", "modulation": {"bias": False}}, "modulation.bias: adaln 'identity'"),
        ({"timestep": None, "guidance": {}, "dim_cond": None}, "guidance: guidance conditions the blocks"),
        ({"residual": {"kind": "nested", "streams": 2}}, "residual.streams: kind 'nested' has 1 stream"),
    ],
)
def test_a_config_that_can_not_be_names_the_key(change, message):
    with pytest.raises(ConfigError, match=message):
        mmdit.build(WHOLE | change)


def test_a_configs_rotary_places_are_those_of_its_inputs():
    net = drawn(mmdit.build(WHOLE))
    given = {"text": randn(2, 3, 4), "image": randn(2, 3, 4, 6)}
    places = net.places(given)
    assert places[0] is None
    assert places[1].tolist() == [[r, c] for r in range(2) for c in range(3)]
    t = torch.rand(2)
    moved = {"text": given["text"], "image": given["image"].transpose(2, 3)}
    assert net(given, t)["image"].shape == net(moved, t)["image"].shape == (2, 6, 8)


def test_a_sequence_follows_another_and_counts_in_steps_of_its_scale():
    modalities = {
        "text": {"dim": 8, "input": {"kind": "linear", "dim": 4}, "rotary": {"axes": [0]}},
        "audio": {
            "dim": 8,
            "input": {"kind": "linear", "dim": 4},
            "rotary": {"axes": [0], "after": "text", "scale": 0.25},
        },
    }
    net = mmdit.build({**WHOLE, "modalities": modalities, "rotary": {"axes": [4]}})
    places = net.places({"text": randn(2, 3, 4), "audio": randn(2, 4, 4)})
    assert places[0].flatten().tolist() == [0, 1, 2]
    assert places[1].flatten().tolist() == [3, 3.25, 3.5, 3.75]
