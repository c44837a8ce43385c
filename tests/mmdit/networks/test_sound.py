"""Convolutions over time, a single stream of one modality, and conditions of each token: what MMAudio asks for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import mmdit
from mmdit.layers.positions import scaled_sinusoid, timestep_sinusoid
from mmdit.networks.block import MMDiTBlock
from mmdit.networks.embeddings import stretched
from mmdit.networks.parallel_block import ParallelBlock
from mmdit.networks.transformer import MMDiT
from mmdit.options import OptionError
from mmdit.packing import Packing
from mmdit.sampling import network_velocity, sample
from tests.support.draws import drawn, padded_mask, randn
from tests.support.marks import slow_but

MODEL = {
    "depth": 2,
    "modalities": {
        "audio": {
            "dim": 16,
            "input": {"kind": "feedforward", "dim": 4, "kernel": 7, "statistics": True},
            "conditions": {"sync": {"kind": "feedforward", "dim": 6, "kernel": 3, "period": 2, "empty": 1}},
            "output": {"kind": "linear", "dim": 4, "kernel": 7},
            "rotary": {"axes": [0]},
        },
        "video": {
            "dim": 16,
            "input": {"kind": "feedforward", "dim": 5, "empty": 1},
            "rotary": {"axes": [0], "scale": 2},
        },
        "text": {"dim": 16, "input": {"kind": "feedforward", "dim": 3, "empty": 4}},
    },
    "single_stream": {"depth": 2, "kind": "sequential", "modalities": ["audio"]},
    "discard": ["video", "text"],
    "timestep": {"frequencies": 8, "scale": 1000, "fastest": 10},
    "means": ["video", "text"],
    "dim_cond": 16,
    "heads": 2,
    "dim_head": 8,
    "rotary": {"axes": [8]},
    "attention": {"bias": True, "out_kernel": {"audio": 3, "video": 5}},
    "feedforward": {"mult": 2, "kind": "swiglu", "kernel": {"audio": 3, "video": 5}},
}
TOKENS = {"audio": 8, "sync": 6, "video": 4, "text": 4}
WIDTHS = {"audio": 4, "sync": 6, "video": 5, "text": 3}


def changed(**values):
    """The model with other values at dotted keys (`__` for a dot)."""
    new = copy.deepcopy(MODEL)
    for key, value in values.items():
        *path, last = key.split("__")
        at = new
        for part in path:
            at = at[part]
        at[last] = value
    return {"model": new}


def made(**values):
    return drawn(mmdit.build(changed(**values))).eval()


def inputs(batch=2):
    return {name: randn(batch, n, WIDTHS[name]) for name, n in TOKENS.items()}


def cut(given, i, lengths):
    """One sample at its own lengths."""
    return {name: x[i : i + 1, : lengths[name][i]] for name, x in given.items()}


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
@pytest.mark.parametrize("residual", slow_but(["plain", "manifold_hyper_connections"], "plain"))
def test_masked_places_change_nothing_and_each_sample_is_what_it_is_alone(kind, residual):
    streams = {"kind": residual, "streams": 1 if residual == "plain" else 2}
    net, given, t = made(single_stream__kind=kind, residual=streams), inputs(), torch.rand(2)
    lengths = {"audio": (8, 5), "sync": (4, 6), "video": (4, 3), "text": (2, 4)}
    masks = {name: padded_mask(TOKENS[name], *each) for name, each in lengths.items()}
    spoiled = {name: x.masked_fill(~masks[name][..., None], float("nan")) for name, x in given.items()}
    with torch.no_grad():
        ways = [net(spoiled, t, masks=masks)["audio"]]
        net.transformer.varlen = True
        ways.append(net(spoiled, t, masks=masks)["audio"])
        listed = {name: [x[i, : lengths[name][i]] for i in range(2)] for name, x in given.items()}
        of_lists = net(listed, t)["audio"]
        net.transformer.varlen = False
        ways.append([x for x in net(listed, t)["audio"]])
        for i in range(2):
            alone = net(cut(given, i, lengths), t[i : i + 1])["audio"][0]
            for way in (*ways, of_lists):
                assert torch.allclose(way[i][: lengths["audio"][i]], alone, atol=1e-10)


def test_no_gradient_comes_from_masked_places():
    net, given, t = made(), inputs(), torch.rand(2)
    masks = {name: padded_mask(n, n, n // 2) for name, n in TOKENS.items()}
    seen = []
    for fill in (7.0, float("nan")):
        net.zero_grad()
        xs = {name: x.masked_fill(~masks[name][..., None], fill).requires_grad_() for name, x in given.items()}
        net(xs, t, masks=masks)["audio"][masks["audio"]].square().sum().backward()
        seen.append([x.grad for x in (*xs.values(), *net.parameters()) if x.grad is not None])
        assert all(not x.grad[~masks[name]].any() for name, x in xs.items())
    assert len(seen[0]) > 60
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*seen, strict=True))


def test_packed_it_gives_the_same_where_masks_have_gaps():
    net, given, t = made(), inputs(), torch.rand(2)
    masks = {"audio": torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]).bool()}
    packing = Packing.from_masks([masks["audio"], None, None], [8, 4, 4], 2)
    with torch.no_grad():
        wanted, got = net(given, t, masks=masks)["audio"], net(given, t, masks=packing)["audio"]
    assert torch.allclose(got[masks["audio"]], wanted[masks["audio"]], atol=1e-10)


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("masked", [False, True])
def test_an_input_may_be_empty(name, masked):
    net, given = made(), inputs()
    given[name] = given[name][:, :0]
    masks = {each: torch.ones(x.shape[:2], dtype=torch.bool) for each, x in given.items()} if masked else None
    out = net(given, torch.rand(2), masks=masks)["audio"]
    assert out.shape == (2, 0 if name == "audio" else 8, 4) and out.isfinite().all()


def test_sampling_follows_its_velocity():
    net, given = made().float(), {name: x.float() for name, x in inputs().items()}
    noise = given.pop("audio")
    with torch.no_grad():
        got = sample(network_velocity(net, given), {"audio": noise}, steps=2)["audio"]
        x = noise
        for t in (1.0, 0.5):
            x = x - 0.5 * net({**given, "audio": x}, torch.full((2,), t))["audio"]
    assert torch.allclose(got, x, atol=1e-5)


@pytest.mark.slow
def test_it_compiles_whole_and_gives_the_same():
    net, given, t = made(), inputs(), torch.rand(2)
    with torch.no_grad():
        wanted = net(given, t)["audio"]
        got = torch.compile(net, fullgraph=True, backend="eager")(given, t)["audio"]
    assert torch.allclose(got, wanted, atol=1e-10)


def test_a_single_stream_of_one_modality_leaves_the_others_as_they_are():
    config = {"model": {"depth": 1, "modalities": {"audio": {"dim": 8}, "text": {"dim": 12}}, "dim_cond": 8}}
    config["model"] |= {"heads": 2, "dim_head": 4, "final_norm": False}
    joint = mmdit.build(config)
    config["model"]["single_stream"] = {"depth": 1, "kind": "sequential", "modalities": ["audio"]}
    both = drawn(mmdit.build(config))
    joint.double().load_state_dict({k: x for k, x in both.state_dict().items() if "single" not in k})
    xs, cond = [randn(2, 3, 8), randn(2, 4, 12)], randn(2, 8)
    audio, text = joint(modality_tokens=xs, time_cond=cond)
    got = both(modality_tokens=xs, time_cond=cond)
    (wanted,) = both.single_blocks[0](modality_tokens=[audio], time_cond=cond)
    assert torch.equal(got[0], wanted) and torch.equal(got[1], text)
    assert both.single_blocks[0].modality_names == ("audio",)


def test_conditions_reach_the_tokens_that_they_are_beside_in_time():
    """Without convolutions and attention's mixing, a change of one frame changes the tokens in its time alone."""
    net, given, t = made(), inputs(1), torch.rand(1)
    kept = []
    net.transformer.blocks[0].register_forward_pre_hook(lambda m, a, k: kept.append(k["time_cond"]), with_kwargs=True)
    with torch.no_grad():
        net(given, t)
        given["sync"][:, -1] += 1  # the last of 6; with a kernel of 3, twice, it is seen by the last 4 of them
        net(given, t)
    (audio, video, text), other = kept
    assert audio.shape == (1, 8, 16) and video.shape == text.shape == (1, 16)
    moved = (audio != other[0]).any(-1)[0].tolist()
    seen = F.interpolate(torch.arange(6.0)[None, None], size=8, mode="nearest-exact")[0, 0] >= 2
    assert moved == seen.tolist()
    assert torch.equal(video, other[1])


def test_a_sequence_is_stretched_to_the_nearest_as_torch_does_it():
    for m in (*range(1, 40), 192):
        for n in (*range(1, 60), 345, 431):
            x = torch.arange(float(m))[None, :, None]
            assert torch.equal(stretched(x, n), F.interpolate(x.mT, size=n, mode="nearest-exact").mT), (m, n)


def test_a_masked_sequence_is_stretched_over_the_valid_tokens():
    x, valid, wanted = randn(2, 6, 3), padded_mask(6, 4, 6), padded_mask(9, 9, 7)
    got = stretched(x, 9, valid, wanted)
    assert torch.equal(got[:1], stretched(x[:1, :4], 9)) and torch.equal(got[1:, :7], stretched(x[1:], 7))


def test_where_a_sequence_is_masked_it_is_stretched_from_zeros():
    x, valid = randn(2, 4, 3), torch.tensor([[False] * 4, [True, False, True, False]])
    got = stretched(x, 6, valid)
    assert not got[0].any() and torch.equal(got[1], stretched(x[1:, :3] * valid[1, :3, None], 6)[0])
    net, given, t = made(), inputs(), torch.rand(2)
    wanted = net({name: each[:, :0] if name == "sync" else each for name, each in given.items()}, t)["audio"]
    assert torch.allclose(net(given, t, masks={"sync": torch.zeros(2, 6).bool()})["audio"], wanted)


def test_a_modality_called_as_a_stream_of_several_is_gives_it_no_convolution():
    modalities = {"joined": {"dim": 16}, "a": {"dim": 16}, "b": {"dim": 16, "input": {"kind": "linear", "dim": 3}}}
    stream = {"depth": 1, "modalities": ["a", "b"]}
    sizes = {"depth": 1, "heads": 2, "dim_head": 8, "feedforward": {"kernel": {"joined": 3}}}
    net = mmdit.build({"model": {**sizes, "modalities": modalities, "single_stream": stream}})
    assert net.transformer.single_blocks[0].feedforward.proj_in.in_features == 16


def test_what_is_learned_in_place_of_inputs_takes_their_place_and_is_trained_through_it():
    net, given, t = made(), inputs(), torch.rand(2)
    given |= {"video": net.empty("video", 2, 4), "text": net.empty("text", 2), "sync": net.empty("sync", 2, 6)}
    assert given["text"].shape == (2, 4, 3)
    net(given, t)["audio"].sum().backward()
    assert all(net.inputs[name].empty.grad.abs().sum() > 0 for name in ("video", "text", "sync"))
    with pytest.raises(ValueError, match="text has 4 learned tokens in its place, got a length of 5"):
        net.empty("text", 2, 5)
    with pytest.raises(ValueError, match="audio keeps no empty"):
        net.empty("audio")


def test_statistics_are_kept_with_the_weights_and_not_trained():
    net, x = made(), randn(2, 8, 4)
    mean, deviation = net.inputs["audio"].mean, net.inputs["audio"].deviation
    assert torch.allclose(net.normalize("audio", x), (x - mean) / deviation)
    assert torch.allclose(net.unnormalize("audio", net.normalize("audio", x)), x)
    assert not mean.requires_grad and not deviation.requires_grad
    with pytest.raises(ValueError, match=r"video keeps no statistics.*got \['audio'\]"):
        net.normalize("video", x)


def test_a_modulation_that_depends_on_inputs_is_not_computed_without_them():
    with pytest.raises(ValueError, match="conditioned on its inputs too"):
        made().precompute_modulation(torch.rand(3).double())


def test_the_fastest_wave_is_that_many_times_as_fast():
    t = torch.rand(5)
    assert torch.allclose(scaled_sinusoid(t, 16, 10.0), timestep_sinusoid(10 * t, 16), atol=1e-5)
    plain, fast = made(timestep__fastest=None), made()
    fast.load_state_dict(plain.state_dict())
    assert torch.allclose(plain.time_embed(10 * t), fast.time_embed(t), atol=1e-2)
    assert not torch.allclose(plain.time_embed(t), fast.time_embed(t), atol=1e-1)


def test_queries_and_keys_have_an_eps_of_their_own():
    block = MMDiTBlock(dim_modalities=[8], heads=2, dim_head=4, qk_rmsnorm=True, norm_eps=1e-5, qk_norm_eps=1e-3)
    assert block.joint_attn.q_norms[0].eps == block.joint_attn.k_norms[0].eps == 1e-3
    assert block.attn_norms[0].norm.eps == 1e-5


@pytest.mark.parametrize("make", [MMDiTBlock, MMDiT])
def test_a_kernel_of_no_modality_is_refused(make):
    depth = {"depth": 1} if make is MMDiT else {}
    with pytest.raises(ValueError, match="'sound'.*the modalities are audio, text"):
        make(dim_modalities=[8, 8], modality_names=["audio", "text"], ff_kwargs={"kernel": {"sound": 3}}, **depth)
    with pytest.raises(ValueError, match="'sound'.*the modalities are audio, text"):
        make(dim_modalities=[8, 8], modality_names=["audio", "text"], out_kernel={"sound": 3}, **depth)


def test_a_parallel_block_of_one_modality_has_its_convolutions():
    block = drawn(ParallelBlock(dim=8, name="audio", heads=2, dim_head=4, out_kernel={"audio": 3}))
    assert block.attn.to_out[0].linear.in_features == 24 and block.feedforward.proj_in.in_features == 8


@pytest.mark.parametrize(
    ("values", "at", "message"),
    [
        ({"single_stream__modalities": ["sound"]}, "single_stream.modalities[0]", "'sound' is no modality"),
        ({"single_stream__modalities": ["audio", "text"]}, "feedforward.kernel", "across the ends of modalities"),
        ({"single_stream__modalities": None}, "feedforward.kernel", "across the ends of modalities"),
        ({"register_tokens": {"video": 2}}, "feedforward.kernel", "no neighbours of theirs in time"),
        (
            {"modalities__video__inputs": {"more": {"kind": "linear", "dim": 3}}, "modalities__video__rotary": None},
            "feedforward.kernel",
            "tokens of further inputs or references stand behind its own",
        ),
        ({"register_tokens": {"audio": 2}}, "modalities.audio.conditions", "neither register tokens"),
        ({"means": ["sound"]}, "means[0]", "'sound' is no modality"),
        ({"attention__out_kernel": 4}, "attention.out_kernel", "an odd number, got 4"),
        ({"modalities__audio__output__kernel": 2}, "modalities.audio.output.kernel", "an odd number, got 2"),
        ({"modalities__text__input__feedforward": {"kernel": {"text": 3}}}, "input.feedforward.kernel", "one number"),
        ({"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "out_kernel": 3}}, "out_kernel", "adaptive"),
        ({"modalities__audio__conditions": {"video": {"kind": "linear", "dim": 3}}}, "conditions.video", "another"),
        ({"timestep": None, "means": (), "dim_cond": None}, "audio.conditions", "set timestep as well"),
    ],
)
def test_what_does_not_go_together_is_said_when_the_network_is_made(values, at, message):
    with pytest.raises((OptionError, ValueError)) as error:
        made(**values)
    assert at in str(error.value) and message in str(error.value)


def test_a_modality_with_further_inputs_has_no_conditions():
    with pytest.raises(ValueError, match="further inputs or references has others too"):
        made(modalities__audio__rotary=None, modalities__audio__inputs={"more": {"kind": "linear", "dim": 3}})
