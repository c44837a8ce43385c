from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

import mmdit
from mmdit import MMDiTModel
from mmdit.config import ConfigError
from mmdit.layers.positions import sinusoid
from mmdit.networks.embeddings import PatchEmbed, make_pooled_embed
from mmdit.options import PatchInput, PooledOptions
from mmdit.packing import Packing
from tests.support import oracles
from tests.support.draws import drawn, padded_mask, randn

CONFIG = {
    "variant": "generalized",
    "depth": 2,
    "modalities": {
        "text": {"dim": 8, "input": {"kind": "tokens", "vocabulary": 20, "max_length": 6}},
        "image": {
            "dim": 12,
            "input": {"kind": "patches", "channels": 3, "patch": 2, "max_size": 6, "base_size": 3},
            "output": {"kind": "patches", "channels": 5},
        },
        "audio": {
            "dim": 8,
            "input": {"kind": "linear", "dim": 4, "positions": "sincos"},
            "output": {"kind": "linear", "dim": 7},
        },
    },
    "discard": ["text"],
    "timestep": {"frequencies": 16},
    "pooled": {"dim": 10},
    "dim_cond": 6,
    "heads": 2,
    "dim_head": 4,
}


def inputs(height=8, width=4, audio=5):
    return {"text": torch.randint(20, (2, 6)), "image": randn(2, 3, height, width), "audio": randn(2, audio, 4)}


def model(**changes) -> MMDiTModel:
    return drawn(mmdit.build(CONFIG | changes))


def test_every_end_gives_its_own_form():
    net = model()
    out = net(inputs(), torch.rand(2), randn(2, 10), {"text": padded_mask(6, 2, 6)})
    assert {name: tuple(x.shape) for name, x in out.items()} == {"image": (2, 5, 8, 4), "audio": (2, 5, 7)}


def test_a_config_without_ends_is_the_bare_transformer():
    bare = {"depth": 1, "modalities": {"a": {"dim": 8}, "b": {"dim": 4}}, "heads": 2, "dim_head": 4}
    net = mmdit.build({"model": bare})
    assert type(net).__name__ == "MMDiT"
    assert [x.shape for x in net(modality_tokens=(torch.randn(1, 2, 8), torch.randn(1, 3, 4)))] == [
        (1, 2, 8),
        (1, 3, 4),
    ]
    named = {"variant": "two_modality", **bare, "modalities": {"text": {"dim": 8}, "image": {"dim": 4}}}
    assert isinstance(mmdit.build(named), mmdit.MMDiT)


def test_images_of_other_sizes_and_masked_words_go_through():
    net, given = model(), inputs(12, 6, 3)
    masks = {"text": padded_mask(6, 2, 4)}
    before = net(given, torch.rand(2) * 0 + 0.5, torch.ones(2, 10).double(), masks)
    given["text"] = torch.where(masks["text"], given["text"], torch.randint(20, (2, 6)))
    after = net(given, torch.rand(2) * 0 + 0.5, torch.ones(2, 10).double(), masks)
    assert before["image"].shape == (2, 5, 12, 6)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_patches_come_out_where_they_went_in():
    """A head that copies the mean of each input patch must give an image of the means, patch by patch."""
    net, image = model(), randn(2, 3, 8, 4)
    embed, head = net.inputs["image"], net.outputs["image"]
    patches = image.unfold(2, 2, 2).unfold(3, 2, 2)  # b c h w p q
    wanted = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) @ embed.linear.weight.T + embed.linear.bias
    embed.positions = torch.nn.Identity()
    torch.testing.assert_close(embed(image, "image"), wanted)

    means = torch.zeros(2, 8, 12).double()
    means[..., 0] = patches.mean((1, 4, 5)).flatten(1)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.weight[:, 0] = 1
        head.linear.bias.zero_()
    head.norm.forward = lambda x, shift, scale: x
    out = head(means, None, image)
    torch.testing.assert_close(out[:, 0], patches.mean((1, 4, 5)).repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_token_ids_are_looked_up_and_numbered():
    embed, ids = model().inputs["text"], torch.randint(20, (2, 4))
    wanted = embed.embedding.weight[ids] + embed.positions[:4]
    torch.testing.assert_close(embed(ids, "text"), wanted)


def test_a_sequence_is_projected_and_numbered():
    embed, x = model().inputs["audio"], randn(2, 5, 4)
    wanted = oracles.project(x, embed.linear.weight, embed.linear.bias) + sinusoid(torch.arange(5), 8)
    torch.testing.assert_close(embed(x, "audio"), wanted)


def test_a_patch_may_pass_a_bottleneck_between_two_linears():
    options = PatchInput(channels=3, patch=2, positions="none", bottleneck=5)
    embed, x = drawn(PatchEmbed(options, 8)), randn(2, 3, 4, 6)
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 12)
    first, second = embed.linear
    assert first.out_features == 5
    wanted = oracles.project(oracles.project(patches, *first.parameters()), *second.parameters())
    torch.testing.assert_close(embed(x, "image"), wanted)


def test_of_numbers_the_waves_are_embedded_which_no_narrow_type_rounds():
    embed = drawn(make_pooled_embed(PooledOptions(dim=3, frequencies=8), 5)).float()
    numbers = torch.tensor([[1023, 0, 511], [1024, 7, 3]])
    angles = numbers[..., None].double() * 10_000.0 ** -(torch.arange(4).double() / 4)
    waves = torch.cat([angles.cos(), angles.sin()], -1).flatten(1).float()
    hidden = silu(oracles.project(waves[None], *embed.linear_in.parameters()))
    wanted = oracles.project(hidden, *embed.linear_out.parameters())[0]
    torch.testing.assert_close(embed(numbers), wanted, rtol=1e-3, atol=1e-3)
    narrow = embed.bfloat16()(numbers, torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wanted, rtol=0.05, atol=0.05)


def conditioning(net, t, pooled, scale=1.0):
    """b dim_cond: the timestep's waves, cosines first, and the pooled vector, each through linear, silu, linear."""

    def two_layers(x, state):
        hidden = silu(x @ state["linear_in.weight"].T + state["linear_in.bias"])
        return hidden @ state["linear_out.weight"].T + state["linear_out.bias"]

    return two_layers(waves(t * scale), net.time_embed.state_dict()) + two_layers(pooled, net.pooled_embed.state_dict())


def waves(t):
    angles = t.float()[:, None] * (-math.log(10_000.0) * torch.arange(8).float() / 8).exp()
    return torch.cat([angles.cos(), angles.sin()], -1).double()


@pytest.mark.parametrize("each", [False, True])
def test_the_network_is_ends_around_a_transformer_conditioned_on_timestep_and_pooled_vector(each):
    net, given, pooled = model(timestep={"frequencies": 16, "scale": 1000}), inputs(), randn(2, 10)
    times = {name: torch.rand(2) for name in given} if each else dict.fromkeys(given, torch.rand(2))
    mask = padded_mask(6, 2, 6)
    conds = {name: conditioning(net, t, pooled, 1000.0) for name, t in times.items()}
    tokens = [net.inputs[name](x, name) for name, x in given.items()]
    state = oracles.below(net.state_dict(), "transformer.")
    outs = dict(
        zip(given, oracles.network(state, tokens, 2, [mask, None, None], list(conds.values()), depth=2), strict=True)
    )
    got = net(given, times if each else times["text"], pooled, {"text": mask})
    assert list(got) == ["image", "audio"]
    for name, out in got.items():
        head = net.outputs[name]
        shift, scale = (silu(conds[name]) @ head.modulation.weight.T + head.modulation.bias)[:, None].chunk(2, -1)
        normed = oracles.layer_norm(outs[name]) * (1 + scale) + shift
        wanted = oracles.project(normed, head.linear.weight, head.linear.bias)
        if name == "image":  # b (h w) (p q c) -> b c (h p) (w q)
            wanted = wanted.reshape(2, 4, 2, 2, 2, 5).permute(0, 5, 1, 3, 2, 4).reshape(2, 5, 8, 4)
        torch.testing.assert_close(out, wanted, rtol=1e-8, atol=1e-9)


def test_a_timestep_is_scaled_without_rounding_in_its_own_dtype():
    embed = model(timestep={"frequencies": 16, "scale": 1000}).time_embed
    t = torch.rand(5).bfloat16()
    assert torch.equal(embed(t), embed(t.double()))


def test_timesteps_may_be_whole_numbers():
    net, given, pooled = model(), inputs(), randn(2, 10)
    whole, real = (net(given, t, pooled)["audio"] for t in (torch.tensor([3, 999]), torch.tensor([3.0, 999.0])))
    assert torch.equal(whole, real)


@pytest.mark.parametrize(("adaln", "zero"), [("zero", True), ("identity", False)])
def test_a_fresh_network_of_adaln_zero_gives_zeros(adaln, zero):
    out = mmdit.build(CONFIG | {"adaln": adaln}).double()(inputs(), torch.rand(2), randn(2, 10))
    assert all((x == 0).all() == zero for x in out.values())


def test_every_parameter_gets_a_gradient():
    net = model()
    ids = torch.randint(20, (2, 6))
    out = net(inputs() | {"text": ids}, torch.rand(2), randn(2, 10))
    sum((x * torch.randn_like(x)).sum() for x in out.values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.norm() < 1e-9] == []


def test_a_network_without_conditioning_takes_neither_timestep_nor_pooled_vector():
    free = {"timestep": None, "pooled": None, "dim_cond": None}
    net = model(**free)
    assert net(inputs())["audio"].shape == (2, 5, 7)
    for wrong in ({"timestep": torch.rand(2)}, {"pooled": randn(2, 10)}):
        with pytest.raises(
            ValueError, match="no timestep in its config, so no timestep, pooled, guidance or class_labels"
        ):
            net(inputs(), **wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["inputs"].pop("audio"), "inputs must be named text, image, audio, got text, image"),
        (lambda g: g["inputs"].update(video=1), "inputs must be named"),
        (lambda g: g.update(masks={"sound": None}), "masks must be named"),
        (lambda g: g.update(timestep=None), "timestep is missing"),
        (lambda g: g.update(timestep=torch.rand(3)), r"timestep must have the shape \(batch,\) = \(2,\), got \(3,\)"),
        (lambda g: g.update(timestep={"text": 1}), "timestep must be named text, image, audio, got text"),
        (lambda g: g.update(timestep=[0.5, 0.5]), r"timestep must have the shape \(batch,\) = \(2,\), got list"),
        (lambda g: g.update(masks=torch.ones(2, 6).bool()), r"masks must be a mapping by modality, got \(2, 6\)"),
        (lambda g: g.update(masks={"text": [[True] * 6] * 2}), "text mask must be of dtype torch.bool .*got list"),
        (lambda g: g.update(masks={"text": 1}), "text mask must be of dtype torch.bool .*got int"),
        (lambda g: g.update(inputs=g["inputs"]["image"]), r"inputs must be a mapping by modality, got \(2, 3, 8, 4\)"),
        (lambda g: g.update(pooled=[1.0]), r"pooled must have the shape .*, got list"),
        (lambda g: g.update(guidance=3.5), "this model was built without guidance, got float"),
        (
            lambda g: g["inputs"].update(audio=randn(3, 5, 4)),
            "audio has a batch of 3, but text has one of 2",
        ),
        (
            lambda g: g.update(masks={"image": torch.ones(2, 32).bool()}),
            r"image mask must have the shape \(2, 8\) .*got \(2, 32\)",
        ),
        (lambda g: g.update(masks={"text": torch.ones(2, 6)}), "text mask must be of dtype torch.bool"),
        (lambda g: g.update(pooled=None), "this model needs a pooled vector, got none"),
        (
            lambda g: g.update(pooled=randn(2, 9)),
            r"pooled must have the shape \(batch, dim\) = \(2, 10\), got \(2, 9\)",
        ),
        (
            lambda g: g["inputs"].update(image=randn(2, 4, 8, 4)),
            r"image must have the shape \(batch, 3, height, width\)",
        ),
        (lambda g: g["inputs"].update(image=randn(2, 3, 7, 4)), "multiples of 2, got"),
        (lambda g: g["inputs"].update(audio=randn(2, 5, 3)), r"audio must have the shape \(batch, length, 4\)"),
        (lambda g: g["inputs"].update(text=torch.zeros(2, 7).long()), "length up to 6"),
        (lambda g: g["inputs"].update(text=randn(2, 6)), "text must be integer ids"),
    ],
)
def test_wrong_calls_are_named(change, message):
    given = {"inputs": inputs(), "timestep": torch.rand(2), "pooled": randn(2, 10)}
    change(given)
    with pytest.raises(ValueError, match=message):
        model()(**given)


def test_a_number_is_one_for_all_samples():
    net, given = model(guidance={"frequencies": 8}), dict(inputs=inputs(), pooled=randn(2, 10))
    wanted = net(**given, timestep=torch.full((2,), 0.5), guidance=torch.full((2,), 3.0))
    for timestep in (0.5, dict.fromkeys(("text", "image", "audio"), 0.5)):
        for name, x in net(**given, timestep=timestep, guidance=3).items():
            torch.testing.assert_close(x, wanted[name], rtol=1e-9, atol=1e-9)


def test_a_class_has_a_learned_vector_that_is_added_to_the_conditioning():
    net, given, pooled, t = model(class_labels={"classes": 3}), inputs(), randn(2, 10), torch.rand(2)
    seen, labels = [], torch.tensor([2, 0])
    net.transformer.register_forward_pre_hook(lambda m, args, given: seen.extend(given["time_cond"]), with_kwargs=True)
    net(given, t, pooled, class_labels=labels)
    for cond in seen:
        torch.testing.assert_close(cond, conditioning(net, t, pooled) + net.class_embed.weight[labels])
    wanted = net(given, t[:1].expand(2), pooled, class_labels=torch.tensor([2, 2]))
    (modulation,) = net.precompute_modulation(t[:1], pooled, class_labels=2)
    for got in (net(given, t[:1].expand(2), pooled, class_labels=2), net(given, modulation=modulation)):
        for name, x in wanted.items():
            torch.testing.assert_close(got[name], x)


@pytest.mark.parametrize(("kind", "share"), [("mean", 0.5), ("sum", 1.0)])
def test_a_second_timestep_is_averaged_with_the_first_or_added_to_it(kind, share):
    net, given, pooled = model(timestep={"frequencies": 16, "second": kind}), inputs(), randn(2, 10)
    t, end, seen = torch.rand(2), torch.rand(2), []
    net.transformer.register_forward_pre_hook(lambda m, args, given: seen.extend(given["time_cond"]), with_kwargs=True)
    wanted = net(given, t, pooled, second_timestep=end)
    second = net.second_time_embed.linear_out(silu(net.second_time_embed.linear_in(waves(end))))
    first = net.time_embed.linear_out(silu(net.time_embed.linear_in(waves(t))))
    for cond in seen:
        torch.testing.assert_close(cond, conditioning(net, t, pooled) - first + share * (first + second))
    each = [t[:, None].expand(-1, n) for n in (6, 8, 5)]  # of every token
    per_token = net(given, dict(zip(("text", "image", "audio"), each, strict=True)), pooled, second_timestep=end)
    for name, x in wanted.items():
        torch.testing.assert_close(per_token[name], x)


@pytest.mark.parametrize(
    ("second", "given", "message"),
    [
        (None, 0.5, "this model was built without a second timestep, got float"),
        ("sum", None, "this model needs a second timestep, got none"),
        ("sum", torch.ones(3), r"second_timestep must have the shape \(batch,\) = \(2,\), got \(3,\)"),
    ],
)
def test_a_second_timestep_is_wanted_or_refused(second, given, message):
    net = model(timestep={"frequencies": 16, "second": second})
    with pytest.raises(ValueError, match=message):
        net(inputs(), torch.rand(2), randn(2, 10), second_timestep=given)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (None, 1, "this model was built without class_labels, got int"),
        (3, None, "this model needs class_labels, got none"),
        (3, 3, "class_labels must be integers from 0 to 2, got 3"),
        (3, 1.0, "class_labels must be integers from 0 to 2, got 1.0"),
        (3, torch.ones(2), "class_labels must be integers from 0 to 2, got torch.float32"),
        (3, torch.tensor([1]), r"class_labels must have the shape \(batch,\) = \(2,\), got \(1,\)"),
    ],
)
def test_what_is_no_class_is_said(classes, labels, message):
    net = model(class_labels=None if classes is None else {"classes": classes})
    with pytest.raises(ValueError, match=message):
        net(inputs(), torch.rand(2), randn(2, 10), class_labels=labels)


def test_the_tokens_say_what_the_conditioning_is_computed_in():
    given = dict(inputs={name: x.float() if x.is_floating_point() else x for name, x in inputs().items()})
    net, pooled = model().float(), randn(2, 10)
    wanted = net(**given, timestep=torch.ones(2), pooled=pooled.float())
    for name, x in net(**given, timestep=torch.ones(2).bfloat16(), pooled=pooled).items():
        assert torch.equal(x, wanted[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discard": ["text", "audio"]}, "'audio' is discarded, so it can have no output head"),
        ({"timestep": None, "pooled": None}, "makes its conditioning vector of the timestep"),
        ({"dim_cond": None}, "dim_cond, which is null"),
        ({"variant": "two_modality"}, "two_modality needs exactly text, image in this order, got text, image, audio"),
        ({"attention": {"dual": [2]}}, "block 2 does not exist; depth is 2"),
        ({"heads": 2, "dim_joint_attn": 9}, "must be heads"),
        ({"residual": {"kind": "plain", "streams": 2}}, "kind 'plain' has 1 stream"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        mmdit.build(CONFIG | change)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd3-medium", 2_028_328_000), ("sd3.5-medium", 2_243_171_520), ("sd3.5-large", 8_056_627_520)],
)
def test_the_sd3_family_has_its_published_parameters(name, parameters):
    with torch.device("meta"):
        net = mmdit.build(f"configs/{name}.yaml")
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_a_number_is_not_rounded_to_the_default_dtype():
    net, given = model().float(), {k: v.float() if v.is_floating_point() else v for k, v in inputs().items()}
    wanted = net(given, torch.full((2,), 999.0), torch.ones(2, 10))["image"]
    torch.set_default_dtype(torch.bfloat16)  # in which 999 is 1000
    try:
        got = net(given, 999.0, torch.ones(2, 10))["image"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("varlen", [False, True], ids=["padded", "packed"])
def test_a_timestep_at_a_masked_token_changes_nothing(varlen):
    net, given, mask, t = model(), inputs(), padded_mask(5, 3, 5), torch.rand(2, 5).double()
    net.transformer.varlen, seen = varlen, []
    for fill in (0.3, float("nan")):
        net.zero_grad()
        times = {"text": t[:, 0], "image": t[:, 1], "audio": t.masked_fill(~mask, fill)}
        out = net(given, times, torch.ones(2, 10).double(), {"audio": mask})
        (out["image"].square().sum() + out["audio"][mask].square().sum()).backward()
        assert out["audio"].isfinite().all()
        seen.append([out["image"], out["audio"][mask], *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("change", [{}, {"norm_eps": 0.0}], ids=["norm_eps", "no norm_eps"])
@pytest.mark.parametrize("varlen", [False, True], ids=["padded", "packed"])
def test_samples_of_different_sizes_have_a_timestep_for_each_token(varlen, change):
    net, given, t = model(**change), inputs(), torch.rand(2, 5).double()
    net.transformer.varlen = varlen
    given["audio"] = [given["audio"][0], given["audio"][1, :3]]
    times, pooled = {"text": t[:, 0], "image": t[:, 1], "audio": t}, randn(2, 10)
    out = net(given, times, pooled)
    for i, count in enumerate((5, 3)):
        one = {name: x[i][None] for name, x in given.items()}
        own = {name: x[i : i + 1, :count] if x.ndim == 2 else x[i : i + 1] for name, x in times.items()}
        for name, x in net(one, own, pooled[i : i + 1]).items():
            torch.testing.assert_close(out[name][i], x[0])


def test_what_is_packed_is_finite_where_norms_add_nothing():
    net, given, mask = model(norm_eps=0.0), inputs(), padded_mask(5, 3, 5)
    net.transformer.varlen = True
    out = net(given, 0.5, randn(2, 10), {"audio": mask})["audio"]
    out[mask].sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": torch.ones(2, device="meta")}, "timestep is on meta, but the tokens are on cpu; move it there"),
        ({"pooled": torch.ones(2, 10, device="meta")}, "pooled is on meta, but the tokens are on cpu"),
        ({"masks": Packing.from_masks([None], [6], 2)}, "the packing is for 1 modalities, got 3: text, image, audio"),
    ],
)
def test_what_is_elsewhere_or_of_another_network_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        model()(inputs(), **{"timestep": torch.ones(2), "pooled": randn(2, 10)} | change)
