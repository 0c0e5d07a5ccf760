"""Three-axis rotary embedding (§3.2): a token's angle is its place, and a product of two is their offset."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from video_alchemist.model.rope import axis_pairs, rope, rotate

GRID = (4, 5, 6)


def products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """q . k for one query and one key vector put at every pair of places of the grid."""
    cos, sin = rope(GRID, q.shape[-1], 10_000.0, torch.device("cpu"))
    places = cos.shape[0]
    product = rotate(q.expand(places, -1), cos, sin) @ rotate(k.expand(places, -1), cos, sin).T
    return product.view(*GRID, *GRID)


@pytest.mark.parametrize("head_dim", [6, 32, 64, 128])
def test_products_depend_on_offsets_only(head_dim: int) -> None:
    """Guards against absolute positions leaking in, and against axes mixed up in the raster order."""
    torch.manual_seed(0)
    p = products(torch.randn(head_dim, dtype=torch.float64), torch.randn(head_dim, dtype=torch.float64))
    for axis in range(3):
        lengths = [length - 1 if i == axis else length for i, length in enumerate(GRID)]
        first = p
        moved = p
        for i, length in enumerate(lengths):
            start = int(i == axis)
            first = first.narrow(i, 0, length).narrow(i + 3, 0, length)
            moved = moved.narrow(i, start, length).narrow(i + 3, start, length)
        torch.testing.assert_close(first, moved, atol=1e-5, rtol=1e-5)


def test_every_axis_is_told_apart() -> None:
    """Guards against an axis that gets no frequencies: moving along it would then change nothing."""
    torch.manual_seed(0)
    p = products(torch.randn(32), torch.randn(32))[0, 0, 0]
    offsets = [p[0, 0, 0], p[1, 0, 0], p[0, 1, 0], p[0, 0, 1]]
    assert len({round(value.item(), 4) for value in offsets}) == 4


def test_rotation_keeps_lengths_and_the_origin() -> None:
    """Guards against a rotation that scales (cosines and sines paired wrongly) or moves the first token."""
    x = torch.randn(2, 3, 120, 32)
    cos, sin = rope(GRID, 32, 10_000.0, torch.device("cpu"))
    y = rotate(x, cos, sin)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, :, 0], x[:, :, 0])


def test_axis_pairs_share_the_head() -> None:
    """Guards against channels left without rotation; 128 is Wan 2.1's split (44, 42, 42)."""
    assert axis_pairs(128) == (22, 21, 21)
    for head_dim in range(6, 130, 2):
        assert sum(axis_pairs(head_dim)) == head_dim // 2


def test_angles_are_those_of_wan() -> None:
    """Guards against positions that drift at the sizes Wan 2.1 is used at (1280x720, 81 frames): theirs are float64."""
    cos, sin = rope((21, 45, 80), 128, 10_000.0, torch.device("cpu"))
    expected = WanRotaryPosEmbed(128, (1, 2, 2), 1024)(torch.empty(1, 16, 21, 90, 160))
    torch.testing.assert_close(cos, expected[0][0, :, 0, 0::2], atol=5e-6, rtol=0)
    torch.testing.assert_close(sin, expected[1][0, :, 0, 1::2], atol=5e-6, rtol=0)


@pytest.mark.parametrize("head_dim", [4, 33])
def test_heads_that_cannot_be_rotated_are_refused(head_dim: int) -> None:
    """Guards against a silent loss of position on narrow or odd heads."""
    with pytest.raises(ValueError, match=f"head of {head_dim} channels.*nearest"):
        axis_pairs(head_dim)
