"""Samples: what the shards hold, as a model and a metric need it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.dataset.shards import take_down


def is_like(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.median(pixels.reshape(-1, 3).astype(int), axis=0) - colour).max() < 6)


def test_samples_are_read_from_the_shards(tiny_data, tiny):
    """Guards against pictures of another word, frame or crop: targets stand in the prompt's order, not the record's."""
    sample = tiny_data["pair"]
    assert [(target.word, target.kind) for target in sample.targets] == [("robot", "object"), ("dog", "subject")]
    assert [target.word for target in sample.subjects] == ["dog"] and sample.background is None
    dog = sample.target("dog")
    assert dog.frames == (0, 2) and sample.prompt[slice(*dog.span)] == "dog"
    for picture, frame in zip(dog.pictures, dog.frames, strict=True):
        assert picture.shape == (16, 12, 4) and is_like(picture[..., :3], tiny.colour(0, frame))
        assert (picture[:, :8, 3] == 255).all() and (picture[:, 8:, 3] == 0).all()
    assert len(sample.frames) == 3 and sample.frames[0].shape == (32, 64, 3)
    assert (sample.fps, sample.num_frames, sample.size) == (12.0, 5, (64, 32))


def test_faces_are_unmasked_crops(tiny_data, tiny):
    """The faces that are compared are not masked (the authors' embeddings are of plain crops)."""
    sample = tiny_data["one"]
    (dog,) = sample.targets
    assert [face.shape for face in dog.faces] == [(8, 12, 3)] * 2
    assert is_like(dog.faces[1], tiny.colour(0, 2)) and is_like(dog.faces[1][:, -3:], tiny.colour(0, 2))
    assert sample.background_word == "beach" and sample.background_span == (13, 18)
    assert sample.background is not None and sample.background.shape == (32, 64, 3)


def test_what_is_not_there_is_named(tiny_data):
    """Guards against a bare KeyError where a user mistypes."""
    with pytest.raises(ValueError, match="did you mean 'subject'"):
        tiny_data.ids("subjects")
    with pytest.raises(ValueError, match="no sample 'pairs'.*did you mean 'pair'"):
        tiny_data["pairs"]
    with pytest.raises(ValueError, match="no target 'robots'"):
        tiny_data["pair"].target("robots")


def test_other_data_is_refused(tiny_data, tmp_path: Path):
    """Results name the data by its fingerprint: it must not survive changed shards, modes or a takedown."""
    folder = shutil.copytree(tiny_data.folder, tmp_path / "copy")
    assert BenchmarkData(folder).fingerprint == tiny_data.fingerprint  # moved, not changed
    content = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({**content, "modes": {"all": ["one"]}}))
    with pytest.raises(ValueError, match="is of other shards"):
        BenchmarkData(folder)
    (folder / "benchmark.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(ValueError, match="format 2; this version reads 1"):
        BenchmarkData(folder)
    (folder / "benchmark.json").write_text(json.dumps(content))
    take_down(folder / "shards", ["one"])
    with pytest.raises(ValueError, match="'one' and 0 more were taken down"):
        BenchmarkData(folder)
    with pytest.raises(ValueError, match="holds no benchmark.json"):
        BenchmarkData(tmp_path)
