"""Preparing: which clips become samples, and the way from the authors' files to them."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.benchmark.prepare import OFFICIAL_PROMPT, prepare_official, prepare_shards
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.pretrained.inpainter import TeleaInpainter
from video_alchemist.video import write_video

DOG = {"dog": "subject"}


def test_what_cannot_be_judged_is_no_sample(tiny, tmp_path):
    """What the authors' data rule out: targets without pictures, twice the same word, two clips of one video."""
    clips = [
        tiny.clip("fine", "A dog", DOG),
        tiny.clip("unseen", "A dog and a cat", {**DOG, "cat": "subject"}, pictures={"cat": ()}),
        tiny.clip("empty", "A beach", {"beach": "background"}),
        tiny.clip("v-1", "A dog", DOG, source="v"),
        tiny.clip("v-2", "A dog", DOG, source="v"),
    ]
    twice, frames = tiny.clip("twice", "A dog and a dog", {"dog": "subject", "d": "subject"})
    twice["entities"][1]["word"] = "dog"
    tiny.write_shards(tmp_path / "shards", [*clips, (twice, frames)])
    data = prepare_shards(tmp_path / "shards", tmp_path / "data")
    fine, of_v = data.ids("all")
    assert fine == "fine" and of_v in ("v-1", "v-2")
    assert json.loads((tmp_path / "data/benchmark.json").read_text())["shards"] == "../shards"
    assert prepare_shards(tmp_path / "shards", tmp_path / "again").fingerprint == data.fingerprint
    assert len(prepare_shards(tmp_path / "shards", tmp_path / "few", num_samples=1, seed=4).ids("all")) == 1
    with pytest.raises(ValueError, match="2 of 6 clips .* expected at least 3; .*a target without a picture"):
        prepare_shards(tmp_path / "shards", tmp_path / "many", num_samples=3)
    assert not (tmp_path / "many").exists()


def test_shards_without_a_sample_are_refused(tiny, tmp_path):
    """Guards against an empty benchmark whose mean is a division by zero much later."""
    tiny.write_shards(tmp_path / "shards", [tiny.clip("a", "A beach", {"beach": "background"})])
    with pytest.raises(ValueError, match="0 of 1 clips .* expected at least 1; 1: no subject or object"):
        prepare_shards(tmp_path / "shards", tmp_path)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> tuple[Path, Path]:
    """Three samples of one video: a dark man before a bright street; of the third there are two men."""
    folder = tmp_path_factory.mktemp("official")
    annotation, videos = folder / "annotation", folder / "videos"
    annotation.mkdir()
    videos.mkdir()
    frames = np.full((30, 48, 64, 3), 200, np.uint8)
    frames[:, 10:40, 20:32] = 30
    write_video(videos / "video7.mp4", frames, 10.0)
    whole = [
        {"filename": f"frame{i}.jpg", "box_xyxy": [20, 10, 32, 40], "mask": np.ones((30, 12)), "is_face_crop": False}
        for i in (1, 2, 3)
    ]
    face = {"filename": "frame2.jpg", "box_xyxy": [22, 10, 30, 18], "mask": np.ones((8, 8)), "is_face_crop": True}
    for name, subjects in (("s1", ["man"]), ("s2", ["man"]), ("s3", ["man", "boy"])):
        tags = {"subject": subjects, "object": [], "background": ["street"], "subject_with_face": ["man"]}
        info = {"video": "video7.mp4", "resolution": [64, 48], "timestamp": ["00:00:00.500", "00:00:02.500"]}
        caption = "A man and a boy in a street"
        (annotation / f"{name}.vid_info.json").write_text(json.dumps({**info, "caption": caption, "word_tags": tags}))
        masks = {"man": [*whole, face]} | {word: whole for word in subjects[1:]}
        (annotation / f"{name}.word_tags_masks.pkl.gz").write_bytes(gzip.compress(pickle.dumps(masks)))
    return annotation, videos


class Prompts(TeleaInpainter):
    """Remembers what it was asked to paint."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def __call__(self, frame, mask, prompt="", seed=0):
        self.prompts.append(prompt)
        return super().__call__(frame, mask, prompt, seed)


def test_official_samples(official, tmp_path):
    """From the authors' files to samples: modes by their rules, the man cut out, the street without him."""
    inpainter = Prompts()
    data = prepare_official(*official, tmp_path / "data", inpainter)
    assert {mode: data.ids(mode) for mode in ("all", "subject", "face", "multi", "background")} == {
        "all": ["s1", "s2", "s3"], "subject": ["s1", "s2"], "face": ["s1", "s2", "s3"], "multi": ["s3"],
        "background": ["s1", "s2", "s3"],
    }  # fmt: skip
    sample = data["s1"]
    (man,) = sample.targets
    assert (sample.num_frames, sample.fps, sample.size) == (20, 10.0, (64, 48))
    assert [picture.shape for picture in man.pictures] == [(30, 12, 4)] * 3 and len(man.faces) == 1
    assert abs(int(np.median(man.pictures[0][..., :3])) - 30) < 8 and man.faces[0].shape == (8, 8, 3)
    assert sample.background is not None and sample.background.min() > 150
    assert inpainter.prompts == ["street"] * 3  # §3.1: the background entity word
    assert BenchmarkData(tmp_path / "data").record("s1")["word_tags"]["subject_with_face"] == ["man"]


def test_a_killed_preparation_goes_on(official, tmp_path, monkeypatch):
    """Hours of inpainting must not be lost; nor may another prompt's pictures be mixed in."""
    monkeypatch.setattr("video_alchemist.benchmark.prepare.SHARD_SIZE", 1)

    class Killed(Prompts):
        def __call__(self, frame, mask, prompt="", seed=0):
            if len(self.prompts) == 2:
                raise KeyboardInterrupt
            return super().__call__(frame, mask, prompt, seed)

    Killed.__name__ = "Prompts"
    with pytest.raises(KeyboardInterrupt):
        prepare_official(*official, tmp_path / "a", Killed(), prompt=OFFICIAL_PROMPT)
    again = Prompts()
    resumed = prepare_official(*official, tmp_path / "a", again, prompt=OFFICIAL_PROMPT)
    assert again.prompts == [OFFICIAL_PROMPT]
    whole = prepare_official(*official, tmp_path / "b", Prompts(), prompt=OFFICIAL_PROMPT)
    assert resumed.fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="is of another preparation"):
        prepare_official(*official, tmp_path / "a", Prompts())


def test_what_is_missing_is_listed_before_work_begins(official, tmp_path):
    """Guards against samples that vanish because a video did."""
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="2 of 2 videos are not in .*videos': video7.mp4"):
        prepare_official(official[0], tmp_path / "videos", tmp_path / "data", num_samples=2)
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="num_samples is 9; expected 1 to 3"):
        prepare_official(*official, tmp_path / "data", num_samples=9)
