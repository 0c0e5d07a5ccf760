"""The four similarities: known answers, and the released code's rules written out with the same small networks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.protocol import Protocol, official, paper
from video_alchemist.benchmark.samples import Sample, Target
from video_alchemist.benchmark.similarity import (
    cosines,
    face_similarity,
    subject_similarity,
    text_similarity,
    video_similarity,
)
from video_alchemist.pretrained.detector import Detection
from video_alchemist.pretrained.face_detector import Face

sys.path.insert(0, str(Path(__file__).parent))
from tiny_roles import tiny_roles

NUM, H, W = 6, 64, 96
NOISE = np.random.default_rng(0)
FRAMES = NOISE.integers(0, 256, (NUM, H // 8, W // 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
TRUTH = tuple(NOISE.integers(0, 256, (3, 40, 70, 3), np.uint8))
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CLIP = np.array([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
PROMPT = "a hot dog on the beach beside a dog and a red robot"


def cut_out(*size: int) -> np.ndarray:
    return np.dstack([NOISE.integers(0, 256, (*size, 3), np.uint8), 255 * NOISE.integers(0, 2, size, np.uint8)])


FACES = (TRUTH[0][:9, :7], TRUTH[1][:9, :7])
TARGETS = (
    Target("Hot dog", "subject", (2, 9), (cut_out(20, 31), cut_out(9, 5)), (0, 2), FACES),
    Target("dog", "object", (32, 35), (cut_out(14, 14),), (1,)),
    Target("red robot", "object", (42, 51), (cut_out(30, 12), cut_out(8, 8), cut_out(21, 40)), (0, 1, 2)),
)


def sample(targets: Sequence[Target] = TARGETS) -> Sample:
    return Sample("clip", PROMPT, tuple(targets), TRUTH, None, None, None, 24.0, 73, (70, 40))


def analysis(roles: Any, protocol: Protocol, targets: Sequence[Target] = TARGETS, **options: Any) -> Analysis:
    return Analysis(Video(options.pop("frames", FRAMES), 24.0), sample(targets), roles, protocol, **options)


# ------------------------------------------------------------------------------------------------------------------
# Known answers


def angle(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


def test_cosines() -> None:
    """Guards against lengths that matter, single precision, and a division by zero."""
    found = cosines(np.array([[3.0, 0], [0, 0]], np.float32), np.array([[1, 1], [0, -2], [-5, 0]], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0.5**0.5, 0, -1], [0, 0, 0]], atol=1e-15)


def test_every_frame_meets_every_true_frame() -> None:
    """Guards against frames compared one to one, and a text compared with something else than the frames."""
    by_shape = {H: iter([angle(0), angle(60)]), 40: iter([angle(0), angle(90), angle(180)])}
    images = lambda frames: np.array([next(by_shape[len(frame)]) for frame in frames])  # noqa: E731
    texts = lambda captions: np.array([angle(60)]) if list(captions) == [PROMPT] else None  # noqa: E731
    seen = analysis(SimpleNamespace(image_text=SimpleNamespace(images=images, texts=texts)), official(2))
    (row,) = video_similarity(seen)
    assert row.value == pytest.approx((1 + 0 - 1 + 0.5 + 0.75**0.5 - 0.5) / 6) and row.frames == 2
    (row,) = text_similarity(seen)
    assert row.value == pytest.approx((0.5 + 1) / 2) and (row.id, row.metric) == ("clip", "text_similarity")


def stand_ins(detector: Any = None, embed: Any = None, faces: Any = None) -> Any:
    """embed: picture => angle in degrees."""
    found = np.zeros((1, H, W), bool)
    return SimpleNamespace(
        detector=lambda frames, words, **_: [[detector(frame, word) for word in words[0]] for frame in frames],
        segmenter=lambda frames, boxes: [(found.repeat(len(b), 0), np.ones(len(b))) for b in boxes],
        subject_encoder=lambda pictures: np.array([angle(embed(one)) for one in pictures]),
        face_detector=lambda frames: [faces(frame) for frame in frames],
        face_embedder=lambda pictures: np.array([angle(embed(one)) for one in pictures]),
    )


def test_missing_subjects_are_worth_nothing() -> None:
    """Guards against means over what was found only, against references beyond the first left out, and against objects
    that count in the paper's protocol."""
    levels = np.zeros((4, H, W, 3), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None]

    def detector(frame: np.ndarray, word: str) -> list[Detection]:
        present = {"Hot dog": (0, 1, 2, 3), "dog": (1, 3), "red robot": ()}[word]
        return [Detection((4.0, 4.0, 20.0, 24.0), 0.7)] if frame[0, 0, 0] in present else []

    angles = {(20, 16): 0, (20, 31): 0, (9, 5): 60, (14, 14): 60, (30, 12): 0, (8, 8): 0, (21, 40): 0}
    roles = stand_ins(detector, lambda picture: angles[picture.shape[:2]])
    rows = subject_similarity(analysis(roles, official(4), frames=levels))
    assert [(row.word, row.value, row.frames) for row in rows] == [
        ("", pytest.approx((0.75 + 0.25 + 0) / 3), 4),
        ("Hot dog", pytest.approx(0.75), 4),
        ("dog", pytest.approx(0.25), 2),
        ("red robot", 0, 0),
    ]
    assert subject_similarity(analysis(roles, paper(), frames=levels))[0].value == pytest.approx(0.75)
    given = analysis(roles, paper(), frames=levels, conditioned=["dog", "red robot"])
    assert subject_similarity(given)[0].value == pytest.approx(0.125)
    (row,) = subject_similarity(analysis(roles, official(4), [replace(TARGETS[0], pictures=())], frames=levels))
    assert row.value is None and row.note


def test_which_face_counts() -> None:
    """Guards against another person's face taken for the subject's in the paper's protocol, the best face taken in the
    official one, and frames without a face left out of the mean."""
    frames = np.zeros((4, H, W, 3), np.uint8)
    frames[:, :, 48:] = 60
    frames[3] = 9  # nobody

    def faces(frame: np.ndarray) -> list[Face]:
        return [] if frame[0, 0, 0] == 9 else [Face((50, 10, 60, 20), 0.9), Face((5, 10, 15, 20), 0.8)]

    reference = tuple(np.full((5, 5, 3), level, np.uint8) for level in (0, 60))
    roles = stand_ins(embed=lambda picture: float(picture.mean()), faces=faces)
    man, dog = replace(TARGETS[0], faces=reference[:1]), replace(TARGETS[1], kind="subject", faces=())
    value = lambda protocol, *targets: face_similarity(analysis(roles, protocol, targets, frames=frames))  # noqa: E731
    first, best = value(official(4), man, dog), value(paper(), man, dog)
    assert first[0].value == pytest.approx(0.75 * 0.5) and first[0].frames == 3
    assert best[0].value == pytest.approx(0.75)
    assert value(official(4), replace(man, faces=reference))[0].value == pytest.approx(0.75 * (0.5 + 1) / 2)
    other = replace(dog, faces=reference[1:])
    both = value(paper(), man, other)
    assert [(row.word, row.value) for row in both] == [
        ("", pytest.approx(0.75)), ("Hot dog", pytest.approx(0.75)), ("dog", pytest.approx(0.75))
    ]  # fmt: skip
    for targets in ((dog,), (man, other)):
        (row,) = value(official(4), *targets)
        count = sum(bool(target.faces) for target in targets)
        assert row.value is None and row.note == f"{count} subjects with face crops; expected one subject"


# ------------------------------------------------------------------------------------------------------------------
# Parity


@pytest.fixture(scope="module")
def roles() -> Any:
    return tiny_roles()


def pixels(picture: Image.Image, mean_std: np.ndarray) -> torch.Tensor:
    normal = (np.asarray(picture) / 255 - mean_std[0]) / mean_std[1]
    return torch.from_numpy(normal).float().permute(2, 0, 1)[None]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def clip_of(roles: Any, frame: np.ndarray) -> np.ndarray:
    """§2.2: the middle square, 224 x 224 bicubic, CLIP's mean and std."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = Image.fromarray(frame).crop((left, top, left + side, top + side))
    network = roles.image_text.model
    small = square.resize((24, 24), Image.Resampling.BICUBIC)
    return network.get_image_features(pixels(small, CLIP)).pooler_output[0].numpy()


@torch.no_grad()
def test_text_and_video_similarity_written_out(roles: Any) -> None:
    """Guards against any departure from the released code's Text-S and Vid-S, and against frames beyond the first F."""
    tokens = torch.tensor([[1, 4, 5, 6, 7, 8, 9, 2]])  # "a hot dog on the beach" and the end: the rest is cut off
    text = roles.image_text.model.get_text_features(tokens).pooler_output[0].numpy()
    shown, truth = [clip_of(roles, frame) for frame in FRAMES[:5]], [clip_of(roles, frame) for frame in TRUTH]
    seen = analysis(roles, official(5))
    assert text_similarity(seen)[0].value == pytest.approx(np.mean([cosine(one, text) for one in shown]), abs=1e-5)
    every = [cosine(one, other) for one in shown for other in truth]
    assert video_similarity(seen)[0].value == pytest.approx(sum(every) / 15, abs=1e-5)


def dino_of(roles: Any, picture: np.ndarray) -> np.ndarray:
    """§2.4.9: padded to a square with white, 224 x 224 bicubic, ImageNet's mean and std, CLS."""
    height, width = picture.shape[:2]
    square = Image.new("RGB", (max(height, width),) * 2, (255, 255, 255))
    square.paste(Image.fromarray(picture), ((max(0, height - width)) // 2, max(0, width - height) // 2))
    small = square.resize((24, 24), Image.Resampling.BICUBIC)
    return roles.subject_encoder.model(pixels(small, IMAGENET)).last_hidden_state[0, 0].numpy()


def boxes_written_out(roles: Any, frame: np.ndarray, threshold: float) -> dict[str, tuple[float, list[int]]]:
    """§2.4.2-6: by word, its score and box in whole pixels. "dog" is also scored inside "hot dog"."""
    ids = torch.tensor([[101, 200, 201, 1012, 201, 1012, 202, 203, 1012, 102]])  # "hot dog . dog . red robot."
    runs = {"Hot dog": [1, 2], "dog": [2, 4], "red robot": [6, 7]}
    small = Image.fromarray(frame).resize((66, 44), Image.Resampling.BILINEAR)  # 72 x 48 would be too long
    output = roles.detector.model(
        pixel_values=pixels(small, IMAGENET), input_ids=ids, token_type_ids=0 * ids, attention_mask=0 * ids + 1
    )
    p = output.logits[0].sigmoid()
    scores = torch.stack([(p[:, own].amax(1) + p[:, own].mean(1)) / 2 for own in runs.values()], dim=1)
    found = {}
    for i, word in enumerate(runs):
        own = [q for q in range(len(scores)) if scores[q].argmax() == i]
        if own:
            best = max(own, key=lambda q: scores[q, i])
            if scores[best, i] > threshold:
                x, y, w, h = (output.pred_boxes[0, best] * torch.tensor([W, H, W, H])).tolist()
                corners = [int(x - w / 2), int(y - h / 2), int(x + w / 2), int(y + h / 2)]
                found[word] = (float(scores[best, i]), corners)
    return found


def masks_written_out(roles: Any, frame: np.ndarray, boxes: list[list[int]]) -> list[tuple[float, np.ndarray]]:
    """§2.4.7: of each box, the expected IoU and the mask at the frame's size."""
    height = int(H * 32 / W + 0.5)
    small = pixels(Image.fromarray(frame).resize((32, height), Image.Resampling.BILINEAR), IMAGENET)
    scaled = torch.tensor(boxes).float() * torch.tensor([32 / W, height / H] * 2)
    output = roles.segmenter.model(
        pixel_values=F.pad(small, (0, 0, 0, 32 - height)), input_boxes=scaled[None], multimask_output=False
    )
    large = F.interpolate(output.pred_masks[0], (32, 32), mode="bilinear", align_corners=False)[..., :height, :]
    masks = F.interpolate(large, (H, W), mode="bilinear", align_corners=False)[:, 0] > 0
    return [(float(score), mask.numpy()) for score, mask in zip(output.iou_scores[0, :, 0], masks, strict=True)]


@torch.no_grad()
def subject_similarity_written_out(roles: Any, detection_score: float, mask_score: float) -> tuple[float, list[str]]:
    """§2.4, a frame at a time; and what became of every word of every frame."""
    references: dict[str, list[np.ndarray]] = {target.word: [] for target in TARGETS}
    for target in TARGETS:
        for picture in target.pictures:
            white = picture[..., :3].copy()
            white[picture[..., 3] == 0] = 255
            references[target.word].append(dino_of(roles, white))
    total, fates = 0.0, []
    for frame in FRAMES:
        boxes = boxes_written_out(roles, frame, detection_score)
        fates += ["not detected"] * (3 - len(boxes))
        found = masks_written_out(roles, frame, [box for _, box in boxes.values()]) if boxes else []
        for (word, (_, (x0, y0, x1, y1))), (iou, mask) in zip(boxes.items(), found, strict=True):
            inside = mask[y0:y1, x0:x1]
            lacking = (y1 - y0 - inside.shape[0], x1 - x0 - inside.shape[1])
            if 0 not in lacking or max(lacking) > 3:
                fates.append("over the edge")
            elif iou <= mask_score:
                fates.append("not segmented")
            else:
                crop = frame[y0:y1, x0:x1].copy()
                crop[~inside] = 255
                seen = dino_of(roles, crop)
                total += float(np.mean([cosine(seen, one) for one in references[word]]))
                fates.append("scored")
    return total / (len(FRAMES) * 3), fates


def test_subject_similarity_written_out(roles: Any) -> None:
    """Guards against any departure from the released code's Subj-S, where all that can become of a word becomes of
    some; whatever the batch."""
    scores = {"detection_score": 0.68, "mask_score": 0.55}
    expected, fates = subject_similarity_written_out(roles, **scores)
    assert min(Counter(fates)[one] for one in ("not detected", "over the edge", "not segmented", "scored")) > 0
    for batch in (1, 8):
        seen = analysis(roles, replace(official(NUM), **scores), batch=batch)
        assert subject_similarity(seen)[0].value == pytest.approx(expected, abs=1e-5)


def test_face_similarity_written_out(roles: Any) -> None:
    """Guards against any departure from the released code's Face-S (§2.5), in frames with several faces, one and none;
    whatever the batch."""
    embed = roles.face_embedder.model
    face_score = 0.2768

    @torch.no_grad()
    def face_of(crop: np.ndarray) -> np.ndarray:
        small = cv2.resize(crop, (32, 32), interpolation=cv2.INTER_LINEAR)
        normal = ((torch.from_numpy(small).float() / 255 - 0.5) / 0.5).permute(2, 0, 1)
        return embed(normal[None])[0].numpy()

    references = [face_of(one) for one in TARGETS[0].faces]
    values, counts = [], []
    for frame in FRAMES:
        found = [one for one in roles.face_detector([frame[:, :, ::-1].copy()])[0] if one.score > face_score]
        counts.append(len(found))
        if found:
            x1, y1, x2, y2 = (int(np.rint(side)) for side in found[0].box)
            top = max(int(y1 - 0.17 * (y2 - y1)), 0)
            bottom = min(int(y2 + 0.03 * (y2 - top)), H - 1)
            values += [cosine(face_of(frame[top:bottom, x1:x2]), one) for one in references]
    assert 0 in counts and 1 in counts and max(counts) > 1
    expected = np.mean(values) * np.count_nonzero(counts) / len(FRAMES)
    for batch in (1, 8):
        seen = analysis(roles, replace(official(NUM), face_score=face_score), batch=batch)
        assert face_similarity(seen)[0].value == pytest.approx(expected, abs=1e-5)
