"""Rectified flow: the path and its velocity, the densities of t against their closed forms, and exact sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdit.sampling import Tensors, guide, sample, shift_timesteps
from mmdit_cli.request.train_config import TimestepDensity
from mmdit_cli.toy.flow import interpolate, sample_timesteps, velocity_target

DRAWS = 200_000
TOLERANCE = 5 / DRAWS**0.5  # of an empirical distribution function


def drawn(density: TimestepDensity, shift: float = 1.0) -> Tensor:
    uniform, normal = torch.rand(DRAWS, dtype=torch.float64), torch.randn(DRAWS, dtype=torch.float64)
    return sample_timesteps(density, uniform, normal, shift=shift)


def assert_distributed(t: Tensor, distribution: Callable[[Tensor], Tensor]) -> None:
    """The Kolmogorov-Smirnov distance from a closed-form distribution function is within chance."""
    ordered = t.sort().values
    empirical = torch.arange(1, len(t) + 1) / len(t)
    assert (empirical - distribution(ordered)).abs().max() < TOLERANCE


def normal_distribution(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def test_the_path_begins_at_the_data_and_ends_in_the_noise() -> None:
    data, noise = torch.randn(2, 4, 3, 5)
    assert torch.equal(interpolate(data, noise, torch.zeros(4)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(4)), noise)


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    data, noise = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    t, step = torch.rand(4, dtype=torch.float64), 1e-6
    slope = (interpolate(data, noise, t + step) - interpolate(data, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity_target(data, noise))


def test_each_sample_of_a_batch_has_its_own_timestep() -> None:
    data, noise = torch.randn(2, 3, 2, 2)
    x = interpolate(data, noise, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(x, torch.stack([data[0], noise[1], 0.75 * data[2] + 0.25 * noise[2]]))


def test_uniform_timesteps_are_uniform() -> None:
    assert_distributed(drawn(TimestepDensity(kind="uniform")), lambda t: t)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6)])
def test_the_logit_of_logit_normal_timesteps_is_normal(mean: float, std: float) -> None:
    t = drawn(TimestepDensity(kind="logit_normal", mean=mean, std=std))
    assert_distributed(t, lambda t: normal_distribution((torch.logit(t) - mean) / std))


def test_cosmap_timesteps_have_the_density_of_equation_22() -> None:
    # its integral from 0 to t of 2 / (pi - 2 pi s + 2 pi s^2) ds
    assert_distributed(drawn(TimestepDensity(kind="cosmap")), lambda t: 0.5 + torch.atan(2 * t - 1) * 2 / math.pi)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.29, 1.75])
def test_mode_timesteps_are_the_monotonic_map_of_equation_20(scale: float) -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    t = sample_timesteps(TimestepDensity(kind="mode", scale=scale), u, u)
    torch.testing.assert_close(t, 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u))
    assert t[0] == 1 and t[-1].abs() < 1e-12
    assert (t.diff() < 0).all()


def test_mode_timesteps_gather_in_the_middle_as_the_scale_grows() -> None:
    shares = []
    for scale in (-1.0, 0.0, 1.29):
        t = drawn(TimestepDensity(kind="mode", scale=scale))
        shares.append(((t > 0.3) & (t < 0.7)).double().mean().item())
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(0.4, abs=0.01)


def test_a_mode_scale_beyond_the_monotonic_range_is_refused() -> None:
    with pytest.raises(ValueError, match="scale"):
        TimestepDensity(kind="mode", scale=1.8)


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
