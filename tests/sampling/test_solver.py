"""The Euler solver on fields whose solution is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from video_alchemist.flow import schedule
from video_alchemist.sampling.solver import euler


def test_constant_field_is_exact_at_any_number_of_steps() -> None:
    """Guards against a wrong sign, or a step too few: noise minus the whole velocity is the data."""
    noise, z0 = torch.randn(2, 3), torch.randn(2, 3)
    for num_steps in (1, 2, 7):
        for shift in (1.0, 3.0):
            z = euler(lambda z, t: noise - z0, noise, schedule(num_steps, shift))
            torch.testing.assert_close(z, z0)


def test_linear_field_converges() -> None:
    """Guards against times that do not belong to their steps: dz/dt = z from 1 to 0 gives z / e, with error ~ 1 / n."""
    z = torch.ones(1, 1, dtype=torch.float64)
    errors = [abs(float(euler(lambda z, t: z, z, schedule(n).double())) - math.exp(-1)) for n in (64, 128)]
    assert errors[0] < 4e-3
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_velocity_sees_the_time_of_each_sample() -> None:
    seen = []

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(z)

    euler(velocity, torch.zeros(3, 2), schedule(4))
    assert torch.stack(seen).tolist() == [[t] * 3 for t in (1.0, 0.75, 0.5, 0.25)]
