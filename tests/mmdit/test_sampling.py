"""Sampling a flow: exact on straight paths, of the right order on curved ones; known tokens, guidance, shifted time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import mmdit
from mmdit.sampling import Tensors, as_velocity, guide, network_velocity, sample, shift_timesteps
from tests.support.draws import drawn


def test_shifting_follows_equation_23_and_is_undone_by_its_inverse() -> None:
    t = torch.rand(100, dtype=torch.float64)
    shifted = shift_timesteps(t, 3.0)
    torch.testing.assert_close(shifted, 3 * t / (1 + 2 * t))
    torch.testing.assert_close(shift_timesteps(shifted, 1 / 3), t)
    assert (shifted >= t).all()


@pytest.mark.parametrize("kind", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_path_is_followed_exactly(kind: str, steps: int) -> None:
    data, noise = torch.randn(2, 3, 4, dtype=torch.float64)

    def velocity(x: Tensors, t: Tensors) -> Tensors:
        return {"image": noise - data}

    drawn = sample(velocity, {"image": noise}, steps=steps, kind=kind, shift=3.0)
    torch.testing.assert_close(drawn["image"], data)


@pytest.mark.parametrize(("kind", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_of_a_curved_path_falls_with_the_order_of_the_sampler(kind: str, order: int) -> None:
    start = torch.randn(3, 4, dtype=torch.float64)

    def velocity(x: Tensors, t: Tensors) -> Tensors:  # dx / dt = x t, so x(0) = x(1) exp(-1/2)
        return {"image": x["image"] * t["image"].double()[:, None]}

    exact = start * math.exp(-0.5)
    errors = [
        (sample(velocity, {"image": start}, steps=steps, kind=kind)["image"] - exact).abs().max().item()
        for steps in (40, 80)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_what_is_given_is_seen_clean_and_is_not_drawn() -> None:
    given, noise = torch.randn(2, 3, 4)
    seen = []

    def velocity(x: Tensors, t: Tensors) -> Tensors:
        seen.append((x["image"], t["image"], t["audio"]))
        return {name: torch.ones_like(value) for name, value in x.items()}

    drawn = sample(velocity, {"audio": noise}, steps=4, given={"image": given})
    assert set(drawn) == {"audio"}
    assert all(torch.equal(x, given) and (t == 0).all() for x, t, _ in seen)
    assert [t[0].item() for _, _, t in seen] == [1.0, 0.75, 0.5, 0.25]


def test_guidance_of_one_is_the_conditional_and_of_zero_the_unconditional() -> None:
    with_caption, without = {"image": torch.randn(2, 3)}, {"image": torch.randn(2, 3)}
    torch.testing.assert_close(guide(with_caption, without, 1.0), with_caption)
    torch.testing.assert_close(guide(with_caption, without, 0.0), without)


def test_guidance_of_two_goes_as_far_again() -> None:
    with_caption, without = {"image": torch.randn(2, 3)}, {"image": torch.randn(2, 3)}
    wanted = 2 * with_caption["image"] - without["image"]
    torch.testing.assert_close(guide(with_caption, without, 2.0)["image"], wanted)


@pytest.mark.parametrize("steps", [28, 200])
def test_half_precision_costs_one_rounding_however_many_steps(steps: int) -> None:
    noise, data = torch.randn(2, 4, 3, 16, dtype=torch.bfloat16)
    velocity = noise.double() - data.double()
    drawn = sample(lambda x, t: {"image": velocity.bfloat16()}, {"image": noise}, steps=steps)["image"]
    wanted = noise.double() - velocity.bfloat16().double()
    assert drawn.dtype == torch.bfloat16
    assert ((drawn.double() - wanted).norm() / wanted.norm()).item() < 3e-3


def test_timesteps_are_float32_whatever_the_default_dtype_is() -> None:
    seen = []

    def still(x: Tensors, t: Tensors) -> Tensors:
        seen.append(t["image"])
        return {name: torch.zeros_like(value) for name, value in x.items()}

    torch.set_default_dtype(torch.bfloat16)
    try:
        sample(still, {"image": torch.zeros(1, 1)}, sigmas=[0.9984, 0.7501, 0.0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert [t.dtype for t in seen] == [torch.float32] * 2
    assert [t.item() for t in seen] == pytest.approx([0.9984, 0.7501])


@pytest.mark.parametrize("sigmas", [np.linspace(1, 0, 5), torch.linspace(1, 0, 5), (1, 0.75, 0.5, 0.25, 0)])
def test_sigmas_may_be_an_array_a_tensor_or_a_sequence(sigmas: Any) -> None:
    def falling(x: Tensors, t: Tensors) -> Tensors:
        return {"image": x["image"] * t["image"]}

    noise = {"image": torch.ones(1, 1)}
    assert torch.equal(sample(falling, noise, sigmas=sigmas)["image"], sample(falling, noise, steps=4)["image"])


def test_a_wide_state_meets_a_network_in_half_precision() -> None:
    config = {
        "depth": 1,
        "modalities": {
            "text": {"dim": 8, "input": {"kind": "linear", "dim": 4}},
            "image": {"dim": 8, "input": {"kind": "linear", "dim": 4}, "output": {"kind": "linear", "dim": 4}},
        },
        "timestep": {},
        "dim_cond": 8,
    }
    net = mmdit.build(config).bfloat16()
    velocity = network_velocity(net, {"text": torch.randn(1, 3, 4, dtype=torch.bfloat16)})
    drawn = sample(velocity, {"image": torch.randn(1, 5, 4)}, steps=2)["image"]
    assert drawn.dtype == torch.float32 and drawn.isfinite().all()


def test_known_steps_are_computed_in_what_the_conditions_tell_not_in_what_weights_are_stored_as(monkeypatch) -> None:
    text = {"dim": 8, "input": {"kind": "linear", "dim": 4}}
    net = mmdit.build({"depth": 1, "modalities": {"text": text}, "timestep": {}, "dim_cond": 8}).bfloat16()
    net.inputs["text"].float()  # the first weights, kept wider; so with adapters, or norms beside float8
    seen = []
    monkeypatch.setattr(net, "precompute_modulation", lambda *given, dtype: seen.append(dtype) or [])
    for condition, wanted in (({"text": torch.ones(1, 3, 4).bfloat16()}, torch.bfloat16), ({}, torch.float32)):
        network_velocity(net, condition, sigmas=[])
        assert seen.pop() == wanted


def small_network(**more: Any) -> Any:
    text, image = ({"dim": 8, "input": {"kind": "linear", "dim": 4}} for _ in range(2))
    modalities = {"text": text, "image": image | {"output": {"kind": "linear", "dim": 4}}}
    return mmdit.build({"depth": 1, "modalities": modalities, "timestep": {}, "dim_cond": 8, "dim_head": 4} | more)


def test_a_network_that_predicts_the_data_or_the_noise_is_followed_along_the_velocity_that_they_mean() -> None:
    net = drawn(small_network())
    x, text, t = torch.randn(2, 5, 4).double(), {"text": torch.randn(2, 3, 4).double()}, torch.tensor([0.3, 0.8])
    out = net(text | {"image": x}, 1000 * t)["image"]
    for predicted, wanted in (("data", (x - out) / t[:, None, None]), ("noise", (out - x) / (1 - t)[:, None, None])):
        velocity = network_velocity(net, text, predicted=predicted)
        torch.testing.assert_close(velocity({"image": x}, {"image": t})["image"], wanted)
        torch.testing.assert_close(as_velocity(out, x, t, predicted), wanted)
    with pytest.raises(ValueError, match="predicted must be velocity, noise, data, got 'x0'"):
        network_velocity(net, text, predicted="x0")({"image": x}, {"image": t})


def test_known_steps_take_what_the_network_takes() -> None:
    net = drawn(small_network(pooled={"dim": 3}, guidance={})).bfloat16()
    x, text, pooled = torch.randn(1, 5, 4).bfloat16(), torch.randn(1, 3, 4).bfloat16(), torch.randn(1, 3)
    for steps in (None, [1.0, 0.5, 0.0]):
        velocity = network_velocity(net, {"text": text}, pooled=pooled, guidance=3.5, sigmas=steps)
        got = velocity({"image": x}, {"image": torch.tensor([0.5])})["image"]
        wanted = net({"text": text, "image": x}, 500.0, pooled, guidance=3.5)["image"]
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)
    assert net.precompute_modulation(torch.ones(2), pooled, 3.5)[0].conds[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"pooled must have the shape \(batch, dim\) = \(batch, 3\), got \(2, 4\)"):
        net.precompute_modulation(torch.ones(3), torch.ones(2, 4), 3.5)


def test_a_second_timestep_is_that_at_which_the_step_ends() -> None:
    net = drawn(small_network(timestep={"scale": 1000, "second": "mean"}))
    x, text, grid = torch.randn(2, 5, 4).double(), {"text": torch.randn(2, 3, 4).double()}, [1.0, 0.75, 0.25, 0.0]
    wanted = x
    for t, end in pairwise(grid):
        wanted = wanted + (end - t) * net(text | {"image": wanted}, t, second_timestep=end)["image"]
    for known in (None, grid):
        velocity = network_velocity(net, text, sigmas=known)
        torch.testing.assert_close(sample(velocity, {"image": x}, sigmas=grid)["image"], wanted)
    with pytest.raises(ValueError, match="has a second timestep, where the step ends, .* kind='euler'"):
        sample(velocity, {"image": x}, sigmas=grid, kind="heun")


def test_known_steps_are_computed_where_the_conditions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = small_network().to("meta"), []  # weights that come to the device when they are used
    monkeypatch.setattr(net, "precompute_modulation", lambda t, *given, dtype: seen.append(t.device.type) or [t])
    network_velocity(net, {"text": torch.ones(1, 3, 4)}, sigmas=[1.0])
    assert seen == ["cpu"]


def test_a_step_is_rounded_only_where_the_result_comes_out() -> None:
    velocity = torch.randn(1, 1000).bfloat16()
    for kind in ("euler", "heun"):
        noise = {"image": torch.zeros(1, 1000).bfloat16()}
        assert torch.equal(sample(lambda x, t: {"image": velocity}, noise, steps=7, kind=kind)["image"], -velocity)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number >= 1, got 2.5"),
        ({"sigmas": [1.0]}, r"sigmas must be two or more values of t, from the first to the last, got \[1.0\]"),
        ({"steps": 2, "noise": {}}, "noise must be a mapping of one or more modalities to tensors, got {}"),
    ],
)
def test_no_step_at_all_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda x, t: x, **{"noise": {"image": torch.ones(1, 2)}} | given)


def test_channels_of_no_input_are_named() -> None:
    with pytest.raises(ValueError, match="channels must be named text, image, got img"):
        network_velocity(small_network(), channels={"img": torch.ones(1, 1)})
