"""Sampling runs by each way, against the sampler as a user calls it and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmdit.config import build
from mmdit.sampling import guide, network_velocity, sample
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.sampling_flops import count_sampling
from mmdit_cli.model_parts.sampling_run import SamplingRun, Way, sampling_ways
from mmdit_cli.request.tool_config import load_tool_config
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.small_configs import config

SMALL = ["run.batch_size=2", "run.tokens.text=5", "run.tokens.image=4", "model.modalities.*.dim=16"]
SMALL += ["model.heads=2", "model.dim_head=8", "model.dim_cond=16"]
GUIDED = "run.guidance=4.5"


def toy(*more: str):
    return load_tool_config(CONFIGS / "toy-two-modality.yaml", [*SMALL, "model.depth=4", "run.steps=3", *more])


def lively(chosen) -> torch.nn.Module:
    """The network with all weights random, for gates begin at 0."""
    net = build(chosen.model)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.2)
    return net


def test_a_network_without_a_scale_of_its_own_has_four_ways_and_without_guidance_two():
    kinds = [(way.guidance, way.modulation, way.calls) for way in sampling_ways(toy(GUIDED))]
    assert kinds == [
        ("one batch", "before", 1),
        ("one batch", "each step", 1),
        ("two calls", "before", 2),
        ("two calls", "each step", 2),
    ]
    assert [way.guidance for way in sampling_ways(toy())] == ["none", "none"]
    embedded = load_tool_config(CONFIGS / "flux.1-dev.yaml", [GUIDED])
    assert [way.guidance for way in sampling_ways(embedded)] == ["embedded", "embedded"]
    several = load_tool_config(CONFIGS / "toy-generalized.yaml")
    assert [way.modulation for way in sampling_ways(several)] == ["each step"]  # two modalities are drawn


def test_what_cannot_be_sampled_from_is_named():
    with pytest.raises(UserError, match="small: --mode sample needs a network that draws"):
        sampling_ways(config())


def test_modulation_computed_before_draws_the_same():
    chosen = toy(GUIDED)
    net = lively(chosen)
    for guidance in ("one batch", "two calls"):
        before, each = (SamplingRun(net, chosen, Way(guidance, m))()["image"] for m in ("before", "each step"))
        torch.testing.assert_close(before, each)
        assert before.abs().sum() > 0


def test_a_run_in_two_calls_is_what_a_user_would_write():
    chosen = toy(GUIDED)
    net = lively(chosen)
    run = SamplingRun(net, chosen, Way("two calls", "each step"))
    first, second = (
        network_velocity(net, {"text": given.kwargs["inputs"]["text"]}, masks=given.kwargs["masks"])
        for given in run.given
    )
    wanted = sample(lambda x, t: guide(first(x, t), second(x, t), 4.5), run.noise, steps=3)
    torch.testing.assert_close(run()["image"], wanted["image"])


def test_one_batch_draws_from_the_same_noise_with_the_halves_as_conditions():
    chosen = toy(GUIDED)
    net = lively(chosen)
    run = SamplingRun(net, chosen, Way("one batch", "each step"))
    kwargs = run.given[0].kwargs
    halves = zip(kwargs["inputs"]["text"].chunk(2), kwargs["masks"]["text"].chunk(2), strict=True)
    first, second = (network_velocity(net, {"text": text}, masks={"text": mask}) for text, mask in halves)
    wanted = sample(lambda x, t: guide(first(x, t), second(x, t), 4.5), run.noise, steps=3)
    torch.testing.assert_close(run()["image"], wanted["image"])


def test_fewer_steps_are_the_first_of_them():
    chosen = toy()
    net = lively(chosen)
    taken = SamplingRun(net, chosen, Way("none", "before"), taken=1)
    other = load_tool_config(CONFIGS / "toy-two-modality.yaml", [*SMALL, "model.depth=4", "run.steps=3"])
    given = taken.given[0].kwargs
    velocity = network_velocity(net, {"text": given["inputs"]["text"]}, masks=given["masks"])
    wanted = sample(velocity, taken.noise, sigmas=[1.0, 2 / 3])
    torch.testing.assert_close(taken()["image"], wanted["image"])
    assert other.run.steps == 3


@pytest.mark.parametrize("guidance", slow_but([[], [GUIDED]], []), ids=["plain", "guided"])
def test_flops_are_those_that_torchs_counter_sees_in_the_whole_run(guidance):
    chosen = toy("model.depth=2", "run.steps=2", *guidance)
    counted = count_sampling(chosen)
    for way in counted.ways:
        with FlopCounterMode(display=False) as counter:
            SamplingRun(meta_model(chosen), chosen, Way(way.guidance, way.modulation), device="meta")()
        assert way.flops == counter.get_total_flops() == way.setup_flops + counted.steps * way.step_flops
        assert way.flops_per_sample == way.flops / 2 and 0 < way.modulation_share < 1
        assert (way.setup_flops > 0) == (way.modulation == "before")
