"""The world as files: what curation eats, and the truth it is judged by."""

import json

import pytest

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.files import example, numbered_scene, write_world, write_world_shards
from video_alchemist.video import read_video


def test_clips_captions_and_truth(tmp_path):
    assert list(write_world(tmp_path, 2, seed=1, size=(48, 32), num_frames=3)) == [1, 2]
    frames, fps = read_video(tmp_path / "00000001.mp4")
    assert frames.shape == (3, 32, 48, 3) and fps == 12
    known = json.loads((tmp_path / "00000001.json").read_text())
    assert known["caption"] == (tmp_path / "00000001.txt").read_text().strip()
    for entity in known["entities"]:
        assert known["caption"][slice(*entity["span"])] == entity["word"]
        if entity["kind"] != "background":
            assert len(entity["boxes"]) == len(entity["masks"]) == 3


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="expected at least 1"):
        list(write_world(tmp_path, 0))
    with pytest.raises(ValueError, match="expected one of train"):
        list(write_world(tmp_path, 1, split="tset"))


def test_example_has_cut_out_references():
    assets = load_assets()
    clip = example(numbered_scene(assets, 1, 3, "train"), assets, "3", num_frames=3)
    assert clip.video.shape == (3, 64, 64, 3)
    assert {picture.word for picture in clip.references} <= {entity.word for entity in clip.entities}
    assert all(picture.image.shape[2] == 4 and picture.image[..., 3].any() for picture in clip.references)


def test_shards_of_another_world_are_not_overwritten(tmp_path):
    """Guards against curated shards that a render into the same folder would destroy."""
    made = {"size": (32, 32), "num_frames": 1}
    assert list(write_world_shards(tmp_path, 1, **made)) == list(write_world_shards(tmp_path, 1, **made)) == [1]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds other shards"):
        list(write_world_shards(tmp_path, 1, seed=1, **made))
    with pytest.raises(ValueError, match="fps is 0"):
        list(write_world_shards(tmp_path, 1, fps=0, **made))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
