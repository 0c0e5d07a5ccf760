"""What the renderer says is true of the clip is what the clip shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.render import boxes, render
from video_alchemist.emojiworld.scenes import ACTIONS, Actor, Background, Scene, sample_scene

TIMES = torch.linspace(0, 1, 5)


def still(action: str = "waits", **changes) -> Scene:
    subject = next(i for i in load_assets().identities if i.concept == "fox" and i.split == "train")
    actor = Actor(identity=subject.index, word="fox", kind="subject", action=action, x=0.0, y=0.0, scale=0.5)
    return Scene((replace(actor, **changes),), Background("beach", 3))


def test_boxes_bound_masks():
    """Detection is judged by these boxes: one pixel off is a wrong recall."""
    mask = torch.zeros(1, 8, 9, dtype=torch.bool)
    mask[0, 2:5, 3:7] = True
    assert boxes(mask).tolist() == [[3, 2, 7, 5]]
    assert boxes(torch.zeros(1, 8, 9, dtype=torch.bool)).isnan().all()


def test_actor_stands_where_the_scene_says():
    """scale 0.5 in the middle of 64 px: the sprite's square is 16..48."""
    rendered = render([still()], load_assets(), TIMES, (64, 64))
    x0, y0, x1, y1 = rendered.boxes[0, 0, 2].tolist()
    assert 15 <= x0 and 15 <= y0 and x1 <= 49 and y1 <= 49
    assert max(x1 - x0, y1 - y0) > 24
    assert not rendered.masks[0, 1:].any()


def test_same_at_every_resolution():
    """Reference pictures are rendered at twice the size: they must show the same thing at the same place."""
    small, large = (render([still()], load_assets(), TIMES, (side, side)).boxes[0, 0] for side in (64, 128))
    torch.testing.assert_close(2 * small, large, atol=4, rtol=0)


def test_shadow_stays_on_the_ground():
    """A shadow that rose with its actor would say it does not jump; one in the truth would be part of the actor."""
    scene = still("rises", y=0.3, scale=0.3)
    rendered = render([scene], load_assets(), TIMES, (64, 64))
    bare = rendered.background[0].float().mean(dim=0)
    darker = bare - rendered.video[0].float().mean(dim=1)  # (F, H, W)
    foot = round((0.3 + 0.3 + 1) / 2 * 64)
    assert darker[4, foot - 6 : foot + 4].max() > 20  # although the actor has left upwards
    assert not rendered.masks[0, 0, 4, foot - 6 :].any()
    high, low = (darker[frame, foot - 6 : foot + 6].clamp(min=0).sum() for frame in (4, 2))
    assert high < low  # smaller, the higher the actor is


def test_flow_carries_the_actor():
    """Flow of a running actor equals the shift of its box; a resting camera leaves the place at rest."""
    rendered = render([still("runs", direction=1)], load_assets(), torch.tensor([0.45, 0.55]), (64, 64))
    moved = rendered.boxes[0, 0, 1, 0] - rendered.boxes[0, 0, 0, 0]
    inside = rendered.masks[0, 0, 0]
    assert rendered.flow[0, 0, 0][inside].mean() == pytest.approx(float(moved), abs=1.1)
    assert rendered.flow[0, 0][:, ~inside].abs().max() < 1e-4


def test_occlusion_shrinks_the_hidden_mask():
    """masks are what is seen, not what is there: curation's segmenter sees no more."""
    hidden = still().actors[0]
    front = replace(hidden, depth=1, x=0.2)
    scene = Scene((hidden, front), Background("beach", 3))
    both = render([scene], load_assets(), TIMES, (64, 64)).masks[0]
    alone = render([still()], load_assets(), TIMES, (64, 64)).masks[0, 0]
    assert both[0].sum() < 0.8 * alone.sum()
    assert not (both[0] & both[1]).any()


def test_deterministic_and_independent_of_the_batch():
    assets = load_assets()
    scenes = [sample_scene(np.random.default_rng((4, i)), assets) for i in range(3)]
    together = render(scenes, assets, TIMES, (32, 32)).video
    assert torch.equal(together, render(scenes, assets, TIMES, (32, 32)).video)
    torch.testing.assert_close(together[1:2], render(scenes[1:2], assets, TIMES, (32, 32)).video, atol=1, rtol=0)


def test_faces_of_people_only():
    """Face crops of foxes would teach the face branch nonsense."""
    assets = load_assets()
    person = next(i for i in assets.identities if i.has_face and i.split == "train")
    scene = still(identity=person.index)
    face, box = (getattr(render([scene], assets, TIMES, (64, 64)), name)[0, 0, 2] for name in ("faces", "boxes"))
    assert (face[:2] >= box[:2] - 1).all() and (face[2:] <= box[2:] + 1).all()
    assert render([still()], assets, TIMES, (64, 64)).faces.isnan().all()


def test_undesirable_kinds():
    """App. A.1: a still foreground does not move by itself; a recording shows none of the scene."""
    moving = still("jumps")
    frozen = replace(moving, undesirable="still_foreground", camera=(0.0, 0.0, 0.0))
    video = render([frozen], load_assets(), TIMES, (64, 64)).video[0]
    assert (video == video[:1]).all()
    assert not (render([moving], load_assets(), TIMES, (64, 64)).video[0] == video[:1]).all()
    for kind in ("screen_in_screen", "screen_recording", "slight_motion"):
        other = render([replace(moving, undesirable=kind)], load_assets(), TIMES, (64, 64)).video[0]
        assert not torch.equal(other, video)


def test_clips_come_back_in_order():
    """Clips are sorted inside by their number of actors: scenes, moments and truth must come back in their places."""
    assets = load_assets()
    scenes = [sample_scene(np.random.default_rng((4, i)), assets, num_actors=1 + i % 3) for i in range(4)]
    moments = torch.tensor([[0.1], [0.4], [0.7], [0.9]])
    together = render(scenes, assets, moments, (32, 48))
    assert together.video.shape == (4, 1, 3, 32, 48) and together.flow.shape == (4, 0, 2, 32, 48)
    for i, scene in enumerate(scenes):
        alone = render([scene], assets, moments[i], (32, 48))
        torch.testing.assert_close(together.video[i : i + 1], alone.video, atol=1, rtol=0)
        assert torch.equal(together.masks[i : i + 1], alone.masks)
    with pytest.raises(ValueError, match="4 clips"):
        render(scenes[:3], assets, moments)


@pytest.mark.parametrize("action", ["rises", "spins", "grows"])
def test_flow_carries_the_mask_to_the_next_frame(action):
    """Every visible pixel moved by its flow lands on the actor, under a moving camera and in a wide frame too."""
    scene = replace(still(action), camera=(0.2, -0.1, 0.2))
    clip = render([scene], load_assets(), torch.linspace(0.4, 0.6, 4), (64, 96))
    for f in range(3):
        rows, columns = clip.masks[0, 0, f].nonzero().unbind(-1)
        step = clip.flow[0, f][:, rows, columns].round().long()
        x, y = (columns + step[0]).clamp(0, 95), (rows + step[1]).clamp(0, 63)
        assert clip.masks[0, 0, f + 1, y, x].float().mean() > 0.9


def test_still_foreground_is_one_picture_under_a_camera():
    """All that moves is the camera: the flow is one affine map over place and actor alike."""
    scene = replace(still("jumps"), undesirable="still_foreground", camera=(0.3, 0.1, 0.35))
    target = render([scene], load_assets(), TIMES, (64, 64)).flow[0, 0].flatten(1).T
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    design = torch.stack([rows, columns, torch.ones(64, 64)], dim=-1).flatten(0, 1)
    residual = design @ torch.linalg.lstsq(design, target).solution - target
    assert target.abs().max() > 1 and residual.abs().max() < 0.01


def test_screens_take_their_truth_along():
    """A clip pasted small has small masks where it is pasted; a recorded desktop shows no actor at all."""
    plain, pasted, recorded = (
        render([replace(still(), undesirable=kind)], load_assets(), TIMES, (64, 64))
        for kind in (None, "screen_in_screen", "screen_recording")
    )
    assert 0.15 < pasted.masks.sum() / plain.masks.sum() < 0.5
    assert not recorded.masks.any() and recorded.boxes.isnan().all() and not recorded.flow.any()


def test_actions_look_different():
    """Two actions with the same frames would make the caption noise that no model can learn."""
    other = replace(still().actors[0], x=0.5, depth=1)
    partners = {"meets": 1, "hides behind": 1}
    actors = [still(action, x=-0.3, partner=partners.get(action)).actors[0] for action in ACTIONS]
    scenes = [Scene((actor, other), Background("beach", 3)) for actor in actors]
    clips = render(scenes, load_assets(), torch.linspace(0, 1, 17), (32, 32), truth=False).video.float().flatten(1)
    apart = torch.cdist(clips, clips, p=1) / clips.shape[1]  # mean difference of a pixel, of 255
    assert apart.fill_diagonal_(torch.inf).min() > 1
