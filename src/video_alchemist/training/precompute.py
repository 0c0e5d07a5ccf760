"""Latents and text embeddings of shards, made once as two more columns of them (`alchemist train ... --precompute`).

A column knows which network made it, so that another network's is never trained on. Resumes by shard; same bytes again.
F frames · H,W pixels · C channels · f,h,w latent · S text tokens
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from video_alchemist.dataset.buckets import Bucket
from video_alchemist.dataset.loader import BROKEN, ClipSource, clip_video
from video_alchemist.dataset.shards import (
    ROOT,
    ShardDataset,
    column_made_by,
    read_manifest,
    write_column,
    write_manifest,
)
from video_alchemist.dataset.storage import Folder, Members, write_durably
from video_alchemist.pretrained.autoencoder import Autoencoder
from video_alchemist.pretrained.roles import Roles
from video_alchemist.training.encode import MAX_PIXELS, encode_video

COLUMNS = ("text", "latents")
SAMPLE = 256  # values of every tensor that tell one network's weights from another's
TEXTS = 64  # captions that are encoded together

Shape = tuple[tuple[int, int], int]  # size (width, height) and frames
Wanted = dict[str, dict[str, str]]  # what a column's index must say of who made it, by column


class Revisions(NamedTuple):
    """What ClipSource is told to take precomputed columns by."""

    latents: str
    text: str


def revisions(roles: Roles) -> Revisions:
    return Revisions(revision(roles.autoencoder), revision(roles.text_encoder))


def revision(role: Any) -> str:
    """A digest of a frozen network's weights and of what else decides its output; the same in every precision."""
    digest = hashlib.sha256()
    for name, value in sorted(role.model.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLE)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(value.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    config = role.model.config
    said = {name: getattr(config, name, None) for name in ("scaling_factor", "latents_mean", "latents_std")}
    said |= {name: getattr(role, name, None) for name in ("max_length", "pad_to_max")}
    if hasattr(role, "tokenizer"):
        said["vocabulary"] = sorted(role.tokenizer.get_vocab().items())
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def precompute(
    dataset_folder: str | Path,
    buckets: Sequence[Bucket],
    roles: Roles,
    device: torch.device | str,
    *,
    fps: float = 24.0,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Revisions:
    """Writes what is missing, and anew what other networks, buckets or rates made; then the manifest.

    dtype: None = as the networks give it. workers: threads that decode. Ranks take shards in turn.
    """
    if "://" in str(dataset_folder):
        raise ValueError(f"{dataset_folder}: precomputing writes beside the shards; expected a folder of this machine")
    folder, made = Path(dataset_folder), revisions(roles)
    begins = beginnings(roles.autoencoder, sorted({bucket.num_frames for bucket in buckets}), device)
    kind = {"dtype": str(dtype or "as computed").removeprefix("torch.")}
    ratio = {"temporal_ratio": str(roles.autoencoder.temporal_ratio)}
    wanted: Wanted = {
        "text": {"revision": made.text, **kind},
        "latents": {"revision": made.latents, **kind, "fps": f"{fps:g}", **ratio, **stored_names(buckets, begins)},
    }
    _drop_stale(folder, wanted, rank)
    dataset = ShardDataset(folder)
    members = ClipSource(dataset, tuple(buckets), seed=0, fps=fps).assignment.members
    shards = dataset.index["shard"].to_numpy()
    numbers = [shard["number"] for shard in dataset.manifest["shards"]]
    for number in numbers[rank::world_size]:
        positions = np.flatnonzero(shards == number)
        if not _is_made(folder, number, "text", wanted):
            write_column(folder, number, "text", _texts(dataset, positions, roles, dtype), wanted["text"])
        if not _is_made(folder, number, "latents", wanted):
            jobs = _jobs(buckets, members, begins, positions)
            with _spool(folder / f".latents-{number:05d}") as spool:
                latents = _latents(dataset, jobs, roles.autoencoder, device, fps, dtype, workers, spool)
                write_column(folder, number, "latents", latents, wanted["latents"])
        print(f"precomputed shard {number}, {len(positions)} clips; {len(numbers)} shards in all", flush=True)
    if rank == 0:
        for number, column in product(numbers, COLUMNS):
            while not _is_made(folder, number, column, wanted):
                time.sleep(1.0)  # for the other ranks
        _publish(folder)
    return made


def beginnings(
    autoencoder: Autoencoder, lengths: Sequence[int], device: torch.device | str
) -> dict[int, list[int]]:
    """Of each number of frames those whose latents begin with its own, itself first: measured, to rounding.

    So it is with causal autoencoders, where their pieces of a video begin alike. A single frame may be any of a clip.
    """
    side, most = 2 * autoencoder.spatial_ratio, max(lengths)
    noise = np.random.default_rng(0).integers(-127, 128, (1, most, side, side, 3))
    # Contrast that grows: a network that looks ahead, if only for its norms' statistics, sees another video.
    growing = noise * np.linspace(0.1, 1, most)[:, None, None, None]
    video = torch.from_numpy((128 + growing).astype(np.uint8))
    z0 = {length: encode_video(autoencoder, video[:, :length], device) for length in lengths}

    def begins(short: int, long: int) -> bool:
        beginning = z0[long][:, :, : z0[short].shape[2]]
        rounding = 8 * torch.finfo(beginning.dtype).eps
        return 1 < short < long and torch.allclose(beginning, z0[short], rounding, rounding)

    return {short: [short, *(long for long in lengths if begins(short, long))] for short in lengths}


def stored_names(buckets: Sequence[Bucket], begins: Mapping[int, Sequence[int]]) -> dict[str, str]:
    """bucket's name -> the names under which a clip's latents for it may be stored, separated by spaces."""
    lengths = {(bucket.size, bucket.num_frames) for bucket in buckets}
    return {
        bucket.name: " ".join(_name(bucket.size, k) for k in begins[bucket.num_frames] if (bucket.size, k) in lengths)
        for bucket in buckets
    }


def _name(size: tuple[int, int], num_frames: int) -> str:
    return f"{size[0]}x{size[1]}x{num_frames}"


def _jobs(
    buckets: Sequence[Bucket],
    members: Mapping[str, np.ndarray],
    begins: Mapping[int, Sequence[int]],
    positions: np.ndarray,
) -> dict[Shape, list[int]]:
    """What to encode of a shard: by size and length the clips that need it, and need nothing that begins with it."""
    lengths: dict[tuple[int, tuple[int, int]], list[int]] = defaultdict(list)
    for bucket in buckets:
        for position in np.intersect1d(members[bucket.name], positions).tolist():
            lengths[position, bucket.size].append(bucket.num_frames)
    jobs: dict[Shape, list[int]] = defaultdict(list)
    for (position, size), needed in sorted(lengths.items()):
        kept: list[int] = []
        for length in sorted(needed, reverse=True):
            if not set(kept) & set(begins[length]):
                kept.append(length)
                jobs[size, length].append(position)
    return jobs


def _texts(
    dataset: ShardDataset, positions: np.ndarray, roles: Roles, dtype: torch.dtype | None
) -> dict[str, bytes]:
    """id -> tokens (n, D_text) without the zeros at their end, offsets (n, 2), and the length S that is attended to."""
    found = {}
    for start in range(0, len(positions), TEXTS):
        some = positions[start : start + TEXTS].tolist()
        text = roles.text_encoder([dataset.index["caption"][position].as_py() for position in some])
        for row, position in enumerate(some):
            length = int(text.mask[row].sum())
            tokens = text.tokens[row, :length].to("cpu", dtype)
            known = int(tokens.any(dim=1).nonzero().max()) + 1
            found[dataset.ids[position]] = save(
                {
                    "tokens": tokens[:known].contiguous(),
                    "offsets": torch.tensor(text.offsets[row][:known], dtype=torch.int32),
                    "length": torch.tensor(length),
                }
            )
    return found


def _latents(
    dataset: ShardDataset,
    jobs: Mapping[Shape, Sequence[int]],
    autoencoder: Autoencoder,
    device: torch.device | str,
    fps: float,
    dtype: torch.dtype | None,
    workers: int,
    spool: Path,
) -> dict[str, Members]:
    """id -> z0 (C, f, h, w) by size and length; they wait in `spool`, for a shard's may not fit in memory."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for (size, length), positions in jobs.items():
        for some, video in _videos(dataset, positions, size, length, fps, workers):
            z0 = encode_video(autoencoder, video, device).to("cpu", dtype)
            for row, position in enumerate(some):
                suffix = f"{_name(size, length)}.safetensors"
                path = spool / f"{dataset.ids[position]}.{suffix}"
                path.write_bytes(save({"z0": z0[row].contiguous()}))
                found[dataset.ids[position]][suffix] = path
    return {clip_id: _Files(dict(sorted(paths.items()))) for clip_id, paths in found.items()}


def _videos(
    dataset: ShardDataset, positions: Sequence[int], size: tuple[int, int], length: int, fps: float, workers: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Positions and their clips (B, F, H, W, 3) uint8, the next decoded while one is encoded. Broken ones are named."""
    together = max(1, MAX_PIXELS // (size[0] * size[1]))

    def read(position: int) -> torch.Tensor | None:
        try:
            return torch.from_numpy(clip_video(dataset, position, size, length, fps))
        except BROKEN as error:
            warnings.warn(f"clip {dataset.ids[position]} is passed over: {error}", stacklevel=2)
            return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[list[tuple[int, Future[torch.Tensor | None]]]] = deque()
        for start in range(0, len(positions) + together, together):
            some = positions[start : start + together]
            waiting.append([(position, pool.submit(read, position)) for position in some])
            if len(waiting) > 1:
                done = [(position, future.result()) for position, future in waiting.popleft()]
                sound = [(position, video) for position, video in done if video is not None]
                if sound:
                    yield [position for position, _ in sound], torch.stack([video for _, video in sound])


class _Files(Mapping[str, bytes]):
    """Members of a clip that wait in files."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths

    def __getitem__(self, suffix: str) -> bytes:
        return self.paths[suffix].read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


@contextmanager
def _spool(folder: Path) -> Iterator[Path]:
    """An empty folder that goes when it is done with; a killed run's is emptied by the next."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def _is_made(folder: Path, number: int, column: str, wanted: Wanted) -> bool:
    return column_made_by(Folder(folder), number, column) == wanted[column]


def _drop_stale(folder: Path, wanted: Wanted, rank: int) -> None:
    """Takes columns of other networks out of the folder and its manifest; other ranks wait until rank 0 has."""

    def stale() -> list[str]:
        return [
            name
            for shard in read_manifest(folder)["shards"]
            for column in COLUMNS
            for name in shard["files"]
            if name.startswith(f"{column}-") and not _is_made(folder, shard["number"], column, wanted)
        ]

    while rank > 0 and stale():
        time.sleep(1.0)
    if names := stale():
        manifest = read_manifest(folder)
        for shard in manifest["shards"]:
            shard["files"] = {name: file for name, file in shard["files"].items() if name not in names}
        # First out of the manifest: a kill in between leaves a folder that can be read.
        write_durably(folder / ROOT, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
        for name in names:
            (folder / name).unlink(missing_ok=True)


def _publish(folder: Path) -> None:
    """The manifest anew, with the columns that are there now. What it lists is never written again."""
    manifest = read_manifest(folder)
    files = {name: file for shard in manifest["shards"] for name, file in shard["files"].items()}
    known = {name: (file["bytes"], file["sha256"]) for name, file in files.items()}
    shards = {shard["number"]: shard["clips"] for shard in manifest["shards"]}
    write_manifest(folder, shards, funnel=manifest["funnel"], config=manifest["config"], known=known)
