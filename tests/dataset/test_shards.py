"""Shards: what is written comes back, to us and to other readers, and what is broken is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pyarrow.dataset
import pytest
import webdataset
from PIL import Image

from video_alchemist.dataset.shards import (
    ShardDataset,
    read_manifest,
    take_down,
    write_backgrounds,
    write_column,
    write_manifest,
    write_shard,
    write_tar,
)
from video_alchemist.emojiworld import files as world_files
from video_alchemist.emojiworld.files import write_world_shards

NUM_CLIPS = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    list(write_world_shards(folder, NUM_CLIPS, seed=3, size=(48, 32), num_frames=5, shard_size=4))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def record(clip_id: str, caption: str = "A dog", **changes) -> dict:
    return {
        "id": clip_id, "caption": caption, "entities": [], "references": [], "fps": 12.0, "num_frames": 1,
        "size": [4, 4], "provenance": {"source": clip_id.split("-")[0]}, **changes,
    }  # fmt: skip


def files(*ids: str) -> dict[str, dict[str, bytes]]:
    return {one: {name: b"x" * 9 for name in ("f0.jpg", "f1.jpg", "f2.jpg", "mp4")} for one in ids}


def write(folder: Path, records: list[dict]) -> Path:
    write_shard(folder, 0, records, files(*(one["id"] for one in records)))
    return write_manifest(folder, {0: len(records)})


def test_clips_come_back(made):
    """The example of a shard is the clip that was rendered: pixels, words, pictures, face and place."""
    dataset = ShardDataset(made)
    assert len(dataset) == NUM_CLIPS and dataset.manifest["kept"] == NUM_CLIPS
    for position in range(len(dataset)):
        clip = dataset[position]
        assert clip.video.shape == (5, 32, 48, 3) and clip.id == dataset.ids[position]
        assert [clip.caption[slice(*entity.span)] for entity in clip.entities] == [e.word for e in clip.entities]
        named = {entity.word: entity.kind for entity in clip.entities}
        for reference in clip.references:
            assert named[reference.word] == reference.kind
            channels = 3 if reference.view == "face" else 4
            assert reference.image.shape[2] == channels and reference.image.size > 0
        grounds = [entity.word for entity in clip.entities if entity.kind == "background"]
        assert (clip.background.word if clip.background else None) == (grounds[0] if grounds else None)
    views = {reference.view for position in range(len(dataset)) for reference in dataset[position].references}
    assert views == {"whole", "face"}


def test_random_access_reads_what_streaming_reads(made):
    """Guards against offsets of the index that are a header off."""
    dataset = ShardDataset(made)
    for number in (0, 1, 2):
        with tarfile.open(made / f"examples-{number:05d}.tar") as tar:
            for member in tar:
                name, _, suffix = member.name.partition(".")
                if suffix == "json":
                    assert json.load(tar.extractfile(member)) == dataset.record(dataset.position(name))


def test_the_same_clips_give_the_same_bytes(tmp_path, monkeypatch):
    """Guards against times, owners or dictionary order in the files: resuming could not be told from damage.

    Without the video codec: x264 has been seen to give the same frames other bytes on a CPU with AVX-512.
    """
    monkeypatch.setattr(world_files, "write_video", lambda path, frames, fps: path.write_bytes(frames.tobytes()))
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        list(write_world_shards(folder, NUM_CLIPS, seed=3, size=(48, 32), num_frames=5, shard_size=4))
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_webdataset_streams_them(made):
    """Guards against tars that only we can read: members of a clip together, keys cut at the first dot."""
    tars = [str(path) for path in sorted(made.glob("examples-*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ShardDataset(made).ids
    assert all({"json", "f0.jpg", "f1.jpg", "f2.jpg"} <= sample.keys() for sample in samples)


def test_duckdb_queries_the_index(made):
    """Guards against an index of types that query engines do not know."""
    found = duckdb.sql(f"select id, len(words) from read_parquet('{made}/index-*.parquet') where width = 48").fetchall()
    expected = {one: len(ShardDataset(made).record(i)["entities"]) for i, one in enumerate(ShardDataset(made).ids)}
    assert dict(found) == expected


def test_pyarrow_queries_the_index(made):
    """Guards against columns that only our reader understands: a member is found by the index alone."""
    table = pyarrow.dataset.dataset(sorted(map(str, made.glob("index-*.parquet")))).to_table()
    assert table["duration"].to_pylist() == [5 / 12] * NUM_CLIPS
    row = table.slice(NUM_CLIPS - 1).to_pylist()[0]
    offset, size = row["video"]
    contents = (made / "video-00002.tar").read_bytes()[offset : offset + size]
    assert contents == ShardDataset(made).member("video", NUM_CLIPS - 1) and contents[4:8] == b"ftyp"


def test_duckdb_knows_tombstones(folder):
    """Guards against queries that cannot tell what was taken down."""
    gone = ShardDataset(folder).ids[2]
    take_down(folder, [gone])
    buried = f"""select unnest(from_json(content, '["varchar"]')) from read_text('{folder}/tombstones.json')"""
    query = f"select id from read_parquet('{folder}/index-*.parquet') where source not in ({buried}) order by id"
    assert [row[0] for row in duckdb.sql(query).fetchall()] == sorted(ShardDataset(folder).ids)


@pytest.mark.parametrize("name", ["examples-00001.tar", "video-00000.tar", "index-00002.parquet"])
def test_truncated_files_are_refused(folder, name):
    """A copy that broke off must not be found out in the middle of a training run."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ValueError, match=f"{name} is of .* bytes; the manifest says"):
        ShardDataset(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        ShardDataset(folder)


def test_changed_contents_are_found_on_request(folder):
    """A flipped byte keeps the size; only the sha256 tells."""
    path = folder / "video-00001.tar"
    contents = bytearray(path.read_bytes())
    contents[700] ^= 1
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="video-00001.tar differs from its sha256"):
        ShardDataset(folder).verify()


def test_other_formats_and_counts_are_refused(folder):
    """Guards against shards of another version, or rows that went missing, being trained on in silence."""
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["shards"][0]["clips"] += 1
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has 4 clips; the manifest says 5"):
        ShardDataset(folder)
    (folder / "dataset.json").write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(ValueError, match="is of format 0; this version reads 1: make the shards again"):
        ShardDataset(folder)
    (folder / "dataset.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(ValueError, match="is of format 2; this version reads 1: update"):
        ShardDataset(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="dataset.json is damaged"):
        ShardDataset(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(ValueError, match="holds no dataset.json"):
        read_manifest(folder)


def test_takedown_is_honoured_at_once(folder):
    """A video that must go may not be trained on, even before shards are made again."""
    gone = ShardDataset(folder).ids[2]
    assert take_down(folder, [gone]) == [gone]
    dataset = ShardDataset(folder)
    assert len(dataset) == NUM_CLIPS - 1 and gone not in dataset.ids
    with pytest.raises(ValueError, match="did you mean"):
        take_down(folder, [ShardDataset(folder).ids[0][:-1]])
    assert take_down(folder, [gone]) == [gone]  # twice is once


def test_no_source_is_on_both_sides_of_a_split(tmp_path):
    """Clips of one video look alike: held out must mean the video."""
    write(tmp_path, [record(f"v{i}-{k}") for i in range(40) for k in range(3)])
    dataset = ShardDataset(tmp_path)
    train, held_out = dataset.split(0.3)
    sources = dataset.index["source"].to_pylist()
    assert {sources[i] for i in train}.isdisjoint({sources[i] for i in held_out})
    assert len(train) + len(held_out) == 120 and 15 <= len(held_out) <= 60


def test_captions_with_emoji_and_quotes(tmp_path):
    """Guards against text that breaks JSON or the index."""
    caption = "A 🦊 says \"hi\", it's\n<script>"
    write(tmp_path, [record("a", caption)])
    dataset = ShardDataset(tmp_path)
    assert dataset.record(0)["caption"] == caption == dataset.index["caption"][0].as_py()


@pytest.mark.parametrize("clip_id", ["über", "a.b", "a/b", "", "x" * 89])
def test_ids_that_readers_would_split_are_refused(tmp_path, clip_id):
    """WebDataset cuts keys at the first dot, USTAR names at 100 bytes."""
    with pytest.raises(ValueError, match="expected up to 88 letters"):
        write_tar(tmp_path / "a.tar", {clip_id: {"json": b""}})
    assert list(tmp_path.iterdir()) == []


def test_impossible_shards_are_refused(tmp_path):
    """Guards against ids that two sources share, which would overwrite one another's pictures."""
    with pytest.raises(ValueError, match="two clips have the id 'a'"):
        write(tmp_path, [record("a"), record("a")])


def test_shards_of_any_number_of_clips(tmp_path):
    """Guards against a work unit that is lost at its end since its long videos had so many shots."""
    write(tmp_path, [record(f"{i:04d}") for i in range(2500)])
    dataset = ShardDataset(tmp_path)
    assert len(dataset) == 2500 and dataset.record(2499)["id"] == "2499"


def test_a_kill_while_writing_leaves_no_shard(tmp_path):
    """Guards against a truncated tar under its final name; the next run writes over what a killed one left."""

    class Deadly(dict):
        def __getitem__(self, key):
            if key == "c":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(key)

    clips = {one: {"json": b"x" * 100_000} for one in "abcd"}
    child = os.fork()
    if child == 0:
        write_tar(tmp_path / "examples-00000.tar", Deadly(clips))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".examples-00000.tar.tmp"]
    write_tar(tmp_path / "examples-00000.tar", clips)
    assert [path.name for path in tmp_path.iterdir()] == ["examples-00000.tar"]


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    """A disk that fills up must leave nothing that looks like a shard."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, [record("a")])
    assert list(tmp_path.iterdir()) == []


def test_backgrounds_can_come_later(tmp_path):
    """They dominate the cost of curation: a shard is whole without them, and none changes when they come."""
    entity = {"word": "beach", "kind": "background", "span": [0, 5], "occurrence": 0}
    write(tmp_path, [record("a", "beach", entities=[entity]), record("b", "beach", entities=[entity])])
    before = (tmp_path / "examples-00000.tar").read_bytes()
    picture = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(picture, "JPEG")
    assert ShardDataset(tmp_path).example(0, with_video=False).background is None
    write_backgrounds(tmp_path, 0, {"b": picture.getvalue()})
    write_manifest(tmp_path, {0: 2})
    dataset = ShardDataset(tmp_path)
    assert dataset.example(0, with_video=False).background is None
    assert abs(int(dataset.example(1, with_video=False).background.image[0, 0, 0]) - 200) < 4
    assert (tmp_path / "examples-00000.tar").read_bytes() == before


def test_columns_that_come_later(tmp_path):
    """Guards against a re-encoding that rewrites annotations, against clips without latents taking another's, and
    against columns of different networks taken for one."""
    write(tmp_path, [record("a"), record("b")])
    network = {"revision": "x"}
    write_column(tmp_path, 0, "latents", {"b": {"4x4x1.safetensors": b"z0", "8x8x1.safetensors": b"z1"}}, network)
    write_column(tmp_path, 0, "text", {"a": b"words"}, {"revision": "y"})
    write_manifest(tmp_path, {0: 2})
    dataset = ShardDataset(tmp_path)
    assert dataset.member("latents", 1, "8x8x1.safetensors") == b"z1"
    assert dataset.suffixes("latents", 1) == ["4x4x1.safetensors", "8x8x1.safetensors"]
    assert dataset.member("text", 0) == b"words" and dataset.made_by("text") == {"revision": "y"}
    assert not dataset.has("latents", 0) and dataset.suffixes("latents", 0) == []
    with pytest.raises(ValueError, match="a has no latents"):
        dataset.member("latents", 0, "4x4x1.safetensors")
    with tarfile.open(tmp_path / "latents-00000.tar") as tar:
        assert tar.getnames() == ["b.4x4x1.safetensors", "b.8x8x1.safetensors"]
    write_shard(tmp_path, 1, [record("c")], files("c"))
    write_manifest(tmp_path, {0: 2, 1: 1})
    with pytest.raises(ValueError, match="has no latents, or not for all shards; precompute"):
        ShardDataset(tmp_path).made_by("latents")
    write_column(tmp_path, 1, "latents", {}, {"revision": "z"})
    write_manifest(tmp_path, {0: 2, 1: 1})
    with pytest.raises(ValueError, match="comes from different networks"):
        ShardDataset(tmp_path).made_by("latents")



def test_look_alikes_are_grouped_across_shards(tmp_path):
    """Guards against copies of a clip that only stand in different shards going unnoticed."""
    hashes = {"a": "00000000000000ff", "b": "ffff000000000000", "c": "00000000000000fe", "d": ""}
    for number, ids in enumerate(("ab", "cd")):
        write_shard(tmp_path, number, [record(one, perceptual_hash=hashes[one]) for one in ids], files(*ids))
    write_manifest(tmp_path, {0: 2, 1: 2})
    assert ShardDataset(tmp_path).index["group"].to_pylist() == ["a", None, "a", None]


def test_folders_at_urls_are_read(made):
    """Guards against a reader that works on local paths alone: a bucket is opened as it stands."""
    remote = fsspec.filesystem("memory")
    remote.put(str(made) + "/", "/bucket/shards/", recursive=True)
    dataset, local = ShardDataset("memory://bucket/shards"), ShardDataset(made)
    dataset.verify()
    assert dataset.ids == local.ids and dataset.record(7) == local.record(7)
    assert np.array_equal(dataset[7].video, local[7].video)
    with pytest.raises(ValueError, match="'memory://bucket/nothing' holds no dataset.json"):
        ShardDataset("memory://bucket/nothing")


def test_known_fingerprints_are_taken(tmp_path):
    """Guards against terabytes that are read again only to write a manifest."""
    write_shard(tmp_path, 0, [record("a")], files("a"))
    write_manifest(tmp_path, {0: 1}, known={"video-00000.tar": (7, "seven")}, config={"x": 1})
    manifest = read_manifest(tmp_path)
    assert manifest["shards"][0]["files"]["video-00000.tar"] == {"bytes": 7, "sha256": "seven"}
    assert set(manifest["shards"][0]["files"]) == {"examples-00000.tar", "index-00000.parquet", "video-00000.tar"}
    assert len(manifest["config_hash"]) == 12
