"""What a training step is made of (App. B.2, Table 6): one bucket of clips of the same size and length, on every rank.

Which bucket a step takes, and which of its clips, are pure functions of (seed, step): a run resumes without any state,
on any number of ranks. n clips · F frames · f,h,w latent
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

RATIOS = (4, 8)  # App. B.1: "a compression rate of 4 x 8 x 8", in time and space
PATCH = (1, 2, 2)  # Table 5
GPUS = 16  # that Table 6's batch sizes are for: so read, a GPU sees 44K to 71K tokens in every row
MAX_UPSCALE = 1.1  # clips are enlarged by no more: what they never showed cannot be learned from them
MAX_REPEAT = 2.0  # a frame stands for no more moments on average: slower clips stutter
ASPECT_TOLERANCE = 0.05  # log of the ratio: 832x480 and 1280x720 are both 16:9
BLOCK = 4096  # steps that are drawn at once


@dataclass(frozen=True)
class Bucket:
    """A column and row of Table 6."""

    size: tuple[int, int]  # (width, height) in pixels
    num_frames: int
    batch_size: int  # clips of one micro-batch, that is, of one GPU
    weight: float  # of being drawn, against those of the others

    def __post_init__(self) -> None:
        if min(*self.size, self.num_frames, self.batch_size) < 1 or not self.weight > 0:
            raise ValueError(f"{self}; expected sizes, frames, clips and a weight above 0")

    @property
    def name(self) -> str:
        return f"{self.size[0]}x{self.size[1]}x{self.num_frames}"


_FRAMES = (17, 49, 73, 97, 121, 145, 193, 289)  # Table 6: "# frames"
_BATCHES = {  # Table 6: "Batch Size"
    (256, 144): (1216, 464, 320, 240, 192, 160, 128, 80),
    (512, 288): (304, 112, 80, 64, 48),
    (1024, 576): (80, 32, 16, 16, 16),
}
_REST_WEIGHT = {(256, 144): 10 / 3, (512, 288): 35 / 6, (1024, 576): 35 / 6}  # printed as 3.3 % and 5.8 %


def table_6() -> tuple[Bucket, ...]:
    """Table 6. Its batch sizes are per 16 GPUs ("234M" samples in "60k" steps on 256 say so), its weights rounded."""
    return tuple(
        Bucket(size, num_frames, batch // GPUS, 10.0 if num_frames == 17 else _REST_WEIGHT[size])
        for size, batches in _BATCHES.items()
        for num_frames, batch in zip(_FRAMES, batches, strict=False)
    )


def bucket_tokens(bucket: Bucket, ratios: tuple[int, int] = RATIOS, patch: tuple[int, int, int] = PATCH) -> int:
    """Video tokens of one clip. ratios: of the autoencoder in time and space."""
    width, height = bucket.size
    frames = (bucket.num_frames - 1) // ratios[0] + 1
    return frames // patch[0] * (height // ratios[1] // patch[1]) * (width // ratios[1] // patch[2])


def derived(
    buckets: Sequence[Bucket],
    tokens_per_gpu: float = 55_000,
    ratios: tuple[int, int] = RATIOS,
    patch: tuple[int, int, int] = PATCH,
) -> tuple[Bucket, ...]:
    """The buckets with batch sizes of about so many tokens, one clip at least; 55,000 gives Table 6's, all of them."""
    sizes = (max(1, round(tokens_per_gpu / bucket_tokens(bucket, ratios, patch))) for bucket in buckets)
    return tuple(replace(bucket, batch_size=size) for bucket, size in zip(buckets, sizes, strict=True))


# ------------------------------------------------------------------------------------------------------------------
# Which clips a bucket has


@dataclass(frozen=True)
class Assignment:
    """members: bucket's name -> rows of clips, ascending. left_out: reason -> rows of clips that fit no bucket."""

    members: dict[str, np.ndarray]
    left_out: dict[str, np.ndarray]


def assign(
    buckets: Sequence[Bucket],
    sizes: np.ndarray,
    num_frames: np.ndarray,
    clip_fps: np.ndarray,
    *,
    fps: float = 24.0,
    max_upscale: float = MAX_UPSCALE,
    max_repeat: float = MAX_REPEAT,
    aspect_tolerance: float = ASPECT_TOLERANCE,
) -> Assignment:
    """A clip belongs to every bucket of the nearest aspect ratio that it has the pixels and, at `fps`, the frames for.

    sizes (n, 2): width and height; num_frames, clip_fps (n,). The rest of a clip is cut off, in space and time.
    """
    sizes, num_frames, clip_fps = (np.asarray(one, dtype=np.float64) for one in (sizes, num_frames, clip_fps))
    aspects = np.log(sizes[:, 0] / sizes[:, 1])
    nearest = np.full(len(sizes), np.inf)
    for bucket in buckets:
        np.minimum(nearest, np.abs(aspects - np.log(bucket.size[0] / bucket.size[1])), out=nearest)
    members = {}
    sharp, lasting, fitting = (np.zeros(len(sizes), dtype=bool) for _ in range(3))
    for bucket in buckets:
        distance = np.abs(aspects - np.log(bucket.size[0] / bucket.size[1]))
        has_pixels = (distance <= nearest + aspect_tolerance) & ((bucket.size / sizes).max(axis=1) <= max_upscale)
        # The last moment lies within the clip, half a frame spared for rates such as 23.976.
        has_frames = (bucket.num_frames - 1) / fps <= (num_frames - 0.5) / clip_fps
        has_rate = (clip_fps * max_repeat >= fps) | (bucket.num_frames == 1)
        fits = has_pixels & has_frames & has_rate
        members[bucket.name] = np.flatnonzero(fits)
        sharp |= has_pixels
        lasting |= has_pixels & has_frames
        fitting |= fits
    reasons = {"too few pixels": ~sharp, "too few frames": sharp & ~lasting, "frame rate too low": lasting & ~fitting}
    return Assignment(members, {name: np.flatnonzero(rows) for name, rows in reasons.items() if rows.any()})


# ------------------------------------------------------------------------------------------------------------------
# Which bucket, and which of its clips


@dataclass(frozen=True)
class BucketSchedule:
    """Table 6's weights: every step draws its bucket anew, the same on every rank."""

    buckets: tuple[Bucket, ...]
    seed: int

    def __post_init__(self) -> None:
        names = [bucket.name for bucket in self.buckets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"buckets {', '.join(names) or '(none)'}; expected at least one, and each once")

    def at(self, step: int) -> tuple[Bucket, int]:
        """The bucket of a step, and how many earlier steps took the same."""
        number, place = divmod(step, BLOCK)
        while len(self._blocks) <= number:
            self._draw_block()
        drawn, before = self._blocks[number]
        chosen = int(drawn[place])
        return self.buckets[chosen], int(before[chosen] + np.count_nonzero(drawn[:place] == chosen))

    @cached_property
    def _blocks(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every BLOCK steps so far the buckets drawn, and each bucket's uses before them."""
        return []

    def _draw_block(self) -> None:
        weights = np.cumsum([bucket.weight for bucket in self.buckets])
        draws = np.random.default_rng((self.seed, len(self._blocks))).random(BLOCK)
        drawn = np.searchsorted(weights / weights[-1], draws, side="right").astype(np.int16)
        before = np.zeros(len(self.buckets), dtype=np.int64)
        if self._blocks:
            last, uses = self._blocks[-1]
            before = uses + np.bincount(last, minlength=len(self.buckets))
        self._blocks.append((drawn, before))


def endless(places: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """What stands at some places of an endless sequence of 0 to count - 1, in which each comes once a lap.

    A fixed half of them, drawn by the seed, has the first half of every lap, in a new order each time: any count // 2
    in a row differ, over the end of a lap too. name: another one, another sequence.
    """
    half = count // 2
    laps, rest = np.divmod(np.asarray(places, dtype=np.int64), count)
    second = (rest >= half).astype(np.int64)
    inner = np.empty_like(rest)
    key = (seed, zlib.crc32(name.encode()))
    for lap, part in np.unique(np.stack([laps, second], axis=1), axis=0).tolist():
        here = (laps == lap) & (second == part)
        start, size = (half, count - half) if part else (0, half)
        inner[here] = start + shuffled(rest[here] - start, size, (*key, lap, part))
    return shuffled(inner, count, key)


def shuffled(items: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """Where a random order of range(size) puts some items: a Feistel network, for no list of 37.8M need be kept."""
    bits = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    constants = np.random.SeedSequence(key).generate_state(4, np.uint64)
    out = np.asarray(items).astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():  # what falls beyond `size` walks on until it is inside
        left, right = out[outside] >> bits, out[outside] & mask
        for constant in constants:
            left, right = right, left ^ (_mixed(right ^ constant) & mask)
        out[outside] = (left << bits) | right
        outside = out >= size
    return out.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of a value (the finaliser of SplitMix64); wraps on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
