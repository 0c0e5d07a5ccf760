"""Rectified flow sampler (App. B.3). It sees only velocity(z, t): guidance and conditions are wrapped around before."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def euler(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, times: Tensor) -> Tensor:
    """From noise z (B, ...) at times[0] to data at times[-1] in straight steps; velocity sees t as (B,)."""
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        z = z + (t_next - t) * velocity(z, t.expand(len(z)))
    return z
