"""From the authors' annotation and MSR-VTT's videos to shards (§4.1).

Clips are cut as the released script's moviepy does it: at the source's rate, from the frame on the screen at `start`,
resized by areas where that shrinks, encoded by x264 at crf 23, and frames at 5, 50 and 95 % taken from the encoded
clip, as JPEG of Pillow's quality 75. Encoders and scalers differ by release, so pixels agree only to a few of 255.

H,W pixels of a clip · F frames
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from video_alchemist.benchmark.annotation import Annotation, Cut
from video_alchemist.curation.decode import frames_between
from video_alchemist.curation.probe import Limits, VideoError, probe_file
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.records import Kind
from video_alchemist.video import read_video, write_video

FRAME_TIMES = (0.05, 0.5, 0.95)
MIDDLE = 1
CRF = 23  # x264's own, which moviepy leaves as it is
JPEG_QUALITY = 75  # Pillow's own, likewise
ANY_SIZE = Limits(min_side=2)


def shard_record(annotation: Annotation, fps: float, num_frames: int) -> dict[str, Any]:
    """What a shard's <id>.json says (docs/shards.md), and beside it what only the official layout needs."""
    tags = annotation.word_tags
    kinds: tuple[Kind, ...] = ("background", "object", "subject")
    words = {word: kind for kind in kinds for word in tags[kind]}
    places = place_words(annotation.caption, words)
    shown = sorted({*tags["subject"], *tags["object"]}, key=lambda word: places[word][0])
    rows = [*shown, *(word for word in tags["background"] if word not in shown)]  # the first names the picture
    references, lone_faces = [], []
    for row, word in enumerate(shown):
        cuts = annotation.cuts[word]
        faces = {cut.frame: cut for cut in cuts if cut.is_face and word in tags["subject_with_face"]}
        for cut in cuts:
            if not cut.is_face:
                references.append(_reference(annotation, row, cut, faces.pop(cut.frame, None)))
        for face in faces.values():
            mask = encode_mask(full_mask(annotation, face))
            lone_faces.append({"entity": row, "frame": face.frame, "face": list(face.box), "face_mask": mask})
    return {
        "id": annotation.name,
        "caption": annotation.caption,
        "entities": [
            {"word": word, "kind": words[word], "span": list(places[word][0]), "occurrence": places[word][1]}
            for word in rows
        ],
        "references": references,
        "lone_faces": lone_faces,
        "word_tags": {tag: list(words) for tag, words in tags.items()},
        "fps": fps,
        "num_frames": num_frames,
        "size": list(annotation.resolution),
        "provenance": {
            "source": Path(annotation.video).stem,
            "path": annotation.video,
            "start": annotation.start,
            "end": annotation.end,
            "license": "MSR-VTT: research use",
            "profile": "official annotation",
        },
    }


def _reference(annotation: Annotation, row: int, cut: Cut, face: Cut | None) -> dict[str, Any]:
    described = {
        "entity": row,
        "frame": cut.frame,
        "box": list(cut.box),
        "detection_score": 1.0,
        "mask_score": 1.0,
        "mask": encode_mask(full_mask(annotation, cut)),
        "face": list(face.box) if face else None,
        "face_score": 1.0 if face else 0.0,
    }
    return described | ({"face_mask": encode_mask(full_mask(annotation, face))} if face else {})


def place_words(caption: str, words: Iterable[str]) -> dict[str, tuple[tuple[int, int], int]]:
    """Of each word its characters in the caption, and which mention of it that is; long words choose first, so that
    the "man" of "an old man and a man" is the second."""
    from video_alchemist.model.binding import find_word

    places: dict[str, tuple[tuple[int, int], int]] = {}
    for word in sorted(set(words), key=lambda word: (-len(word), word)):
        mentions: list[tuple[int, int]] = []
        try:
            while True:
                mentions.append(find_word(caption, word, len(mentions)))
        except ValueError:
            pass  # no further mention
        within = caption.lower().find(word.lower())
        if not mentions and within < 0:
            raise ValueError(f"{word!r} is not in the caption {caption!r}")
        mentions = mentions or [(within, within + len(word))]
        free = [s for s in mentions if all(s[1] <= t[0] or t[1] <= s[0] for t, _ in places.values())]
        chosen = (free or mentions)[0]
        places[word] = (chosen, mentions.index(chosen))
    return places


def full_mask(annotation: Annotation, cut: Cut) -> np.ndarray:
    """(H, W) bool."""
    width, height = annotation.resolution
    mask = np.zeros((height, width), bool)
    x0, y0, x1, y1 = cut.box
    mask[y0:y1, x0:x1] = cut.mask
    return mask


def foreground(annotation: Annotation) -> np.ndarray:
    """(H, W) bool: all that the middle frame's background picture must not show, grown by some 5 pixels, no holes."""
    union = np.zeros(annotation.resolution[::-1], bool)
    for cuts in annotation.cuts.values():
        for cut in cuts:
            if cut.frame == MIDDLE:
                union |= full_mask(annotation, cut)
    grown = cv2.dilate(union.astype(np.uint8), np.ones((4, 4), np.uint8), iterations=3)
    outside = np.pad(grown, 1)
    cv2.floodFill(outside, None, (0, 0), (2,))
    return outside[1:-1, 1:-1] != 2


# ------------------------------------------------------------------------------------------------------------------
# Clips


def cut_clip(path: Path, start: float, end: float, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The frames (F, H, W, 3) uint8 on the screen at every tick of [start, end) s, resized, and the ticks a second."""
    try:
        probe = probe_file(str(path), ANY_SIZE)
        if not probe.fps:
            raise ValueError(f"{str(path)!r} says no frame rate")
        ticks = start + np.arange(np.ceil((end - start) * probe.fps - 1e-6)) / probe.fps
        frames: list[np.ndarray] = []
        shown, time = None, 0.0
        for time, picture in frames_between(str(path), max(start - 1.5 / probe.fps, 0.0), end, probe.rotation):
            while shown is not None and len(frames) < len(ticks) and ticks[len(frames)] + 1e-4 < time:
                frames.append(shown)
            shrinks = size[0] <= picture.shape[1] and size[1] <= picture.shape[0]
            shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    except VideoError as error:
        raise ValueError(f"{str(path)!r}: {error}; expected a video with frames from {start} to {end} s") from error
    assert shown is not None
    if end - time > 2 / probe.fps + 0.1 * (end - start):
        raise ValueError(f"{str(path)!r} ends at {time:.2f} s; the annotation's clip ends at {end} s")
    return np.stack([*frames, *[shown] * (len(ticks) - len(frames))]), probe.fps


def clip_files(frames: np.ndarray, fps: float, seconds: float) -> dict[str, bytes]:
    """The clip as shard members: mp4, and the three frames, taken from it as a player shows them."""
    with tempfile.TemporaryDirectory(prefix="alchemist-") as folder:
        path = Path(folder, "clip.mp4")
        write_video(path, frames, fps, crf=CRF)
        files = {"mp4": path.read_bytes()}
        shown = read_video(path)[0][:, : frames.shape[1], : frames.shape[2]]  # odd sizes grow by a row or column
    for i, index in enumerate(frame_indices(len(shown), fps, seconds)):
        files[f"f{i}.jpg"] = jpeg(shown[index])
    return files


def frame_indices(num_frames: int, fps: float, seconds: float) -> Sequence[int]:
    """Of the frames on the screen at 5, 50 and 95 % of a clip."""
    return [min(int(fps * share * seconds + 1e-5), num_frames - 1) for share in FRAME_TIMES]


def jpeg(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
