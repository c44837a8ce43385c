from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mmdit
from benchmarks.families.diffusers_networks import FAMILIES
from mmdit.sampling import network_velocity, sample, timestep_grid
from tests.support.draws import drawn, randn
from tests.support.families import each_kind, packing_of
from tests.support.marks import slow_but


def network(family):
    torch.manual_seed(3)
    return drawn(mmdit.build(family.small_config()))


def conditions(net, batch):
    config = net.config
    given = {} if config.pooled is None else dict(pooled=randn(batch, config.pooled.dim))
    given |= {} if config.class_labels is None else dict(class_labels=torch.arange(batch) % 2)
    return given | ({} if config.guidance is None else dict(guidance=torch.linspace(1, 4, batch).double()))


def inputs(net, batch=2, size=(8, 4)):
    drawn = net.inputs[net.modality_names[-1]]
    frames = (2,) if len(drawn.sizes) == 3 else ()
    texts = [name for name, embed in net.inputs.items() if embed is not drawn]
    given = {name: randn(batch, 5 if name == "text" else 3, net.inputs[name].dim_in) for name in texts}
    return given | {net.modality_names[-1]: randn(batch, drawn.channels, *frames, *size)}


@pytest.mark.parametrize("varlen", slow_but([False, True], True), ids=["padded", "packed"])
@each_kind
def test_every_step_is_the_one_with_its_own_conditioning(family, varlen):
    net = network(family)
    xs, given = inputs(net), conditions(net, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    masks = {"text": mask}
    if varlen:
        masks = packing_of(net, xs, masks)
    timesteps = torch.tensor([1000.0, 600.0, 50.0]).double() / net.config.timestep.scale
    ends = None if net.config.timestep.second is None else timesteps / 3
    steps = net.precompute_modulation(timesteps, **given, second_timesteps=ends)
    assert len(steps) == 3
    for i, (t, modulation) in enumerate(zip(timesteps, steps, strict=True)):
        end = {} if ends is None else dict(second_timestep=ends[i].expand(2))
        wanted = net(xs, t.expand(2), **given, **end, masks=masks)[family.drawn]
        got = net(xs, masks=masks, modulation=modulation)[family.drawn]
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_it_reads_no_modulation_weight_again():
    net = network(FAMILIES[0])
    xs, given = inputs(net), conditions(net, 2)
    (modulation,) = net.precompute_modulation(torch.tensor([500.0]).double(), **given)
    wanted = net(xs, modulation=modulation)["image"]
    with torch.no_grad():
        touched = [p for name, p in net.named_parameters() if "modulation" in name or "_embed" in name]
        assert len(touched) > 10
        for parameter in touched:
            parameter.fill_(torch.nan)
    assert torch.equal(net(xs, modulation=modulation)["image"], wanted)


def test_one_prompt_serves_any_batch_and_images_of_many_sizes():
    net = network(FAMILIES[0])
    given = conditions(net, 1)
    (modulation,) = net.precompute_modulation(torch.tensor([500.0]).double(), **given)
    xs = inputs(net, 3)
    wanted = net(xs, torch.full((3,), 500.0).double(), given["pooled"].expand(3, -1))["image"]
    torch.testing.assert_close(net(xs, modulation=modulation)["image"], wanted)
    net.transformer.varlen = True
    mixed = [randn(net.inputs["image"].channels, *size) for size in ((4, 8), (8, 8), (6, 4))]
    got = net({"text": xs["text"], "image": mixed}, modulation=modulation)["image"]
    for i, image in enumerate(mixed):
        alone = net({"text": xs["text"][i : i + 1], "image": image[None]}, modulation=modulation)["image"]
        torch.testing.assert_close(got[i], alone[0])


def test_a_gate_of_the_sample_is_computed_from_the_conditioning_that_is_kept():
    family = FAMILIES[0]
    config = family.small_config().model
    attention = replace(config.attention, kind="adaptive", num_adaptive_weights=2, gating="sample")
    net = drawn(mmdit.build(replace(config, attention=attention, unused_weights="none")))
    xs, given = inputs(net), conditions(net, 2)
    (modulation,) = net.precompute_modulation(torch.tensor([500.0]).double(), **given)
    wanted = net(xs, torch.full((2,), 500.0).double(), **given)["image"]
    torch.testing.assert_close(net(xs, modulation=modulation)["image"], wanted)


@pytest.mark.parametrize("kind", ["euler", "heun"])
def test_a_sampler_that_knows_its_steps_gives_the_same_image(kind, monkeypatch):
    net = network(FAMILIES[0]).float().eval()
    given = {name: x.float() for name, x in conditions(net, 2).items()}
    xs = {name: x.float() for name, x in inputs(net).items()}
    text, noise = {"text": xs["text"]}, {"image": xs["image"]}
    grid = timestep_grid(5, shift=3.0)
    with torch.inference_mode():
        wanted = sample(network_velocity(net, text, **given), noise, steps=5, shift=3.0, kind=kind)["image"]
        velocity = network_velocity(net, text, **given, sigmas=grid)
        monkeypatch.setattr(net, "_conditioning", None)  # none is computed any more
        got = sample(velocity, noise, steps=5, shift=3.0, kind=kind)["image"]
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_samples_at_different_times_do_not_take_the_modulation_of_the_first():
    net = network(FAMILIES[0])
    given, xs = conditions(net, 2), inputs(net)
    times = torch.tensor([1.0, 0.5])
    plain = network_velocity(net, {"text": xs["text"]}, **given)
    known = network_velocity(net, {"text": xs["text"]}, **given, sigmas=[1.0, 0.5])
    x = {"image": xs["image"]}
    torch.testing.assert_close(known(x, {"image": times})["image"], plain(x, {"image": times})["image"])


def test_a_bare_stack_takes_its_own_modulation_and_refuses_that_of_another():
    options = dict(dim_text=8, dim_image=8, dim_cond=6, heads=2, dim_head=4)
    net, deeper, short = (drawn(mmdit.MMDiT(depth=depth, **options)) for depth in (2, 3, 1))
    single = drawn(mmdit.MMDiT(depth=2, single_stream_depth=1, should_skip_last_feedforward=False, **options))
    xs, cond = dict(text_tokens=randn(2, 3, 8), image_tokens=randn(2, 5, 8)), randn(2, 6)
    wanted = net(**xs, time_cond=cond)
    for a, b in zip(net(**xs, time_cond=cond, modulation=net.modulate(cond)), wanted, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="modulation is that of 3 blocks, but this stack has 2"):
        net(**xs, time_cond=cond, modulation=deeper.modulate(cond))
    with pytest.raises(ValueError, match="modulation is for a batch of 3, got tokens with one of 2"):
        net(**xs, time_cond=cond, modulation=net.modulate(randn(3, 6)))
    with pytest.raises(ValueError, match="modulation is that of 1 blocks, but this stack has 2"):
        net(**xs, time_cond=cond, modulation=short.modulate(cond))
    with pytest.raises(ValueError, match="modulation is that of 1 blocks, but this stack has 0"):
        net(**xs, time_cond=cond, modulation=single.modulate(cond)._replace(blocks=()))
    with pytest.raises(ValueError, match="modulation is for a batch of 3, got tokens with one of 2"):
        single(**xs, time_cond=cond, modulation=single.modulate(randn(3, 6))._replace(blocks=()))


def test_autocast_takes_the_batch_of_one_as_any_other():
    net = drawn(mmdit.MMDiT(depth=1, dim_text=8, dim_image=8, dim_cond=6, heads=2, dim_head=4)).float()
    xs, cond = dict(text_tokens=torch.randn(2, 3, 8), image_tokens=torch.randn(2, 5, 8)), torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        both = net(**xs, time_cond=cond)
        one = net(**{name: x[:1] for name, x in xs.items()}, time_cond=cond[:1])
    torch.testing.assert_close(one[1].float(), both[1][:1].float(), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(timestep=torch.ones(2).double()), "modulation takes the place of timestep, pooled, guidance"),
        (dict(batch=3), "modulation is for a batch of 2, got inputs with one of 3"),
        (dict(timesteps=torch.ones(2, 2)), r"timesteps must have the shape \(steps,\), got \(2, 2\)"),
    ],
)
def test_what_can_not_be_is_refused(arguments, message):
    net = network(FAMILIES[0])
    given = conditions(net, 2)
    with pytest.raises(ValueError, match=message):
        steps = net.precompute_modulation(arguments.get("timesteps", torch.ones(1).double()), **given)
        net(inputs(net, arguments.get("batch", 2)), arguments.get("timestep"), modulation=steps[0])
