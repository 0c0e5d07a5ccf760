"""Fidelity where the paper's metrics are silent: the background, several subjects, and how a method fails.

§4.2 asks whether a word's picture is found again. Here: whether the background is; whether all subjects are there,
once each and unmixed (App. D, "Unnatural Composition for Multi-subject Conditioning"); and whether a picture was
understood or only copied (§3.3, the "copy-and-paste" effect).

F frames · H,W pixels · h,w of a cut-out · n pictures of a word · d channels · N detections · M targets
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.benchmark.analysis import PixelBox, Sighting, fits, pixel_box
from video_alchemist.benchmark.likeness import copied_share
from video_alchemist.benchmark.similarity import cosines
from video_alchemist.pretrained.detector import SAME_OBJECT, iou

if TYPE_CHECKING:
    from video_alchemist.benchmark.analysis import Analysis
    from video_alchemist.benchmark.rows import Row
    from video_alchemist.pretrained.detector import Detection

AS_SURE = 0.75  # a doubled subject is found at least so well as the first: share of its score
PART_OF = 0.5  # a box of which more lies in another is part of what that shows


def background_similarity(analysis: Analysis) -> list[Row]:
    """Mean cosine of the frames, without what is sighted, and the background picture, in [-1, 1]; higher is better.

    By the image and text encoder, as Vid-S. What is sighted is painted over in the mean colour of the rest."""
    picture = analysis.sample.background
    if picture is None:
        return [analysis.row("background_similarity", None, note="no background picture")]
    covers = [_cover(analysis, i) for i in range(len(analysis.frames))]
    if any(cover.any() for cover in covers):
        frames = [_painted_over(frame, cover) for frame, cover in zip(analysis.frames, covers, strict=True)]
        embeddings = analysis.embed_frames(frames)
    else:
        embeddings = analysis.frame_embeddings
    value = cosines(embeddings, analysis.embed_frames([picture])).mean()
    return [analysis.row("background_similarity", value, frames=len(covers))]


def _cover(analysis: Analysis, frame: int, boxes: bool = False) -> np.ndarray:
    """(H, W) bool: where any word is sighted, by its masks, or its whole boxes."""
    cover = np.zeros(analysis.frames.shape[1:3], bool)
    for sighting in _sighted(analysis, frame).values():
        x0, y0, x1, y1 = sighting.box
        cover[y0:y1, x0:x1] |= True if boxes else sighting.mask
    return cover


def _sighted(analysis: Analysis, frame: int) -> dict[str, Sighting]:
    return {word: one for word, seen in analysis.sightings.items() if (one := seen[frame]) is not None}


def _painted_over(frame: np.ndarray, cover: np.ndarray) -> np.ndarray:
    if cover.all() or not cover.any():
        return frame
    painted = frame.copy()
    painted[cover] = frame[~cover].mean(axis=0).round()
    return painted


def subject_similarity_assigned(analysis: Analysis) -> list[Row]:
    """Subj-S with each target matched to what resembles it, in [0, 1]; higher is better. A missing one is worth 0.

    The detector finds "man" and "bearded man" well, but may confuse whose box is whose, or give both to one word. So
    all that is found in a frame, runners-up too, is dealt out to the targets such that the sum is largest."""
    words = analysis.judged_words
    if not words:
        return [analysis.row("subject_similarity_assigned", None, note="no word with pictures")]
    found: list[list[np.ndarray]] = [[] for _ in analysis.frames]
    for word in words:
        for i, embedding in enumerate(analysis.subject_embeddings[word]):
            if embedding is not None:
                found[i].append(embedding)
    for i, embedding in _runner_up_embeddings(analysis):
        found[i].append(embedding)
    references = {word: analysis.reference_embeddings[word] for word in words}
    return _assigned(analysis, "subject_similarity_assigned", found, references)


def face_similarity_assigned(analysis: Analysis) -> list[Row]:
    """Face-S of several people: each face of a frame belongs to one person at most. In [0, 1]; higher is better."""
    people = analysis.people
    if not people:
        return [analysis.row("face_similarity_assigned", None, note="no subject with face crops")]
    references = {target.word: analysis.models.face_embedder(target.faces) for target in people}
    faces = [list(row) for row in analysis.face_embeddings]
    return _assigned(analysis, "face_similarity_assigned", faces, references)


def _assigned(
    analysis: Analysis,
    metric: str,
    found: Sequence[Sequence[np.ndarray]],
    references: dict[str, np.ndarray],
) -> list[Row]:
    """found: per frame, embeddings (d,). references: by word (n, d). => a row for the video and one for each word."""
    values = np.zeros((len(found), len(references)))                                       # (F, M), 0 = missing
    for i, embeddings in enumerate(found):
        if embeddings:
            alike = np.stack([cosines(np.array(embeddings), own).mean(axis=1) for own in references.values()], axis=1)
            for row, column in best_assignment(alike):
                values[i, column] = alike[row, column]
    rows = [analysis.row(metric, values.mean(), frames=int(values.any(axis=1).sum()))]
    return rows + [
        analysis.row(metric, column.mean(), word, int(column.astype(bool).sum()))
        for word, column in zip(references, values.T, strict=True)
    ]


def best_assignment(alike: np.ndarray) -> list[tuple[int, int]]:
    """(N, M) => the pairs (row, column), none twice, whose sum is largest; what is not above 0 is no pair.

    Exact, in N * M * 2 ** M steps: detections come one by one, and for each set of targets served the best is kept."""
    best: dict[int, tuple[float, list[tuple[int, int]]]] = {0: (0.0, [])}
    for row, likenesses in enumerate(alike.tolist()):
        for served, (total, pairs) in list(best.items()):
            for column, likeness in enumerate(likenesses):
                now = served | 1 << column
                if now != served and likeness > 0 and total + likeness > best.get(now, (0.0, []))[0]:
                    best[now] = (total + likeness, [*pairs, (row, column)])
    return max(best.values(), key=lambda one: one[0])[1]


def copy_paste(analysis: Analysis) -> list[Row]:
    """How much of a picture stands in the frames as it was: pose, framing and lighting; mean over the frames in which
    the word is seen, of the picture most like it. In [0, 1]; lower is better: 1 = pasted, near 0 = a new pose.

    The mean, not the largest: the true clip meets its own pictures too, but a lively subject only in passing."""
    return _mean_where_seen(analysis, "copy_paste", _copied(analysis))


def copy_paste_excess(analysis: Analysis) -> list[Row]:
    """`copy_paste` beyond what a word's pictures, from three moments of the true clip, have of each other. In [-1, 1];
    0 = as the true clip, above = copied. Of a stiff subject a paste cannot be told: there, both are near 0."""
    excess: dict[str, list[float]] = {}
    for word, row in _copied(analysis).items():
        pictures = analysis.sample.target(word).pictures
        if len(pictures) > 1:
            others = [[*pictures[:i], *pictures[i + 1 :]] for i in range(len(pictures))]
            own = np.mean([copied_share(one, rest) for one, rest in zip(pictures, others, strict=True)])
            excess[word] = [value - float(own) for value in row]
    return _mean_where_seen(analysis, "copy_paste_excess", excess, "no word with two pictures")


def _copied(analysis: Analysis) -> dict[str, list[float]]:
    """By word, of each sighting, what `copied_share` says."""
    by_word: dict[str, list[float]] = {}
    for word in analysis.judged_words:
        pictures = analysis.sample.target(word).pictures
        seen = [(i, one) for i, one in enumerate(analysis.sightings[word]) if one is not None]
        by_word[word] = [copied_share(_cut_out(analysis.frames[i], one), pictures) for i, one in seen]
    return by_word


def _cut_out(frame: np.ndarray, sighting: Sighting) -> np.ndarray:
    """(h, w, 4) uint8, as a target's pictures are."""
    x0, y0, x1, y1 = sighting.box
    return np.dstack([frame[y0:y1, x0:x1], sighting.mask.astype(np.uint8) * 255])


def identity_mixing(analysis: Analysis) -> list[Row]:
    """Share of the sightings that are more like another target's pictures than their own word's (subject encoder),
    over frames and words. In [0, 1]; lower is better. For videos of two targets or more."""
    mixed = {word: [float(one < 0) for one in row] for word, row in _margins(analysis).items()}
    return _mean_where_seen(analysis, "identity_mixing", mixed, "fewer than two targets")


def identity_margin(analysis: Analysis) -> list[Row]:
    """By how much sightings are more like their own word's pictures than the nearest other target's, in cosine, over
    frames and words. In [-2, 2]; higher is better."""
    return _mean_where_seen(analysis, "identity_margin", _margins(analysis), "fewer than two targets")


def _margins(analysis: Analysis) -> dict[str, list[float]]:
    words = analysis.judged_words
    margins: dict[str, list[float]] = {}
    for word in words if len(words) > 1 else ():
        margins[word] = []
        for embedding in analysis.subject_embeddings[word]:
            if embedding is not None:
                alike = {
                    one: float(cosines(embedding[None], analysis.reference_embeddings[one]).mean()) for one in words
                }
                margins[word].append(alike.pop(word) - max(alike.values()))
    return margins


def missing_share(analysis: Analysis) -> list[Row]:
    """Share of (frame, word) without a sighting, for all words with pictures, given or not; in [0, 1], lower is
    better."""
    words = analysis.words
    if not words:
        return [analysis.row("missing_share", None, note="no word with pictures")]
    missing = {word: [one is None for one in analysis.sightings[word]] for word in words}
    num_frames = len(analysis.frames)
    rows = [analysis.row("missing_share", float(np.mean(list(missing.values()))), frames=num_frames)]
    return rows + [
        analysis.row("missing_share", sum(row) / num_frames, word, num_frames) for word, row in missing.items()
    ]


def duplication(analysis: Analysis) -> list[Row]:
    """Share of the frames in which a word is found twice, as surely and at another place. In [0, 1]; lower is better.

    Only the detector judges, since doubles seldom are perfect. It looks twice: a detector that learnt to name one thing
    a word sees the second only when the first is painted over, as a box, since an outline would be found again."""
    words = analysis.words
    if not words:
        return [analysis.row("duplication", None, note="no word with pictures")]
    doubled = {word: np.zeros(len(analysis.frames), bool) for word in words}
    for i, found in enumerate(analysis.detections):
        for word in _runners_up(analysis, i):
            doubled[word][i] = found[word][1].score >= AS_SURE * found[word][0].score
    for i, found in zip(*_second_look(analysis), strict=True):
        for word in _found_again(analysis, i, found):
            doubled[word][i] = True
    anywhere = np.any(list(doubled.values()), axis=0)
    rows = [analysis.row("duplication", anywhere.mean(), frames=len(anywhere))]
    return rows + [analysis.row("duplication", row.mean(), word, len(row)) for word, row in doubled.items()]


def _second_look(analysis: Analysis) -> tuple[list[int], list[dict[str, list[Detection]]]]:
    """Frames in which a word is sighted, and what is found in them when all that is sighted is painted over."""
    seen = [i for i in range(len(analysis.frames)) if _sighted(analysis, i)]
    return seen, analysis.detect([_painted_over(analysis.frames[i], _cover(analysis, i, boxes=True)) for i in seen])


def _found_again(analysis: Analysis, frame: int, found: dict[str, list[Detection]]) -> list[str]:
    """Words of a second look that are as sure as at the first, and not at a place that was painted over."""
    protocol, sighted = analysis.protocol, _sighted(analysis, frame)
    again = {word: (found[word][0].score, pixel_box(found[word][0].box, protocol)) for word in sighted if found[word]}
    return [
        word
        for word, (score, box) in again.items()
        if score > protocol.detection_score
        and score >= AS_SURE * sighted[word].detection_score
        and fits(box, analysis.frames.shape[1:3], protocol.max_overhang)
        and all(_share_inside(box, old.box) <= PART_OF for old in sighted.values())
    ]


def _runners_up(analysis: Analysis, frame: int) -> dict[str, PixelBox]:
    """By word, the box of a second thing that is sure enough, is no part of the first, and is no other word's."""
    accepted: dict[str, PixelBox] = {}
    best = {word: one.box for word, one in _sighted(analysis, frame).items()}
    for word, row in analysis.detections[frame].items():
        if word not in best or len(row) < 2 or row[1].score <= analysis.protocol.detection_score:
            continue
        box = pixel_box(row[1].box, analysis.protocol)
        taken = [other for key, other in best.items() if key != word] + list(accepted.values())
        if (
            fits(box, analysis.frames.shape[1:3], analysis.protocol.max_overhang)
            and _share_inside(box, best[word]) <= PART_OF
            and all(iou(np.array(box), np.array(other)) < SAME_OBJECT for other in taken)
        ):
            accepted[word] = box
    return accepted


def _share_inside(first: PixelBox, second: PixelBox) -> float:
    """Of the smaller box, the share that lies in the other."""
    a, b = np.array(first), np.array(second)
    shared = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(shared.clip(min=0)) / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))


def _runner_up_embeddings(analysis: Analysis) -> list[tuple[int, np.ndarray]]:
    """Of the runners-up that the segmenter accepts too: frame and (d,)."""
    found: list[tuple[int, np.ndarray]] = []
    for i in range(len(analysis.frames)):
        boxes = [box for word, box in _runners_up(analysis, i).items() if word in analysis.judged_words]
        if boxes:
            frame = analysis.frames[i]
            masks, scores = analysis.models.segmenter([frame], [np.array(boxes, np.float32)])[0]
            sightings = [
                Sighting(box, mask[box[1] : box[3], box[0] : box[2]], 0.0, float(score))
                for box, mask, score in zip(boxes, masks, scores, strict=True)
                if score > analysis.protocol.mask_score
            ]
            if sightings:
                embeddings = analysis.models.subject_encoder([one.cut_out(frame) for one in sightings])
                found.extend((i, embedding) for embedding in embeddings)
    return found


def _mean_where_seen(
    analysis: Analysis, metric: str, by_word: dict[str, list[float]], none: str = "no word with pictures"
) -> list[Row]:
    """A row for the video, over all sightings, and one for each word. `none`: why there are no words."""
    every = [value for row in by_word.values() for value in row]
    if not every:
        return [analysis.row(metric, None, note="no word is seen" if by_word else none)]
    rows = [analysis.row(metric, float(np.mean(every)), frames=max(map(len, by_word.values())))]
    return rows + [
        analysis.row(metric, float(np.mean(row)) if row else None, word, len(row), "" if row else "never seen")
        for word, row in by_word.items()
    ]
