"""Latents and texts made once: the same losses, of the right networks, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan

from video_alchemist.dataset.buckets import Bucket
from video_alchemist.dataset.loader import ClipSource
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.pretrained.roles import Roles, autoencoder_role
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.training import objective, precompute
from video_alchemist.training.encode import encode_batch
from video_alchemist.training.precompute import Revisions, beginnings, revision, revisions

BUCKETS = tuple(Bucket((size, size), frames, 2, 1.0) for size in (16, 32) for frames in (1, 5, 9, 17))
pytestmark = pytest.mark.filterwarnings("ignore:the text encoder reads")
FEW = tuple(bucket for bucket in BUCKETS if bucket.num_frames < 9)


@pytest.fixture(scope="module")
def roles(pipeline) -> Roles:
    return pipeline.roles


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    list(write_world_shards(folder, 6, seed=1, size=(32, 32), num_frames=17, shard_size=4))
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world, tmp_path / "shards")


@pytest.fixture(scope="module")
def done(world: Path, roles: Roles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Revisions]:
    """The world with both columns for BUCKETS."""
    folder = shutil.copytree(world, tmp_path_factory.mktemp("done") / "shards")
    return folder, precompute.precompute(folder, BUCKETS, roles, "cpu", fps=12.0)


def source(folder: Path, buckets: tuple[Bucket, ...] = BUCKETS, **options: str | None) -> ClipSource:
    return ClipSource(ShardDataset(folder), buckets, seed=0, picture_size=16, fps=12.0, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_both_paths_give_the_same_loss(done, roles, transformer) -> None:
    """Guards against other frames, sizes, tokens, word places or draws where latents and texts were made before."""
    folder, made = done
    model = transformer(personalization=True, text_dim=16, image_dim=24)
    plain, ready = source(folder), source(folder, latents=made.latents, text=made.text)
    seen = set()
    for index in range(12):
        losses = []
        for clips in (plain.batch(index), ready.batch(index)):
            batch = encode_batch(clips, roles, 2, "cpu")
            losses.append(objective.loss(model, batch, torch.Generator().manual_seed(index))[0])
        assert ready.batch(index).video is None and plain.batch(index).z0 is None
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
        seen.add(clips.bucket)
    assert len(seen) >= 5


def test_a_network_that_pads_its_texts(folder, roles) -> None:
    """Wan attends to 512 tokens, zeros after the text: they need not be stored, but must come back."""
    padded = T5TextEncoder(roles.text_encoder.model, roles.text_encoder.tokenizer, 40, pad_to_max=True)
    made = precompute.precompute(folder, FEW, roles._replace(text_encoder=padded), "cpu", fps=12.0)
    clips = source(folder, FEW, text=made.text).batch(0)
    expected = padded(clips.captions)
    torch.testing.assert_close(clips.text.tokens, expected.tokens, rtol=1e-5, atol=1e-6)
    assert clips.text.mask.all() and clips.text.offsets == expected.offsets
    assert made.text != revisions(roles).text


def test_lengths_that_begin_alike_are_stored_once(done, roles) -> None:
    """CogVideoX's classes read 9 frames, then 8 at a time, and normalise over each: 9 begin 17, but 5 do not begin 9.
    Wan's reads 1, then 4 at a time. Guards against the first latents of a longer clip where they differ."""
    assert beginnings(roles.autoencoder, [1, 5, 9, 17], "cpu") == {1: [1], 5: [5], 9: [9, 17], 17: [17]}
    wan = autoencoder_role(AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval())
    with torch.no_grad():
        assert beginnings(wan, [1, 5, 9, 17], "cpu") == {1: [1], 5: [5, 9, 17], 9: [9, 17], 17: [17]}
    names = set(ShardDataset(done[0]).suffixes("latents", 0))
    assert names == {f"{size}x{size}x{frames}.safetensors" for size in (16, 32) for frames in (1, 5, 17)}


def test_resumes_by_shard_to_the_same_bytes(folder, roles, done, monkeypatch) -> None:
    """Guards against a killed run that starts over, or leaves a shard half made, and against bytes that differ."""
    write = precompute.write_column

    def killed(folder: Path, number: int, column: str, *rest: object) -> object:
        if (number, column) == (1, "latents"):
            raise KeyboardInterrupt
        return write(folder, number, column, *rest)

    monkeypatch.setattr(precompute, "write_column", killed)
    with pytest.raises(KeyboardInterrupt):
        precompute.precompute(folder, BUCKETS, roles, "cpu", fps=12.0)
    assert len(ShardDataset(folder)) == 6  # whole, without columns that are not there yet
    before = (folder / "latents-00000.tar").stat().st_mtime_ns
    monkeypatch.setattr(precompute, "write_column", write)
    assert precompute.precompute(folder, BUCKETS, roles, "cpu", fps=12.0) == done[1]
    assert (folder / "latents-00000.tar").stat().st_mtime_ns == before
    assert contents(folder) == contents(done[0])


def test_two_ranks_share_the_shards(folder, roles) -> None:
    """Guards against a manifest that rank 0 writes before the others are done, or that lacks their shards."""
    one = precompute.precompute(folder, FEW, roles, "cpu", fps=12.0, rank=1, world_size=2)
    assert not (folder / "latents-00000.tar").exists() and (folder / "latents-00001.tar").exists()
    assert precompute.precompute(folder, FEW, roles, "cpu", fps=12.0, rank=0, world_size=2) == one
    assert source(folder, FEW, latents=one.latents, text=one.text).batch(0).z0 is not None


def interrupted(path: Path, missing_ok: bool = False) -> None:
    if path.name.startswith("latents-"):
        raise KeyboardInterrupt
    if path.exists() or not missing_ok:
        os.unlink(path)


def test_another_networks_latents_are_never_taken(folder, done, roles, monkeypatch) -> None:
    """The costliest silent mistake: a run on latents of an autoencoder that it will not be sampled with."""
    torch.manual_seed(1)
    sizes = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    other = roles._replace(autoencoder=autoencoder_role(AutoencoderKLCogVideoX(**sizes).eval()))
    with pytest.raises(ValueError, match="has no latents, or not for all shards; precompute"):
        source(folder, latents=done[1].latents)
    with pytest.raises(ValueError, match=f"revision is {done[1].latents}, expected .*Precompute them again"):
        source(done[0], latents=revisions(other).latents)
    with pytest.raises(ValueError, match="none for 16x16x13"):
        source(done[0], (Bucket((16, 16), 13, 2, 1.0),), latents=done[1].latents)
    precompute.precompute(folder, FEW, roles, "cpu", fps=12.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupted)
        precompute.precompute(folder, FEW, other, "cpu", fps=12.0)
    assert len(ShardDataset(folder)) == 6  # killed while it takes the old ones out: still whole
    made = precompute.precompute(folder, FEW, other, "cpu", fps=12.0)
    clips = source(folder, FEW, latents=made.latents).batch(0)
    expected = encode_batch(source(folder, FEW).batch(0), other, 2, "cpu").z0
    torch.testing.assert_close(clips.z0, expected, rtol=1e-4, atol=1e-5)


def test_revisions_know_weights_and_statistics_but_not_precision(pipeline) -> None:
    """Guards against latents made again because a network was loaded in bfloat16, and against a change of its
    normalisation that goes unseen."""
    sizes = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    model = AutoencoderKLCogVideoX(**sizes)
    first = revision(autoencoder_role(model))
    assert revision(autoencoder_role(model.to(torch.bfloat16))) == first
    model.register_to_config(scaling_factor=0.5)
    assert revision(autoencoder_role(model)) != first
    text = pipeline.roles.text_encoder
    assert revision(text) != revision(T5TextEncoder(text.model, text.tokenizer, 11))


def test_a_broken_clip_is_named_and_left_out(folder, roles) -> None:
    """Guards against a run of hours that dies of one file, and against its clip trained on without latents."""
    dataset = ShardDataset(folder)
    offset, size = dataset.index["video"][1].as_py()
    with (folder / "video-00000.tar").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    with pytest.warns(UserWarning, match=f"clip {dataset.ids[1]} is passed over"):
        made = precompute.precompute(folder, FEW, roles, "cpu", fps=12.0)
    ready = source(folder, FEW, latents=made.latents)
    assert ready.report() == [f"1 of 6 clips are left out: not precomputed (first: {dataset.ids[1]})"]
    with pytest.raises(ValueError, match="expected a folder of this machine"):
        precompute.precompute("memory://shards", FEW, roles, "cpu")
