"""How well curation's small networks do on clips that they never saw, as plain mp4 files: `curation_scores.json`.

Everything goes the way that curation goes: the file is decoded by its decoder and read by its adaptors, at the
thresholds of its `emojiworld` profile. Of the world, the splits "test_concept" and "test_artist".

F frames · H,W pixels
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from video_alchemist.curation.clip import FRAME_TIMES, Clip, Pixels, Source
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.grounding import overlap_of
from video_alchemist.curation.probe import probe_clip
from video_alchemist.curation.profile import CurationProfile, emojiworld
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.shots import shot_spans
from video_alchemist.dataset.masks import decode_mask as mask_of
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.files import numbered_scene, write_world
from video_alchemist.emojiworld.recipes.clip_filter import labels
from video_alchemist.emojiworld.recipes.vocabulary import UNSEEN_ARTIST
from video_alchemist.emojiworld.scenes import UNDESIRABLE, Split
from video_alchemist.video import read_video, replacing, write_video

TEST_SPLITS: tuple[Split, ...] = ("test_concept", "test_artist")
SEED = 9_000_000
UNDESIRABLE_SHARE = 0.7
MIN_AREA = 0.01  # of the frame: of less nobody could tell what it is
SAME = 0.5  # IoU
SHOTS, SHOT_FRAMES, SHOT_FPS = 4, 48, 24.0  # of a video with cuts
NEAR_CUT = 1  # frames

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class File:
    """A clip as curation sees it, and what is true of it."""

    pixels: Pixels
    truth: dict[str, Any]
    frames: tuple[int, ...]  # of the truth, those that curation picks
    artists: dict[str, str]  # by entity word


def measure(folder: Path, device: str, num_clips: int = 200) -> dict[str, float]:
    """Scores of the networks in a folder, on `num_clips` clips of each kind and split."""
    profile = emojiworld(folder)
    roles = Roles(profile, device)
    sums: dict[str, list[float]] = defaultdict(list)
    scores: dict[str, float] = {}
    for split in TEST_SPLITS:
        with tempfile.TemporaryDirectory() as name:
            files = list(world_files(Path(name), split, num_clips, profile, roles.clip_filter.size))
        for first in range(0, len(files), profile.batch):
            _add_grounding(sums, split, files[first : first + profile.batch], roles, profile)
            _add_faces(sums, files[first : first + profile.batch], roles, profile)
    scores |= {name: float(np.mean(values)) for name, values in sums.items() if values}
    scores |= undesirable_scores(num_clips, roles, profile)
    scores["shot_f1"] = shot_f1(max(1, num_clips // 8), roles, profile)
    scores = {name: round(value, 4) for name, value in sorted(scores.items())}
    with replacing(folder / "curation_scores.json") as path:
        path.write_text(json.dumps(scores, indent=2) + "\n")
    for name, value in scores.items():
        print(f"{name:40} {value:.3f}", flush=True)
    return scores


def world_files(
    folder: Path, split: Split, num_clips: int, profile: CurationProfile, small_side: int, undesirable_share: float = 0
) -> Iterator[File]:
    """Clips written as mp4, and decoded as curation does."""
    assets = load_assets()
    written = write_world(folder, num_clips, seed=SEED, split=split, undesirable_share=undesirable_share)
    for number, _ in enumerate(written):
        path = folder / f"{number:08d}.mp4"
        truth = json.loads(path.with_suffix(".json").read_text())
        scene = numbered_scene(assets, SEED, number, split, undesirable_share)
        artists = {actor.word: assets.identities[actor.identity].artist for actor in scene.actors}
        num_frames = max((len(entity.get("boxes", ())) for entity in truth["entities"]), default=0)
        frames = tuple(int(share * num_frames) for share in FRAME_TIMES)
        truth["labels"] = labels(scene)
        yield File(_decoded(path, profile, small_side), truth, frames, artists)


def _decoded(path: Path, profile: CurationProfile, small_side: int) -> Pixels:
    clip = probe_clip(Clip(path.stem, Source(path.stem, str(path))), profile.limits)
    decoded = decode_clip(clip, profile.limits, small_side) if isinstance(clip, Clip) else clip
    if not isinstance(decoded, Clip) or decoded.pixels is None:
        raise ValueError(f"{path} was not decoded: {decoded}")
    return decoded.pixels


# ------------------------------------------------------------------------------------------------------------------
# Detector and segmenter


def _add_grounding(
    sums: dict[str, list[float]], split: Split, files: Sequence[File], roles: Roles, profile: CurationProfile
) -> None:
    """Recall and precision of boxes, and the overlap of masks made from the boxes that were found."""
    words = [[e["word"] for e in file.truth["entities"] if e["kind"] != "background"] for file in files]
    frames = [frame for file in files for frame in file.pixels.frames]
    answers = roles.detector(frames, [row for row in words for _ in FRAME_TIMES])
    asked: list[list[Box]] = [[] for _ in frames]
    wanted: list[list[np.ndarray]] = [[] for _ in frames]
    for n, by_word in enumerate(answers):
        file = files[n // len(FRAME_TIMES)]
        moment = file.frames[n % len(FRAME_TIMES)]
        for word, candidates in zip(words[n // len(FRAME_TIMES)], by_word, strict=True):
            entity = next(e for e in file.truth["entities"] if e["word"] == word)
            mask = mask_of(entity["masks"][moment])
            true = entity["boxes"][moment]
            right = bool(candidates and true and overlap_of(candidates[0].box, tuple(true)) >= SAME)
            found = bool(candidates) and candidates[0].score > profile.grounding.detection_score
            if found:
                sums["detection_precision"].append(right)
            if mask.mean() < MIN_AREA:
                continue
            hit = right and found
            sums["detection_recall"].append(hit)
            sums[f"detection_recall.{split}"].append(hit)
            sums["box_recall"].append(right)
            if split == "test_artist" or file.artists[word] == UNSEEN_ARTIST:
                sums["detection_recall.unseen_drawings"].append(hit)
            if hit:
                asked[n].append(candidates[0].box)
                wanted[n].append(mask)
    segmented = roles.segmenter(frames, [np.array(boxes, np.float32).reshape(-1, 4) for boxes in asked])
    for (masks, _), truths in zip(segmented, wanted, strict=True):
        sums["mask_iou"] += [_mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]


def _mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


# ------------------------------------------------------------------------------------------------------------------
# Faces


def _add_faces(sums: dict[str, list[float]], files: Sequence[File], roles: Roles, profile: CurationProfile) -> None:
    frames = [frame for file in files for frame in file.pixels.frames]
    for n, faces in enumerate(roles.face_detector(frames)):
        file = files[n // len(FRAME_TIMES)]
        moment = file.frames[n % len(FRAME_TIMES)]
        true = [tuple(e["faces"][moment]) for e in file.truth["entities"] if e.get("faces") and e["faces"][moment]]
        found = [face.box for face in faces if face.score >= profile.faces.score]
        sums["face_recall"] += [any(overlap_of(box, other) >= SAME for other in found) for box in true]
        sums["face_precision"] += [any(overlap_of(box, other) >= SAME for other in true) for box in found]


# ------------------------------------------------------------------------------------------------------------------
# Undesirable clips, shots


def undesirable_scores(num_clips: int, roles: Roles, profile: CurationProfile) -> dict[str, float]:
    """F1 of each kind at the profile's threshold, and their mean."""
    files: list[File] = []
    for split in TEST_SPLITS:
        with tempfile.TemporaryDirectory() as name:
            clips = world_files(Path(name), split, num_clips, profile, roles.clip_filter.size, UNDESIRABLE_SHARE)
            files += clips
    found = roles.clip_filter(np.stack([file.pixels.small for file in files])) > profile.undesirable
    true = np.array([file.truth["labels"] for file in files]) > 0.5
    both, either = (found & true).sum(axis=0), found.sum(axis=0) + true.sum(axis=0)
    f1 = 2 * both / np.maximum(1, either)
    scores = {f"undesirable_f1.{kind}": float(value) for kind, value in zip(UNDESIRABLE, f1, strict=True)}
    return scores | {"undesirable_f1": float(f1.mean())}


def shot_f1(num_videos: int, roles: Roles, profile: CurationProfile) -> float:
    """F1 of the cuts in videos of SHOTS clips each, found to within NEAR_CUT frames."""
    hits = found_cuts = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options: dict[str, Any] = {"seed": SEED + 1, "num_frames": SHOT_FRAMES, "fps": SHOT_FPS}
        for _ in write_world(folder, SHOTS * num_videos, split="test_concept", **options):
            pass
        paths = sorted(folder.glob("*.mp4"))
        true = {k * SHOT_FRAMES - 1 for k in range(1, SHOTS)}  # the last frames of shots
        for first in range(0, len(paths), SHOTS):
            joined = np.concatenate([read_video(path)[0] for path in paths[first : first + SHOTS]])
            write_video(folder / "joined.mp4", joined, SHOT_FPS)
            pixels = _decoded(folder / "joined.mp4", profile, roles.clip_filter.size)
            spans = shot_spans(roles.shot_detector(pixels.tiny), profile.shot_end)
            cuts = [last - 1 for _, last in spans[:-1]]
            found_cuts += len(cuts)
            hits += sum(any(abs(cut - other) <= NEAR_CUT for other in cuts) for cut in true)
    return 2 * hits / max(1, found_cuts + num_videos * (SHOTS - 1))
