"""Cutting MSR-VTT by the annotation: the right frames, words and holes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from video_alchemist.benchmark.annotation import Annotation, Cut
from video_alchemist.benchmark.official import cut_clip, foreground, frame_indices, place_words, shard_record
from video_alchemist.dataset.masks import decode_mask
from video_alchemist.video import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames at 10 a second; frame i is of grey level 10 + 5 i."""
    path = tmp_path_factory.mktemp("video") / "video7.mp4"
    frames = np.broadcast_to(10 + 5 * np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 32, 48, 3))
    write_video(path, np.ascontiguousarray(frames), 10.0)
    return path


def numbers(frames: np.ndarray) -> list[int]:
    return np.round((frames.mean(axis=(1, 2, 3)) - 10) / 5).astype(int).tolist()


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        (1.0, 2.0, range(10, 20)),
        (1.04, 2.04, range(10, 20)),  # what is on the screen at 1.04 s, not the next frame
        (0.0, 0.35, range(0, 4)),  # as many ticks as begin before the end
        (3.5, 4.05, [35, 36, 37, 38, 39, 39]),  # the last frame stays
    ],
)
def test_the_frames_on_the_screen_are_cut(video, start, end, shown):
    """Guards against clips that are shifted by a frame: moviepy shows frame floor(t * fps)."""
    frames, fps = cut_clip(video, start, end, (24, 16))
    assert fps == 10.0 and frames.shape[1:] == (16, 24, 3)
    assert numbers(frames) == list(shown)


def test_videos_that_end_too_early_are_refused(video, tmp_path):
    """Guards against half a clip of the last frame repeated, as a truncated download would give."""
    with pytest.raises(ValueError, match="ends at 3.90 s; the annotation's clip ends at 6.0 s"):
        cut_clip(video, 3.0, 6.0, (24, 16))
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="x.mp4.*expected a video"):
        cut_clip(tmp_path / "x.mp4", 0.0, 1.0, (24, 16))


def test_reference_frames():
    """5, 50 and 95 % of 3 s at 30 a second are 4.5, 45 and 85.5 frames in."""
    assert frame_indices(90, 30.0, 3.0) == [4, 45, 85]
    assert frame_indices(3, 30.0, 3.0) == [2, 2, 2]


def test_words_find_their_own_mention():
    """Guards against binding "man" to the inside of "old man", and words to parts of others."""
    caption = "An old man and a man in a red Cap"
    places = place_words(caption, ["man", "old man", "cap"])
    assert {word: caption[slice(*span)] for word, (span, _) in places.items()} == {
        "man": "man", "old man": "old man", "cap": "Cap",
    }  # fmt: skip
    assert places["man"] == ((17, 20), 1) and places["old man"] == ((3, 10), 0)
    with pytest.raises(ValueError, match="'dog' is not in the caption"):
        place_words(caption, ["dog"])


def square(frame: int, box: tuple[int, int, int, int], is_face: bool = False) -> Cut:
    return Cut(frame, box, np.ones((box[3] - box[1], box[2] - box[0]), bool), is_face)


def annotation(**cuts: tuple[Cut, ...]) -> Annotation:
    tags = {"subject": ["man"], "object": ["hat"], "background": ["street", "road"], "subject_with_face": ["man"]}
    caption = "A hat on a man on a road, a street"
    return Annotation("a", "video7.mp4", (80, 60), 0.0, 1.0, caption, tags, cuts)


def test_the_record_holds_faces_and_the_first_background():
    """Faces belong to the picture of their frame; the background picture to the annotation's first word for it."""
    man = (square(0, (2, 2, 20, 50)), square(0, (4, 4, 10, 10), True), square(2, (6, 6, 12, 12), True))
    record = shard_record(annotation(man=man, hat=(square(1, (2, 2, 9, 9)),)), 25.0, 75)
    assert [entity["word"] for entity in record["entities"]] == ["hat", "man", "street", "road"]
    hat, whole = record["references"]
    assert (hat["face"], whole["face"], whole["entity"]) == (None, [4, 4, 10, 10], 1)
    assert decode_mask(whole["mask"]).sum() == 18 * 48 and decode_mask(whole["face_mask"]).sum() == 36
    assert [(one["entity"], one["frame"], one["face"]) for one in record["lone_faces"]] == [(1, 2, [6, 6, 12, 12])]


def test_the_background_hides_all_that_is_seen_in_the_middle():
    """The union of frame 2's masks, faces and all words, grown by a 4 x 4 kernel three times, holes filled (§4 of the
    released script): checked against scipy's filling, as the script uses it."""
    ring = np.ones((30, 30), bool)
    ring[8:22, 8:22] = False
    man = (Cut(1, (10, 10, 40, 40), ring, False), square(1, (60, 5, 66, 11), True), square(0, (50, 50, 80, 60)))
    mask = foreground(annotation(man=man))
    union = np.zeros((60, 80), bool)
    union[10:40, 10:40] = ring
    union[5:11, 60:66] = True
    grown = union.copy()
    for _ in range(3):  # a pixel is set where any of rows -2..1 and columns -2..1 around it is
        padded, shifts = np.pad(grown, 2), range(4)
        grown = np.any([padded[dy : 60 + dy, dx : 80 + dx] for dy in shifts for dx in shifts], axis=0)
    assert np.array_equal(mask, ndimage.binary_fill_holes(grown))
    assert mask[25, 25] and not mask[55, 60] and mask.sum() > union.sum()
