"""The four similarities of §4.2. Cosines are in [-1, 1], in double precision as the released code's are.

F frames · n pictures of a word · d channels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.benchmark.rows import Row

if TYPE_CHECKING:
    from video_alchemist.benchmark.analysis import Analysis


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, d) and (m, d) => (n, m). An embedding of zeros is like nothing."""
    return _unit(first) @ _unit(second).T


def _unit(embeddings: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return embeddings / np.where(lengths == 0, 1, lengths)


def text_similarity(analysis: Analysis) -> list[Row]:
    """Text-S, §4.2: "cosine similarity between the CLIP ViT-L/14 features of the text and the generated frames"."""
    text = analysis.models.image_text.texts([analysis.sample.prompt])
    value = cosines(analysis.frame_embeddings, text).mean()
    return [analysis.row("text_similarity", value, frames=len(analysis.frames))]


def video_similarity(analysis: Analysis) -> list[Row]:
    """Vid-S, §4.2: "average cosine similarity between the CLIP ViT-L/14 features of the ground truth and generated
    frames": each generated frame with each of the three of the ground truth."""
    truth = analysis.embed_frames(analysis.sample.frames)
    value = cosines(analysis.frame_embeddings, truth).mean()
    return [analysis.row("video_similarity", value, frames=len(analysis.frames))]


def subject_similarity(analysis: Analysis) -> list[Row]:
    """Subj-S, §4.2: "average cosine similarity between the DINO ViT-B/16 features of the reference images and the
    segmented subject of the generated frames"; over frames and words."""
    words = analysis.judged_words
    if not words:
        return [analysis.row("subject_similarity", None, note="no word with pictures to compare with")]
    by_word = {
        word: [_likeness(seen, analysis.reference_embeddings[word]) for seen in analysis.subject_embeddings[word]]
        for word in words
    }
    return _mean_over_words(analysis, "subject_similarity", by_word)


def face_similarity(analysis: Analysis) -> list[Row]:
    """Face-S, §4.2: "average cosine similarity between the ArcFace R100 features of the reference face crops and the
    generated face crops"."""
    people = analysis.people
    if not people or (analysis.protocol.single_face_subject and len(people) > 1):
        wanted = "one subject" if analysis.protocol.single_face_subject else "a subject"
        note = f"{len(people)} subjects with face crops; expected {wanted}"
        return [analysis.row("face_similarity", None, note=note)]
    by_word: dict[str, list[float | None]] = {}
    for target in people:
        references = analysis.models.face_embedder(target.faces)
        by_word[target.word] = [
            float(cosines(faces, references).mean(axis=1).max()) if len(faces) else None
            for faces in analysis.face_embeddings
        ]
    return _mean_over_words(analysis, "face_similarity", by_word)


def _likeness(seen: np.ndarray | None, references: np.ndarray) -> float | None:
    """(d,) and (n, d) => mean cosine."""
    return None if seen is None else float(cosines(seen[None], references).mean())


def _mean_over_words(analysis: Analysis, metric: str, by_word: Mapping[str, Sequence[float | None]]) -> list[Row]:
    """A row for the video, and one for each word. What is missing from a frame is worth 0 there."""
    values = {word: float(np.mean([value or 0.0 for value in row])) for word, row in by_word.items()}
    seen = {word: sum(value is not None for value in row) for word, row in by_word.items()}
    anywhere = sum(any(value is not None for value in column) for column in zip(*by_word.values(), strict=True))
    rows = [analysis.row(metric, float(np.mean(list(values.values()))), frames=anywhere)]
    return rows + [analysis.row(metric, value, word, seen[word]) for word, value in values.items()]
