"""Rectified flow: the path and its velocity, and the densities of t against their closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdit.sampling import as_velocity
from mmdit_cli.request.train_config import PredictionConfig, TimestepDensity
from mmdit_cli.toy.flow import interpolate, prediction_error, sample_timesteps, target

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
    torch.testing.assert_close(slope, target(data, noise, "velocity"))


KINDS = ("velocity", "noise", "data")


def meant(output: Tensor, z: Tensor, t: Tensor, kind: str) -> dict[str, Tensor]:
    """Data, noise and velocity of an output for `z = (1 - t) data + t noise`, by solving for them."""
    if kind == "velocity":
        data, noise = z - t * output, z + (1 - t) * output
    elif kind == "noise":
        data, noise = (z - t * output) / (1 - t), output
    else:
        data, noise = output, (z - (1 - t) * output) / t
    return {"data": data, "noise": noise, "velocity": noise - data}


def test_all_nine_losses_compare_what_an_output_means_with_what_is_so() -> None:
    data, noise, output = torch.randn(3, 6, 2, 5, dtype=torch.float64)
    t = torch.empty(6, dtype=torch.float64).uniform_(0.06, 0.94)
    z, column = interpolate(data, noise, t), t[:, None, None]
    true = {"data": data, "noise": noise, "velocity": noise - data}
    for kind, loss in itertools.product(KINDS, KINDS):
        error = prediction_error(output, data, noise, t, PredictionConfig(output=kind, loss=loss))
        torch.testing.assert_close(error.abs(), (meant(output, z, column, kind)[loss] - true[loss]).abs())
    for kind in KINDS:
        torch.testing.assert_close(as_velocity(output, z, t, kind), meant(output, z, column, kind)["velocity"])


def test_what_is_divided_by_is_a_twentieth_at_least() -> None:
    data, noise, output = torch.randn(3, 2, 5, dtype=torch.float64)
    ends = torch.tensor([0.01, 0.99], dtype=torch.float64)
    for kind, t in (("data", ends[:1]), ("noise", ends[1:])):
        z = interpolate(data[:1], noise[:1], t)
        error = prediction_error(output[:1], data[:1], noise[:1], t, PredictionConfig(output=kind))
        right = {"data": data, "noise": noise}[kind][:1]
        torch.testing.assert_close(error.abs(), (output[:1] - right).abs() / 0.05)
        wanted = (z - output[:1]) / 0.05 if kind == "data" else (output[:1] - z) / 0.05
        torch.testing.assert_close(as_velocity(output[:1], z, t, kind), wanted)


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
