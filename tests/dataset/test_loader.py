"""Clips from shards as a training step wants them: which, which frames, which pictures; and what is broken."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from video_alchemist.dataset import loader
from video_alchemist.dataset.augmentation import Augmentation
from video_alchemist.dataset.buckets import Bucket
from video_alchemist.dataset.loader import ClipSource
from video_alchemist.dataset.shards import ShardDataset

STILL, CLIP = Bucket((32, 32), 1, 3, 1.0), Bucket((32, 32), 9, 2, 1.0)
WIDE = Bucket((64, 36), 9, 2, 2.0)
CAPTION = "A dog near a robot on the beach"


@pytest.fixture(scope="module")
def made(clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve square clips, six wide ones, one tall, one too short and one too small."""
    shapes = [((64, 64), 12, 24.0)] * 12 + [((128, 72), 9, 24.0)] * 6
    shapes += [((64, 128), 9, 12.0), ((64, 64), 4, 24.0), ((16, 16), 9, 24.0)]
    return clips(tmp_path_factory.mktemp("clips"), shapes, shard_size=8)


@pytest.fixture
def source(made: Path) -> Callable[..., ClipSource]:
    def make(buckets: tuple[Bucket, ...] = (STILL, CLIP, WIDE), folder: object = made, **changes: object) -> ClipSource:
        plain = {"seed": 0, "picture_size": 16, "augmentation": Augmentation.none(), "paste_share": 0.0}
        return ClipSource(ShardDataset(folder), buckets, **{**plain, **changes})

    return make


def test_mixed_sizes_and_aspects(source, brightness_of) -> None:
    """Guards against clips of another bucket's shape, black bars that are not cut off, and frames at another rate."""
    whole = source()
    seen = set()
    for index in range(30):
        batch = whole.batch(index)
        width, height, num_frames = map(int, batch.bucket.split("x"))
        assert batch.video.shape == (len(batch.ids), num_frames, height, width, 3) and batch.video.dtype == torch.uint8
        seen |= {(batch.bucket, clip) for clip in batch.ids}
        if num_frames == 1:
            continue
        for clip, frames in zip(batch.ids, batch.video, strict=True):
            centre = frames[:, height // 2, width // 2, 0].int()
            rate = 12 if clip == "c018" else 24  # at half the rate every frame stands for two
            expected = [brightness_of(k * rate // 24) for k in range(num_frames)]
            assert (centre - torch.tensor(expected)).abs().max() <= 2, clip
            if batch.bucket == "32x32x9":
                assert frames[:, 2, 2, 0].min() > 10  # bars of tall clips are gone
    assert {clip for bucket, clip in seen if bucket == WIDE.name} == {f"c{i:03d}" for i in range(12, 18)}
    assert ("32x32x9", "c018") in seen and not any(clip in ("c020",) for _, clip in seen)


def test_what_is_left_out_is_said(source) -> None:
    """Guards against clips and buckets that vanish in silence: every one is counted, with its reason."""
    large = Bucket((256, 256), 9, 2, 6.0)
    report = source((CLIP, WIDE, large)).report()
    assert report == [
        "1 of 21 clips are left out: too few pixels (first: c020)",
        "1 of 21 clips are left out: too few frames (first: c019)",
        "no clip fits 256x256x9: their 66.7% of the steps go to the other buckets",
    ]
    schedule = source((CLIP, WIDE, large)).schedule
    drawn = Counter(schedule.at(step)[0].name for step in range(3000))
    assert drawn[WIDE.name] / 3000 == pytest.approx(2 / 3, abs=0.05) and large.name not in drawn
    assert source((CLIP, Bucket((64, 36), 9, 7, 1.0))).report()[-1].startswith("64x36x9 has 6 clips for steps of 7")
    with pytest.raises(ValueError, match="fits a bucket: .*too few pixels"):
        source((large,))


def test_ranks_share_nothing_and_every_clip_comes_once(source) -> None:
    """Micro-batches of a step are of one bucket and share no clip, however many ranks do them; no clip comes twice
    before all came."""
    whole = source((CLIP, WIDE), micro_batches=3)
    taken: dict[str, list[str]] = {CLIP.name: [], WIDE.name: []}
    for step in range(14):
        parts = [whole.batch(step * 3 + m) for m in range(3)]
        assert len({part.bucket for part in parts}) == 1
        ids = [clip for part in parts for clip in part.ids]
        assert len(set(ids)) == 6
        taken[parts[0].bucket] += ids
    for name, count in ((CLIP.name, 13), (WIDE.name, 6)):
        laps = len(taken[name]) // count
        assert laps >= 1
        assert all(len(set(taken[name][lap * count :][:count])) == count for lap in range(laps))


def test_one_single_frame_is_the_same_every_time(source) -> None:
    """Guards against another frame than the one whose latents were precomputed, and always the first."""
    first, again = source((STILL,)), source((STILL,), seed=5)
    frames: dict[str, set[int]] = {}
    for one in (first, again):
        for index in range(14):
            batch = one.batch(index)
            for clip, video in zip(batch.ids, batch.video, strict=True):
                frames.setdefault(clip, set()).add(int(video[0, 16, 16, 0]))
    assert len(frames) == 20 and all(len(values) == 1 for values in frames.values())
    assert len({next(iter(values)) for values in frames.values()}) > 4


def test_pictures_stand_beside_their_words(source) -> None:
    """Guards against pictures bound to another word: the dog's is a face or a left half, the background is blue."""
    whole, counts = source((CLIP,), positions=range(12)), Counter()
    for index in range(30):
        batch = whole.batch(index)
        spans = [span for row in batch.spans for span in row]
        assert len(spans) == len(batch.pictures) and batch.pictures.shape[1:] == (3, 16, 16)
        assert [sorted(row) for row in batch.spans] == [list(row) for row in batch.spans]
        for (start, end), picture in zip(spans, batch.pictures, strict=True):
            word = CAPTION[start:end]
            blue = picture[2, 8, 8] > picture[0, 8, 8] + 0.5
            assert bool(blue) == (word == "beach"), word
            if word == "robot":  # a half, twice as high as wide, stands between white
                assert picture[:, 8, 1].min() > 0.95 and picture[:, 8, 8].max() < 0.8
            counts[word] += 1
    assert 0.4 < counts["beach"] / 60 < 0.6  # A.3, step 5
    assert counts["dog"] > 20 and counts["robot"] > 20
    stage_one = source((CLIP,), references=False).batch(0)
    assert stage_one.spans == () and stage_one.pictures.shape == (0, 3, 16, 16)


def test_some_segments_are_pasted_on_another_picture(source) -> None:
    """App. D: guards against pastes that cover the segment, and against pasted backgrounds."""
    plain, pasted = (source((CLIP,), positions=range(12), paste_share=share) for share in (0.0, 1.0))
    for index in range(4):
        before, after = plain.batch(index), pasted.batch(index)
        words = [CAPTION[slice(*span)] for row in before.spans for span in row]
        for word, one, other in zip(words, before.pictures, after.pictures, strict=True):
            if word == "robot":
                assert torch.equal(one[:, :, 8], other[:, :, 8])
                assert other[2, 8, 1] > 0.9 and other[0, 8, 1] < 0.2  # blue beside it instead of white
            if word == "beach":
                assert torch.equal(one, other)


def test_a_batch_is_a_function_of_its_number(source) -> None:
    """Guards against state: workers, resumed runs and other numbers of ranks must see the same draws."""
    options = {"augmentation": Augmentation(), "paste_share": 0.5}
    one, other = source(**options), pickle.loads(pickle.dumps(source(**options)))
    for index in (7, 3):
        a, b = one.batch(index), other.batch(index)
        assert (a.ids, a.spans, a.bucket) == (b.ids, b.spans, b.bucket)
        assert torch.equal(a.pictures, b.pictures) and torch.equal(a.video, b.video)
    assert not torch.equal(one.batch(3).pictures, source(**options, seed=1).batch(3).pictures[:1])


def test_from_an_object_store(source, made) -> None:
    """Guards against a path where an fsspec URL is given."""
    fsspec.filesystem("memory").put(str(made), "/loader", recursive=True)
    near, far = source().batch(2), source(folder="memory://loader").batch(2)
    assert near.ids == far.ids and torch.equal(near.video, far.video)


def test_a_forked_worker_opens_its_own_connections(source, made, monkeypatch) -> None:
    """Guards against object stores that hang, or refuse, in a loader's workers: their clients do not survive a fork."""
    fsspec.filesystem("memory").put(str(made), "/forked", recursive=True)
    whole = source(folder="memory://forked")
    before, batch = whole.dataset.folder.fs, whole.batch(0)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert torch.equal(whole.batch(0).video, batch.video)
    assert whole.dataset.folder.fs is not before


def broken_copy(made: Path, tmp_path: Path, rows: list[int]) -> Path:
    """A copy of the shards in which the videos of some clips of shard 0 are zeros."""
    folder = shutil.copytree(made, tmp_path / "broken")
    dataset = ShardDataset(folder)
    with (folder / "video-00000.tar").open("r+b") as file:
        for row in rows:
            offset, size = dataset.index["video"][row].as_py()
            file.seek(offset)
            file.write(bytes(size))
    return folder


def test_a_broken_clip_is_replaced_and_named(source, made, tmp_path) -> None:
    """Guards against a run that dies of one bad file, or drops it in silence, or trains on other clips when resumed."""
    folder = broken_copy(made, tmp_path, [2, 5])
    with pytest.warns(UserWarning, match="clip c00[25] is passed over: not a video") as caught:
        bad = source((CLIP,), folder=folder, micro_batches=2)
        batches = [bad.batch(index) for index in range(14)]
    assert len([one for one in caught if "passed over" in str(one.message)]) == 2  # each once
    assert set(bad.skipped) == {"c002", "c005"}
    good = source((CLIP,), micro_batches=2)
    for index, batch in enumerate(batches):
        kept = good.batch(index).ids
        assert set(batch.skipped) == set(kept) & {"c002", "c005"}
        for before, after in zip(kept, batch.ids, strict=True):
            assert before == after or before in ("c002", "c005")
        assert len(set(batch.ids)) == 2 and not {"c002", "c005"} & set(batch.ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = source((CLIP,), folder=folder, micro_batches=2).batch(5)
    assert again.ids == batches[5].ids and torch.equal(again.video, batches[5].video)


def test_too_many_broken_clips_are_an_error(source, made, tmp_path, monkeypatch) -> None:
    """Guards against a run that goes on with the few clips of a dataset that can still be read."""
    folder = broken_copy(made, tmp_path, list(range(8)))
    monkeypatch.setattr(loader, "FEW_BROKEN", 4)
    bad = source((CLIP,), folder=folder)
    with pytest.raises(ValueError, match="5 broken clips beside .* expected at most 4"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(20):
            bad.batch(index)


def test_a_truncated_tar_is_a_broken_clip(source, made, tmp_path) -> None:
    """A tar that loses its end while a run goes on: its clips are passed over, each named."""
    folder = shutil.copytree(made, tmp_path / "cut")
    cut = source((CLIP,), folder=folder)
    with (folder / "video-00001.tar").open("r+b") as file:
        file.truncate(int(cut.dataset.index["video"][10].as_py()[0]))
    with pytest.warns(UserWarning, match="ends within a clip"):
        for index in range(10):
            cut.batch(index)
    assert set(cut.skipped) == {f"c{i:03d}" for i in range(10, 16)}


def test_a_video_that_ends_early_is_broken(clips, tmp_path) -> None:
    """Guards against a last frame repeated to the end: the index promises frames that the file lacks."""
    dataset = ShardDataset(clips(tmp_path, [((32, 32), 12, 24.0)]))
    contents, moments = dataset.member("video", 0), np.arange(9) / 24
    assert loader.read_frames(contents, moments, 24.0, (32, 32)).shape == (9, 32, 32, 3)
    with pytest.raises(ValueError, match="ends at 0.50 s; expected 0.79 s"):
        loader.read_frames(contents, np.arange(20) / 24, 24.0, (32, 32))
    with pytest.raises(ValueError, match="not a video"):
        loader.read_frames(contents[:40], moments, 24.0, (32, 32))


def test_only_the_clips_it_may_use(source) -> None:
    """Guards against held-out clips in training."""
    train = source((CLIP,), positions=[1, 3, 5])
    assert {clip for index in range(4) for clip in train.batch(index).ids} == {"c001", "c003", "c005"}
