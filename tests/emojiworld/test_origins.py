"""Which part of a reference a latent shows: told by its colours, which are those of the part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from video_alchemist.emojiworld.recipes.origins import cell_origins, origins, shares
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, random_times, sample_scenes


def looked_up(picture: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Colours (3, T) of a picture (3, size, size) at origins (T, 3)."""
    return F.grid_sample(picture[None], origin[None, None, :, :2] * 2 - 1, align_corners=False)[0, :, 0]


@pytest.mark.parametrize("close_ups", [0.0, 1.0])
def test_colours_are_found_at_their_origin(close_ups: float) -> None:
    """Guards against maps composed in the wrong order, mirrored or off by half a pixel: attention would be taught to
    look elsewhere. At four pixels a latent, what is shown must have the colours of where it is said to come from."""
    scenes = sample_scenes(20, 0, 16)
    batch = make_batch(scenes, random_times(22, 0, 16), (64, 64), 48, close_ups=close_ups)
    shown = batch.references.valid
    found = origins(batch, shown, (1, 32, 32))
    assert found.shape == (int(shown.sum()) + 16, 32 * 32, 3)
    clips, actors, _ = shown.nonzero(as_tuple=True)
    pictures = batch.references.pictures[shown]
    errors, chance = [], []
    for k, (clip, picture) in enumerate(zip(clips, pictures, strict=True)):
        frame = F.avg_pool2d(batch.video[clip, :, 0] / 2 + 0.5, 2).flatten(1)              # (3, T)
        opaque = looked_up(picture[3:].expand(3, -1, -1), found[k])[0] > 0.9
        whole = (found[k, :, 2] > 0.95) & opaque
        if whole.sum() < 20:
            continue
        errors.append((looked_up(picture[:3], found[k])[:, whole] - frame[:, whole]).abs().mean())
        moved = found[k].roll(7, dims=0)
        chance.append((looked_up(picture[:3], moved)[:, whole] - frame[:, whole]).abs().mean())
    assert len(errors) > 20
    assert torch.stack(errors).median() < 0.05 and torch.stack(errors).mean() < 0.5 * torch.stack(chance).mean()
    for clip, (background, place) in enumerate(zip(batch.references.backgrounds, found[len(pictures) :], strict=True)):
        seen = place[:, 2] > 0.95
        frame = F.avg_pool2d(batch.video[clip, :, 0] / 2 + 0.5, 2).flatten(1)
        if seen.sum() > 20:  # shadows are in the frame alone
            assert (looked_up(background, place)[:, seen] - frame[:, seen]).abs().median() < 0.05


def test_latents_of_a_clip_are_of_their_frames() -> None:
    """Guards against frames counted by fours from the first: a causal autoencoder's first latent is one frame."""
    scenes = sample_scenes(20, 0, 4)
    clip = make_batch(scenes, clip_times(9), (32, 32), 32)
    found = origins(clip, clip.references.valid, (3, 4, 4)).unflatten(1, (3, 16))
    alone = origins(
        make_batch(scenes, torch.zeros(1), (32, 32), 32), clip.references.valid, (1, 4, 4)
    )
    torch.testing.assert_close(found[:, 0], alone)
    assert (found[..., 2] >= 0).all() and (found[..., 2] <= 1).all() and found.isfinite().all()
    # What is owned by an actor is not the background's: together they never exceed the whole.
    first = clip.references.valid[:, :, 0]
    clips, _, views = clip.references.valid.nonzero(as_tuple=True)
    total = found[len(clips) :, :, :, 2].clone()
    for k in (views == 0).nonzero()[:, 0].tolist():
        total[clips[k]] += found[k, :, :, 2]
    assert first.any() and total.max() <= 1 + 1e-4


def test_cells_of_a_latent() -> None:
    """Guards against cells of another latent, and against rows taken for columns."""
    scenes = sample_scenes(20, 0, 4)
    batch = make_batch(scenes, random_times(22, 0, 4), (32, 32), 32)
    shown = batch.references.valid
    fine = origins(batch, shown, (1, 8, 8)).unflatten(1, (8, 8))
    cells = cell_origins(batch, shown, (1, 4, 4)).unflatten(1, (4, 4))
    assert cells.shape[1:] == (4, 4, 4, 3)
    assert torch.equal(cells[:, 1, 2], torch.stack([fine[:, y, x] for y in (2, 3) for x in (4, 5)], dim=1))


def test_shares_are_where_they_should_be() -> None:
    """Guards against rows taken for columns, and against weights that do not sum to what a token is of a picture."""
    found = torch.tensor([[[[[0.9, 0.1, 1.0]], [[0.5, 0.5, 0.25]]]]])  # one picture, two video tokens of one cell
    tokens = shares(found, torch.tensor([[2.0]]), side=5)
    assert tokens.shape == (1, 2, 1, 25)
    assert tokens[0, :, 0].argmax(dim=1).tolist() == [4, 12]  # the first row's last token, the middle
    torch.testing.assert_close(tokens.sum(dim=3)[..., 0], torch.tensor([[2.0, 0.5]]))
