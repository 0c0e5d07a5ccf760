"""Rectified flow and its time shift, in closed form."""

from __future__ import annotations

import pytest
import torch

from video_alchemist.flow import (
    estimate_z0,
    interpolate,
    resolution_shift,
    sample_times,
    schedule,
    time_shift,
    velocity_target,
)


def test_ends_of_the_path() -> None:
    """Guards against swapped time: t = 0 is data, t = 1 is noise."""
    z0, noise = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    zt = interpolate(z0, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(zt[0], z0[0])
    torch.testing.assert_close(zt[1], noise[1])


def test_true_velocity_points_to_the_data() -> None:
    """Guards against a sign that differs between training and sampling."""
    z0, noise, t = torch.randn(4, 2, 1, 2, 2), torch.randn(4, 2, 1, 2, 2), torch.rand(4)
    estimate = estimate_z0(interpolate(z0, noise, t), velocity_target(z0, noise), t)
    torch.testing.assert_close(estimate, z0)


def test_shift_one_is_the_identity() -> None:
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(time_shift(t, 1.0), t)


def test_shift_is_that_of_flux() -> None:
    """Guards against a shift in the other direction; flux writes exp(mu) / (exp(mu) + (1 / t - 1))."""
    t, mu = torch.linspace(0.05, 1, 20), torch.tensor(0.8)
    torch.testing.assert_close(time_shift(t, float(mu.exp())), mu.exp() / (mu.exp() + (1 / t - 1)))


def test_schedule_falls_from_noise_to_data() -> None:
    for shift in (0.5, 1.0, 3.0):
        times = schedule(7, shift)
        assert times.shape == (8,) and times[0] == 1 and times[-1] == 0
        assert bool((times.diff() < 0).all())


def test_more_pixels_spend_longer_at_noise() -> None:
    """Guards against an inverted ratio of resolutions: 4 times the pixels, twice the shift."""
    assert resolution_shift(256, 144, (256, 144)) == 1
    assert resolution_shift(512, 288, (256, 144)) == 2
    assert resolution_shift(512, 288, (256, 144), base_shift=1.5) == 3
    assert bool((schedule(4, 2.0)[1:-1] > schedule(4, 1.0)[1:-1]).all())


def test_training_times_are_shifted_like_the_schedule() -> None:
    plain = sample_times(1000, 1.0, torch.Generator().manual_seed(0))
    shifted = sample_times(1000, 3.0, torch.Generator().manual_seed(0))
    assert 0 < float(plain.min()) and float(plain.max()) < 1
    torch.testing.assert_close(shifted, time_shift(plain, 3.0))


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_steps is 0; expected at least 1"):
        schedule(0)
