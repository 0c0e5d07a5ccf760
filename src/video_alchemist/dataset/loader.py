"""Shards -> what a training step is made of, still in pixels and words: a pure function of (seed, index).

Only what is needed is read and decoded: the frames of the bucket, and of the reference frames those that were selected.
B clips · F frames · H,W pixels · M pictures of all clips · S side of a picture · C channels · f,h,w latent
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from video_alchemist.dataset.augmentation import TABLE_4, Augmentation, augment
from video_alchemist.dataset.buckets import Assignment, Bucket, BucketSchedule, assign, endless
from video_alchemist.dataset.frames import clip_moments, read_frames
from video_alchemist.dataset.picture import WHITE, paste_on
from video_alchemist.dataset.references import Selected, scenery, select_pictures
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.pretrained.text_encoder import TextEncoding
from video_alchemist.records import MAX_IMAGES

PASTE_SHARE = 0.1  # App. D: segments on another picture, so that raw photos work without a mask
TRIES = 8  # clips that are tried in the place of a broken one
MAX_BROKEN = 0.01  # of the clips read may be broken, FEW_BROKEN of them in any case
FEW_BROKEN = 10
BROKEN = (ValueError, OSError, SafetensorError)  # what a damaged member, tar or video raises


@dataclass(frozen=True)
class ClipBatch:
    """One micro-batch before the frozen networks. Either video or z0 is None."""

    bucket: str
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]  # of each clip's pictures, their words' (start, end); () = stage I
    pictures: Tensor  # (M, 3, S, S) float in [0, 1], clip by clip
    video: Tensor | None = None  # (B, F, H, W, 3) uint8
    z0: Tensor | None = None  # (B, C, f, h, w) float, precomputed
    text: TextEncoding | None = None  # precomputed
    skipped: tuple[str, ...] = ()  # ids of broken clips that others stand for


@dataclass(frozen=True)
class _Clip:
    """A clip of a batch, as read."""

    position: int
    video: Tensor | None  # (F, H, W, 3) uint8
    z0: Tensor | None  # (C, f, h, w)
    text: dict[str, Tensor] | None
    selected: list[Selected]


@dataclass(frozen=True)
class ClipSource:
    """Batches of a run (App. B.2, Table 6). Index = step * micro_batches + the micro-batch's number in its step."""

    dataset: ShardDataset
    buckets: tuple[Bucket, ...]
    seed: int
    micro_batches: int = 1  # of one step, on all ranks together
    references: bool = True  # False = stage I
    picture_size: int = 224
    augmentation: Augmentation = TABLE_4
    fps: float = 24.0
    max_images: int = MAX_IMAGES
    paste_share: float = PASTE_SHARE
    latents: str | None = None  # revision of the autoencoder whose precomputed latents replace the video
    text: str | None = None  # revision of the text encoder whose precomputed embeddings are taken
    positions: Sequence[int] | None = None  # clips of the dataset that may be used; None = all
    _reads: dict[str, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    _broken: dict[str, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches is {self.micro_batches}; expected at least 1")
        for column, revision in self._precomputed:
            self._check_precomputed(column, revision)
        self.schedule.at(0)  # refuses to be without clips

    @property
    def _precomputed(self) -> list[tuple[str, str]]:
        both = (("latents", self.latents), ("text", self.text))
        return [(column, revision) for column, revision in both if revision is not None]

    def _check_precomputed(self, column: str, revision: str) -> None:
        made, wanted = self.dataset.made_by(column), {"revision": revision}
        names = []
        if column == "latents":
            wanted["fps"], names = f"{self.fps:g}", [bucket.name for bucket in self.buckets]
        wrong = [f"{key} is {made[key]}, expected {value}" for key, value in wanted.items() if made[key] != value]
        wrong += [f"none for {name}" for name in names if name not in made]
        if wrong:
            raise ValueError(f"{column} in {self.dataset.folder.place}: {'; '.join(wrong)}. Precompute them again")

    @cached_property
    def _latents_made_by(self) -> dict[str, str]:
        return self.dataset.made_by("latents")

    @cached_property
    def assignment(self) -> Assignment:
        """Rows of the dataset's index by bucket; and those that fit none, by reason."""
        index, among = self.dataset.index, np.arange(len(self.dataset))
        if self.positions is not None:
            among = np.sort(np.asarray(self.positions, dtype=np.int64))
        columns = {name: index[name].to_numpy()[among] for name in ("width", "height", "num_frames", "fps")}
        sizes = np.stack([columns["width"], columns["height"]], axis=1)
        found = assign(self.buckets, sizes, columns["num_frames"], columns["fps"], fps=self.fps)
        has_all = np.ones(len(self.dataset), dtype=bool)
        for column, _ in self._precomputed:
            has_all &= index[column].is_valid().to_numpy()
        members = {name: among[rows] for name, rows in found.members.items()}
        left_out = {reason: among[rows] for reason, rows in found.left_out.items()}
        fitting = np.unique(np.concatenate(list(members.values())))
        lacking = fitting[~has_all[fitting]]
        if len(lacking):
            left_out["not precomputed"] = lacking
        return Assignment({name: rows[has_all[rows]] for name, rows in members.items()}, left_out)

    @cached_property
    def schedule(self) -> BucketSchedule:
        """Of the buckets that have clips: the weight of others is spread over these."""
        usable = tuple(bucket for bucket in self.buckets if len(self.assignment.members[bucket.name]))
        if not usable:
            raise ValueError(f"no clip of {self.dataset.folder.place} fits a bucket: {'; '.join(self.report())}")
        return BucketSchedule(usable, self.seed)

    def report(self) -> list[str]:
        """What is not as Table 6 has it, a line each: clips left out and why, buckets without clips, or with few."""
        assignment, total = self.assignment, sum(bucket.weight for bucket in self.buckets)
        clips = len(self.dataset) if self.positions is None else len(self.positions)
        lines = []
        for reason, rows in assignment.left_out.items():
            lines.append(f"{len(rows)} of {clips} clips are left out: {reason} (first: {self.dataset.ids[rows[0]]})")
        empty = [bucket for bucket in self.buckets if not len(assignment.members[bucket.name])]
        if empty:
            share = sum(bucket.weight for bucket in empty) / total
            names = ", ".join(bucket.name for bucket in empty)
            lines.append(f"no clip fits {names}: their {share:.1%} of the steps go to the other buckets")
        for bucket in self.buckets:
            count, needed = len(assignment.members[bucket.name]), bucket.batch_size * self.micro_batches
            if 0 < count < needed:
                lines.append(f"{bucket.name} has {count} clips for steps of {needed}: some come twice in a step")
        return lines

    @property
    def skipped(self) -> dict[str, str]:
        """Broken clips that this process met: id -> what is wrong."""
        return dict(self._broken)

    def batch(self, index: int) -> ClipBatch:
        """Micro-batch `index` of the run."""
        step, number = divmod(index, self.micro_batches)
        bucket, before = self.schedule.at(step)
        first = (before * self.micro_batches + number) * bucket.batch_size
        places = np.arange(first, first + bucket.batch_size)
        clips: list[_Clip] = []
        skipped: list[str] = []
        for row, position in enumerate(self._positions_at(bucket, places)):
            clip, broken = self._sound_clip(bucket, int(places[row]), int(position), (self.seed, index, row))
            clips.append(clip)
            skipped += broken
        texts = [clip.text for clip in clips if clip.text is not None]
        return ClipBatch(
            bucket=bucket.name,
            ids=tuple(self.dataset.ids[clip.position] for clip in clips),
            captions=tuple(self.dataset.index["caption"][clip.position].as_py() for clip in clips),
            spans=tuple(tuple(one.span for one in clip.selected) for clip in clips) if self.references else (),
            pictures=self._pictures(bucket, [one for clip in clips for one in clip.selected], index),
            video=_stacked([clip.video for clip in clips]),
            z0=_stacked([clip.z0 for clip in clips]),
            text=_padded(texts) if texts else None,
            skipped=tuple(skipped),
        )

    def _positions_at(self, bucket: Bucket, places: np.ndarray) -> np.ndarray:
        members = self.assignment.members[bucket.name]
        return members[endless(places, len(members), self.seed, bucket.name)]

    def _sound_clip(self, bucket: Bucket, place: int, position: int, key: tuple[int, ...]) -> tuple[_Clip, list[str]]:
        """The clip at a place, or where it is broken the one that stands half a lap later; and ids of broken ones."""
        broken: list[str] = []
        stride, lap = bucket.batch_size * self.micro_batches, len(self.assignment.members[bucket.name])
        for attempt in range(TRIES):
            if attempt:
                later = place + lap // 2 + (attempt - 1) * stride
                position = int(self._positions_at(bucket, np.array([later]))[0])
            try:
                clip = self._read(bucket, position, np.random.default_rng((*key, attempt)))
            except BROKEN as error:
                broken.append(self.dataset.ids[position])
                self._note_broken(position, error)
            else:
                self._reads["sound"] = self._reads.get("sound", 0) + 1
                return clip, broken
        raise ValueError(f"{TRIES} broken clips in a row, last {broken[-1]}: {self._broken[broken[-1]]}")

    def _note_broken(self, position: int, error: Exception) -> None:
        """Says once which clip is passed over; too many are an error."""
        clip_id, count = self.dataset.ids[position], self._reads.get("sound", 0)
        if clip_id in self._broken:
            return
        self._broken[clip_id] = str(error)
        if len(self._broken) > max(FEW_BROKEN, MAX_BROKEN * count):
            raise ValueError(
                f"{len(self._broken)} broken clips beside {count} sound ones in {self.dataset.folder.place}; expected "
                f"at most {FEW_BROKEN}, or {MAX_BROKEN:.0%}. The last is {clip_id}: {error}"
            ) from error
        warnings.warn(f"clip {clip_id} is passed over: {error}", stacklevel=2)

    def _read(self, bucket: Bucket, position: int, rng: np.random.Generator) -> _Clip:
        video = z0 = text = None
        if self.latents is not None:
            z0 = self._latents(bucket, position)
        else:
            video = torch.from_numpy(clip_video(self.dataset, position, bucket.size, bucket.num_frames, self.fps))
        if self.text is not None:
            text = load(self.dataset.member("text", position))
        selected = []
        if self.references:
            selected = select_pictures(self.dataset, position, rng, self.picture_size, self.max_images)
        return _Clip(position, video, z0, text, selected)

    def _latents(self, bucket: Bucket, position: int) -> Tensor:
        """Those of the bucket's frames; a causal autoencoder's are the beginning of those of more frames."""
        stored, made = self.dataset.suffixes("latents", position), self._latents_made_by
        name = next((name for name in made[bucket.name].split() if f"{name}.safetensors" in stored), None)
        if name is None:
            raise ValueError(f"no latents of {bucket.name}, only {', '.join(stored)}")
        z0 = load(self.dataset.member("latents", position, f"{name}.safetensors"))["z0"]
        return z0[:, : (bucket.num_frames - 1) // int(made["temporal_ratio"]) + 1]

    def _pictures(self, bucket: Bucket, selected: list[Selected], index: int) -> Tensor:
        """Table 4 on the segments of a batch, on white or now and then on another clip's picture: (M, 3, S, S)."""
        if not selected:
            return torch.zeros(0, 3, self.picture_size, self.picture_size)
        rng = np.random.default_rng((self.seed, index))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        rgba = torch.stack([one.rgba for one in selected])
        segments = torch.tensor([not one.is_scenery for one in selected])
        if segments.any():
            rgba[segments] = augment(rgba[segments], generator, self.augmentation)
        pictures = paste_on(rgba, rgba.new_tensor(WHITE).view(3, 1, 1))
        for row in np.flatnonzero(segments.numpy() & (rng.random(len(selected)) < self.paste_share)):
            pictures[row] = paste_on(rgba[row], self._other_scenery(bucket, rng)[:3])
        return pictures

    def _other_scenery(self, bucket: Bucket, rng: np.random.Generator) -> Tensor:
        """A picture of any clip of the bucket, white where that clip is broken: (4, S, S)."""
        position = int(rng.choice(self.assignment.members[bucket.name]))
        try:
            return scenery(self.dataset, position, self.picture_size)
        except BROKEN as error:
            self._note_broken(position, error)
            return torch.ones(4, self.picture_size, self.picture_size)


def clip_video(
    dataset: ShardDataset, position: int, size: tuple[int, int], num_frames: int, fps: float
) -> np.ndarray:
    """The first frames of a clip at a rate, (F, H, W, 3) uint8; of one that is to be a single frame, any."""
    row = {name: dataset.index[name][position].as_py() for name in ("num_frames", "fps")}
    moments = clip_moments(dataset.ids[position], num_frames, fps, row["num_frames"] / row["fps"])
    return read_frames(dataset.member("video", position), moments, row["fps"], size)


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [one for one in tensors if one is not None]
    return torch.stack(given) if given else None


def _padded(texts: Sequence[dict[str, Tensor]]) -> TextEncoding:
    """Precomputed texts as the text encoder would give them: zeros after the tokens, up to the longest."""
    length = max(int(text["length"]) for text in texts)
    tokens = texts[0]["tokens"].new_zeros(len(texts), length, texts[0]["tokens"].shape[1])
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    offsets = []
    for row, text in enumerate(texts):
        tokens[row, : len(text["tokens"])] = text["tokens"]
        mask[row, : int(text["length"])] = True
        known = [(int(start), int(end)) for start, end in text["offsets"]]
        offsets.append(known + [(0, 0)] * (length - len(known)))
    return TextEncoding(tokens, mask, offsets)
