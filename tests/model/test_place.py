"""The embedding of places: tells rows and columns apart, not frames, and fits grids of other sizes."""

from __future__ import annotations

import pytest
import torch

from video_alchemist.model.place import PlaceEmbedding, place_waves


def test_every_place_differs_and_frames_do_not() -> None:
    """Guards against rows and columns mixed up, and against an embedding in another order than the tokens."""
    embedding = PlaceEmbedding(3, 5, 16)
    tokens = embedding(torch.zeros(2, 4 * 15, 16), (4, 3, 5)).unflatten(1, (4, 3, 5))
    assert torch.equal(tokens[0, 0], tokens[1, 3])
    assert torch.equal(tokens[0, 0], embedding.weight)
    places = embedding.weight.flatten(0, 1)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.1


def test_other_grids_lie_between() -> None:
    """Guards against places that jump when a video has another size than was trained on."""
    embedding = PlaceEmbedding(4, 4, 8)
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(4.0)[:, None, None].expand(4, 4, 8))
    tokens = embedding(torch.zeros(1, 16, 8), (1, 2, 8)).unflatten(1, (1, 2, 8))
    torch.testing.assert_close(tokens[0, 0, :, :, 0], torch.tensor([0.5, 2.5])[:, None].expand(2, 8))


def test_half_precision_stays_half() -> None:
    """Guards against weights kept in float32 that make every token float32."""
    assert PlaceEmbedding(2, 2, 8)(torch.zeros(1, 4, 8, dtype=torch.bfloat16), (1, 2, 2)).dtype == torch.bfloat16


def test_width_that_holds_no_places() -> None:
    with pytest.raises(ValueError, match="10 channels of places; expected a multiple of 4, nearest: 8"):
        place_waves(2, 2, 10)
